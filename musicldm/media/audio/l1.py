"""The L1 distance by which an earlier model was trained: a loss for codecs, and a figure to compare them by."""

from __future__ import annotations

import torch
from torch import Tensor


def waveform_spectrogram_l1(x: Tensor, y: Tensor) -> Tensor:
    """0.5·L1(waveform) + 0.5·L1(|STFT|, 1024/256, no window): the mean over [B, C, T].

    The loss of *Synthetization of Raw Waveform Music via Latent Diffusion Models* (2023). It grows with the level, so
    it means something only beside its value for silence, `waveform_spectrogram_l1(x, 0)`.
    """

    def spectrogram(z: Tensor) -> Tensor:
        window = torch.ones(1024, device=z.device)
        spectrum = torch.stft(
            z.float().flatten(0, 1), 1024, 256, window=window, return_complex=True, pad_mode="constant"
        )
        # The derivative of a root is infinite at 0, and silence is full of zeros.
        return (spectrum.real.square() + spectrum.imag.square()).clamp_min(1e-10).sqrt()

    return 0.5 * (x - y).abs().mean() + 0.5 * (spectrogram(x) - spectrogram(y)).abs().mean()
