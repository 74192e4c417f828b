"""The shape of the network, and a whole training of it: what a preset, a TOML file or a bundle tells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from musicldm.codecs.base import LatentSpec
from musicldm.core.config import Between
from musicldm.core.errors import ConfigError
from musicldm.media.notes.roll import Channels
from musicldm.media.notes.score import STEPS
from musicldm.training.config import PlanConfig, TrainingConfig

NAME = "roll"
"""In `CODECS`."""


@dataclass(frozen=True)
class RollConfig:
    """The shape of the network."""

    latent_channels: Annotated[int, Between(1, 65536)] = 48
    """D, the numbers in one latent frame."""
    beats: Annotated[int, Between(1, 64)] = 1
    """Beats (quarters) in one latent frame."""
    step_width: Annotated[int, Between(1, 65536)] = 128
    """Channels into which each step of 1/24 quarter is mixed, by weights that all steps share."""
    width: Annotated[int, Between(1, 65536)] = 512
    """Channels of the network."""
    blocks: Annotated[int, Between(1, 64)] = 3
    """ResNet blocks of the encoder, and of the decoder."""
    bottleneck: Literal["gaussian", "tanh"] = "gaussian"
    """gaussian: a posterior, kept near N(0, 1) by its KL divergence; tanh: numbers in (-1, 1), without either."""

    def __post_init__(self) -> None:
        if min(self.latent_channels, self.beats, self.step_width, self.width, self.blocks) < 1:
            raise ConfigError("latent_channels, beats, step_width, width and blocks must be at least 1.")

    @property
    def hop(self) -> int:
        """Steps in one latent frame."""
        return STEPS * self.beats

    @property
    def spec(self) -> LatentSpec:
        """The form of the latents."""
        return LatentSpec("notes", self.latent_channels, Channels.COUNT, STEPS, self.hop, NAME, codec_hash="")

    @property
    def grid(self) -> int:
        """Windows may begin at any latent frame."""
        return 1

    @property
    def context(self) -> int:
        """Latent frames on either side that decide a latent, or a beat of what is decoded."""
        return 2 * self.blocks + 1  # two convolutions of three frames in each block, and one before them


@dataclass(frozen=True)
class RollLossConfig:
    """The weight of each term. All but the last are sums over the keys and steps of a beat, averaged over beats."""

    onset: float = 1.0
    """Binary cross-entropy of the onsets."""
    struck: float = 2.0
    """How much more a step counts in it at which a key is struck: they are few."""
    hold: float = 0.15
    """Binary cross-entropy of the keys that are down."""
    velocity: float = 1.0
    """Absolute error of the velocities, where a key is struck."""
    pedal: float = 0.1
    """Binary cross-entropy of the pedal."""
    beat: float = 0.25
    """Binary cross-entropy of beats and downbeats."""
    tempo: float = 0.25
    """Absolute error of the tempo, in octaves."""
    kl: float = 0.02
    """Weight of the KL divergence to N(0, 1) in nats for each latent *frame*."""

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 0:
            raise ConfigError("A loss weight cannot be negative.")
        if not self.onset or not self.struck:
            raise ConfigError("The codec of rolls needs the loss of its onsets.")


@dataclass(frozen=True)
class RollRunConfig:
    """A whole training, as a preset or a TOML file gives it."""

    model: RollConfig = field(default_factory=RollConfig)
    loss: RollLossConfig = field(default_factory=RollLossConfig)
    transpose: Annotated[int, Between(0, 12)] = 5
    """Semitones by which a crop is moved at most in training, up or down."""
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(seconds=32.0))
    """Its `seconds` are beats."""
    plan: PlanConfig | None = None
    """What was requested, where `training` is what a memory plan made of it."""
