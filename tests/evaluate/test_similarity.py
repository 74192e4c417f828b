"""Self-similarity and levels of sounds that are known."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy import stats

from musicldm.evaluate.levels import level
from musicldm.evaluate.likeness import likeness
from musicldm.evaluate.similarity import chroma, onsets, overlaps

RATE = 16000


def notes(pitches: list[float], each: float) -> torch.Tensor:
    """One after another, plucked, [1, T]."""
    time = torch.arange(round(each * RATE)) / RATE
    return torch.cat([torch.exp(-6 * time) * torch.sin(2 * torch.pi * pitch * time) for pitch in pitches])[None] * 0.5


def test_chroma_names_the_pitch_in_every_octave() -> None:
    time = torch.arange(RATE) / RATE
    for midi in range(52, 100):
        tone = 0.3 * torch.sin(2 * torch.pi * 440 * 2 ** ((midi - 69) / 12) * time)[None]
        shares = chroma(tone, RATE)
        assert (shares.argmax(axis=1) == midi % 12).all(), midi
        np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
    assert not chroma(torch.zeros(1, RATE), RATE).any()


@pytest.mark.parametrize("each", [0.25, 0.5, 1.0])
def test_onsets_are_where_notes_begin(each: float) -> None:
    found = onsets(notes([220, 330, 262, 392] * int(2 / each), each), RATE)
    wanted = np.arange(1, int(8 / each)) * each
    assert len(found) == len(wanted)
    np.testing.assert_allclose(found, wanted, atol=0.05)
    assert not len(onsets(torch.zeros(1, RATE), RATE))


def test_overlap_is_its_closed_form() -> None:
    """NormalDist.overlap against the integral of the lower of the two densities."""
    for a, b in (((0, 1), (1, 1)), ((0.2, 0.05), (0.25, 0.1)), ((3, 0.5), (7, 2))):
        x = np.linspace(-10, 20, 400001)
        wanted = np.minimum(stats.norm.pdf(x, *a), stats.norm.pdf(x, *b)).sum() * (x[1] - x[0])
        assert NormalDist(*a).overlap(NormalDist(*b)) == pytest.approx(wanted, abs=1e-6)


def test_music_that_goes_on_overlaps_and_music_that_turns_does_not() -> None:
    even = notes([262, 330, 392, 523] * 12, 0.5)
    turned = torch.cat([notes([262, 330, 392, 523] * 6, 0.5), notes([277, 370, 466, 554] * 24, 0.125)], dim=1)
    steady, turning = overlaps(even, RATE), overlaps(turned, RATE)
    assert [len(each) for each in (*steady.values(), *turning.values())] == [4, 4, 4, 4]
    assert min(steady["chroma"]) > 0.9 and min(steady["onsets"]) > 0.9
    assert min(turning["chroma"]) < 0.6 and min(turning["onsets"]) < 0.5
    assert overlaps(even[:, : 11 * RATE], RATE) == {"chroma": [], "onsets": []}
    silence = overlaps(torch.zeros(1, 13 * RATE), RATE)
    assert silence["chroma"] == pytest.approx([1.0]) and silence["onsets"] == pytest.approx([1.0])


def test_likeness_is_its_formula() -> None:
    assert likeness([0.5, 0.7], [0.5, 0.7]).consistency == 1
    found = likeness([0.5, 0.6], [0.8, 1.0])
    assert found.consistency == pytest.approx(1 - 0.35 / 0.9)
    assert found.variance == pytest.approx(1 - abs(0.0025 - 0.01) / 0.01)
    assert likeness([0.1], [0.8]).consistency == pytest.approx(0.125)
    far = likeness([0.1, 0.9], [0.2, 0.21])
    assert far.consistency == 0 and far.variance == 0
    assert likeness([], [0.5]).consistency is None and likeness([0.5, 0.4], [0.5, 0.5]).variance is None


def test_levels() -> None:
    time = torch.arange(2 * RATE) / RATE
    sine = torch.sin(2 * torch.pi * 997 * time)[None]
    found = level(0.5 * sine, RATE)
    assert found.rms == pytest.approx(20 * np.log10(0.5) - 3.01, abs=0.01) and found.peak == pytest.approx(
        0.5, abs=1e-3
    )
    assert found.loudness == pytest.approx(20 * np.log10(0.5) - 3.01, abs=0.1)  # at 997 Hz, LUFS is dBFS
    assert found.clipped == 0 and found.silence == 0 and not found.is_silent
    clipped = level((1.5 * sine).clamp(-1, 1), RATE)
    assert clipped.clipped == pytest.approx(2 * RATE * (1 - 2 / np.pi * np.arcsin(1 / 1.5)), rel=0.02)
    assert level(torch.tensor([[0.0, 1.0, 0.0, -1.0]]), RATE).clipped == 0, "a peak is no clipping"
    gap = sine.clone()
    gap[:, RATE // 2 : RATE] = 1e-4
    assert level(gap, RATE).silence == pytest.approx(0.5, abs=0.011)
    silent = level(torch.zeros(2, RATE), RATE)
    assert silent.rms is None and silent.loudness is None and silent.is_silent and silent.silence == pytest.approx(1)
