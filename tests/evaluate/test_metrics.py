"""The figures of a reconstruction against plain NumPy and SciPy, closed forms, and piece by piece against the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal
from torch import Tensor

from musicldm.core.errors import DataError, MismatchError
from musicldm.evaluate.metrics import (
    LIMIT,
    WINDOWS,
    Comparison,
    compare,
    mel_distance,
    mel_l1_to_silence,
    multi_resolution_stft_distance,
    si_sdr,
)
from musicldm.media.audio.l1 import waveform_spectrogram_l1

RATE = 16000


def noise(*shape: int, seed: int = 0, level: float = 0.1) -> Tensor:
    return level * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def music(samples: int = RATE) -> Tensor:
    """Decaying chords, [1, samples]."""
    time = torch.arange(samples) / RATE
    chord = sum(torch.sin(2 * torch.pi * f * time) for f in (220, 277, 330, 880, 3000))
    return (0.1 * chord * torch.exp(-3 * (time % 0.25)))[None]


# ---- SI-SDR ----------------------------------------------------------------------------------------------------------


def plain_si_sdr(target: np.ndarray, estimate: np.ndarray) -> float:
    s, e = (z - z.mean(axis=-1, keepdims=True) for z in (target.astype(np.float64), estimate.astype(np.float64)))
    (scale,), *_ = np.linalg.lstsq(s.reshape(-1, 1), e.reshape(-1), rcond=None)
    return float(10 * np.log10(((scale * s) ** 2).sum() / ((scale * s - e) ** 2).sum()))


def test_si_sdr_is_its_formula_for_every_item() -> None:
    target = noise(2, 3, 2, 4000) + torch.tensor([0.3, -0.1])[:, None]  # each channel has an offset of its own
    estimate = 0.7 * target + noise(2, 3, 2, 4000, seed=1, level=0.03)
    found = si_sdr(target, estimate)
    assert found.shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        assert found[i, j].item() == pytest.approx(plain_si_sdr(target[i, j].numpy(), estimate[i, j].numpy()), abs=1e-4)


@pytest.mark.parametrize("decibels", [-40, -6, 0, 20, 60])
def test_si_sdr_is_the_ratio_at_which_noise_was_added_at_any_scale(decibels: float) -> None:
    target, other = noise(1, 8000).double(), noise(1, 8000, seed=1).double()
    target, other = target - target.mean(), other - other.mean()
    other -= (other * target).sum() / target.square().sum() * target  # nothing in it that a scale would explain
    other *= target.norm() / other.norm() * 10 ** (-decibels / 20)
    for scale, gain in ((1, 1), (1, -0.01), (0.02, 5)):
        assert si_sdr(scale * target, gain * (target + other)).item() == pytest.approx(decibels, abs=0.01)


def test_si_sdr_has_ends() -> None:
    sound, silence = noise(1, 4000), torch.zeros(1, 4000)
    assert si_sdr(sound, sound).item() == si_sdr(sound, 3 * sound).item() == pytest.approx(LIMIT, abs=1e-3)
    for pair in ((sound, silence), (silence, sound), (silence, silence), (silence + 0.5, sound), (sound, 1e-7 * sound)):
        assert si_sdr(*pair).item() == pytest.approx(-LIMIT)


# ---- Spectra ---------------------------------------------------------------------------------------------------------


def magnitudes(z: np.ndarray, size: int) -> np.ndarray:
    """By SciPy, windows of unit sum: [F, frames]."""
    padded = np.pad(z, (size // 2, size // 2 + size))  # SciPy leaves out a last window that is not whole
    _, _, spectrum = signal.stft(
        padded, nperseg=size, noverlap=size - size // 4, window="hann", boundary=None, padded=False
    )
    found: np.ndarray = np.abs(spectrum[:, : len(z) // (size // 4) + 1])
    return found


def slaney_bands(size: int, count: int, rate: int) -> np.ndarray:
    """Triangles of unit area, evenly spaced on a scale linear to 1 kHz and logarithmic beyond: [count, F]."""
    mels = np.linspace(0, 15 + 27 * np.log(rate / 2000) / np.log(6.4), count + 2)
    hertz = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
    bins = np.arange(size // 2 + 1) * rate / size
    triangles = [np.interp(bins, hertz[i : i + 3], [0, 1, 0]) * 2 / (hertz[i + 2] - hertz[i]) for i in range(count)]
    return np.array([triangle for triangle in triangles if triangle.any()])


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_spectral_distances_are_their_formulas(rate: int) -> None:
    target, estimate = music(9001), 0.8 * music(9001) + noise(1, 9001, level=0.003)
    stft, mel = [], []
    linear = []
    for size, count in WINDOWS.items():
        x, y = (magnitudes(z[0].numpy().astype(np.float64), size) for z in (target, estimate))
        logarithms = np.abs(np.log(np.maximum(x, 1e-5)) - np.log(np.maximum(y, 1e-5)))
        stft.append(np.linalg.norm(x - y) / np.linalg.norm(x) + logarithms.mean())
        bands = slaney_bands(size, count, rate) * size / 2  # windows whose greatest value is 1
        x, y = bands @ x, bands @ y
        mel.append(np.abs(np.log10(np.maximum(x, 1e-5)) - np.log10(np.maximum(y, 1e-5))).mean())
        linear.append(np.abs(x - y).sum() / x.sum())
    assert multi_resolution_stft_distance(target, estimate).item() == pytest.approx(np.mean(stft), rel=1e-3)
    assert mel_distance(target, estimate, rate).item() == pytest.approx(np.sum(mel), rel=1e-3)
    assert mel_l1_to_silence(target, estimate, rate).item() == pytest.approx(np.mean(linear), rel=1e-3)


def test_a_change_of_level_has_its_closed_form() -> None:
    sound = noise(4, 2, RATE)
    for gain in (0.5, 1.3):
        wanted = abs(1 - gain) + abs(np.log(gain))
        np.testing.assert_allclose(multi_resolution_stft_distance(sound, gain * sound), wanted, rtol=1e-2)
        np.testing.assert_allclose(mel_distance(sound, gain * sound, RATE), 7 * abs(np.log10(gain)), rtol=1e-2)
        np.testing.assert_allclose(mel_l1_to_silence(sound, gain * sound, RATE), abs(1 - gain), rtol=1e-3)


def test_every_figure_says_which_of_two_is_nearer() -> None:
    target = music()[None]
    found = [compare(target, target + noise(1, 1, RATE, level=level), RATE) for level in (0, 1e-4, 1e-3, 0.01, 0.1)]
    for name in ("stft", "mel", "mel_to_silence", "l1", "l1_to_silence"):
        values = [getattr(each, name) for each in found]
        assert values == sorted(set(values)) and values[0] == 0, name
    decibels = [each.si_sdr for each in found if each.si_sdr is not None]
    assert len(decibels) == len(found) and decibels == sorted(decibels, reverse=True)


# ---- Crops and silence -----------------------------------------------------------------------------------------------


def test_crops_are_averaged_and_the_l1_is_its_own_function() -> None:
    target, estimate = noise(3, 2, 5000), noise(3, 2, 5000, seed=1)
    target[1] = 0
    found = compare(target, estimate, RATE)
    each = si_sdr(target, estimate)
    assert found.seconds == pytest.approx(3 * 5000 / RATE)
    assert found.si_sdr == pytest.approx((each[0] + each[2]).item() / 2), "what is silent has none"
    assert found.stft == pytest.approx(multi_resolution_stft_distance(target, estimate).mean().item())
    assert found.mel == pytest.approx(mel_distance(target, estimate, RATE).mean().item())
    of_mel = mel_l1_to_silence(target, estimate, RATE)
    assert found.mel_to_silence == pytest.approx((of_mel[0] + of_mel[2]).item() / 2)
    assert found.l1 == pytest.approx(l1 := waveform_spectrogram_l1(target, estimate).item())
    assert found.l1_to_silence == pytest.approx(l1 / waveform_spectrogram_l1(target, 0 * target).item())


def test_silence_is_said_and_no_figure_is_nan() -> None:
    silence, sound = torch.zeros(1, 3000), noise(1, 3000)
    copied, invented, lost = (compare(*pair, RATE) for pair in ((silence, silence), (silence, sound), (sound, silence)))
    assert (copied.si_sdr, copied.stft, copied.mel, copied.l1_to_silence) == (None, 0, 0, None)
    assert invented.si_sdr is invented.l1_to_silence is None and np.isfinite([invented.stft, invented.mel]).all()
    assert lost.si_sdr == pytest.approx(-LIMIT) and lost.l1_to_silence == lost.mel_to_silence == 1
    assert copied.is_of_silence and invented.is_of_silence and not lost.is_of_silence
    assert np.isfinite([lost.stft, lost.mel]).all()


@pytest.mark.parametrize("figure", [si_sdr, multi_resolution_stft_distance, lambda x, y: mel_distance(x, y, RATE)])
def test_what_cannot_be_compared_is_refused(figure) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(MismatchError, match=r"\(1, 99\).*\(2, 99\)"):
        figure(torch.zeros(2, 99), torch.zeros(1, 99))
    with pytest.raises(DataError, match="no audio"):
        figure(torch.zeros(1, 0), torch.zeros(1, 0))


# ---- Piece by piece --------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 6000), min_size=1, max_size=6),
    segment=st.floats(0.01, 0.5),
    channels=st.integers(1, 2),
)
def test_piece_by_piece_is_as_whole(lengths: list[int], segment: float, channels: int) -> None:
    """Whatever the pieces and segments; only the L1 distance has edges."""
    target = noise(channels, sum(lengths)) * torch.linspace(0, 2, sum(lengths)) + 0.05
    estimate = target + noise(channels, sum(lengths), seed=1, level=0.02)
    comparison = Comparison(RATE, segment)
    for start, length in zip(np.cumsum([0, *lengths[:-1]]).tolist(), lengths, strict=True):
        comparison.add(target[..., start : start + length], estimate[..., start : start + length])
    found, whole = comparison.result(), compare(target, estimate, RATE)
    tolerances = {"seconds": 1e-9, "si_sdr": 1e-6, "stft": 1e-4, "mel": 1e-4, "mel_to_silence": 1e-4}
    for name, tolerance in tolerances.items():
        assert getattr(found, name) == pytest.approx(getattr(whole, name), rel=tolerance), name


def test_the_l1_of_segments_is_near_that_of_the_whole() -> None:
    target = music(12 * RATE)
    estimate = target + noise(1, 12 * RATE, level=0.01)
    comparison = Comparison(RATE, segment_seconds=2)
    comparison.add(target, estimate)
    assert comparison.result().l1 == pytest.approx(compare(target, estimate, RATE).l1, rel=0.02)


def test_without_phase_spectra_are_compared_and_samples_are_not() -> None:
    target, estimate = music(), music() + noise(1, RATE, level=0.01)
    found, whole = [Comparison(RATE, keeps_phase=False), Comparison(RATE)]
    for comparison in (found, whole):
        comparison.add(target, estimate)
    figures, wanted = found.result(), whole.result()
    assert figures.si_sdr is figures.l1 is figures.l1_of_silence is figures.l1_to_silence is None
    for name in ("seconds", "mel", "mel_to_silence", "stft"):
        assert getattr(figures, name) == getattr(wanted, name), name
    assert not figures.is_of_silence


def test_a_comparison_of_nothing_says_so() -> None:
    with pytest.raises(DataError, match="no audio"):
        Comparison(RATE).result()
