"""How loud a sound is, whether it clips, and whether it contains silence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from musicldm.media.audio.loudness import LoudnessMeter

CLIPPED = 0.999
"""Of full scale: two successive samples at or above it are clipped."""
SILENT = -60.0
"""dBFS; 10 ms below it are silence."""


@dataclass(frozen=True)
class Level:
    """Of one sound."""

    rms: float | None
    """dB relative to full scale; None where all samples are zero."""
    loudness: float | None
    """LUFS; None below the meter's gate."""
    peak: float
    """The largest sample, 1 being full scale."""
    clipped: int
    """Clipped samples, of all channels together."""
    silence: float
    """Seconds of the longest silence in it."""
    seconds: float

    @property
    def is_silent(self) -> bool:
        """From beginning to end."""
        # Silence is measured in whole blocks of 10 ms, so up to one block at the end is not counted.
        return self.silence >= self.seconds - 0.011


def level(audio: Tensor, sample_rate: int) -> Level:
    """Measure a sound [C, T]."""
    x = audio.numpy()
    high = np.abs(x) >= CLIPPED
    pairs = high[:, 1:] & high[:, :-1]
    clipped = high & (np.pad(pairs, ((0, 0), (0, 1))) | np.pad(pairs, ((0, 0), (1, 0))))
    power = float(np.square(x, dtype=np.float64).mean()) if x.size else 0.0
    meter = LoudnessMeter(sample_rate, len(x))
    meter.add(x)
    return Level(
        rms=10 * math.log10(power) if power > 0 else None,
        loudness=meter.integrated(),
        peak=float(np.abs(x).max(initial=0.0)),
        clipped=int(clipped.sum()),
        silence=_longest_silence(x, sample_rate),
        seconds=x.shape[1] / sample_rate,
    )


def _longest_silence(x: np.ndarray, sample_rate: int) -> float:
    size = max(1, sample_rate // 100)
    blocks = x[:, : x.shape[1] // size * size].reshape(len(x), -1, size)
    quiet = np.square(blocks, dtype=np.float64).mean(axis=(0, 2)) < 10 ** (SILENT / 10)
    # A 0 at either end, so that every run of silence has both a beginning and an end.
    edges = np.flatnonzero(np.diff(np.concatenate([[0], quiet.astype(np.int8), [0]])))
    return float((edges[1::2] - edges[::2]).max(initial=0)) * size / sample_rate
