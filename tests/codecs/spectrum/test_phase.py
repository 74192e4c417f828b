"""Phases from magnitudes alone: tones stay tones, blocks join, and iteration brings the magnitudes nearer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import signal
from torch import Tensor

from musicldm.codecs.spectrum.phase import griffin_lim, integrated_phase
from musicldm.nn.stft import STFT

RATE, SIZE, HOP, BLOCK = 16000, 2048, 256, 64


def tone(hertz: float, seconds: float = 6.0) -> Tensor:
    return 0.3 * torch.sin(2 * math.pi * hertz * torch.arange(int(seconds * RATE)) / RATE)


def remade(x: Tensor, iterations: int) -> Tensor:
    """From its magnitudes, [T]."""
    stft = STFT(HOP, SIZE)
    magnitude = stft(x[None, None])[:, 0].abs()
    return griffin_lim(magnitude, integrated_phase(magnitude, HOP, BLOCK), stft, iterations)[0]


@pytest.mark.parametrize("hertz", [55.0, 110.0, 441.7, 1234.5, 4000.0])
@pytest.mark.parametrize("iterations", [0, 8])
def test_a_tone_stays_a_tone_without_a_pulse(hertz: float, iterations: int) -> None:
    """Nothing beside it at multiples of the rate of columns or of blocks down to -50 dB, and little more in all."""
    y = remade(tone(hertz), iterations)[RATE:-RATE].numpy()
    power = np.abs(np.fft.rfft(y * signal.windows.blackmanharris(len(y)))) ** 2
    frequencies = np.fft.rfftfreq(len(y), 1 / RATE)
    away = np.abs(frequencies - hertz)
    assert 10 * np.log10(power[away > 10].sum() / power.sum()) < -40
    for pulse in (RATE / HOP, RATE / HOP / 2):
        at = (away > 10) & (np.abs(away - pulse * np.round(away / pulse)) < 2)
        assert 10 * np.log10(power[at].sum() / power.sum()) < -50
    # Its level too, all along.
    levels = np.sqrt((y[: len(y) // 800 * 800].reshape(-1, 800) ** 2).mean(axis=1))
    np.testing.assert_allclose(levels.mean(), 0.3 / math.sqrt(2), rtol=0.02)


@pytest.mark.parametrize("iterations", [0, 8])
def test_a_chirp_keeps_its_course(iterations: int) -> None:
    time = torch.arange(4 * RATE) / RATE
    x = 0.3 * torch.sin(2 * math.pi * (200 * time + 100 * time.square()))
    y = remade(x, iterations)
    frequencies, _, wanted = signal.spectrogram(x.numpy(), RATE, nperseg=1024)
    found = signal.spectrogram(y.numpy(), RATE, nperseg=1024)[2]
    course, ours = (frequencies[each.argmax(axis=0)][3:-3] for each in (wanted, found))
    assert np.abs(course - ours).max() <= RATE / 1024


def test_blocks_begin_alike_wherever_the_signal_does() -> None:
    """What a window that starts on the grid gives is what the whole gives: the integral does not reach further."""
    torch.manual_seed(0)
    magnitude = STFT(HOP, SIZE)(0.1 * torch.randn(1, 1, 200 * HOP))[:, 0].abs()
    whole = integrated_phase(magnitude, HOP, BLOCK)
    part = integrated_phase(magnitude[..., BLOCK:], HOP, BLOCK)
    assert torch.equal(whole[..., BLOCK:], part)


def test_iterations_bring_the_magnitudes_nearer() -> None:
    torch.manual_seed(0)
    stft = STFT(HOP, SIZE)
    notes = torch.cat([tone(hertz, 0.5) * torch.linspace(1, 0, RATE // 2) for hertz in (220, 277, 330, 440)])
    magnitude = stft(notes[None, None])[:, 0].abs()

    def gap(iterations: int, phase: Tensor) -> float:
        y = griffin_lim(magnitude, phase, stft, iterations)
        return float((stft(y[None])[:, 0].abs() - magnitude).norm() / magnitude.norm())

    integrated, random = integrated_phase(magnitude, HOP, BLOCK), 2 * math.pi * torch.rand(magnitude.shape)
    gaps = [gap(iterations, integrated) for iterations in (0, 4, 16)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] < gap(0, random) / 2, "the pass alone is worth something"
    assert gaps[1] < gap(4, random)


def test_silence_stays_silent() -> None:
    magnitude = torch.zeros(2, SIZE // 2 + 1, 70)
    y = griffin_lim(magnitude, integrated_phase(magnitude, HOP, BLOCK), STFT(HOP, SIZE), 4)
    assert y.shape == (2, 70 * HOP) and not y.any()
