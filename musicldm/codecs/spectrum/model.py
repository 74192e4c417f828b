"""The codec of spectra: waveforms [B, C, T] <-> raw latents [B, D, L], where L = T / hop.

    waveform ─ |STFT| ─ log ─ mix ─ blocks ─ mean, log-variance              (Encoder)
    latent ─ blocks ─ mix ─ log |STFT| ─ phase ─ waveform                    (Decoder, then griffinlim or Head)

The encoder sees magnitudes only. A phase turns by thousands of cycles a second, so latents that follow it are white
noise in time, which a generator can only learn by heart; magnitudes change as slowly as notes do. What the decoder
makes up is a phase, not the one that was there (as Musika, Pasini & Schlüter 2022, and Moûsai, Schneider et al. 2023).

Shapes: B batch, C audio channels (stereo as mid and side), T samples, F bins, K columns of a spectrogram, D latent
channels, L latent frames of K / L columns each.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musicldm.codecs.module import CodecModule
from musicldm.codecs.posterior import DiagonalGaussian, posterior_of
from musicldm.codecs.spectrum.config import SpectrumConfig, dilation
from musicldm.codecs.spectrum.phase import griffin_lim, integrated_phase
from musicldm.core.bundle import Component
from musicldm.nn.blocks import ResnetBlock
from musicldm.nn.stft import STFT

LARGEST = 3.0
"""Of a magnitude, where a full-scale sine has 0.5: a network that is not trained must not make thunder."""

PHASE_ONLY = ("decoder", "iterations", "head_width", "head_blocks")
"""Of the configuration: what latents and magnitudes do not depend on."""


class Blocks(nn.Sequential):
    """ResNet blocks at the latent rate, with dilations of 1 and 3 in turn."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__(*(ResnetBlock(width, width, dilation=dilation(i)) for i in range(blocks)))


class Encoder(nn.Module):
    """Log-magnitudes [B, C, F, K] -> mean and log-variance [B, 2D, L], or only what will be the mean [B, D, L]."""

    def __init__(self, config: SpectrumConfig) -> None:
        super().__init__()
        self.columns = config.columns
        self.mix = nn.Conv1d(config.audio_channels * config.bins * config.columns, config.width, 1)
        self.blocks = Blocks(config.width, config.blocks)
        moments = 2 if config.bottleneck == "gaussian" else 1
        self.head = nn.Conv1d(config.width, moments * config.latent_channels, 1)

    def forward(self, log_magnitude: Tensor) -> Tensor:
        # The columns of a frame become channels: [B, C, F, K] -> [B, C·F·columns, L]
        frames = log_magnitude.view(*log_magnitude.shape[:3], -1, self.columns).movedim(4, 3).flatten(1, 3)
        h = self.blocks(self.mix(frames))
        with torch.autocast(h.device.type, enabled=False):  # what leaves the network is not rounded
            moments: Tensor = self.head(h.float())
        return moments


