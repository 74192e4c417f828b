"""Scores: what they refuse to be, their clock, and what can be done with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musicldm.core.errors import DataError, UsageError
from musicldm.media.notes.grid import quantized
from musicldm.media.notes.score import Score, Track, joined, rescaled, separate, union
from tests.media.notes.midis import scores


def track(*notes: tuple[int, int, int], **fields: Any) -> Track:
    """Notes of start, end and pitch."""
    start, end, pitch = np.array(notes).T
    return Track(start, end, pitch, np.full(len(notes), 64), **fields)


TUNE = Score(
    24,
    240,
    (track((0, 24, 60), (24, 48, 60), (90, 130, 64), pedals=np.array([[0, 20], [80, 200]])),),
    tempos=np.array([[0, 500_000], [100, 1_000_000]]),
    metres=np.array([[0, 4, 4], [96, 6, 8]]),
    title="Tune",
)

IMPOSSIBLE: dict[str, Callable[[], object]] = {
    "a note without length": lambda: track((5, 5, 60)),
    "a note before the beginning": lambda: track((-1, 5, 60)),
    "a pitch of 128": lambda: track((0, 5, 128)),
    "no velocity": lambda: Track(np.array([0]), np.array([5]), np.array([60]), np.array([0])),
    "columns of two lengths": lambda: Track(np.array([0]), np.array([5]), np.array([60]), np.array([1, 2])),
    "a key that is down already": lambda: track((0, 5, 60), (4, 8, 60)),
    "pedals that overlap": lambda: track((0, 5, 60), pedals=np.array([[0, 4], [3, 5]])),
    "a pedal of drums": lambda: track((0, 5, 60), pedals=np.array([[0, 4]]), is_drum=True),
    "program 128": lambda: track((0, 5, 60), program=128),
    "100 ticks a quarter": lambda: Score(100, 96),
    "no tempo": lambda: Score(24, 96, tempos=np.empty((0, 2), np.int64)),
    "a tempo that begins late": lambda: Score(24, 96, tempos=np.array([[1, 500_000]])),
    "a tempo after the end": lambda: Score(24, 96, tempos=np.array([[0, 500_000], [96, 1]])),
    "tempo 0": lambda: Score(24, 96, tempos=np.array([[0, 0]])),
    "metre 0/4": lambda: Score(24, 96, metres=np.array([[0, 0, 4]])),
    "metre 4/3": lambda: Score(24, 96, metres=np.array([[0, 4, 3]])),
    "a note after the end": lambda: Score(24, 96, (track((0, 97, 60)),)),
}


@pytest.mark.parametrize("fault", IMPOSSIBLE)
def test_what_cannot_be_is_refused(fault: str) -> None:
    with pytest.raises(DataError, match=r"expected|differ"):
        IMPOSSIBLE[fault]()


def test_seconds_follow_the_tempo_map() -> None:
    np.testing.assert_allclose(
        TUNE.seconds([0, 24, 100, 124, 240]), [0, 0.5, 100 / 48, 100 / 48 + 1, 100 / 48 + 140 / 24]
    )
    np.testing.assert_allclose(TUNE.ticks(TUNE.seconds([0, 24.5, 100, 240])), [0, 24.5, 100, 240])
    assert TUNE.duration == pytest.approx(100 / 48 + 140 / 24)


def test_bars_and_beats_follow_the_metres() -> None:
    assert TUNE.bars().tolist() == [0, 96, 168]
    assert TUNE.beats().tolist() == [0, 24, 48, 72, *range(96, 240, 12)]
    assert Score(24, 0).bars().tolist() == []
    assert Score(24, 30, metres=np.array([[0, 7, 64]])).bars().tolist() == [0, 11, 21]  # of 10.5 steps


def test_a_score_cannot_be_changed() -> None:
    start = np.array([0])
    fixed = Track(start, np.array([5]), np.array([60]), np.array([1]))
    start[0] = 3
    assert fixed.start[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        fixed.start[0] = 1


def test_transposition_moves_all_but_drums() -> None:
    drums = track((0, 5, 127), is_drum=True)
    score = replace(TUNE, tracks=(*TUNE.tracks, drums)).transposed(-3)
    assert score.tracks[0].pitch.tolist() == [57, 57, 61] and score.tracks[1] == drums
    with pytest.raises(UsageError, match="0 to 127"):
        TUNE.transposed(70)


def test_a_cut_keeps_the_tempo_the_metre_and_the_pedal_in_force() -> None:
    part = TUNE.cut(96, 110)
    assert part.length == 14 and part.notes == 0  # the note that began before is not struck again
    assert part.tempos.tolist() == [[0, 500_000], [4, 1_000_000]] and part.metres.tolist() == [[0, 6, 8]]
    assert part.tracks[0].pedals.tolist() == [[0, 14]]
    assert TUNE.cut(80, 100).tracks[0].end.tolist() == [20]
    assert TUNE.cut(0, TUNE.length) == TUNE
    for first, last in ((-1, 5), (5, 5), (0, 241)):
        with pytest.raises(UsageError, match="expected ticks"):
            TUNE.cut(first, last)


@settings(max_examples=20)
@given(scores(), st.data())
def test_parts_joined_are_the_whole_but_for_notes_across(score: Score, data: st.DataObject) -> None:
    place = data.draw(st.integers(1, max(1, score.length - 1)))
    if place == score.length:
        return
    whole = joined([score.cut(0, place), score.cut(place, score.length)])
    assert whole.length == score.length
    ticks = np.arange(0, score.length, 7)
    np.testing.assert_allclose(whole.seconds(ticks), score.seconds(ticks))
    assert strikes(whole) == strikes(score)


def strikes(score: Score) -> set[tuple[int, int]]:
    """The start and pitch of every note: a set, since tracks of one instrument become one."""
    return {pair for each in score.tracks for pair in zip(each.start.tolist(), each.pitch.tolist(), strict=True)}


def test_joining_scales_and_needs_something() -> None:
    twice = joined([TUNE, rescaled(TUNE, 480)])
    assert twice.resolution == 24 and twice.length == 480 and len(twice.tracks) == 1 and twice.notes == 6
    assert twice.cut(240, 480) == TUNE
    with pytest.raises(UsageError):
        joined([])


def test_notes_of_one_key_are_put_apart() -> None:
    apart = separate([0, 0, 5, 5], [9, 4, 9, 7], [60, 60, 60, 61], [1, 9, 3, 4])
    assert [column.tolist() for column in apart.columns] == [[0, 5, 5], [5, 9, 7], [60, 60, 61], [9, 3, 4]]
    assert (apart.doubled, apart.overlapping) == (1, 1)
    assert union(np.array([[5, 8], [0, 3], [3, 4], [6, 7]])).tolist() == [[0, 4], [5, 8]]


def test_merging_makes_one_piano_of_all_but_the_drums() -> None:
    drums = track((0, 5, 36), is_drum=True)
    other = track((0, 5, 60), (100, 110, 67), pedals=np.array([[10, 90]]), program=40)
    merged = replace(TUNE, tracks=(*TUNE.tracks, drums, other)).merged()
    assert len(merged.tracks) == 1 and merged.notes == 4
    assert merged.tracks[0].pedals.tolist() == [[0, 200]]


def test_quantizing_tells_what_it_costs() -> None:
    # At 480 ticks, a step is 20: on the grid, on it with an end off it, 7 ticks late, and twice on one step.
    notes = track((0, 20, 60), (40, 65, 61), (87, 107, 62), (200, 202, 63), (205, 215, 63))
    score = Score(480, 480, (notes,))
    gridded, loss = quantized(score)
    assert gridded.resolution == 24
    assert gridded.tracks[0].start.tolist() == [0, 2, 4, 10] and gridded.tracks[0].end.tolist() == [1, 3, 5, 11]
    assert (loss.notes, loss.merged, loss.onsets_exact, loss.durations_exact) == (5, 1, 0.6, 0.4)
    errors = np.array([0, 0, 7, 0, 5]) / 960 * 1000
    assert loss.onset_error_ms == pytest.approx(np.percentile(errors, 95))


@settings(max_examples=30)
@given(scores())
def test_quantizing_keeps_the_time_of_every_place(score: Score) -> None:
    score = replace(score, tempos=np.stack([score.tempos[:, 0], 100_000 + score.tempos[:, 1] % 2_000_000], axis=1))
    gridded, loss = quantized(score)
    quarters = np.arange(score.length // score.resolution + 1)
    np.testing.assert_allclose(gridded.seconds(24 * quarters), score.seconds(score.resolution * quarters), atol=1e-3)
    assert loss.merged == score.notes - gridded.notes >= 0
    assert quantized(gridded)[0] == gridded
    assert max((int(each.end.max(initial=0)) for each in gridded.tracks), default=0) <= gridded.length


def test_a_foot_that_lifts_for_less_than_a_step_is_still_seen_to_lift() -> None:
    score = Score(480, 960, (track((0, 5, 60), pedals=np.array([[0, 400], [405, 800], [801, 805]])),))
    assert quantized(score)[0].tracks[0].pedals.tolist() == [[0, 20], [21, 40]]


def test_nothing_at_all() -> None:
    empty, loss = quantized(Score(480, 480))
    assert empty == Score(24, 24) and loss.onsets_exact == 1
