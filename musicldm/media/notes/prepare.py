"""One MIDI file of any kind to a clean one on the grid of 24 steps a quarter, with its tempos, metres and pedals."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from musicldm.core import durable
from musicldm.core.errors import DataError
from musicldm.media import lengths
from musicldm.media.notes.grid import GridLoss, quantized
from musicldm.media.notes.midi import comment_of, read_midi, write_midi
from musicldm.media.notes.roll import playable
from musicldm.media.notes.score import STEPS, Score
from musicldm.media.notes.tracks import Repairs
from musicldm.media.takes import TakeError, is_take


@dataclass(frozen=True)
class NoteSettings:
    """What is refused; the form of the output is always the same.

    Raises:
        ConfigError: no length would be accepted.
    """

    min_seconds: float = 0.1
    """What is shorter is refused."""
    max_seconds: float | None = None
    """What is longer is refused."""
    include_takes: bool = False
    """Accept takes of `musicldm sample`, which are refused otherwise."""

    suffix: ClassVar[str] = ".mid"

    def __post_init__(self) -> None:
        lengths.check(self.min_seconds, self.max_seconds)

    def shaping(self) -> dict[str, Any]:
        """The settings on which the notes of an output depend."""
        return {"steps": STEPS}

    def refuses(self, record: dict[str, Any]) -> str:
        """Why the file of a record is refused; empty where it is not."""
        return lengths.refusal(record["seconds"], self.min_seconds, self.max_seconds)


@dataclass(frozen=True)
class PreparedScore:
    """What is known of a MIDI file once it has been written."""

    steps: int
    """1/24 quarter each."""
    seconds: float
    notes: int
    on_keys: int
    """Of these, what a piano can play: not drums, and no pitch that it has not."""
    tracks: int
    grid: GridLoss
    """What the grid cost."""
    repairs: Repairs
    """What had to be put right in reading."""
    content: str
    """SHA-256 of the notes, tempos, metres and pedals, whatever the file's texts."""
    title: str
    artist: str
    """By the file's own text."""
    take: bool
    """Whether `musicldm sample` made it."""

    def record(self) -> dict[str, Any]:
        """What it adds to the manifest."""
        repairs = {name: count for name, count in asdict(self.repairs).items() if count}
        return {
            "medium": "notes",
            "steps": self.steps,
            "seconds": round(self.seconds, 3),
            "notes": self.notes,
            "on_keys": self.on_keys,
            "tracks": self.tracks,
            "grid": {name: round(value, 4) for name, value in asdict(self.grid).items()},
            "original": {"repairs": repairs},
        }


def prepare(source: Path, target: Path, settings: NoteSettings) -> PreparedScore:
    """Read, quantise and write one file.

    Args:
        target: written and flushed to the disk.

    Raises:
        TakeError: `source` is a take of our own, and the settings do not include them.
        DataError: `source` is no usable MIDI file, or is refused by the settings.
        OutputError: `target` cannot be written.
    """
    take = is_take(source, comment_of(source))
    if take and not settings.include_takes:
        raise TakeError("It is a take that musicldm sample made.", "Add --include-takes to prepare it anyway.")
    read, repairs = read_midi(source)
    score, loss = quantized(read)
    if refusal := settings.refuses({"seconds": score.duration}):
        raise DataError(refusal)
    try:
        target.write_bytes(write_midi(score))
        durable.flush(target)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise durable.cannot_write(target.parent, error) from error
    return PreparedScore(
        steps=score.length,
        seconds=score.duration,
        notes=score.notes,
        on_keys=playable(score),
        tracks=len(score.tracks),
        grid=loss,
        repairs=repairs,
        content=_content(score),
        title=score.title,
        artist=score.artist,
        take=take,
    )


def _content(score: Score) -> str:
    tracks = tuple(replace(track, name="") for track in score.tracks)
    return hashlib.sha256(b"notes" + write_midi(replace(score, title="", artist="", tracks=tracks))).hexdigest()
