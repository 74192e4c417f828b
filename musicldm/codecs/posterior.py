"""What an encoder emits: independent normal distributions, one for each element of the latent.

The draw from one is written here and nowhere else, but for `latents.dataset`, which draws in place on the store's
arrays.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

LOGVAR_RANGE = (-14.0, 2.0)
"""What a log-variance is held to: float16 still tells its exponential from 0, and wider than the prior (0) it need not
be."""


class DiagonalGaussian:
    """N(mean, exp(logvar)), elementwise, over tensors [B, D, L]."""

    def __init__(self, mean: Tensor, logvar: Tensor) -> None:
        self.mean = mean
        # Straight-through: gradients flow as if it were not clamped. Without them, a rare sound whose width the network
        # puts far out of range would stay there for good, its latents nothing but noise.
        self.logvar = logvar + (logvar.clamp(*LOGVAR_RANGE) - logvar).detach()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A draw [B, D, L], through which gradients flow (Kingma & Welling 2014, eq. 4)."""
        return self.at(torch.empty_like(self.mean).normal_(generator=generator))

    def at(self, noise: Tensor) -> Tensor:
        """The draw for standard normal `noise` [B, D, L]: mean + std · noise."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def mode(self) -> Tensor:
        """The most likely value."""
        return self.mean

    def kl(self) -> Tensor:
        """KL divergence to N(0, 1) in nats, summed over D and L: [B] (Kingma & Welling 2014, appendix B)."""
        return self.kl_per_element().sum(dim=(1, 2))

    def kl_per_element(self) -> Tensor:
        """The same before it is summed, [B, D, L]."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar)

    def nll(self, x: Tensor) -> Tensor:
        """Negative log-likelihood of `x` in nats, summed over D and L: [B]."""
        squared = (x - self.mean).square() * torch.exp(-self.logvar)
        return 0.5 * (math.log(2 * math.pi) + self.logvar + squared).sum(dim=(1, 2))


class Deterministic(DiagonalGaussian):
    """A posterior of next to no width, for a network that emits latents and no distribution.

    Its log-variance is the least that a store can keep, so that all that reads posteriors reads it too.
    """

    def __init__(self, mean: Tensor) -> None:
        super().__init__(mean, torch.full_like(mean, LOGVAR_RANGE[0]))

    def kl_per_element(self) -> Tensor:
        """Zero: there is no distribution to compare."""
        return torch.zeros_like(self.mean)


def posterior_of(moments: Tensor, bottleneck: Literal["gaussian", "tanh"]) -> DiagonalGaussian:
    """What an encoder's last layer says: mean and log-variance [B, 2D, L], or what tanh makes the latent [B, D, L]."""
    if bottleneck == "tanh":
        return Deterministic(moments.tanh())
    return DiagonalGaussian(*moments.chunk(2, dim=1))
