"""Distances of waveforms by their spectrograms at several resolutions, with gradients: what reconstructions train by.

All are float32 whatever the autocast, and averaged over the items of a batch.

Shapes: B batch, C audio channels, T samples, F bins of a spectrum.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def magnitude(x: Tensor, fft_size: int, hop: int) -> Tensor:
    """|STFT| of waveforms [..., T] with a periodic Hann window of unit sum: [..., F, frames]; float32 throughout.

    With unit sum a full-scale sine reads 0.5 whatever the size.
    """
    window = torch.hann_window(fft_size, device=x.device)
    spectrum = torch.stft(
        x.float().reshape(-1, x.shape[-1]),
        fft_size,
        hop,
        window=window / window.sum(),
        return_complex=True,
        pad_mode="constant",
    )
    # The floor keeps the gradient of the root finite at silence.
    power = spectrum.real.square() + spectrum.imag.square()
    return power.clamp_min(1e-14).sqrt().reshape(*x.shape[:-1], *spectrum.shape[-2:])


def mid_side(x: Tensor) -> Tensor:
    """Left, right, mid and side [B, 4, T] of stereo waveforms [B, 2, T]; mono ones [B, 1, T] as they are.

    Spectrograms are compared of all four: mid and side are what the ear takes from a recording first, left and right
    say which side is which (Steinmetz et al. 2021). Either pair has the power of the recording.
    """
    if x.shape[1] != 2:
        return x
    left, right = x.unbind(1)
    return torch.stack([left, right, (left + right) * math.sqrt(0.5), (left - right) * math.sqrt(0.5)], dim=1)


def multi_resolution_stft(x: Tensor, y: Tensor, fft_sizes: tuple[int, ...]) -> Tensor:
    """Distance of waveforms [B, C, T] by their spectrograms: linear and logarithmic magnitude, averaged over sizes.

    The linear half is the spectral convergence ‖|X| − |Y|‖ / ‖|X|‖ of each item, which says how much of the energy is
    wrong; the logarithmic half, in nepers, counts what is quiet too (Yamamoto et al. 2020, eq. 4 and 5).

    Args:
        x: the targets.
        y: their estimates.
        fft_sizes: window lengths in samples; the hop is a quarter.
    """
    return spectral_distances(x, y, fft_sizes)["stft"]


def multi_resolution_mel(x: Tensor, y: Tensor, fft_sizes: tuple[int, ...], sample_rate: int) -> Tensor:
    """Mean difference in decades of mel magnitudes of waveforms [B, C, T], averaged over sizes (Kumar et al. 2023)."""
    return spectral_distances(x, y, fft_sizes, sample_rate)["mel"]


def spectral_distances(x: Tensor, y: Tensor, fft_sizes: tuple[int, ...], sample_rate: int = 0) -> dict[str, Tensor]:
    """Both distances, `stft` and `mel`, from the same spectrograms; that of mel bands where `sample_rate` is not 0."""
    x, y = mid_side(x), mid_side(y)
    stft, mel = x.new_zeros(()), x.new_zeros(())
    for size in fft_sizes:
        target, estimate = magnitude(x, size, size // 4), magnitude(y, size, size // 4)
        # Silence has no energy to divide by.
        energy = target.square().mean(dim=(1, 2, 3)).clamp_min(1e-8)
        # Before the root, for its gradient: it is infinite at 0, while the floor passes none on.
        convergence = ((target - estimate).square().mean(dim=(1, 2, 3)) / energy).clamp_min(1e-9).sqrt().mean()
        floor = 1e-4  # -80 dB under a full-scale sine: what lies below is not worth learning
        logarithmic = ((target + floor).log() - (estimate + floor).log()).abs().mean()
        stft = stft + 0.5 * (convergence + 0.5 * logarithmic) / len(fft_sizes)
        if sample_rate:
            bands = bands_on(x.device, size, sample_rate)
            difference = (bands @ target + floor).log10() - (bands @ estimate + floor).log10()
            mel = mel + difference.abs().mean() / len(fft_sizes)
    return {"stft": stft, "mel": mel}


def bands_on(device: torch.device, fft_size: int, sample_rate: int) -> Tensor:
    """`mel_bands` where they are needed; a GPU keeps its copy, since bringing one makes it wait."""
    if device.type == "cpu":
        return torch.from_numpy(mel_bands(fft_size, sample_rate))
    return _bands_kept(str(device), fft_size, sample_rate)


@lru_cache(maxsize=32)
def _bands_kept(device: str, fft_size: int, sample_rate: int) -> Tensor:
    with torch.inference_mode(False):  # else a first call under it would leave a tensor that refuses gradients for good
        return torch.from_numpy(mel_bands(fft_size, sample_rate)).to(device)


@lru_cache(maxsize=32)
def mel_bands(fft_size: int, sample_rate: int) -> NDArray[np.float32]:
    """Triangular bands of unit height, as many as leave the lowest a bin of their own: [bands, F].

    In NumPy, because what the cache keeps must not be a tensor of some autograd mode or device.
    """
    hertz = np.arange(fft_size // 2 + 1) * (sample_rate / fft_size)
    bands = min(160, int(_mel(sample_rate / 2) / (1.2 * _mel(sample_rate / fft_size))))
    edges = np.linspace(0, _mel(sample_rate / 2), bands + 2)
    left, middle, right = (700 * (10 ** (edges[i : bands + i, None] / 2595) - 1) for i in range(3))
    rising, falling = (hertz - left) / (middle - left), (right - hertz) / (right - middle)
    return np.minimum(rising, falling).clip(0).astype(np.float32)


def _mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)  # HTK's scale
