"""The spectral front end against NumPy's Fourier transform."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from musicldm.nn.stft import STFT

SHAPES = [(8, 32), (64, 128), (128, 512)]


@pytest.mark.parametrize(("patch", "kernel"), SHAPES)
def test_frames_are_those_of_numpy(patch: int, kernel: int) -> None:
    x = torch.randn(2, 2, 10 * patch)
    spectrum = STFT(patch, kernel)(x)
    assert spectrum.shape == (2, 2, kernel // 2 + 1, 10)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(kernel) / kernel)
    padded = np.pad(x[1, 0].numpy(), (kernel - patch) // 2)
    wanted = [np.fft.rfft(window * padded[i * patch :][:kernel]) / np.linalg.norm(window) for i in range(10)]
    np.testing.assert_allclose(spectrum[1, 0].numpy().T, wanted, atol=1e-5)


@pytest.mark.parametrize(("patch", "kernel"), SHAPES)
@pytest.mark.parametrize("frames", [1, 2, 30])
def test_there_and_back_is_exact_to_the_ends(patch: int, kernel: int, frames: int) -> None:
    stft = STFT(patch, kernel)
    x = torch.randn(3, 1, frames * patch)
    torch.testing.assert_close(stft.inverse(stft(x)), x, atol=1e-4, rtol=1e-4)


def test_the_inverse_is_the_nearest_waveform() -> None:
    """No waveform has a transform nearer to a spectrum that belongs to none (Griffin & Lim 1984, eq. 6)."""
    torch.manual_seed(0)
    stft = STFT(64, 256)
    spectrum = torch.complex(torch.randn(1, 1, 129, 40), torch.randn(1, 1, 129, 40))
    nearest = stft.inverse(spectrum)

    def distance(x: torch.Tensor) -> float:
        gap = (stft(x) - spectrum).abs().square()
        gap[:, :, 1:-1] *= 2  # these bins stand for negative frequencies too
        return float(gap.sum())

    for size in (1e-2, 1e-1):
        for seed in range(5):
            noise = torch.randn(nearest.shape, generator=torch.Generator().manual_seed(seed))
            # Away from the ends, beyond which frames are cut off.
            noise[..., :192] = noise[..., -192:] = 0
            assert distance(nearest) < distance(nearest + size * noise)
