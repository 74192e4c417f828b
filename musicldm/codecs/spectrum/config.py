"""The shape of the network, and a whole training of it: what a preset, a TOML file or a bundle tells."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from musicldm.codecs.base import LatentSpec
from musicldm.core.config import Between
from musicldm.core.errors import ConfigError
from musicldm.nn.discriminator import DiscriminatorConfig
from musicldm.training.config import PlanConfig, TrainingConfig

NAME = "spectrum"
"""In `CODECS`."""


@dataclass(frozen=True)
class SpectrumConfig:
    """The shape of the network."""

    sample_rate: Annotated[int, Between(1, 10_000_000)] = 16000
    """Samples a second."""
    audio_channels: int = 1
    """1 mono, 2 stereo, which is coded as mid and side."""
    latent_channels: Annotated[int, Between(1, 65536)] = 32
    """D, the numbers in one latent frame."""
    window_size: Annotated[int, Between(2, 1 << 18)] = 2048
    """Samples in a window of the spectrogram: long enough to tell the lowest partials apart."""
    column_hop: Annotated[int, Between(1, 1 << 18)] = 512
    """Samples from one column of the spectrogram to the next: short enough to tell onsets apart."""
    columns: Annotated[int, Between(1, 4096)] = 1
    """Columns in one latent frame."""
    floor: Annotated[float, Between(0, 1)] = 1e-4
    """The magnitude, where a full-scale sine has 0.5, from which on the scale is logarithmic; below it is linear."""
    width: Annotated[int, Between(1, 65536)] = 320
    """Channels of the network."""
    blocks: Annotated[int, Between(1, 64)] = 3
    """ResNet blocks of the encoder, and of the decoder; their dilations alternate between 1 and 3."""
    bottleneck: Literal["gaussian", "tanh"] = "gaussian"
    """gaussian: a posterior, kept near N(0, 1) by its KL divergence; tanh: numbers in (-1, 1), without either."""
    decoder: Literal["griffinlim", "adversarial"] = "griffinlim"
    """Where phases come from. griffinlim: from the magnitudes, by iteration; adversarial: by a network of one pass."""
    iterations: Annotated[int, Between(0, 1024)] = 16
    """Of Griffin and Lim's algorithm."""
    phase_block: Annotated[int, Between(2, 65536)] = 32
    """Latent frames over which phases are integrated, on the track's own grid; see `phase`."""
    head_width: Annotated[int, Between(1, 65536)] = 256
    """Channels of the adversarial decoder."""
    head_blocks: Annotated[int, Between(0, 64)] = 2
    """Its ResNet blocks."""

    def __post_init__(self) -> None:
        if self.audio_channels not in (1, 2):
            raise ConfigError("audio_channels must be 1 or 2.")
        if min(self.column_hop, self.columns, self.width, self.blocks, self.latent_channels) < 1:
            raise ConfigError("column_hop, columns, width, blocks and latent_channels must be at least 1.")
        if self.window_size % (2 * self.column_hop):
            raise ConfigError("window_size must be an even multiple of column_hop.")
        if self.hop > 1 << 20:
            raise ConfigError(f"A latent frame of {self.hop} samples is too long.")
        if self.iterations < 0 or self.phase_block < 2:
            raise ConfigError("iterations cannot be negative, and phase_block must be at least 2.")
        if self.floor <= 0:
            raise ConfigError("floor must be positive.")

    @property
    def hop(self) -> int:
        """Samples in one latent frame."""
        return self.column_hop * self.columns

    @property
    def bins(self) -> int:
        """F, the bins of a column."""
        return self.window_size // 2 + 1

    @property
    def spec(self) -> LatentSpec:
        """The form of the latents."""
        return LatentSpec(
            "audio", self.latent_channels, self.audio_channels, self.sample_rate, self.hop, NAME, codec_hash=""
        )

    @property
    def grid(self) -> int:
        """Latent frames in a block of phases, whose grid begins with the track."""
        return self.phase_block

    @property
    def receptive_field(self) -> int:
        """Latent frames on either side that decide a latent by the window and the convolutions of the encoder, or a
        magnitude by those of the decoder."""
        # A block reaches as far as its dilation and one frame more; the decoder's stem, one.
        convolutions = sum(dilation(i) + 1 for i in range(self.blocks)) + 1
        return convolutions + math.ceil(self.window_size / self.hop)

    @property
    def context(self) -> int:
        """Latent frames on either side that decide a frame in both directions: whole blocks of phases."""
        if self.decoder == "griffinlim":
            # Each iteration carries a column's phase as far as its window, and once more as far as another's.
            columns = self.window_size // self.column_hop * (self.iterations + 1)
        else:
            columns = self.window_size // self.column_hop + 2 * self.columns * (2 * self.head_blocks + 1)
        reach = self.receptive_field + math.ceil(columns / self.columns)
        # And then the block that it is in.
        return self.grid * (1 + math.ceil(reach / self.grid))


def dilation(block: int) -> int:
    """Of the first convolution of a ResNet block."""
    return 3 if block % 2 else 1


@dataclass(frozen=True)
class SpectrumLossConfig:
    """The weight of each term, and when the adversarial decoder's training begins."""

    magnitude: float = 1.0
    """Mean difference of the spectrograms, in decades."""
    mel: float = 1.0
    """The same in mel bands, which weighs low frequencies as the ear does."""
    convergence: float = 0.1
    """Error of the linear magnitudes as a fraction of their norm, which keeps what is loud from being too loud."""
    kl: float = 2e-5
    """Weight of the KL divergence to N(0, 1) in nats for each latent *frame*."""
    head_start: int = 0
    """First step of the adversarial decoder: encoder and magnitudes stay as they are from then on."""
    stft: float = 1.0
    """Of the adversarial decoder: multi-resolution spectrogram distance."""
    stft_mel: float = 1.0
    """Likewise in mel bands."""
    fft_sizes: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    """Window lengths in samples of these two; the hop is a quarter."""
    adversarial: float = 0.2
    """Adversarial loss: the norm of its gradient at the waveform, as a fraction of that of the two above."""
    features: float = 0.4
    """Feature matching inside the discriminator, likewise."""
    adversarial_start: int = 0
    """First step with a discriminator, not before `head_start`."""

    def __post_init__(self) -> None:
        terms = (self.magnitude, self.mel, self.convergence, self.kl)
        weights = (*terms, self.stft, self.stft_mel, self.adversarial, self.features)
        if min(weights) < 0:
            raise ConfigError("A loss weight cannot be negative.")
        if not 0 <= self.head_start <= self.adversarial_start:
            raise ConfigError("head_start cannot be negative, and adversarial_start cannot be below it.")
        if not self.magnitude + self.mel:
            raise ConfigError("The encoder needs one of the losses magnitude and mel.")
        if not self.stft + self.stft_mel:
            raise ConfigError("An adversarial decoder needs one of the losses stft and stft_mel.")


@dataclass(frozen=True)
class SpectrumRunConfig:
    """A whole training, as a preset or a TOML file gives it."""

    model: SpectrumConfig = field(default_factory=SpectrumConfig)
    loss: SpectrumLossConfig = field(default_factory=SpectrumLossConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """Of use where the decoder is adversarial."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    plan: PlanConfig | None = None
    """What was requested, where `training` is what a memory plan made of it."""
