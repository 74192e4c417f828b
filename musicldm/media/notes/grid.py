"""Scores on the grid of 24 steps a quarter, which holds notes down to 1/32, triplets and all, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musicldm.core.errors import UsageError
from musicldm.media.notes.midi import read_midi
from musicldm.media.notes.score import STEPS, Score, rescaled


@dataclass(frozen=True)
class GridLoss:
    """How far a score lay off the grid."""

    notes: int
    """Before."""
    merged: int
    """Notes that fell on the same pitch and step as another and became one with it."""
    onsets_exact: float
    """The fraction of notes that started on the grid, 0 to 1."""
    durations_exact: float
    """The fraction of notes that lasted a whole number of steps."""
    onset_error_ms: float
    """The 95th percentile of how far in time notes moved, in milliseconds."""


def require_grid(score: Score) -> None:
    """
    Raises:
        UsageError: the score is not on the grid.
    """
    if score.resolution != STEPS:
        raise UsageError(
            f"A score of {score.resolution} ticks per quarter note is not valid here: expected {STEPS}.",
            "Quantize it first: musicldm.media.notes.grid.quantized.",
        )


def quantized(score: Score) -> tuple[Score, GridLoss]:
    """The score at 24 ticks a quarter: its notes at the nearest step, a step long at least, in the time of before.

    The tempo map moves along, so that a place in the music comes at the same second as before.
    """
    onsets = np.concatenate([track.start for track in score.tracks]) if score.tracks else np.empty(0, np.int64)
    ends = np.concatenate([track.end for track in score.tracks]) if score.tracks else onsets
    gridded = rescaled(score, STEPS)
    step = score.resolution // STEPS
    nearest = (2 * onsets + step) // (2 * step) * step
    error = np.abs(score.seconds(nearest) - score.seconds(onsets))
    loss = GridLoss(
        notes=score.notes,
        merged=score.notes - gridded.notes,
        onsets_exact=float((onsets % step == 0).mean()) if len(onsets) else 1.0,
        durations_exact=float(((ends - onsets) % step == 0).mean()) if len(onsets) else 1.0,
        onset_error_ms=1000 * float(np.percentile(error, 95)) if len(onsets) else 0.0,
    )
    return gridded, loss


def read_on_grid(source: Path | bytes) -> tuple[Score, GridLoss]:
    """A MIDI file, or its bytes, as `quantized` leaves its score.

    Raises:
        DataError: see `read_midi`.
    """
    return quantized(read_midi(source)[0])
