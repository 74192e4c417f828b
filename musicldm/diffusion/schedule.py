"""How much of the signal is left at each step of the forward process.

x_t = α_t·x0 + σ_t·ε,   α_t² = ᾱ_t,   σ_t² = 1 − ᾱ_t          (Ho et al. 2020, eq. 4)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from musicldm.errors import ConfigError, UsageError


@dataclass(frozen=True)
class NoiseConfig:
    """The forward process and what the network predicts of it."""

    schedule: Literal["linear", "cosine"] = "cosine"
    """linear: β from 1e-4 to 0.02 (Ho et al. 2020); cosine: Nichol & Dhariwal 2021, eq. 17."""
    objective: Literal["eps", "v"] = "v"
    """eps: the noise; v: α·ε − σ·x0 (Salimans & Ho 2022)."""
    steps: int = 1000
    """N, the steps of the forward process."""

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ConfigError("The noise schedule needs at least 2 steps.")


class NoiseSchedule:
    """ᾱ for steps 0 … N−1, in float64.

    Both ends stay inside (0, 1): step 0 is almost clean, and the last is almost, never quite, pure noise.
    """

    def __init__(self, config: NoiseConfig) -> None:
        self.config = config
        steps = config.steps
        if config.schedule == "linear":
            beta = torch.linspace(1e-4, 0.02, steps, dtype=torch.float64)
        else:
            time = torch.arange(steps + 1, dtype=torch.float64) / steps
            signal = ((time + 0.008) / 1.008 * math.pi / 2).cos().square()
            beta = (1 - signal[1:] / signal[:-1]).clamp(max=0.999)
        self.alpha_bar = (1 - beta).cumprod(dim=0)
        self._tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}  # α and σ, where and as they are needed

    def __len__(self) -> int:
        return len(self.alpha_bar)

    def alpha_sigma(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """α_t and σ_t for steps t [B], shaped to broadcast over `like` [B, …] and of its kind."""
        key = (like.device, like.dtype)
        if key not in self._tables:
            with torch.inference_mode(False):  # training may use what a demo was the first to ask for
                self._tables[key] = (
                    torch.stack([self.alpha_bar.sqrt(), (1 - self.alpha_bar).sqrt()]).to(like.dtype).to(like.device)
                )
        alpha, sigma = self._tables[key][:, t].view(2, -1, *[1] * (like.dim() - 1))
        return alpha, sigma

    def timesteps(self, count: int) -> list[int]:
        """`count` steps from N−1 down, evenly spaced and ending one stride above clean ("trailing", Lin et al. 2023).

        Raises:
            UsageError: none, or more than the schedule has.
        """
        if not 1 <= count <= len(self):
            raise UsageError(f"{count} sampling steps cannot be taken.", f"This model's schedule has 1 to {len(self)}.")
        return [round(len(self) - i * len(self) / count) - 1 for i in range(count)]
