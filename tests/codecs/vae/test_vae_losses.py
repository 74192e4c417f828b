"""The losses against independent formulas, and what they are for: nearer sounds nearer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import signal

from musicldm.codecs.posterior import DiagonalGaussian
from musicldm.codecs.vae.losses import LossConfig, vae_loss
from musicldm.core.errors import ConfigError
from musicldm.media.audio.l1 import waveform_spectrogram_l1
from musicldm.nn.spectral_losses import magnitude, mel_bands, multi_resolution_mel, multi_resolution_stft


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


def test_the_l1_distance_is_its_formula() -> None:
    x, y = music(seed=1)[0, 0].numpy(), music(seed=2)[0, 0].numpy()

    def spectrogram(z: NDArray[np.floating]) -> NDArray[np.floating]:
        padded = np.pad(z, 512)
        return np.abs(np.fft.rfft([padded[i : i + 1024] for i in range(0, len(padded) - 1023, 256)]))

    wanted = 0.5 * np.abs(x - y).mean() + 0.5 * np.abs(spectrogram(x) - spectrogram(y)).mean()
    assert waveform_spectrogram_l1(
        torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None]
    ).item() == pytest.approx(wanted, rel=1e-4)


def test_losses_rise_with_the_damage() -> None:
    x = music()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for loss in (waveform_spectrogram_l1, lambda a, b: multi_resolution_stft(a, b, (2048, 512, 128))):
        values = [loss(x, x + level * noise).item() for level in (0, 0.003, 0.01, 0.03, 0.1)]
        assert values == sorted(values) and values[0] < 0.01 * values[-1] + 1e-3
        assert loss(x, 0.99 * x) < loss(x, torch.zeros_like(x))


def test_gradients_are_finite_at_silence() -> None:
    y = torch.zeros(1, 1, 4096, requires_grad=True)
    loss = multi_resolution_stft(torch.zeros(1, 1, 4096), y, (512,)) + waveform_spectrogram_l1(
        torch.zeros(1, 1, 4096), y
    )
    (gradient,) = torch.autograd.grad(loss, y)
    assert gradient.isfinite().all()


def test_mel_distance_is_its_formula() -> None:
    x, y = music(seed=1), music(seed=2)
    size, rate, bands = 512, 16000, 48

    def mel(z: torch.Tensor) -> NDArray[np.floating]:
        spectrum = magnitude(z, size, size // 4)[0, 0].numpy()
        edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), bands + 2) / 2595) - 1)
        hertz = np.arange(size // 2 + 1) * rate / size
        bank = [np.interp(hertz, edges[i : i + 3], [0, 1, 0]) for i in range(bands)]  # by another road
        decades: NDArray[np.floating] = np.log10(np.array(bank) @ spectrum + 1e-4)
        return decades

    assert multi_resolution_mel(x, y, (size,), rate).item() == pytest.approx(np.abs(mel(x) - mel(y)).mean(), rel=1e-3)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_no_mel_band_is_empty(rate: int) -> None:
    """A band between two bins would hear nothing."""
    for size in (4096, 2048, 1024, 512, 128):
        assert mel_bands(size, rate).max(axis=1).min() > 0.3


def test_stereo_is_heard_from_all_sides() -> None:
    left, right = music(seed=1)[:, 0], music(seed=2)[:, 0]
    x = torch.stack([left, right], dim=1)
    sizes = (512,)
    assert multi_resolution_stft(x, x.flip(1), sizes) > 0.1  # left is not right
    assert multi_resolution_stft(x, torch.stack([left, -right], dim=1), sizes) > 0.1  # together they differ
    mono = torch.stack([left, left], dim=1)
    assert multi_resolution_stft(mono, 0.9 * mono, sizes).isfinite()  # whose side is silent


def test_total_is_the_weighted_sum_and_kl_counts() -> None:
    x, y = music(), music(seed=3)
    posterior = DiagonalGaussian(torch.ones(1, 4, 10), torch.zeros(1, 4, 10))
    weights = LossConfig(time=2.0, stft=3.0, study=0.5, kl=0.1)
    terms = vae_loss(x, y, posterior, weights, 16000)
    assert terms["kl"].item() == pytest.approx(0.5)  # half a squared mean of 1, per number
    total = 2 * terms["time"] + 3 * terms["stft"] + 0.5 * terms["study"] + 0.1 * terms["kl"]
    torch.testing.assert_close(terms["total"], total)
    torch.testing.assert_close(terms["reconstruction"] + terms["prior"], total)
    assert "study" not in vae_loss(x, y, posterior, LossConfig(), 16000)


def test_the_divergence_warms_up_and_has_free_bits() -> None:
    x = music()
    # Means of 1 and 2 without spread of their own: 0.5 and 2 nats for each number.
    posterior = DiagonalGaussian(torch.ones(2, 4, 10) * torch.tensor([1.0, 2.0]).view(2, 1, 1), torch.zeros(2, 4, 10))

    def prior(step: int | None, **weights: float) -> float:
        config = LossConfig(time=1, stft=0, **weights)  # type: ignore[arg-type]
        return vae_loss(x, x, posterior, config, 16000, step)["prior"].item()

    assert prior(None, kl=0.1) == pytest.approx(0.1 * 1.25)
    assert [prior(step, kl=0.1, kl_warmup=4) for step in (0, 1, 3, 100)] == pytest.approx(
        [0.1 * 1.25 * share for share in (0.25, 0.5, 1, 1)]
    )
    # One bit is 0.69 nats: the first crop has fewer.
    assert prior(None, kl=0.1, free_bits=1) == pytest.approx(0.1 * (0 + 2 - np.log(2)) / 2)
    assert prior(None, kl=0.1, free_bits=3) == pytest.approx(0, abs=1e-7)


def test_losses_are_not_rounded_by_autocast() -> None:
    x, y = music(seed=1), music(seed=2).requires_grad_()
    posterior = DiagonalGaussian(torch.randn(1, 4, 10), torch.randn(1, 4, 10))
    config = LossConfig(time=1.0, stft=1.0, mel=1.0, study=1.0)

    def terms() -> dict[str, torch.Tensor]:
        return vae_loss(x, y, posterior, config, 16000)

    exact = terms()
    with torch.autocast("cpu", torch.bfloat16):
        rough = terms()
    assert {name: value.item() for name, value in rough.items()} == {
        name: value.item() for name, value in exact.items()
    }
    gradients = [torch.autograd.grad(found["total"], y)[0] for found in (exact, rough)]
    assert torch.equal(*gradients)


def test_a_loss_that_asks_for_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="one of"):
        LossConfig(time=0, stft=0)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ConfigError):
        LossConfig(kl=-1.0)