class Decoder(nn.Module):
    """Latents [B, D, L] -> log-magnitudes [B, C, F, K]."""

    def __init__(self, config: SpectrumConfig) -> None:
        super().__init__()
        self.shape = config.audio_channels, config.bins, config.columns
        self.stem = nn.Conv1d(config.latent_channels, config.width, 3, padding=1)
        self.blocks = Blocks(config.width, config.blocks)
        self.mix = nn.Conv1d(config.width, math.prod(self.shape), 1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.blocks(self.stem(z))
        with torch.autocast(h.device.type, enabled=False):
            frames = self.mix(h.float())
        columns: Tensor = frames.view(len(z), *self.shape, -1).movedim(3, 4).flatten(3)
        return columns


class Head(nn.Module):
    """A spectrum with integrated phases -> one that sounds, in one pass: a factor for each bin of each column.

    Its phases begin where `integrated_phase` leaves them: convolutions over time cannot count the turns of a partial,
    and without them a steady tone would repeat with every column, which is heard as a buzz at their rate.

    [B, C, F, K] in compressed magnitudes and phases -> complex [B, C, F, K].
    """

    def __init__(self, config: SpectrumConfig) -> None:
        super().__init__()
        numbers = 2 * config.audio_channels * config.bins
        self.mix_in = nn.Conv1d(numbers, config.head_width, 1)
        self.blocks = nn.Sequential(
            *(ResnetBlock(config.head_width, config.head_width) for _ in range(config.head_blocks))
        )
        self.mix_out = nn.Conv1d(config.head_width, numbers, 1)
        # Untrained, it changes nothing.
        nn.init.zeros_(self.mix_out.weight)
        if self.mix_out.bias is not None:
            nn.init.zeros_(self.mix_out.bias)

    def forward(self, log_magnitude: Tensor, magnitude: Tensor, phase: Tensor) -> Tensor:
        parts = torch.cat([log_magnitude * phase.cos(), log_magnitude * phase.sin()], dim=2)
        h = self.blocks(self.mix_in(parts.flatten(1, 2)))
        with torch.autocast(h.device.type, enabled=False):
            factor = self.mix_out(h.float()).view(*magnitude.shape[:2], -1, h.shape[-1])
        gain, turn = factor.chunk(2, dim=2)
        # At most tenfold: what is silent stays so.
        return torch.polar(magnitude * (2.3 * gain.tanh()).exp(), phase + turn)


class SpectrumCodec(CodecModule):
    """Magnitudes through a bottleneck, and a waveform that has them."""

    config: SpectrumConfig
    config_class = SpectrumConfig

    def __init__(self, config: SpectrumConfig) -> None:
        super().__init__(config)
        self.stft = STFT(config.column_hop, config.window_size)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.head = Head(config) if config.decoder == "adversarial" else None
        # The transform's window has unit power; with unit sum, a full-scale sine reads 0.5.
        self.unit_sum = math.sqrt(1.5 / config.window_size)

    @property
    def receptive_field(self) -> int:
        """See `SpectrumConfig.receptive_field`."""
        return self.config.receptive_field

    @property
    def keeps_phase(self) -> bool:
        """It never sees one."""
        return False

    @classmethod
    def decisive(cls, component: Component) -> Component:
        """All but how phases are made up: a decoder that was trained later, or another, decodes what was encoded."""
        config = {name: value for name, value in component.config.items() if name not in PHASE_ONLY}
        tensors = {name: tensor for name, tensor in component.tensors.items() if not name.startswith("head.")}
        return Component(component.kind, config, tensors)

    def log_magnitude(self, waveform: Tensor) -> Tensor:
        """Decades above the floor, log10(1 + |X| / floor), of waveforms [B, C, T]: [B, C, F, T / column_hop]."""
        waveform = F.pad(waveform.float(), (0, -waveform.shape[-1] % self.config.hop))
        with torch.autocast(waveform.device.type, enabled=False):
            magnitude = self.stft(_mid_side(waveform)).abs() * self.unit_sum
            return torch.log1p(magnitude / self.config.floor) / math.log(10)

    def magnitude(self, log_magnitude: Tensor) -> Tensor:
        """The reverse of `log_magnitude`, as the transform has magnitudes; the network's decades may be below zero."""
        most = math.log(1 + LARGEST / self.config.floor)
        logarithm = (log_magnitude * math.log(10)).clamp(0, most)
        return torch.expm1(logarithm) * (self.config.floor / self.unit_sum)

    def encode(self, waveform: Tensor) -> DiagonalGaussian:
        """[B, C, T] -> the posterior over [B, D, ceil(T / hop)]; the end is filled with silence."""
        return self.posterior(self.log_magnitude(waveform))

    def posterior(self, log_magnitude: Tensor) -> DiagonalGaussian:
        """Of log-magnitudes [B, C, F, K]."""
        return posterior_of(self.encoder(log_magnitude), self.config.bottleneck)

    def decode(self, z: Tensor, noise: Tensor | None = None, steps: int | None = None) -> Tensor:
        """Raw latents [B, D, L] -> waveforms [B, C, L·hop].

        Raises:
            UsageError: noise or steps were given, of which this decoder has no use.
        """
        self.one_pass(noise, steps)
        return self.waveform(self.decoder(z))

    def waveform(self, log_magnitude: Tensor) -> Tensor:
        """Log-magnitudes [B, C, F, K] -> waveforms [B, C, K·column_hop] that have them, nearly."""
        config = self.config
        magnitude = self.magnitude(log_magnitude)
        flat = magnitude.flatten(0, 1)
        phase = integrated_phase(flat, config.column_hop, config.phase_block * config.columns)
        if self.head is None:
            signals = griffin_lim(flat, phase, self.stft, config.iterations).view(*log_magnitude.shape[:2], -1)
        else:
            signals = self.stft.inverse(self.head(log_magnitude, magnitude, phase.view_as(magnitude)))
        return _mid_side(signals)


def _mid_side(x: Tensor) -> Tensor:
    """Left and right [B, 2, T] <-> mid and side, either way; mono ones [B, 1, T] as they are."""
    if x.shape[1] == 1:
        return x
    left, right = x.unbind(1)
    return torch.stack([left + right, left - right], dim=1) * math.sqrt(0.5)
