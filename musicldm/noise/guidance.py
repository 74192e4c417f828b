"""What can be asked of a denoiser beside "denoise": functions that make one `denoise(x, level) -> x0` of another.

Guidance, keeping what is known, and long latents in windows. Samplers know nothing of it. Latents are normalised,
[B, D, L].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from musicldm.conditions.base import Conditioning
from musicldm.generators.diffusion.model import Diffusion
from musicldm.noise.samplers import Callback, Denoise, Noise
from musicldm.noise.schedule import NoiseLevel


def guided(
    diffusion: Diffusion,
    told: Conditioning,
    scale: float = 1.0,
    interval: tuple[float, float] = (0.0, 1.0),
    rescale: float = 0.0,
) -> Denoise:
    """Away from what the network says untold: x0 = u + scale·(c − u), both in one batch (Ho & Salimans 2022, eq. 6).

    Args:
        told: of one item; every item of a batch is told the same.
        scale: 1 asks once, as told.
        interval: noise levels where to guide, as shares of the process's time (Kynkäänniemi et al. 2024).
        rescale: φ, how far the guided estimate gets the spread of the one that was told (Lin et al. 2023, eq. 16).
    """
    untold = diffusion.conditions.null(1)
    anything = not told.is_null
    last = len(diffusion.schedule) - 1

    def denoise(x: Tensor, level: NoiseLevel) -> Tensor:
        batch = x.shape[0]
        inside = interval[0] <= float(level.time) / last <= interval[1]
        if scale == 1 or not anything or not inside:
            return diffusion.denoise(x, level, told.expanded(batch))
        both = Conditioning.cat([told.expanded(batch), untold.expanded(batch)])
        conditional, unconditional = diffusion.denoise(torch.cat([x, x]), level, both).chunk(2)
        x0 = unconditional + scale * (conditional - unconditional)
        if rescale:
            spread, wanted = (each.std(dim=(1, 2), keepdim=True) for each in (x0, conditional))
            x0 = rescale * x0 * (wanted / spread.clamp_min(1e-6)) + (1 - rescale) * x0
        return x0

    return denoise


def keeping(denoise: Denoise, known: Tensor, mask: Tensor) -> Denoise:
    """Where `mask` [1, 1, L] is true, the estimate is `known` [1, D, L].

    Started at `level.mix(known, noise)` there, every sampler keeps that part at the right noise level on its way and
    ends with it: its steps see each frame's state and estimate alone, and the estimate is right.
    """

    def kept(x: Tensor, level: NoiseLevel) -> Tensor:
        return torch.where(mask, known, denoise(x, level))

    return kept


def resampling(sampler: Callable[..., Tensor], repeats: int) -> Callable[..., Tensor]:
    """A sampler that takes each step so often, with noise added back in between, so that what is made and what is kept
    come to agree: RePaint (Lugmayr et al. 2022, algorithm 1). A step knows nothing of the one before it.
    """
    if repeats == 1:
        return sampler

    def sample(
        denoise: Denoise,
        x: Tensor,
        levels: list[NoiseLevel],
        noise: Noise = torch.randn_like,
        callback: Callback | None = None,
    ) -> Tensor:
        for i, (t, s) in enumerate(pairwise(levels)):
            for repeat in range(repeats):
                if repeat:
                    kept = t.alpha / s.alpha
                    x = kept * x + max(0.0, t.sigma**2 - (kept * s.sigma) ** 2) ** 0.5 * noise(x)
                x = sampler(denoise, x, [t, s], noise, callback and partial(_as_step, callback, i, repeat == 0))
        return x

    return sample


def _as_step(callback: Callback, step: int, first: bool, _: int, x0: Tensor) -> None:
    if first:
        callback(step, x0)


def windowed(denoise: Denoise, window: int, overlap: int, batch: int = 1, circular: bool = False) -> Denoise:
    """Latents [1, D, L] of any length as overlapping windows, `batch` at a time, whose estimates are cross-faded
    (MultiDiffusion, Bar-Tal et al. 2023).

    Args:
        window: frames that the denoiser sees at once.
        overlap: frames that a window shares with the next one, at least; half of it where circular.
        circular: the end goes on with the beginning: each join lies in the middle of another window.
    """

    def together(x: Tensor, level: NoiseLevel) -> Tensor:
        frames = x.shape[-1]
        if frames <= window and not circular:
            return denoise(x, level)
        width = min(window, frames)
        places = _places(frames, width, width // 2 if circular else overlap, circular).to(x.device)
        # Up and down over the whole window: hardly anything weighs where a window ends.
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
        count = max(2, -(-frames // (width - overlap)))
        starts = torch.arange(count) * frames // count
        return (starts[:, None] + torch.arange(width)) % frames
    count = 1 + -(-(frames - width) // (width - overlap))
    starts = torch.arange(count) * (frames - width) // max(1, count - 1)
    return starts[:, None] + torch.arange(width)
