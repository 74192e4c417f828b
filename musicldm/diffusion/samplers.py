"""From noise to signal: plain functions that know the noise schedule and nothing of networks or objectives.

All share one signature. `denoise(x, t)` returns its estimates of (x0, ε) for x [B, …] at step t; `noise(x)` returns
fresh standard normal noise shaped like x; `callback(i, x0)` hears of each step done and may stop the work by raising.
The first x is standard normal; the steps fall from `timesteps[0]`, and the last lands on the clean signal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from musicldm.diffusion.schedule import NoiseSchedule

Denoise = Callable[[Tensor, int], tuple[Tensor, Tensor]]
Noise = Callable[[Tensor], Tensor]
Callback = Callable[[int, Tensor], None]


def ddpm(
    denoise: Denoise,
    x: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    """Ancestral sampling with the posterior's own variance (Ho et al. 2020, eq. 6 and 7), over any subset of steps."""
    for i, (a_t, a_s, t) in enumerate(_levels(schedule, timesteps)):
        x0, _ = denoise(x, t)
        beta = 1 - a_t / a_s
        x = a_s**0.5 * beta / (1 - a_t) * x0 + (1 - beta) ** 0.5 * (1 - a_s) / (1 - a_t) * x
        variance = (1 - a_s) / (1 - a_t) * beta
        if variance > 0:
            x = x + variance**0.5 * noise(x)
        if callback:
            callback(i, x0)
    return x


def ddim(
    denoise: Denoise,
    x: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
    eta: float = 0.0,
) -> Tensor:
    """Song et al. 2021, eq. 12: deterministic at η = 0, and DDPM at η = 1.

    x_s = √ᾱ_s·x0 + √(1 − ᾱ_s − σ²)·ε + σ·z   with   σ² = η²·(1 − ᾱ_s)/(1 − ᾱ_t)·(1 − ᾱ_t/ᾱ_s)   (eq. 16)
    """
    for i, (a_t, a_s, t) in enumerate(_levels(schedule, timesteps)):
        x0, eps = denoise(x, t)
        variance = eta**2 * (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)
        x = a_s**0.5 * x0 + max(0.0, 1 - a_s - variance) ** 0.5 * eps
        if variance > 0:
            x = x + variance**0.5 * noise(x)
        if callback:
            callback(i, x0)
    return x


SAMPLERS = {"ddim": ddim, "ddpm": ddpm}


def _levels(schedule: NoiseSchedule, timesteps: Sequence[int]) -> list[tuple[float, float, int]]:
    """(ᾱ now, ᾱ after, t) for each step; after the last comes ᾱ = 1, the clean signal."""
    levels = [*(schedule.alpha_bar[t].item() for t in timesteps), 1.0]
    return [(now, after, t) for (now, after), t in zip(pairwise(levels), timesteps, strict=True)]
