"""The losses against independent formulas, and what they are for: nearer sounds nearer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import signal

from musicldm.errors import ConfigError
from musicldm.vae.gaussian import DiagonalGaussian
from musicldm.vae.losses import LossConfig, magnitude, multi_resolution_stft, study_loss, vae_loss


def music(seconds: float = 1.0, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    time = np.arange(int(16000 * seconds)) / 16000
    tones = sum(
        np.sin(2 * np.pi * f * time + rng.uniform(0, 6)) * np.exp(-3 * (time % 0.25)) for f in (220, 277, 330, 880)
    )
    return torch.from_numpy(0.1 * tones).float()[None, None]


def test_magnitude_of_a_tone_is_half_its_amplitude() -> None:
    tone = 0.8 * torch.sin(2 * torch.pi * 1000 * torch.arange(16000) / 16000)[None, None]
    for size in (2048, 512, 128):
        assert magnitude(tone, size, size // 4)[..., 10].max() == pytest.approx(0.4, rel=0.02)


def test_magnitude_agrees_with_scipy() -> None:
    x = music()
    ours = magnitude(x, 512, 128)[0, 0, :, 2:-2]
    _, _, theirs = signal.stft(
        x[0, 0].numpy(), nperseg=512, noverlap=384, window="hann", boundary="zeros", padded=False
    )
    np.testing.assert_allclose(ours, np.abs(theirs)[:, 2 : 2 + ours.shape[1]], atol=1e-5)


def test_study_loss_is_its_formula() -> None:
    x, y = music(seed=1)[0, 0].numpy(), music(seed=2)[0, 0].numpy()

    def spectrogram(z: np.ndarray) -> np.ndarray:
        padded = np.pad(z, 512)
        return np.abs(np.fft.rfft([padded[i : i + 1024] for i in range(0, len(padded) - 1023, 256)]))

    wanted = 0.5 * np.abs(x - y).mean() + 0.5 * np.abs(spectrogram(x) - spectrogram(y)).mean()
    assert study_loss(torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None]).item() == pytest.approx(
        wanted, rel=1e-4
    )


def test_losses_rise_with_the_damage() -> None:
    x = music()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for loss in (study_loss, lambda a, b: multi_resolution_stft(a, b, (2048, 512, 128))):
        values = [loss(x, x + level * noise).item() for level in (0, 0.003, 0.01, 0.03, 0.1)]
        assert values == sorted(values) and values[0] < 0.01 * values[-1] + 1e-3
        assert loss(x, 0.99 * x) < loss(x, torch.zeros_like(x))


def test_gradients_are_finite_at_silence() -> None:
    y = torch.zeros(1, 1, 4096, requires_grad=True)
    (multi_resolution_stft(torch.zeros(1, 1, 4096), y, (512,)) + study_loss(torch.zeros(1, 1, 4096), y)).backward()
    assert y.grad is not None and y.grad.isfinite().all()


def test_total_is_the_weighted_sum_and_kl_counts() -> None:
    x, y = music(), music(seed=3)
    posterior = DiagonalGaussian(torch.ones(1, 4, 10), torch.zeros(1, 4, 10))
    weights = LossConfig(time=2.0, stft=3.0, study=0.5, kl=0.1)
    terms = vae_loss(x, y, posterior, weights)
    assert terms["kl"].item() == pytest.approx(0.5)  # half a squared mean of 1, per number
    total = 2 * terms["time"] + 3 * terms["stft"] + 0.5 * terms["study"] + 0.1 * terms["kl"]
    torch.testing.assert_close(terms["total"], total)
    assert "study" not in vae_loss(x, y, posterior, LossConfig())


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ConfigError):
        LossConfig(kl=-1.0)
