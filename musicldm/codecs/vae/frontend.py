"""Where waveforms become frames and frames waveforms: [B, C, T] <-> [B, width, T / frame_hop].

Each front end is one linear layer over windows of so many samples, one every `frame_hop` samples: the first layer of
the encoder or the last of the decoder. The configuration's keys for the two are `patch` (the hop) and `patch_kernel`.
`waveform` learns its filters; `spectral` has those of the Fourier transform, behind a layer that mixes the bins of one
frame (Musika, Pasini & Schlüter 2022; Vocos, Siuzdak 2023). What leaves the network, and the transforms, are float32
under any autocast: bfloat16 would put a floor of noise at -57 dB.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from musicldm.nn.blocks import StridedConv1d
from musicldm.nn.stft import SPECTRUM_SCALE, STFT


class WaveformAnalysis(StridedConv1d):
    """A learned filter bank: [B, C, T] -> [B, width, T / frame_hop]."""

    def __init__(self, audio_channels: int, width: int, frame_hop: int, window_size: int) -> None:
        super().__init__(audio_channels, width, window_size, frame_hop)


class WaveformSynthesis(nn.ConvTranspose1d):
    """Its counterpart: [B, width, L] -> [B, C, L·frame_hop]; a window is a multiple of the hop, so no checkerboard."""

    def __init__(self, width: int, audio_channels: int, frame_hop: int, window_size: int) -> None:
        super().__init__(
            width, audio_channels, window_size, frame_hop, padding=(window_size - frame_hop) // 2, bias=False
        )
        # Untrained, the network is quiet: nothing loud has to be unlearned first.
        nn.init.normal_(self.weight, std=0.1 * width**-0.5 / window_size**0.5)

    def forward(self, h: Tensor, output_size: list[int] | None = None) -> Tensor:
        with torch.autocast(h.device.type, enabled=False):
            return super().forward(h.float(), output_size)


class SpectralAnalysis(nn.Module):
    """The bins of each frame, mixed: [B, C, T] -> [B, width, T / frame_hop]."""

    def __init__(self, audio_channels: int, width: int, frame_hop: int, window_size: int) -> None:
        super().__init__()
        self.stft = STFT(frame_hop, window_size)
        self.mix = nn.Conv1d(2 * audio_channels * (window_size // 2 + 1), width, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            spectrum = self.stft(x.float())
        h: Tensor = self.mix(SPECTRUM_SCALE * torch.cat([spectrum.real, spectrum.imag], dim=2).flatten(1, 2))
        return h


class SpectralSynthesis(nn.Module):
    """Real and imaginary part of every bin, and the inverse transform: [B, width, L] -> [B, C, L·frame_hop].

    Args:
        polar: emit the logarithm of the magnitude and the phase instead (Siuzdak 2023, eq. 2 and 3).
    """

    def __init__(self, width: int, audio_channels: int, frame_hop: int, window_size: int, polar: bool = False) -> None:
        super().__init__()
        self.audio_channels = audio_channels
        self.polar = polar
        self.stft = STFT(frame_hop, window_size)
        self.mix = nn.Conv1d(width, 2 * audio_channels * (window_size // 2 + 1), 1)
        # Untrained, the network is quiet: nothing loud has to be unlearned first.
        nn.init.normal_(self.mix.weight, std=0.1 * width**-0.5)
        bias = torch.zeros(audio_channels, 2, window_size // 2 + 1)
        # When polar, these are log-magnitudes: at 0 every bin would be as loud as music's.
        bias[:, 0] = -4.0 if polar else 0.0
        self.mix.bias = nn.Parameter(bias.flatten())

    def forward(self, h: Tensor) -> Tensor:
        with torch.autocast(h.device.type, enabled=False):
            first, second = self.mix(h.float()).view(len(h), self.audio_channels, -1, h.shape[-1]).chunk(2, dim=2)
            if self.polar:
                # e⁵ is far above any bin of music, which are about 1; without a limit one wild number would overflow.
                spectrum = torch.polar(first.clamp(max=5.0).exp(), second)
            else:
                spectrum = torch.complex(first, second)
            return self.stft.inverse(spectrum / SPECTRUM_SCALE)
