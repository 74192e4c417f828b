"""What the two-sample test is told of a sound: spectral statistics of excerpts of four seconds, whatever their level.

Fixed descriptors of timbre, texture and harmony, as were usual before networks were trained for it (Tzanetakis & Cook
2002; McKinney & Breebaart 2003; Peeters 2004). Nothing longer than an excerpt is described, so form is not.

Shapes: C channels, T samples, n excerpts, F features, K bands, L frames; audio is [C, T].
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from musicldm.evaluate.features import Floats
from musicldm.evaluate.similarity import chroma
from musicldm.media.audio.mel import hop, mel_power

EXCERPT = 4.0
"""Seconds."""

_SILENCE = 1e-4  # of full scale; what is softer is not brought to the level of the rest
_RANGE = 10**-4.5  # of an excerpt's mean power: what lies 45 dB below it is masked, and the noise of any file format
_QUIET = 0.1  # nepers: else bands in which nothing happens would be described by the logarithm of nothing
_BANDS = 32  # of the mel spectrogram
_GROUPS = 8  # of these bands, whose modulation is measured …
_MODULATIONS = (0.4, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # … between these rates, Hz
_EDGE = 2  # frames: half a window, which reaches beyond the excerpt
_TONAL_BANDS = 12  # of the spectrum that tells partials apart …
_LOWEST = 100.0  # … from so many Hz up


def excerpt_features(audio: Tensor, sample_rate: int) -> Floats:
    """The excerpts of a sound [C, T], channels averaged: [n, F]; n is 0 where it is shorter than one.

    Every excerpt is brought to one level first, so that the music's level says nothing; see `_envelopes`, `_partials`
    and `_harmony`.
    """
    mono, length = audio.mean(dim=0).float(), round(EXCERPT * sample_rate)
    excerpts = mono[: len(mono) // length * length].reshape(-1, length)
    excerpts = 0.1 * excerpts / excerpts.square().mean(dim=1, keepdim=True).sqrt().clamp_min(_SILENCE)
    described = _envelopes(excerpts, sample_rate), _partials(excerpts, sample_rate), _harmony(excerpts, sample_rate)
    features: Floats = torch.cat(described, dim=1).numpy()
    return features


def _envelopes(excerpts: Tensor, sample_rate: int) -> Tensor:
    """How each band of the log-mel spectrogram goes: [n, T] to [n, 4·32 + 8·6].

    Of each band the mean, ln s and ln (d/s) as in `features.latent_textures`, and ln (r/f), r and f being the root mean
    squares of what it rises and falls by from frame to frame: attacks are steep and decays are not. Of each group of
    bands the fraction of its variance at each rate of modulation, as logarithms.
    """
    power = mel_power(excerpts, sample_rate, _BANDS)[..., _EDGE:-_EDGE].double()
    bands = _relative(power)
    mean = bands.mean(dim=2, keepdim=True)
    activity = (bands - mean).square().mean(dim=2) + _QUIET**2
    change = bands.diff(dim=2)
    speed = change.square().mean(dim=2) + _QUIET**2
    rise, fall = (each.clamp_min(0).square().mean(dim=2) + _QUIET**2 / 2 for each in (change, -change))

    groups = torch.stack((bands - mean).chunk(_GROUPS, dim=1), dim=1).mean(dim=2)
    spectrum = torch.fft.rfft(groups * torch.hann_window(groups.shape[2], dtype=torch.double)).abs().square()
    rates = torch.fft.rfftfreq(groups.shape[2], hop(sample_rate) / sample_rate)
    edges = torch.bucketize(rates, torch.tensor(_MODULATIONS, dtype=rates.dtype), right=True)
    inside = torch.stack([edges == number for number in range(1, len(_MODULATIONS))]).double()
    modulation = spectrum @ inside.T / groups.shape[2] ** 2 + (_QUIET / 10) ** 2
    modulation = (modulation / modulation.sum(dim=2, keepdim=True)).log()
    logarithms = (each.log() / 2 for each in (activity, speed / activity, rise / fall))
    return torch.cat([mean[..., 0], *logarithms, modulation.flatten(1)], dim=1)


def _partials(excerpts: Tensor, sample_rate: int) -> Tensor:
    """Whether each band holds partials or noise, and for how long: [n, T] to [n, 12·2].

    By windows of an eighth of a second or more: the logarithm of the arithmetic over the geometric mean of its power,
    which is 0 for a flat spectrum, and how like the shape of its spectrum is to that of a whole window later, which do
    not overlap: 1 for partials that last, 0 for noise.
    """
    size = 1 << math.ceil(math.log2(sample_rate / 8))
    window = torch.hann_window(size)
    spectrum = torch.stft(excerpts, size, size // 4, window=window, center=False, return_complex=True)
    logarithms = _relative(spectrum.abs().square().double())
    # Equally wide in octaves; fewer bands where two of their borders fall on one frequency.
    borders = np.geomspace(_LOWEST, sample_rate / 2, _TONAL_BANDS + 1) * size / sample_rate
    peaks, steadiness = [], []
    for low, high in pairwise(np.unique(borders.round().astype(int)).tolist()):
        band = logarithms[:, low:high]
        peaks.append((band.exp().mean(dim=1).log() - band.mean(dim=1)).mean(dim=1))
        shape = band - band.mean(dim=1, keepdim=True)
        norm = (shape.square().mean(dim=1) + _QUIET**2).sqrt()
        together = (shape[..., 4:] * shape[..., :-4]).mean(dim=1) / (norm[:, 4:] * norm[:, :-4])
        steadiness.append(together.mean(dim=1))
    return torch.stack(peaks + steadiness, dim=1)


def _harmony(excerpts: Tensor, sample_rate: int) -> Tensor:
    """Which intervals sound, in whatever key: [n, T] to [n, 2·7].

    For 0 to 6 semitones, the product of the weights of two pitch classes so far apart, summed over all such pairs: of
    the weights of each frame, averaged, and of the excerpt's mean weights.
    """
    intervals = []
    for excerpt in excerpts:
        weights = torch.from_numpy(chroma(excerpt[None], sample_rate))
        weights = torch.cat([weights, weights.mean(dim=0, keepdim=True)])
        pairs = torch.stack([(weights * weights.roll(-step, dims=1)).sum(dim=1) for step in range(7)], dim=1)
        intervals.append(torch.cat([pairs[:-1].mean(dim=0), pairs[-1]]))
    return torch.stack(intervals) if intervals else torch.zeros(0, 14, dtype=torch.double)


def _relative(power: Tensor) -> Tensor:
    """Power [n, K, L] as natural logarithms over the excerpt's mean, from `_RANGE` up."""
    mean = power.mean(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    return (power / mean).clamp_min(_RANGE).log()
