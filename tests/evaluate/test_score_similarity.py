"""Framewise self-similarity of scores whose windows are known."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from scipy import stats

from musicldm.core.errors import UsageError
from musicldm.evaluate.score_similarity import DURATION_STD, PITCH_STD, Overlaps, overlaps_of
from musicldm.evaluate.score_windows import FOUR_BARS, SIXTEEN_QUARTERS, Windows
from musicldm.media.notes.score import Score, rescaled
from tests.evaluate.toy_scores import anything, music, score, tune


def test_windows_follow_the_metres() -> None:
    changing = Score(24, 96 * 3 + 36 * 4, metres=np.array([[0, 4, 4], [288, 3, 8]]))
    assert FOUR_BARS.of(changing).tolist() == [[0, 288 + 36], [192, 288 + 108]]
    assert Windows(8, 4, "quarters").of(changing).tolist() == [[0, 192], [96, 288], [192, 384]]
    assert SIXTEEN_QUARTERS.of(changing).tolist() == [[0, 384]]
    assert FOUR_BARS.of(Score(24, 96)).tolist() == [[0, 96]] and len(FOUR_BARS.of(Score(24, 0))) == 0
    for size, hop in ((0, 1), (1, 0)):
        with pytest.raises(UsageError, match="1 or more"):
            Windows(size, hop)
    with pytest.raises(UsageError, match="expected 24"):
        FOUR_BARS.of(rescaled(changing, 48))


def test_an_overlap_is_the_area_under_both_densities() -> None:
    # Windows of bars 1 to 4 and 3 to 6: the halves that they do not share differ.
    notes = [(48 * i, 48 * i + 24, 60 + i % 5) for i in range(8)] + [(48 * i, 48 * i + 6, 70 + i) for i in range(8, 12)]
    piece = score(*notes, length=96 * 6)
    found = Overlaps.of(piece)
    values = [(np.array([n[2] for n in some]), np.array([(n[1] - n[0]) / 24 for n in some])) for some in
              (notes[:8], notes[4:])]  # fmt: skip
    for name, column, least in (("pitch", 0, PITCH_STD), ("duration", 1, DURATION_STD)):
        x = np.linspace(-20, 120, 700_001)
        fits = [stats.norm.pdf(x, each[column].mean(), max(least, each[column].std())) for each in values]
        wanted = np.minimum(*fits).sum() * (x[1] - x[0])
        assert getattr(found, name) == pytest.approx((wanted,), abs=1e-4)
    assert (found.windows, found.skipped) == (2, 0)


def test_one_repeated_note_shares_all_and_its_neighbour_a_third() -> None:
    assert Overlaps.of(tune([60] * 48)).pitch == pytest.approx((1.0,))
    # Bars 1 and 2 are not in the second window, 5 and 6 not in the first.
    step = Overlaps.of(tune([60] * 16 + [61] * 16), Windows(2, 2))
    apart = NormalDist(60, PITCH_STD).overlap(NormalDist(61, PITCH_STD))
    assert step.pitch == pytest.approx((apart,)) and 0 < apart < 0.2
    assert step.duration == pytest.approx((1.0,))


def test_windows_of_one_note_are_left_out_and_end_a_pair() -> None:
    bars = [(0, 9, 60), (48, 60, 62), (96, 120, 60), (192, 200, 60), (240, 250, 61), (288, 300, 60), (336, 340, 63)]
    found = Overlaps.of(score(*bars, length=384), Windows(1, 1))
    assert (found.windows, found.skipped, len(found.pitch), len(found.duration)) == (4, 1, 1, 1)
    assert Overlaps.of(Score(24, 960)) == Overlaps((), (), 4, 4)


@settings(max_examples=40)
@given(anything())
def test_it_does_not_depend_on_the_key_or_the_tempo(piece: Score) -> None:
    windows = Windows(1, 1)
    found, higher = Overlaps.of(piece, windows), Overlaps.of(piece.transposed(7), windows)
    assert higher.pitch == pytest.approx(found.pitch) and higher.duration == found.duration
    faster = Score(24, piece.length, piece.tracks, np.array([[0, 250_000]]), piece.metres)
    assert Overlaps.of(faster, windows) == found
    assert all(0 <= value <= 1 for value in (*found.pitch, *found.duration))


def test_a_set_is_like_itself_and_less_like_others() -> None:
    pieces = [music(24, seed) for seed in range(4)]
    own = overlaps_of(pieces)
    assert own == Overlaps.of(pieces[0]) + overlaps_of(pieces[1:]) and len(own.pitch) == 4 * 10
    for likeness in own.likeness(own).values():
        assert (likeness.consistency, likeness.variance) == (1, 1)
    monotonous = overlaps_of([tune([60] * 24 * 8)]).likeness(own)["pitch"]
    mean, variance = np.mean(own.pitch), np.var(own.pitch)
    assert monotonous.consistency == pytest.approx(max(0, 1 - (1 - mean) / mean))
    assert mean < 0.99
    assert variance > 0 and monotonous.variance == pytest.approx(0)
    assert own.likeness(Overlaps())["pitch"].consistency is None
