"""How well a codec of notes reconstructs music that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from musicldm.codecs.base import Codec
from musicldm.codecs.windows import reconstruct
from musicldm.core.errors import DataError
from musicldm.core.progress import Progress, silent
from musicldm.evaluate.score_reconstruction import ScoreReconstruction
from musicldm.evaluate.sounds import Splits, in_split
from musicldm.media.notes.roll import Floats, score_of
from musicldm.media.notes.score import Score


@dataclass(frozen=True)
class NotesResult:
    """All pieces together, each note and each step counted once."""

    tracks: int
    notes: int
    figures: ScoreReconstruction
    bytes_a_second: float
    """Of the MIDI files."""
    numbers_a_second: float
    """Of the latents."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Track -> reason."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "tracks": self.tracks,
            "notes": self.notes,
            **self.figures.to_dict(),
            "bytes_a_second": self.bytes_a_second,
            "numbers_a_second": self.numbers_a_second,
            "left_out": self.left_out,
        }


def reconstructed(codec: Codec, roll: Floats) -> Score:
    """The score that a codec makes of a roll [C, T], by the posterior's mode."""
    return score_of(reconstruct(codec, torch.from_numpy(roll).to(codec.device)).numpy())


def evaluate_notes_codec(codec: Codec, data: Path, split: Splits, progress: Progress = silent) -> NotesResult:
    """Reconstruct every track of a split by the posterior's mode, and compare notes.

    Args:
        data: a folder that `preprocess` made.

    Raises:
        DataError: there are no such tracks, or none that can be read.
    """
    tracks = in_split(data, "notes", split)
    total, notes, left_out = ScoreReconstruction(), 0, dict[str, str]()
    seconds, size, frames = 0.0, 0, 0
    for number, track in enumerate(tracks):
        progress(number, len(tracks), track.path.name)
        try:
            roll = track.read(0, track.length)
        except DataError as error:
            left_out[track.path.name] = error.message
            continue
        original = score_of(roll)
        total += ScoreReconstruction.of(original, reconstructed(codec, roll))
        notes += original.notes
        seconds, size = seconds + track.seconds, size + track.path.stat().st_size
        frames += codec.spec.frames(track.length)
    if len(left_out) == len(tracks):
        raise DataError(f"None of the {len(tracks)} tracks of {data} could be read.", next(iter(left_out.values())))
    return NotesResult(
        tracks=len(tracks) - len(left_out),
        notes=notes,
        figures=total,
        bytes_a_second=size / seconds,
        numbers_a_second=frames * codec.spec.channels / seconds,
        left_out=left_out,
    )
