"""The short-time Fourier transform as a layer, on a grid of whole hops. B batch, C channels, T samples, L frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SPECTRUM_SCALE = 3.0
"""Brings the bins of music, whose samples are about 0.1, to about one."""


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
