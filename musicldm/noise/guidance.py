"""Denoisers and samplers made of others: functions of functions, which know tensors and noise levels alone.

Each takes a `denoise(x, level) -> x0` (or a sampler) and returns one that does more: follows its conditions more
closely, keeps what is known, takes latents of any length in windows. Samplers need not know. Latents are normalised,
[B, D, L].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from musicldm.noise.samplers import Callback, Denoise, Noise, Sampler
from musicldm.noise.schedule import NoiseLevel

Pair = Callable[[Tensor, NoiseLevel], tuple[Tensor, Tensor]]
"""(x [B, D, L], level) -> the conditioned and the unconditional estimate of the clean signal, each [B, D, L]."""


def classifier_free_guidance(
    pair: Pair,
    conditioned: Denoise,
    scale: float,
    steps: int,
    interval: tuple[float, float] = (0.0, 1.0),
    rescale: float = 0.0,
) -> Denoise:
    """Away from the unconditional estimate u: x0 = u + scale·(c − u) (Ho & Salimans 2022, eq. 6).

    Args:
        pair: both estimates, most cheaply in one batch.
        conditioned: the conditioned estimate c alone, where there is no guidance: at a scale of 1, or outside of
            the interval.
        scale: 1 leaves c as it is; more exaggerates it.
        steps: N, the steps of the noise process.
        interval: noise levels at which to guide, as fractions of the process's time (Kynkäänniemi et al. 2024).
        rescale: φ, how far the guided estimate gets the standard deviation of c (Lin et al. 2023, eq. 16).
    """

    def denoise(x: Tensor, level: NoiseLevel) -> Tensor:
        inside = interval[0] <= float(level.time) / (steps - 1) <= interval[1]
        if scale == 1 or not inside:
            return conditioned(x, level)
        c, u = pair(x, level)
        x0 = u + scale * (c - u)
        if rescale:
            # Strong guidance spreads the estimate wider than c: over-exposure, where Lin et al. saw it in pictures.
            std, wanted = (each.std(dim=(1, 2), keepdim=True) for each in (x0, c))
            # A constant estimate, such as silence, has no deviation to divide by.
            x0 = rescale * x0 * (wanted / std.clamp_min(1e-6)) + (1 - rescale) * x0
        return x0

    return denoise


def inpainting(denoise: Denoise, known: Tensor, mask: Tensor) -> Denoise:
    """Where `mask` [1, 1, L] is true, the estimate is `known` [1, D, L].

    Started at `level.mix(known, noise)` there, every sampler keeps that part at the right noise level all the way and
    ends with it: its steps combine state and estimate frame by frame, and there the estimate is right.
    """

    def inpainted(x: Tensor, level: NoiseLevel) -> Tensor:
        return torch.where(mask, known, denoise(x, level))

    return inpainted


def repaint(sampler: Sampler, repeats: int) -> Sampler:
    """A sampler that takes each step `repeats` times, with noise added back in between, so that what is made and what
    is kept come to agree (RePaint: Lugmayr et al. 2022, algorithm 1). A step knows nothing of the one before it.
    """
    if repeats == 1:
        return sampler

    def sample(
        denoise: Denoise,
        x: Tensor,
        levels: Sequence[NoiseLevel],
        noise: Noise = torch.randn_like,
        callback: Callback | None = None,
    ) -> Tensor:
        for i, (t, s) in enumerate(pairwise(levels)):
            for repeat in range(repeats):
                if repeat:
                    # The forward process from s up to t. Rounding may take the variance below 0, whose root would be
                    # complex.
                    kept = t.alpha / s.alpha
                    x = kept * x + max(0.0, t.sigma**2 - (kept * s.sigma) ** 2) ** 0.5 * noise(x)
                x = sampler(denoise, x, [t, s], noise, callback and partial(_as_step, callback, i, repeat == 0))
        return x

    return sample


def _as_step(callback: Callback, step: int, first: bool, _: int, x0: Tensor) -> None:
    # A step counts once, however often it is taken.
    if first:
        callback(step, x0)


def multidiffusion(denoise: Denoise, window: int, overlap: int, batch: int = 1, circular: bool = False) -> Denoise:
    """Latents [1, D, L] of any length in overlapping windows, `batch` at a time, whose estimates are cross-faded
    (MultiDiffusion: Bar-Tal et al. 2023).

    Args:
        window: frames that the denoiser sees at once.
        overlap: frames that a window shares with the next one, at least; half of the window where circular.
        circular: the end leads into the beginning: each join lies in the middle of another window.
    """

    def together(x: Tensor, level: NoiseLevel) -> Tensor:
        frames = x.shape[-1]
        if frames <= window and not circular:
            return denoise(x, level)
        # No wider than the piece, so that no window has a frame twice: `+=` by index below would count it once.
        width = min(window, frames)
        places = _places(frames, width, width // 2 if circular else overlap, circular).to(x.device)
        # A Hann window, so that hardly anything weighs where a window ends; without its outermost zeros, by which a
        # frame that only one window covers would be divided.
        weight = torch.hann_window(width + 2, periodic=False, device=x.device, dtype=x.dtype)[1:-1]
        total, weights = torch.zeros_like(x), x.new_zeros(frames)
        for some in torch.split(places, batch):
            estimates = denoise(x[0, :, some].transpose(0, 1), level)  # [b, D, width]
            for place, estimate in zip(some, estimates, strict=True):
                total[0, :, place] += estimate * weight
                weights[place] += weight
        return total / weights

    return together


def _places(frames: int, width: int, overlap: int, circular: bool) -> Tensor:
    """The frames of each window, [windows, width]."""
    if circular:
        # Two at least: with one alone, the join of its end with its beginning would lie inside of no window.
        count = max(2, -(-frames // (width - overlap)))
        starts = torch.arange(count) * frames // count
        return (starts[:, None] + torch.arange(width)) % frames
    # −(−a // b) is a / b, rounded up. The starts are then spread evenly, so that the last window is not shorter.
    count = 1 + -(-(frames - width) // (width - overlap))
    starts = torch.arange(count) * (frames - width) // max(1, count - 1)
    return starts[:, None] + torch.arange(width)
