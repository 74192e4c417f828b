"""The forward process: how much signal and how much noise there is at every time.

x = α·x0 + σ·ε          (Ho et al. 2020, eq. 4; Liu et al. 2022 for rectified flow, where α = 1 − σ)

Time runs over the N steps of the process, from 0, almost clean, to N − 1, almost or wholly noise; between two steps it
is continuous. Of variance-preserving processes (α² + σ² = 1) the angle atan(σ/α) is interpolated, of a flow σ itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from musicldm.core.config import Between
from musicldm.core.errors import ConfigError, UsageError

Spacing = Literal["trailing", "uniform", "karras"]


@dataclass(frozen=True)
class NoiseConfig:
    """The forward process and what the network predicts of it."""

    schedule: Literal["linear", "cosine", "flow"] = "cosine"
    """linear: β rises evenly (Ho et al. 2020); cosine: Nichol & Dhariwal 2021, eq. 17; flow: σ rises evenly and α is
    the rest (Liu et al. 2022)."""
    beta: tuple[float, ...] = (1e-4, 0.02)
    """Of the linear schedule: the first and the last β. Symbolic Music Diffusion has 1e-6 and 0.01."""
    zero_terminal_snr: bool = False
    """Stretch the schedule so that its last step is nothing but noise (Lin et al. 2023, algorithm 1)."""
    objective: Literal["eps", "x0", "v", "flow"] = "v"
    """eps: the noise; x0: the signal; v: α·ε − σ·x0 (Salimans & Ho 2022); flow: ε − x0."""
    steps: Annotated[int, Between(2, 100000)] = 1000
    """N, the steps of the forward process."""
    levels: Literal["discrete", "continuous"] = "discrete"
    """The times that the network is trained at: only the steps, or all between them too."""
    min_snr: float = 0.0
    """γ: no level weighs more than one with this ratio of signal to noise (Hang et al. 2023); 0: as the loss is."""

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ConfigError("The noise schedule needs at least 2 steps.")
        if len(self.beta) != 2 or not 0 < self.beta[0] <= self.beta[1] < 1:
            raise ConfigError("noise.beta must be two numbers between 0 and 1, the second no smaller than the first.")
        if self.min_snr < 0:
            raise ConfigError("noise.min_snr cannot be negative.")
        if self.objective == "eps" and self.ends_in_noise:
            raise ConfigError(
                "This schedule ends in pure noise, from which objective eps cannot recover the signal.",
                "Choose noise.objective v, x0 or flow.",
            )

    @property
    def ends_in_noise(self) -> bool:
        """Whether nothing is left of the signal at the last step."""
        return self.zero_terminal_snr or self.schedule == "flow"


@dataclass(frozen=True)
class NoiseLevel:
    """x = α·x0 + σ·ε at one time, and how x0, ε and what networks predict follow from each other there.

    Floats, or tensors that broadcast over x [B, …], one value for each item.
    """

    alpha: float | Tensor
    sigma: float | Tensor
    time: float | Tensor
    """When this level is, in steps of the process; below 0 where there is no noise at all."""

    @property
    def ratio(self) -> float | Tensor:
        """σ/α, the noise in units of the signal: what Karras et al. 2022 call σ."""
        return self.sigma / self.alpha

    def mix(self, x0: Tensor, eps: Tensor) -> Tensor:
        """The noisy signal."""
        return self.alpha * x0 + self.sigma * eps

    def eps(self, x: Tensor, x0: Tensor) -> Tensor:
        """The noise that makes x of x0."""
        return (x - self.alpha * x0) / self.sigma

    def target(self, objective: str, x0: Tensor, eps: Tensor) -> Tensor:
        """What the network should predict."""
        a, b = self._of(objective)
        return a * x0 + b * eps

    def x0(self, objective: str, x: Tensor, output: Tensor) -> Tensor:
        """The signal that follows from the network's output: from x = α·x0 + σ·ε and output = a·x0 + b·ε."""
        a, b = self._of(objective)
        # The denominator is 1 for v (as α² + σ² = 1) and for flow (as α + σ = 1). For ε it is α, which nears 0 with the
        # noise.
        return (b * x - self.sigma * output) / (self.alpha * b - self.sigma * a)

    def weight(self, objective: str, gamma: float) -> float | Tensor:
        """min(SNR, γ) as a weight of the squared error of x0, in terms of the output (Hang et al. 2023, eq. 8)."""
        a, b = self._of(objective)
        # An error δ of the output is one of −σ·δ / (α·b − σ·a) of x0; SNR = α²/σ².
        in_x0 = (self.alpha * b - self.sigma * a) ** 2
        # σ² is multiplied into both sides of the minimum, so that nothing is divided by a σ near 0.
        weight = torch.minimum(torch.as_tensor(self.alpha**2), gamma * torch.as_tensor(self.sigma**2))
        return weight / in_x0

    def _of(self, objective: str) -> tuple[float | Tensor, float | Tensor]:
        """The output in terms of the signal and the noise."""
        return {
            "eps": (0.0, 1.0),
            "x0": (1.0, 0.0),
            "v": (-self.sigma, self.alpha),
            "flow": (-1.0, 1.0),
        }[objective]


