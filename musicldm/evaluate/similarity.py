"""How consistent a piece is: framewise self-similarity of audio, after Mittal et al. 2021 (Symbolic Music Diffusion).

Audio has no notes or bars. In place of pitch and duration stand chroma and the density of onsets; in place of four
bars, windows of 8 s, each 4 s after the last. Each statistic of a window is modelled as a Gaussian, and the area that
those of neighbouring windows share measures how much they have in common.

Shapes: C channels, T samples; audio is [C, T].
"""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from musicldm.evaluate.features import Floats
from musicldm.media.audio.mel import hop, log_mel

WINDOW, STEP = 8.0, 4.0
"""Seconds."""
SHORTEST = WINDOW + STEP
"""Seconds of a piece that has two windows."""
STATISTICS = ("chroma", "onsets")

_PITCHES = (60.0, 4200.0)  # Hz
_QUIET = 1e-3  # of a window's spectrum at full scale; what is quieter has no pitch
_CHROMA_STD = 0.02  # the least standard deviation of a pitch class's weight …
_ONSETS_STD = 0.5  # … and of onsets in a second: else two windows of even music would share nothing
_EDGE = 2  # frames: half a window
_RISE = 0.1  # nepers by which mel bands rise at an onset, beyond those around it, at least


def chroma(audio: Tensor, sample_rate: int) -> Floats:
    """The weight of each pitch class in the magnitude spectrum, from C on at A = 440 Hz: [frames, 12], at 8 Hz.

    Windows of a quarter of a second at least, half of that apart, tell semitones apart from about 150 Hz on. Of a
    frame that is silent all weights are 0.
    """
    size = 1 << math.ceil(math.log2(sample_rate / 4))
    mono = audio.mean(dim=0).float()
    # A sound shorter than a window has one all the same.
    mono = torch.nn.functional.pad(mono, (0, max(0, size - len(mono))))
    window = torch.hann_window(size)
    spectrum = torch.stft(mono, size, size // 2, window=window, center=False, return_complex=True).abs().T
    hertz = torch.arange(size // 2 + 1) * (sample_rate / size)
    audible = (hertz >= _PITCHES[0]) & (hertz <= _PITCHES[1])
    # A is class 9 where C is class 0.
    classes = (12 * torch.log2(hertz[audible] / 440)).round().long().add(9) % 12
    energy = torch.zeros(len(spectrum), 12).index_add_(1, classes, spectrum[:, audible] * 2 / size)
    total = energy.sum(dim=1, keepdim=True)
    weights: Floats = torch.where(total > _QUIET, energy / total.clamp_min(1e-12), 0.0).double().numpy()
    return weights


def onsets(audio: Tensor, sample_rate: int) -> Floats:
    """The times at which something begins, in seconds: peaks of the spectral flux of log-mel frames (Dixon 2006).

    A peak is the highest within 50 ms, and higher by a tenth than the mean of half a second around it.
    """
    frame_rate = sample_rate / hop(sample_rate)
    frames = log_mel(audio.mean(dim=0), sample_rate)[:, _EDGE:-_EDGE]  # whose windows do not reach beyond the ends
    flux = frames.diff(dim=1).clamp_min(0).mean(dim=0)[None]
    near, around = (max(1, round(seconds * frame_rate)) for seconds in (0.05, 0.25))
    highest = torch.nn.functional.max_pool1d(flux, 2 * near + 1, 1, near)
    mean = torch.nn.functional.avg_pool1d(flux, 2 * around + 1, 1, around, count_include_pad=False)
    peaks = (flux == highest) & (flux > mean + _RISE)
    # A difference belongs to the later of its two frames, hence 1; `_EDGE` frames were cut off above.
    times: Floats = (peaks[0].nonzero()[:, 0].double().numpy() + 1 + _EDGE) / frame_rate
    return times


def overlaps(audio: Tensor, sample_rate: int) -> dict[str, list[float]]:
    """By `STATISTICS`, the area that each pair of neighbouring windows shares, in [0, 1]; none below `SHORTEST`.

    Of chroma it is the mean over the pitch classes.
    """
    seconds = audio.shape[1] / sample_rate
    # The small number is for lengths such as 12 s that division has left a little too short.
    count = max(0, int((seconds - WINDOW) / STEP + 1e-6) + 1)
    if count < 2:
        return {name: [] for name in STATISTICS}
    weights = chroma(audio, sample_rate)
    times = np.linspace(0, seconds, len(weights), endpoint=False)
    beginnings, _ = np.histogram(onsets(audio, sample_rate), bins=np.arange(0, seconds + 1))
    classes, densities = [], []
    for start in STEP * np.arange(count):
        within = weights[(times >= start) & (times < start + WINDOW)]
        classes.append([_normal(weight, _CHROMA_STD) for weight in within.T])
        densities.append(_normal(beginnings[int(start) : int(start + WINDOW)].astype(float), _ONSETS_STD))
    return {
        "chroma": [
            float(np.mean([a.overlap(b) for a, b in zip(one, other, strict=True)])) for one, other in pairwise(classes)
        ],
        "onsets": [one.overlap(other) for one, other in pairwise(densities)],
    }


def _normal(values: Floats, least: float) -> NormalDist:
    return NormalDist(float(values.mean()), max(least, float(values.std())))
