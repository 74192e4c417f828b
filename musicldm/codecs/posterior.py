"""The posterior of the VAE: independent normal distributions, one for each number of the latent."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# exp(logvar) stays inside what float16 keeps apart from 0; wider than the prior, whose logarithm is 0, none need be.
LOGVAR_RANGE = (-14.0, 2.0)


class DiagonalGaussian:
    """N(mean, exp(logvar)), elementwise, over tensors [B, D, L]."""

    def __init__(self, mean: Tensor, logvar: Tensor) -> None:
        self.mean = mean
        # As if it were not clamped, gradients still flow: without them, a rare sound whose width the network puts far
        # out of range would stay there for good, its latents nothing but noise.
        self.logvar = logvar + (logvar.clamp(*LOGVAR_RANGE) - logvar).detach()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A draw, by which gradients flow (Kingma & Welling 2014, eq. 4)."""
        return self.at(torch.empty_like(self.mean).normal_(generator=generator))

    def at(self, noise: Tensor) -> Tensor:
        """The draw that standard normal `noise` [B, D, L] makes."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def mode(self) -> Tensor:
        """The most likely value."""
        return self.mean

    def kl(self) -> Tensor:
        """KL divergence to N(0, 1) in nats, summed over D and L: one value for each item, [B]."""
        return self.kl_of_numbers().sum(dim=(1, 2))

    def kl_of_numbers(self) -> Tensor:
        """Each number's own share of it, [B, D, L]."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar)

    def nll(self, x: Tensor) -> Tensor:
        """Negative log-likelihood of `x` in nats, summed over D and L: [B]."""
        squared = (x - self.mean).square() * torch.exp(-self.logvar)
        return 0.5 * (math.log(2 * math.pi) + self.logvar + squared).sum(dim=(1, 2))


class Deterministic(DiagonalGaussian):
    """A posterior of no width, as far as one can be written down: what a network without one emits."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__(mean, torch.full_like(mean, LOGVAR_RANGE[0]))

    def kl_of_numbers(self) -> Tensor:
        """Nothing: there is no distribution to compare."""
        return torch.zeros_like(self.mean)
