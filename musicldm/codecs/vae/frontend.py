"""Where waveforms become frames and frames waveforms: [B, C, T] <-> [B, width, T / frame_hop].

Each front end is one linear layer over windows of so many samples, one every `frame_hop` samples: the first layer of
the encoder or the last of the decoder. The configuration's keys for the two are `patch` (the hop) and `patch_kernel`.
`waveform` learns its filters; `spectral` has those of the Fourier transform, behind a layer that mixes the bins of one
frame (Musika, Pasini & Schlüter 2022; Vocos, Siuzdak 2023). What leaves the network, and the transforms, are float32
under any autocast: bfloat16 would put a floor of noise at -57 dB.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musicldm.nn.blocks import StridedConv1d

SPECTRUM_SCALE = 3.0
"""Brings the bins of music, whose samples are about 0.1, to about one."""


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


class STFT(nn.Module):
    """The short-time Fourier transform and its inverse, with frames on a grid of whole hops.

    Frame l is centred on the l-th hop, so T samples give T / frame_hop frames, and a stretch of them that starts on the
    grid is what the whole would give. The Hann window has unit power: white noise keeps its own in every bin.
    """

    window: Tensor

    def __init__(self, frame_hop: int, window_size: int) -> None:
        super().__init__()
        self.frame_hop = frame_hop
        self.window_size = window_size
        self.padding = (window_size - frame_hop) // 2
        window = torch.hann_window(window_size)
        self.register_buffer("window", window / window.norm(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> complex [B, C, bins, T / frame_hop]."""
        padded = F.pad(x.flatten(0, 1), (self.padding, self.padding))
        spectrum = torch.stft(
            padded, self.window_size, self.frame_hop, window=self.window, center=False, return_complex=True
        )
        return spectrum.view(*x.shape[:2], *spectrum.shape[1:])

    def inverse(self, spectrum: Tensor) -> Tensor:
        """Complex [B, C, bins, L] -> [B, C, L·frame_hop]: the waveform whose transform is nearest.

        Griffin & Lim 1984, eq. 6.
        """
        frames = torch.fft.irfft(spectrum.flatten(0, 1).transpose(1, 2), n=self.window_size) * self.window
        # The squared windows that really overlap at each sample: at the ends there are fewer. No sum is 0, since a
        # window has at least two hops, and its outermost part is cut off.
        weight = self.window.square().expand(1, frames.shape[1], -1)
        return (self._overlap(frames) / self._overlap(weight)).view(*spectrum.shape[:2], -1)

    def _overlap(self, frames: Tensor) -> Tensor:
        """Add frames [N, L, window_size] where they lie in time: [N, L·frame_hop]."""
        length, hops = frames.shape[1], self.window_size // self.frame_hop
        added = frames.new_zeros(len(frames), length + hops - 1, self.frame_hop)
        for i, part in enumerate(torch.split(frames, self.frame_hop, dim=2)):  # many times faster than F.fold
            added[:, i : i + length] += part
        return added.flatten(1)[:, self.padding : self.padding + length * self.frame_hop]


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
