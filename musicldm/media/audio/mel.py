"""Mel spectrograms and filter banks, to measure with.

Two scales are in use. Spectrograms are on HTK's, mel = 2595 log10(1 + f / 700), torchaudio's default. Distances between
sounds are on Slaney's, linear below 1 kHz, with bands of equal area, as in the literature on codecs.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache

import torch
import torchaudio
from torch import Tensor

N_MELS = 64

_FLOOR = 1e-5  # of power, where a full-scale tone has about 1e5: without it silence would be -inf and outweigh all else
_WINDOW = 0.064  # seconds, at most doubled to reach a power of two


def log_mel(audio: Tensor, sample_rate: int, n_mels: int = N_MELS) -> Tensor:
    """The natural logarithm of mel power: audio [..., T] to float32 [..., n_mels, frames]; differentiable.

    Windows of a power of two of at least 64 ms, a quarter apart: at 16 kHz 1024 samples, every 256.
    """
    with torch.autocast(audio.device.type, enabled=False):  # half precision cannot hold the range of power
        return mel_power(audio.float(), sample_rate, n_mels).clamp(min=_FLOOR).log()


def mel_power(audio: Tensor, sample_rate: int, n_mels: int = N_MELS) -> Tensor:
    """Mel power on HTK's scale: float32 [..., T] to [..., n_mels, frames], in the windows of `log_mel`."""
    power: Tensor = _transform(sample_rate, n_mels, str(audio.device))(audio)
    return power


def hop(sample_rate: int) -> int:
    """Samples from one frame of `log_mel` to the next."""
    return (1 << math.ceil(math.log2(_WINDOW * sample_rate))) // 4


@lru_cache(maxsize=16)
def _transform(sample_rate: int, n_mels: int, device: str) -> torchaudio.transforms.MelSpectrogram:
    window = 4 * hop(sample_rate)
    # Not in inference mode: a window that was first made there could never take part in a backward pass.
    with torch.inference_mode(False):
        # Silence beyond the ends: to reflect the sound there, it would have to be longer than half a window.
        return torchaudio.transforms.MelSpectrogram(
            sample_rate, n_fft=window, hop_length=hop(sample_rate), n_mels=n_mels, pad_mode="constant"
        ).to(device)


def hertz_to_mel(hertz: float) -> float:
    """A frequency on HTK's scale."""
    return 2595 * math.log10(1 + hertz / 700)


@lru_cache(maxsize=64)
def slaney_bands(sample_rate: int, fft_size: int, n_mels: int, device: str = "cpu") -> Tensor:
    """The weights of Slaney's filter bank: [bands, fft_size // 2 + 1].

    Bands that are too narrow to hold a frequency of the transform are left out, so there may be fewer than `n_mels`.
    """
    # Cached like the window above, so it must not be made in inference mode either.
    with warnings.catch_warnings(), torch.inference_mode(False):
        warnings.filterwarnings("ignore", "At least one mel filterbank", UserWarning)
        bands: Tensor = torchaudio.functional.melscale_fbanks(
            fft_size // 2 + 1, 0.0, sample_rate / 2, n_mels, sample_rate, norm="slaney", mel_scale="slaney"
        ).T
    return bands[bands.amax(dim=1) > 0].to(device)
