"""Prepared MIDI files, read piece by piece as rolls."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from musicldm.core.errors import DataError
from musicldm.media.notes.midi import read_midi
from musicldm.media.notes.roll import Floats, roll_of
from musicldm.media.notes.score import STEPS, Score

_HELD = 512
"""Scores that are kept in memory, at about 100 kB each: a training comes back to each of them again and again."""


def length(path: Path) -> int:
    """Its steps.

    Raises:
        DataError: see `read`.
    """
    return _score(path).length


def read(path: Path, start: int, stop: int) -> Floats:
    """The roll [C, stop - start] of a prepared MIDI file, from step `start` up to `stop`.

    Raises:
        DataError: it cannot be read, or is not on the grid.
        UsageError: it has no such steps.
    """
    return roll_of(_score(path), start, stop)


def _score(path: Path) -> Score:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.", "Run musicldm preprocess again.") from error
    return _read(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=_HELD)
def _read(path: Path, size: int, mtime_ns: int) -> Score:
    score, _ = read_midi(path)
    if score.resolution != STEPS:
        raise DataError(f"{path} was changed since it was prepared.", "Run musicldm preprocess again.")
    return score.merged()
