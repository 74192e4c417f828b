"""From noise to signal: plain functions that know noise levels and nothing of networks or objectives.

All share one signature. `denoise(x, level)` returns its estimate of the clean signal in x [B, …]; `levels` fall from
the noisiest to the clean signal, which is the last; `noise(x)` returns fresh standard normal noise shaped like x;
`callback(i, x0)` is called after each step and may stop the work by raising. The first x is noise at the first level.
In the formulas t is the level now and s the one after, x̂ = x/α, and λ = log(α/σ).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from musicldm.noise.schedule import NoiseLevel

Denoise = Callable[[Tensor, NoiseLevel], Tensor]
Noise = Callable[[Tensor], Tensor]
Callback = Callable[[int, Tensor], None]


class Sampler(Protocol):
    """The signature that all samplers share; see the module."""

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        levels: Sequence[NoiseLevel],
        noise: Noise = torch.randn_like,
        callback: Callback | None = None,
    ) -> Tensor: ...


def ddpm(
    denoise: Denoise,
    x: Tensor,
    levels: Sequence[NoiseLevel],
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    """Ancestral sampling with the posterior's own variance (Ho et al. 2020, eq. 6 and 7), over any subset of steps."""
    for i, (t, s) in enumerate(pairwise(levels)):
        x0 = denoise(x, t)
        # Eq. 7 with α² for ᾱ and σ² for 1 − ᾱ. From s to t, however many steps lie between, √(1 − β) is `kept` and β is
        # `added`.
        kept = t.alpha / s.alpha
        added = t.sigma**2 - kept**2 * s.sigma**2  # the variance of the noise between s and t
        x = (kept * s.sigma**2 * x + s.alpha * added * x0) / t.sigma**2
        if s.sigma:
            x = x + added**0.5 * s.sigma / t.sigma * noise(x)
        if callback:
            callback(i, x0)
    return x


def ddim(
    denoise: Denoise,
    x: Tensor,
    levels: Sequence[NoiseLevel],
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
    eta: float = 0.0,
) -> Tensor:
    """Song et al. 2021, eq. 12: deterministic at η = 0, and DDPM at η = 1."""
    for i, (t, s) in enumerate(pairwise(levels)):
        x0 = denoise(x, t)
        added = t.sigma**2 - (t.alpha / s.alpha * s.sigma) ** 2
        variance = eta**2 * added * (s.sigma / t.sigma) ** 2  # eq. 16
        # ε by way of x0, which may have been clamped, guided or partly replaced: what the network said need not fit it
        # any more. Rounding below 0 is cut off, since Python's root of a negative number is complex.
        x = s.alpha * x0 + max(0.0, s.sigma**2 - variance) ** 0.5 * t.eps(x, x0)
        if variance > 0:
            x = x + variance**0.5 * noise(x)
        if callback:
            callback(i, x0)
    return x


