"""The discriminator that tells music from reconstructions: a small network for each of several STFT resolutions.

It sees real and imaginary parts, so phases too, and judges every patch of time and frequency by itself (Zeghidour et
al. 2021; Défossez et al. 2022, section 3.4). B batch, C audio channels, F bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from musicldm.core.errors import ConfigError
from musicldm.nn.stft import SPECTRUM_SCALE, STFT


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The shape of the discriminator."""

    fft_sizes: tuple[int, ...] = (2048, 1024, 512)
    """Window lengths in samples, one network for each; the hop is a quarter."""
    width: int = 32
    """Channels of every layer."""
    learning_rate: float = 3e-4
    """Its own, at its peak."""

    def __post_init__(self) -> None:
        if not self.fft_sizes or any(size < 16 or size % 8 for size in self.fft_sizes):
            raise ConfigError("discriminator.fft_sizes must be multiples of 8, at least 16.")
        if self.width < 1 or self.learning_rate <= 0:
            raise ConfigError("discriminator.width and discriminator.learning_rate must be positive.")


class ResolutionDiscriminator(nn.Module):
    """Convolutions over time and frequency: at every layer a longer stretch of time, and coarser bins."""

    def __init__(self, audio_channels: int, fft_size: int, width: int) -> None:
        super().__init__()
        self.stft = STFT(fft_size // 4, fft_size)
        # Kernels of 3 frames by 9 bins: the dilation is in time, the stride in frequency.
        wide = [(2 * audio_channels, 1, 1), (width, 1, 2), (width, 2, 2), (width, 4, 2)]  # channels, dilation, stride
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(channels, width, (3, 9), (1, stride), dilation=(dilation, 1), padding=(dilation, 4)))
            for channels, dilation, stride in wide
        )
        self.judge = weight_norm(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Waveforms [B, C, T] -> the output of each layer, [B, width, frames, bins], and last the logits."""
        with torch.autocast(x.device.type, enabled=False):
            # The transform takes whole hops, and a crop is a multiple of the codec's hop, not of these.
            rest = -x.shape[-1] % self.stft.frame_hop
            spectrum = self.stft(F.pad(x.float(), (0, rest)))
            # [B, C, bins, frames], complex -> [B, 2C, frames, bins]
            h = SPECTRUM_SCALE * torch.cat([spectrum.real, spectrum.imag], dim=1).transpose(-1, -2)
        features = []
        for layer in self.layers:
            h = F.leaky_relu(layer(h), 0.2)
            features.append(h)
        return [*features, self.judge(h)]


class Discriminator(nn.Module):
    """Waveforms [B, C, T] -> features and logits of each resolution; above zero it takes them for music."""

    def __init__(self, config: DiscriminatorConfig, audio_channels: int) -> None:
        super().__init__()
        self.resolutions = nn.ModuleList(
            ResolutionDiscriminator(audio_channels, size, config.width) for size in config.fft_sizes
        )

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        return [resolution(x) for resolution in self.resolutions]


def discriminator_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Tensor:
    """The hinge loss of the discriminator: music above 1, reconstructions below -1 (Lim & Ye 2017)."""
    losses = [
        # Logits come with 16 bits under autocast; a mean over so many takes 32.
        F.relu(1 - on_music[-1].float()).mean() + F.relu(1 + on_ours[-1].float()).mean()
        for on_music, on_ours in zip(real, fake, strict=True)
    ]
    return torch.stack(losses).mean()


def adversarial_loss(fake: list[list[Tensor]]) -> Tensor:
    """The loss of the decoder: the higher the logits of its output, the better (Lim & Ye 2017)."""
    return torch.stack([-on_ours[-1].float().mean() for on_ours in fake]).mean()


def feature_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Tensor:
    """Mean difference inside the discriminator, relative to what music has there (Kumar et al. 2019, eq. 8)."""
    losses = [
        # Relative, so that no layer counts more because its numbers are large; silence may leave nothing to divide by.
        (music.float() - ours.float()).abs().mean() / music.float().abs().mean().clamp_min(1e-5)
        for on_music, on_ours in zip(real, fake, strict=True)
        for music, ours in zip(on_music[:-1], on_ours[:-1], strict=True)
    ]
    return torch.stack(losses).mean()
