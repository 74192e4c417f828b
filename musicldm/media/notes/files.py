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


def read(path: Path, length: int, start: int, stop: int) -> Floats | None:
    """The roll [C, stop - start] of a prepared MIDI file of so many steps, from step `start` up to `stop`.

    None where the file is another one by now.

    Raises:
        DataError: it cannot be read.
        UsageError: it has no such steps.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.", "Run musicldm preprocess again.") from error
    score = _read(path, status.st_size, status.st_mtime_ns)
    return roll_of(score, start, stop) if (score.resolution, score.length) == (STEPS, length) else None


@lru_cache(maxsize=_HELD)
def _read(path: Path, size: int, mtime_ns: int) -> Score:
    return read_midi(path)[0].merged()