def euler(
    denoise: Denoise,
    x: Tensor,
    levels: Sequence[NoiseLevel],
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    """One step along the tangent dx̂/d(σ/α) = (x̂ − x0)/(σ/α) (Karras et al. 2022, algorithm 1)."""
    for i, (t, s) in enumerate(pairwise(levels)):
        x0 = denoise(x, t)
        # Divided by α, every process becomes the one of that paper, where noise is added to a signal of constant size.
        slope = (x / t.alpha - x0) / t.ratio
        x = s.alpha * (x / t.alpha + (s.ratio - t.ratio) * slope)
        if callback:
            callback(i, x0)
    return x


def euler_ancestral(
    denoise: Denoise,
    x: Tensor,
    levels: Sequence[NoiseLevel],
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    """Euler to a level below the next one, and fresh noise up to it (k-diffusion's `euler_ancestral`)."""
    for i, (t, s) in enumerate(pairwise(levels)):
        x0 = denoise(x, t)
        # up² + down² = (σ/α at s)²: the step goes down too far by as much as the noise then adds.
        up = s.ratio / t.ratio * (t.ratio**2 - s.ratio**2) ** 0.5
        down = (s.ratio**2 - up**2) ** 0.5
        slope = (x / t.alpha - x0) / t.ratio
        x = s.alpha * (x / t.alpha + (down - t.ratio) * slope)
        if up > 0:
            x = x + s.alpha * up * noise(x)
        if callback:
            callback(i, x0)
    return x


def heun(
    denoise: Denoise,
    x: Tensor,
    levels: Sequence[NoiseLevel],
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    """Euler's step, mended by the slope where it ends; two evaluations a step (Karras et al. 2022, algorithm 1)."""
    for i, (t, s) in enumerate(pairwise(levels)):
        x0 = denoise(x, t)
        slope = (x / t.alpha - x0) / t.ratio
        ahead = s.alpha * (x / t.alpha + (s.ratio - t.ratio) * slope)
        # No slope at the clean level, where one would divide by 0: the last step is Euler's, as in the algorithm.
        if s.sigma:
            slope = (slope + (ahead / s.alpha - denoise(ahead, s)) / s.ratio) / 2
            ahead = s.alpha * (x / t.alpha + (s.ratio - t.ratio) * slope)
        x = ahead
        if callback:
            callback(i, x0)
    return x


def dpmpp_2m(
    denoise: Denoise,
    x: Tensor,
    levels: Sequence[NoiseLevel],
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2M): the signal, extrapolated from two steps (Lu et al. 2022, algorithm 2)."""
    before = None
    for i, (t, s) in enumerate(pairwise(levels)):
        x0 = denoise(x, t)
        ahead = _extrapolated(before, t, s, x0)
        # To the clean level, σ and the decay are 0: what remains is the estimate itself.
        x = s.sigma / t.sigma * x - s.alpha * (_decay(t, s) - 1) * ahead
        before = t, x0
        if callback:
            callback(i, x0)
    return x


def dpmpp_2m_sde(
    denoise: Denoise,
    x: Tensor,
    levels: Sequence[NoiseLevel],
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    """SDE-DPM-Solver++(2M): the same with fresh noise at every step (Lu et al. 2022, eq. 18)."""
    before = None
    for i, (t, s) in enumerate(pairwise(levels)):
        x0 = denoise(x, t)
        ahead = _extrapolated(before, t, s, x0)
        decay = _decay(t, s)
        x = s.sigma / t.sigma * decay * x + s.alpha * (1 - decay**2) * ahead
        if s.sigma:
            x = x + s.sigma * (1 - decay**2) ** 0.5 * noise(x)
        before = t, x0
        if callback:
            callback(i, x0)
    return x


def _extrapolated(before: tuple[NoiseLevel, Tensor] | None, t: NoiseLevel, s: NoiseLevel, x0: Tensor) -> Tensor:
    """The estimate at t, gone on for half a step to s along the line from the one before, where there is one."""
    # The last stride is infinite, and an estimate must not be extrapolated that far: it is taken as it is.
    if before is None or not s.sigma:
        return x0
    level, older = before
    # Algorithm 2 with r = (stride before) / stride. A first level of pure noise makes r infinite: no extrapolation.
    return x0 + (x0 - older) * (_stride(t, s) / (2 * _stride(level, t)))


def unipc(
    denoise: Denoise,
    x: Tensor,
    levels: Sequence[NoiseLevel],
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    """UniPC of order 2 with B(h) = eʰ − 1: a step is mended by what the network says where it ends, which the next
    step needs anyway (Zhao et al. 2023, algorithms 1 and 2)."""
    past: list[tuple[NoiseLevel, Tensor]] = []  # of the two steps before
    start = x  # of the step before
    for i, (t, s) in enumerate(pairwise(levels)):
        x0 = denoise(x, t)
        # x0 is not estimated again for the mended x. That would double the cost, and the paper's algorithms do not
        # either.
        if past:
            x = _unipc(start, past, t, x0)
        past, start = [*past, (t, x0)][-2:], x
        # To the clean level h is infinite, and only the first order has a limit.
        x = _unipc(x, past if s.sigma else past[-1:], s, None)
        if callback:
            callback(i, x0)
    return x


def _unipc(x: Tensor, past: list[tuple[NoiseLevel, Tensor]], s: NoiseLevel, arrived: Tensor | None) -> Tensor:
    """x at the last level of `past`, taken to the level s; the corrector where the estimate that `arrived` is known."""
    t, x0 = past[-1]
    h = _stride(t, s)
    step = _decay(t, s) - 1  # e⁻ʰ − 1: B of −h, and φ₁ times −h
    mended = torch.zeros_like(x0)
    slope = None
    # From a level of pure noise the stride was infinite: a step from there says nothing of the slope.
    if len(past) == 2 and math.isfinite(ratio := -_stride(past[0][0], t) / h):
        slope = (past[0][1] - x0) / ratio
    if arrived is None:
        if slope is not None:
            # The only coefficient that is left is near 1/2 for all h: taken as 1/2, as in the authors' code.
            mended = 0.5 * slope
    elif slope is None:
        mended = 0.5 * (arrived - x0)
    else:
        # R·ρ = b, eq. 10 of the paper, for nodes at the step before and at s.
        first = step / -h - 1
        second = first / -h - 0.5
        b1, b2 = first / step, 2 * second / step
        after = (b2 - ratio * b1) / (1 - ratio)
        mended = (b1 - after) * slope + after * (arrived - x0)
    return s.sigma / t.sigma * x - s.alpha * step * (x0 + mended)


def _decay(t: NoiseLevel, s: NoiseLevel) -> float:
    """e⁻ʰ for h = λ_s − λ_t: 0 where t is nothing but noise, or s nothing but signal."""
    # As a quotient and not by the two λ, each of which is infinite at one end.
    return float(s.sigma * t.alpha / (t.sigma * s.alpha))


def _stride(t: NoiseLevel, s: NoiseLevel) -> float:
    """h = λ_s − λ_t."""
    decay = _decay(t, s)
    return -math.log(decay) if decay else math.inf


SAMPLERS: dict[str, Sampler] = {
    "ddim": ddim,
    "ddpm": ddpm,
    "dpm++2m": dpmpp_2m,
    "dpm++2m-sde": dpmpp_2m_sde,
    "heun": heun,
    "euler": euler,
    "euler-a": euler_ancestral,
    "unipc": unipc,
}
