"""What it takes to build and to train a diffusion model, as presets and TOML files give it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from musicldm.conditions.base import ConditionConfig, Source
from musicldm.generators.diffusion.transformer import TransformerConfig
from musicldm.generators.diffusion.unet import UNetConfig
from musicldm.noise.schedule import NoiseConfig
from musicldm.training.config import PlanConfig, TrainingConfig


@dataclass(frozen=True)
class DiffusionConfig:
    """Everything that it takes to build a diffusion model."""

    network: Literal["unet", "transformer"] = "unet"
    """Which of the two networks; the other's table is of no use."""
    unet: UNetConfig = field(default_factory=UNetConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    conditions: ConditionConfig = field(default_factory=ConditionConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)

    @property
    def shape(self) -> UNetConfig | TransformerConfig:
        """Of the network that is in use."""
        return self.unet if self.network == "unet" else self.transformer

    @property
    def multiple(self) -> int:
        """Lengths are filled up to a multiple of this many frames."""
        return self.shape.multiple

    def fitted(self, channels: int, source: Source | None = None) -> DiffusionConfig:
        """The same for latents of so many channels, with what conditions take from the music to train on."""
        return replace(
            self,
            unet=replace(self.unet, latent_channels=channels),
            transformer=replace(self.transformer, latent_channels=channels),
            conditions=self.conditions if source is None else self.conditions.fitted(source),
        )


@dataclass(frozen=True)
class DiffusionRunConfig:
    """A whole diffusion training, as a preset or a TOML file gives it."""

    model: DiffusionConfig = field(default_factory=DiffusionConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    plan: PlanConfig | None = None
    """What was requested, where `training` is what a memory plan made of it."""
