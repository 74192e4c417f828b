"""The shape of the network, and a whole training of it: what a preset, a TOML file or a bundle tells.

The keys are those of release 0.1: files that people keep have them, and a bundle's digest goes by them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from musicldm.codecs.base import LatentSpec
from musicldm.codecs.vae.losses import LossConfig
from musicldm.core.config import Between
from musicldm.core.errors import ConfigError
from musicldm.nn.discriminator import DiscriminatorConfig
from musicldm.training.config import PlanConfig, TrainingConfig

NAME = "vae"
"""In `CODECS`."""
LARGEST_HOP = 1 << 20
"""Samples in a latent frame."""


@dataclass(frozen=True)
class VAEConfig:
    """The shape of the network."""

    sample_rate: Annotated[int, Between(1, 10_000_000)] = 16000
    """Samples a second."""
    audio_channels: int = 1
    """1 mono, 2 stereo."""
    latent_channels: Annotated[int, Between(1, 65536)] = 32
    """D, the numbers in one latent frame."""
    front_end: Literal["waveform", "spectral"] = "waveform"
    """waveform: learned filters; spectral: the Fourier transform, real and imaginary parts in and out."""
    polar: bool = False
    """Of a spectral decoder: emit magnitude and phase in place of real and imaginary part."""
    bottleneck: Literal["gaussian", "tanh"] = "gaussian"
    """gaussian: a posterior, kept near N(0, 1) by its KL divergence; tanh: numbers in (-1, 1), without either."""
    patch: Annotated[int, Between(1, 65536)] = 1
    """Samples in one step of the front end."""
    patch_kernel: Annotated[int, Between(1, 1 << 20)] = 7
    """Length of its window in samples; odd where patch is 1, else an even multiple of it: no checkerboard."""
    widths: Annotated[tuple[Annotated[int, Between(1, 65536)], ...], Between(1, 16)] = (64, 128, 256, 512)
    """Channels of each stage, from the fastest to the slowest."""
    strides: Annotated[tuple[Annotated[int, Between(1, 1024)], ...], Between(0, 15)] = (2, 2, 2)
    """Downsampling after each stage but the last; even."""
    blocks: Annotated[int, Between(1, 16)] = 2
    """ResNet blocks in a stage; the dilation triples from one to the next."""
    attention_block: Annotated[int, Between(1, 65536)] = 64
    """Latent frames that attend to each other, on the track's own grid."""
    heads: Annotated[int, Between(1, 1024)] = 4
    """Attention heads."""

    def __post_init__(self) -> None:
        if len(self.strides) != len(self.widths) - 1:
            raise ConfigError("A VAE needs one stride fewer than widths.")
        if any(stride < 2 or stride % 2 for stride in self.strides):
            raise ConfigError("The strides of a VAE must be even.")
        if self.hop > LARGEST_HOP:
            raise ConfigError(f"A latent frame of {self.hop} samples is too long: expected at most {LARGEST_HOP}.")
        if self.patch < 1 or self.blocks < 1:
            raise ConfigError("patch and blocks must be at least 1.")
        if self.patch_kernel % self.patch or self.patch_kernel % 2 != self.patch % 2:
            raise ConfigError("patch_kernel must be odd where patch is 1, else an even multiple of patch.")
        if self.widths[-1] % self.heads:
            raise ConfigError("The last width must be a multiple of heads.")
        if self.front_end == "spectral" and self.patch_kernel < 2 * self.patch:
            raise ConfigError("A spectral front end needs a patch_kernel of at least two patches.")
        if self.audio_channels not in (1, 2):
            raise ConfigError("audio_channels must be 1 or 2.")

    @property
    def hop(self) -> int:
        """Samples in one latent frame."""
        return self.patch * math.prod(self.strides)

    @property
    def spec(self) -> LatentSpec:
        """The form of the latents."""
        return LatentSpec(
            "audio", self.latent_channels, self.audio_channels, self.sample_rate, self.hop, NAME, codec_hash=""
        )

    @property
    def grid(self) -> int:
        """Latent frames in a block of the attention, whose grid begins with the track."""
        return self.attention_block

    @property
    def receptive_field(self) -> int:
        """Latent frames on either side that decide a frame by convolutions alone, in encoder or decoder."""
        at_latent_rate = 2 + 1  # both convolutions of a middle block, and the decoder's stem
        # Counted in samples, and generously: too much context costs some time, too little gives wrong frames.
        outer, samples_a_frame = self.patch_kernel, self.patch
        for stride in (*self.strides, 1):
            # A ResNet block reaches 3**i frames by its dilated convolution and one by its second; changing the rate,
            # one stride.
            outer += sum(3**i + 1 for i in range(self.blocks)) * samples_a_frame + stride * samples_a_frame
            samples_a_frame *= stride
        return at_latent_rate + math.ceil(outer / self.hop)

    @property
    def context(self) -> int:
        """Latent frames on either side that decide a frame: windows with this context agree with the whole track.

        A frame reaches through the convolutions after the attention into neighbouring blocks, through the attention
        to the whole of those, and through the convolutions before it further still.
        """
        return 2 * self.attention_block * math.ceil(self.receptive_field / self.attention_block)


@dataclass(frozen=True)
class VAERunConfig:
    """A whole VAE training, as a preset or a TOML file gives it."""

    model: VAEConfig = field(default_factory=VAEConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """Of use where `loss` has an adversarial term."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    plan: PlanConfig | None = None
    """What was requested, where `training` is what a memory plan made of it."""
