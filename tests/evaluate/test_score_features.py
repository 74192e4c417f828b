"""Features of scores that are known, and distances against scipy's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from musicldm.core.errors import DataError, UsageError
from musicldm.evaluate.score_features import (
    BINS,
    HISTOGRAMS,
    SCALARS,
    features_of,
    jensen_shannon,
    keys_down,
    scale_consistency,
    wasserstein,
)
from musicldm.evaluate.score_windows import Floats, Windows
from musicldm.media.notes.score import Score, rescaled
from tests.evaluate.toy_scores import anything, music, score, tune

histograms = arrays.arrays(np.float64, 8, elements=st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0])).filter(np.any)
values = arrays.arrays(np.float64, st.integers(1, 12), elements=st.floats(-100, 100, width=32))


@given(histograms, histograms)
def test_the_jensen_shannon_distance_is_scipys(p: Floats, q: Floats) -> None:
    assert jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q, base=2), abs=1e-6)
    assert jensen_shannon(p, p) == 0 and jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p))


def test_the_jensen_shannon_distance_of_what_shares_nothing() -> None:
    assert jensen_shannon(np.array([1.0, 0]), np.array([0.0, 2])) == 1
    assert jensen_shannon(np.zeros(2), np.ones(2)) == 0


@given(values, values)
def test_the_wasserstein_distance_is_scipys(x: Floats, y: Floats) -> None:
    assert wasserstein(x, y) == pytest.approx(wasserstein_distance(x, y), abs=1e-9)
    assert wasserstein(x, x) == 0 and wasserstein(x, x + 3) == pytest.approx(3)


def test_a_distance_from_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="one value or more"):
        wasserstein(np.empty(0), np.ones(1))


def test_features_counted_by_hand() -> None:
    # A chord of C and E for a quarter, a rest of one, then G for an eighth, off the sixteenths.
    notes = score((0, 24, 60), (0, 24, 64), (50, 62, 79), length=96)
    found = features_of([notes], Windows(4, 4, "quarters"))
    assert found.pitch_classes.tolist() == [1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0]
    quarter, eighth, two = 16, 12, 20  # bins: four an octave, from 1/16 quarter on
    assert found.durations[[quarter, eighth]].tolist() == [2, 1] and found.durations.sum() == 3
    assert found.inter_onsets[two] == found.inter_onsets.sum() == 1  # 50 steps are nearest to 48
    assert found.density.tolist() == [0.75] and found.polyphony == pytest.approx([(2 * 24 + 12) / 36])
    assert found.scale_consistency.tolist() == [1] and found.on_sixteenths.tolist() == [0.5]
    assert found.range.tolist() == [19]


def test_values_of_notes_have_bins_of_their_own() -> None:
    for straight in (3, 6, 12, 24, 48, 96):
        names = [score((0, round(straight * factor), 60)) for factor in (1, 2 / 3, 1.5)]
        bins = [int(features_of([each]).durations.argmax()) for each in names]
        assert len(set(bins)) == 3
    ends = [int(features_of([score((0, length, 60))]).durations.argmax()) for length in (1, 4000)]
    assert ends == [0, BINS - 1]


def test_scales() -> None:
    major, minor = [0, 2, 4, 5, 7, 9, 11], [0, 2, 3, 5, 7, 8, 10]
    for tonic in range(60, 72):
        assert scale_consistency(np.array(major) + tonic) == scale_consistency(np.array(minor) + tonic) == 1
    assert scale_consistency(np.arange(12)) == 7 / 12
    assert scale_consistency(np.array([0, 2, 4, 5, 7, 9, 11, 1])) == 7 / 8


@settings(max_examples=40)
@given(anything())
def test_keys_that_are_down_are_those_of_every_note(piece: Score) -> None:
    track = piece.tracks[0]
    wanted = [int(((track.start <= step) & (step < track.end)).sum()) for step in range(piece.length)]
    assert keys_down(track, piece.length).tolist() == wanted


@settings(max_examples=40)
@given(anything(), anything())
def test_distances_are_symmetric_and_zero_of_the_same(one: Score, other: Score) -> None:
    windows = Windows(1, 1, "quarters")
    a, b = features_of([one], windows), features_of([other], windows)
    assume(len(a.range) and len(b.range))  # else all notes are after the last whole quarter
    there = a.distances(b)
    assert there == pytest.approx(b.distances(a)) and list(there) == [*HISTOGRAMS, *SCALARS]
    assert all(value >= 0 for value in there.values())
    assert set(a.distances(features_of([one, one], windows)).values()) == {0.0}


def test_only_the_pitch_classes_know_the_key() -> None:
    pieces = [music(16, seed) for seed in range(3)]
    own = features_of(pieces)
    there = own.distances(features_of([piece.transposed(1) for piece in pieces]))
    assert there.pop("pitch_classes") > 0.3 and set(there.values()) == {0.0}
    louder = [replace(piece, tempos=np.array([[0, 400_000]])) for piece in pieces]
    assert set(own.distances(features_of(louder)).values()) == {0.0}


def test_the_further_the_greater() -> None:
    own = features_of([tune([60, 64, 67, 72] * 16)])
    slower = [own.distances(features_of([tune([60, 64, 67, 72] * 16, each)])) for each in (12, 24, 48)]
    densities = [each["density"] for each in slower]
    assert densities == pytest.approx([0, 1, 1.5])
    wider = [own.distances(features_of([tune([60, 64, 67, top] * 16)]))["range"] for top in (72, 75, 84)]
    assert wider == pytest.approx([0, 3, 12])


def test_sets_add_up() -> None:
    pieces = [music(16), tune([60] * 40), Score(24, 96)]
    whole, parts = features_of(pieces), [features_of([piece]) for piece in pieces]
    for name in (*HISTOGRAMS, *SCALARS):
        values = [getattr(part, name) for part in parts]
        wanted = sum(values) if name in HISTOGRAMS else np.concatenate(values)
        np.testing.assert_array_equal(getattr(whole, name), wanted)
    assert whole.density.tolist()[-2:] == [2, 0] and len(whole.range) == len(whole.density) - 1


def test_what_has_no_features() -> None:
    tuneful = features_of([tune([60, 62])])
    for one, other in ((tuneful, features_of([Score(24, 96)])), (features_of([Score(24, 0)]), tuneful)):
        with pytest.raises(DataError, match="without notes"):
            one.distances(other)
    with pytest.raises(UsageError, match="expected one or more"):
        features_of([])
    with pytest.raises(UsageError, match="expected 24"):
        features_of([rescaled(tune([60]), 480)])
