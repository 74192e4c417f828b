"""Other tempos and metres, and a part in the place of another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicldm.core.errors import UsageError
from musicldm.media.notes.edit import at_tempo, in_metre, mean_tempo, metre_of, spliced, tick_of_bar, ticks_of
from musicldm.media.notes.score import Score
from tests.toy_notes import tune


@given(st.floats(20, 400))
def test_the_mean_tempo_is_what_was_asked_for_and_its_changes_stay(quarters: float) -> None:
    score = tune(0)
    changed = at_tempo(score, quarters)
    assert mean_tempo(changed) == pytest.approx(quarters, rel=1e-3)
    ratio = changed.tempos[:, 1] / score.tempos[:, 1]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
    assert np.array_equal(changed.tempos[:, 0], score.tempos[:, 0]) and changed.tracks == score.tracks


def test_a_tempo_that_midi_cannot_say() -> None:
    with pytest.raises(UsageError, match="not a valid tempo"):
        at_tempo(tune(0), 1.0)


def test_bars_follow_the_metre() -> None:
    assert len(in_metre(tune(0, 12), 3, 4).bars()) == 16


@pytest.mark.parametrize(("text", "metre"), [("3/4", (3, 4)), ("12/8", (12, 8)), ("255/64", (255, 64))])
def test_metres(text: str, metre: tuple[int, int]) -> None:
    assert metre_of(text) == metre


@pytest.mark.parametrize("text", ["", "3", "3/5", "0/4", "256/4", "-3/4", "3/4/4", "three/four", "³/4"])
def test_no_metres(text: str) -> None:
    with pytest.raises(UsageError, match="not a valid metre"):
        metre_of(text)


def test_bars_are_counted_from_one_up_to_the_end() -> None:
    score = replace(tune(0, 4), metres=np.array([[0, 4, 4], [192, 2, 4]]))
    assert [tick_of_bar(score, bar) for bar in (1, 2, 2.5, 3, 4, 7)] == [0, 96, 144, 192, 240, 384]
    for bar in (0.5, 7.5):
        with pytest.raises(UsageError, match="no bar"):
            tick_of_bar(score, bar)


def test_seconds_go_to_the_nearest_tick_within_the_score() -> None:
    score = tune(0, 4)  # 120 quarters a minute up to tick 192, then 100
    assert [ticks_of(score, seconds) for seconds in (0.0, 1.0, 4.0, 4.6, 99.0)] == [0, 48, 192, 216, 384]


def test_a_part_takes_the_place_of_another_and_all_else_stays() -> None:
    original, made = tune(0), tune(1)
    whole = spliced(original, made, [(96, 288), (480, 576)])
    assert (whole.length, whole.title, len(whole.tracks)) == (original.length, original.title, 1)
    for first, last, of in ((0, 96, original), (96, 288, made), (288, 480, original), (480, 576, made)):
        assert whole.cut(first, last).tracks == of.cut(first, last).tracks
    assert whole.cut(576, 1152) == replace(original, title=whole.title).cut(576, 1152)


def test_what_goes_on_after_the_end() -> None:
    original, made = tune(0, 4), tune(1, 6)
    whole = spliced(original, made, [(original.length, made.length)])
    assert whole.length == made.length
    assert whole.cut(0, original.length).tracks == original.tracks
    assert whole.cut(original.length, made.length).tracks == made.cut(original.length, made.length).tracks


def test_drums_and_programs_stay_and_what_is_made_joins_the_first_other_track() -> None:
    (piano,) = tune(0).tracks
    drums = replace(piano, is_drum=True, pedals=np.empty((0, 2), np.int64), name="kit")
    flute = replace(piano, program=73, name="flute")
    original = replace(tune(0), tracks=(drums, flute))
    whole = spliced(original, tune(1), [(96, 192)])
    assert [(track.is_drum, track.program, track.name) for track in whole.tracks] == [
        (True, 0, "kit"),
        (False, 73, "flute"),
    ]
    assert (
        whole.tracks[0].start.max() > 192 and not ((whole.tracks[0].start >= 96) & (whole.tracks[0].start < 192)).any()
    )


def test_nothing_is_spliced_into_nothing() -> None:
    assert spliced(Score(24, 96), Score(24, 96), []).length == 96
