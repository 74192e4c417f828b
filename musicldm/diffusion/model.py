"""A denoiser as it is trained, shipped and used: the network, the noise process, and what its latents look like."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from musicldm.diffusion.objective import target, to_x0_eps
from musicldm.diffusion.schedule import NoiseConfig, NoiseSchedule
from musicldm.diffusion.unet import UNet, UNetConfig
from musicldm.layers import Checkpointable

LIMIT = 5.0  # in spreads of a channel: 3 in 1,000 of a piano's normalised latents lie further out


@dataclass(frozen=True)
class DiffusionConfig:
    """Everything that it takes to build a denoiser."""

    network: UNetConfig
    noise: NoiseConfig


class Diffusion(Checkpointable):
    """The forward process, the network that learned to undo it, and its loss. Latents are normalised, [B, D, L]."""

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.config = config
        self.schedule = NoiseSchedule(config.noise)
        self.network = UNet(config.network)

    def loss(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Mean squared error of the prediction for clean latents x0, steps t [B] and noise ε: one an item, [B]."""
        alpha, sigma = self.schedule.alpha_sigma(t, x0)
        prediction: Tensor = self.network(alpha * x0 + sigma * eps, t).float()
        wanted = target(self.config.noise.objective, x0, eps, alpha, sigma)
        return (prediction - wanted).square().mean(dim=(1, 2))

    def denoise(self, x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Estimates of (x0, ε) for x at step t: what the samplers ask."""
        steps = torch.full((x.shape[0],), t, device=x.device)
        alpha, sigma = self.schedule.alpha_sigma(steps, x)
        output = self.network(x, steps).to(x.dtype)
        x0, _ = to_x0_eps(self.config.noise.objective, x, output, alpha, sigma)
        # Where hardly any signal is left, ε-prediction divides its error by a tiny α: keep x0 where latents can be.
        x0 = x0.clamp(-LIMIT, LIMIT)
        return x0, (x - alpha * x0) / sigma
