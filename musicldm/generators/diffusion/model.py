"""A denoiser as it is trained, shipped and used: the network, the noise process, and what its latents look like."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from musicldm.conditions.base import ConditionConfig, Conditions
from musicldm.generators.diffusion.transformer import Transformer, TransformerConfig
from musicldm.generators.diffusion.unet import UNet, UNetConfig
from musicldm.nn.layers import Checkpointable
from musicldm.noise.schedule import NoiseConfig, NoiseLevel, NoiseSchedule

LIMIT = 5.0  # in spreads of a channel: 3 in 1,000 of a piano's normalised latents lie further out


@dataclass(frozen=True)
class DiffusionConfig:
    """Everything that it takes to build a denoiser."""

    denoiser: Literal["unet", "transformer"] = "unet"
    """Which of the two networks; the other's table is of no use."""
    unet: UNetConfig = field(default_factory=UNetConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    conditions: ConditionConfig = field(default_factory=ConditionConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)

    @property
    def network(self) -> UNetConfig | TransformerConfig:
        """The one that is in use."""
        return self.unet if self.denoiser == "unet" else self.transformer


class Diffusion(Checkpointable):
    """The forward process, the network that learned to undo it, and its loss. Latents are normalised, [B, D, L]."""

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.config = config
        self.schedule = NoiseSchedule(config.noise)
        self.network: UNet | Transformer = (
            UNet(config.unet, config.conditions)
            if config.denoiser == "unet"
            else Transformer(config.transformer, config.conditions)
        )

    def loss(self, x0: Tensor, time: Tensor, eps: Tensor, conditions: Conditions) -> Tensor:
        """Mean squared error of the prediction for clean latents x0, times [B] and noise ε: one an item, [B].

        As it is, without the weights of `noise.min_snr`.
        """
        level = self.schedule.of(time, x0)
        prediction: Tensor = self.network(level.mix(x0, eps), time, conditions).float()
        wanted = level.target(self.config.noise.objective, x0, eps)
        return (prediction - wanted).square().mean(dim=(1, 2))

    def weight(self, time: Tensor, like: Tensor) -> Tensor:
        """What the loss at times [B] counts in training: [B]."""
        noise = self.config.noise
        if not noise.min_snr:
            return torch.ones_like(time, dtype=like.dtype)
        return torch.as_tensor(self.schedule.of(time, like).weight(noise.objective, noise.min_snr)).flatten()

    def denoise(self, x: Tensor, level: NoiseLevel, conditions: Conditions) -> Tensor:
        """The estimate of the clean signal in x at a level, kept where latents can be: what the samplers ask."""
        time = torch.full((x.shape[0],), float(level.time), device=x.device)
        output = self.network(x, time, conditions).to(x.dtype)
        # Where hardly any signal is left, ε-prediction divides its error by a tiny α.
        return level.x0(self.config.noise.objective, x, output).clamp(-LIMIT, LIMIT)