class NoiseSchedule:
    """The noise level at every time."""

    def __init__(self, config: NoiseConfig) -> None:
        self.config = config
        self._alpha, self._sigma = _table(config)
        self._angle = torch.atan2(self._sigma, self._alpha)
        self._tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}  # where and as they are needed

    def __len__(self) -> int:
        return len(self._alpha)

    def at(self, time: float) -> NoiseLevel:
        """The level at a time in [0, N − 1]."""
        # The last step has no neighbour above: it is the upper end of the last interval.
        low = min(int(time), len(self) - 2)
        fraction = time - low
        if self.config.schedule == "flow":
            sigma = torch.lerp(self._sigma[low], self._sigma[low + 1], fraction).item()
            return NoiseLevel(1 - sigma, sigma, time)
        angle = torch.lerp(self._angle[low], self._angle[low + 1], fraction).item()
        if fraction == 0 or fraction == 1:  # a step itself, to the last bit
            return NoiseLevel(self._alpha[low + int(fraction)].item(), self._sigma[low + int(fraction)].item(), time)
        return NoiseLevel(math.cos(angle), math.sin(angle), time)

    def of(self, time: Tensor, like: Tensor) -> NoiseLevel:
        """The levels at times [B], shaped to broadcast over `like` [B, …] and of its kind."""
        key = (like.device, like.dtype)
        if key not in self._tables:
            with torch.inference_mode(False):  # training may use what a demo was the first to ask for
                table = torch.stack([self._alpha, self._sigma, self._angle])
                # The type before the device: Apple's GPUs have no float64 to receive.
                self._tables[key] = table.to(like.dtype).to(like.device)
        table = self._tables[key]
        low = time.long().clamp(max=len(self) - 2)
        fraction = (time - low).to(like.dtype)
        alpha, sigma, angle = torch.lerp(table[:, low], table[:, low + 1], fraction)
        # Between two steps, cosine and sine keep α² + σ² = 1, which a line between the two would not.
        if time.is_floating_point() and self.config.schedule != "flow":
            alpha, sigma = angle.cos(), angle.sin()
        shape = (-1, *[1] * (like.dim() - 1))
        return NoiseLevel(alpha.view(shape), sigma.view(shape), time)

    def time_of(self, ratio: float) -> float:
        """When σ/α is `ratio`: the inverse of `at`."""
        angle = math.atan(ratio)
        above = min(max(1, int(torch.searchsorted(self._angle, angle))), len(self) - 1)
        if self.config.schedule == "flow":
            sigma, ends = ratio / (1 + ratio), self._sigma[above - 1 : above + 1].tolist()
        else:
            sigma, ends = angle, self._angle[above - 1 : above + 1].tolist()
        fraction: float = (sigma - ends[0]) / (ends[1] - ends[0])
        return above - 1 + min(1.0, max(0.0, fraction))

    def levels(self, count: int, spacing: Spacing = "trailing", start: float | None = None) -> list[NoiseLevel]:
        """`count` levels from the noisiest down, and then the clean signal.

        Args:
            spacing: trailing: evenly spaced times, the last one stride above clean (Lin et al. 2023); uniform: evenly
                spaced times down to step 0; karras: the ratios of Karras et al. 2022, eq. 5, with ρ = 7.
            start: the time to begin at; None: N − 1.

        Raises:
            UsageError: no steps, or more than the schedule has; or a spacing that this process does not have.
        """
        top = len(self) - 1 if start is None else start
        if not 1 <= count <= len(self):
            raise UsageError(
                f"{count} sampling steps cannot be taken.", f"This model's schedule allows 1 to {len(self)}."
            )
        if spacing == "karras":
            if self.config.levels != "continuous":
                raise UsageError(
                    "The karras spacing falls between the steps that this model was trained on.",
                    "Choose --spacing trailing or uniform, or train with noise.levels = continuous.",
                )
            high = self.at(top)
            if not high.alpha:
                raise UsageError(
                    "The karras spacing cannot start from pure noise, as this model does.",
                    "Choose --spacing trailing or uniform.",
                )
            low, rho = float(self.at(0).ratio), 7.0
            ends = float(high.ratio) ** (1 / rho), low ** (1 / rho)
            ratios = [(ends[0] + i / max(1, count - 1) * (ends[1] - ends[0])) ** rho for i in range(count)]
            times = [min(top, self.time_of(ratio)) for ratio in ratios]
        else:
            stride = (top + 1) / count if spacing == "trailing" else top / max(1, count - 1)
            # The paper counts steps from 1 to N, here they run from 0 to N − 1: hence the 1 that comes and goes.
            first = top + 1 if spacing == "trailing" else top
            times = [first - i * stride - (spacing == "trailing") for i in range(count)]
        if self.config.levels == "discrete":
            # A network that was trained at the steps alone has never seen what lies between.
            times = [float(round(time)) for time in times]
        # The clean signal is no step of the process: its time is never asked of a network.
        return [*(self.at(max(0.0, time)) for time in times), NoiseLevel(1.0, 0.0, -1.0)]


def _table(config: NoiseConfig) -> tuple[Tensor, Tensor]:
    """α and σ at every step, in float64."""
    steps = config.steps
    if config.schedule == "flow":
        # From 1/N to 1: noise at every step, and nothing else at the last.
        sigma = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        return 1 - sigma, sigma
    if config.schedule == "linear":
        beta = torch.linspace(config.beta[0], config.beta[1], steps, dtype=torch.float64)
    else:
        time = torch.arange(steps + 1, dtype=torch.float64) / steps
        # Eq. 17 with the paper's s = 0.008, without which β would be too small near 0; and its cut at 0.999, without
        # which the last step would be a singularity.
        signal = ((time + 0.008) / 1.008 * math.pi / 2).cos().square()
        beta = (1 - signal[1:] / signal[:-1]).clamp(max=0.999)
    # A product of N factors near 1, which is why the table has 64 bits.
    alpha = (1 - beta).cumprod(dim=0).sqrt()
    if config.zero_terminal_snr:
        first, last = alpha[0], alpha[-1]
        # Shifted so that the last is 0, and scaled so that the first stays.
        alpha = (alpha - last) * first / (first - last)
    return alpha, (1 - alpha.square()).sqrt()
