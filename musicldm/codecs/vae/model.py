"""The variational autoencoder: waveforms [B, C, T] <-> raw latents [B, D, L], where L = T / hop.

    waveform ─front end─ stage ─↓─ stage ─↓─ … ─ middle ─ mean, log-variance     (Encoder)
    waveform ─front end─ stage ─↑─ stage ─↑─ … ─ middle ─ latent                 (Decoder)

A front end turns `patch` samples into a frame, by learned filters or by a Fourier transform (see `frontend`), so that
no block runs at the full rate unless `patch` is 1, as in "Synthetization of Raw Waveform Music via Latent Diffusion
Models" (2023), whose network this began as. A stage is a few ResNet blocks at one rate; the middle has linear attention
between two of them.

Shapes: B batch, C audio channels, T samples, D latent channels, L latent frames.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musicldm.codecs.module import CodecModule
from musicldm.codecs.posterior import DiagonalGaussian, posterior_of
from musicldm.codecs.vae.config import VAEConfig
from musicldm.codecs.vae.frontend import SpectralAnalysis, SpectralSynthesis, WaveformAnalysis, WaveformSynthesis
from musicldm.nn.attention import LinearAttention
from musicldm.nn.blocks import Downsample, ResnetBlock, Upsample


class Stage(nn.Sequential):
    """ResNet blocks at one rate, with growing dilation."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__(*(ResnetBlock(channels, channels, dilation=3**i) for i in range(blocks)))


class Middle(nn.Sequential):
    """ResNet block, linear attention, ResNet block at the latent rate."""

    def __init__(self, config: VAEConfig) -> None:
        width = config.widths[-1]
        super().__init__(
            ResnetBlock(width, width),
            LinearAttention(width, config.attention_block, config.heads),
            ResnetBlock(width, width),
        )


class Encoder(nn.Module):
    """Waveform [B, C, T] -> mean and log-variance [B, 2D, L], or only what will be the mean [B, D, L]."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        analysis = SpectralAnalysis if config.front_end == "spectral" else WaveformAnalysis
        self.stem = analysis(config.audio_channels, config.widths[0], config.patch, config.patch_kernel)
        layers: list[nn.Module] = []
        for width, following, stride in zip(config.widths, config.widths[1:], config.strides, strict=False):
            layers += [Stage(width, config.blocks), Downsample(width, following, stride)]
        self.stages = nn.Sequential(*layers, Stage(config.widths[-1], config.blocks))
        self.middle = Middle(config)
        moments = 2 if config.bottleneck == "gaussian" else 1
        self.head = nn.Conv1d(config.widths[-1], moments * config.latent_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # [B, C, T] -> [B, widths[0], T / patch] -> [B, widths[-1], L]
        h = self.middle(self.stages(self.stem(x)))
        with torch.autocast(x.device.type, enabled=False):  # what leaves the network is not rounded
            moments: Tensor = self.head(h.float())
        return moments


class Decoder(nn.Module):
    """Latent [B, D, L] -> waveform [B, C, T]."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.stem = nn.Conv1d(config.latent_channels, config.widths[-1], 3, padding=1)
        self.middle = Middle(config)
        layers: list[nn.Module] = [Stage(config.widths[-1], config.blocks)]
        falling = list(zip(config.widths, config.widths[1:], config.strides, strict=False))[::-1]
        for width, previous, stride in falling:
            layers += [Upsample(previous, width, stride), Stage(width, config.blocks)]
        self.stages = nn.Sequential(*layers)
        shape = (config.widths[0], config.audio_channels, config.patch, config.patch_kernel)
        self.head = (
            SpectralSynthesis(*shape, config.polar) if config.front_end == "spectral" else WaveformSynthesis(*shape)
        )

    def forward(self, z: Tensor) -> Tensor:
        waveform: Tensor = self.head(self.stages(self.middle(self.stem(z))))
        return waveform


class VAE(CodecModule):
    """Encoder and decoder with a diagonal Gaussian between them (Kingma & Welling 2014), or one of no width."""

    config: VAEConfig
    config_class = VAEConfig

    def __init__(self, config: VAEConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    @property
    def receptive_field(self) -> int:
        """See `VAEConfig.receptive_field`."""
        return self.config.receptive_field

    def encode(self, waveform: Tensor) -> DiagonalGaussian:
        """[B, C, T] -> the posterior over [B, D, ceil(T / hop)]; the end is filled with silence."""
        moments = self.encoder(F.pad(waveform, (0, -waveform.shape[-1] % self.config.hop)))
        return posterior_of(moments, self.config.bottleneck)

    def decode(self, z: Tensor, noise: Tensor | None = None, steps: int | None = None) -> Tensor:
        """Raw latents [B, D, L] -> waveforms [B, C, L·hop].

        Raises:
            UsageError: noise or steps were given, of which this decoder, a single pass, has no use.
        """
        self.one_pass(noise, steps)
        waveform: Tensor = self.decoder(z)
        return waveform

    def forward(self, waveform: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, DiagonalGaussian]:
        """Waveforms through the bottleneck and back, cut to their length, and the posterior."""
        posterior = self.encode(waveform)
        return self.decode(posterior.sample(generator))[..., : waveform.shape[-1]], posterior
