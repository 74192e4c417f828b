"""Rolls: exact both ways for what lies on the grid, and sensible for what a decoder estimates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musicldm.core.errors import DataError, UsageError
from musicldm.media.notes.roll import KEYS, LOWEST, Channels, Decoding, Floats, playable, roll_of, score_of
from musicldm.media.notes.score import Score, Track, separate
from tests.media.notes.midis import gridded

EXACT = Decoding(tempo=0)


def piano(*notes: tuple[int, int, int, int], length: int = 192, pedals: tuple[tuple[int, int], ...] = ()) -> Score:
    """A score of start, end, pitch and velocity."""
    columns = separate(*np.array(notes).T).columns
    return Score(24, length, (Track(*columns, pedals=np.array(pedals, np.int64).reshape(-1, 2)),))


@settings(max_examples=60)
@given(gridded())
def test_a_score_on_the_grid_comes_back(score: Score) -> None:
    assert score_of(roll_of(score), EXACT) == score


@settings(max_examples=20)
@given(gridded(), st.data())
def test_a_part_is_a_part_of_the_whole(score: Score, data: st.DataObject) -> None:
    first, last = sorted(data.draw(st.tuples(st.integers(0, score.length), st.integers(0, score.length))))
    part = roll_of(score, first, last)
    assert part.dtype == np.float32
    np.testing.assert_array_equal(part, roll_of(score)[:, first:last])


def test_every_channel_says_what_its_name_says() -> None:
    score = replace(
        piano((0, 30, 60, 127), (30, 36, 60, 64), (5, 9, 108, 1), pedals=((0, 10), (10, 20))),
        tempos=np.array([[0, 500_000], [48, 250_000]]),
        metres=np.array([[0, 3, 4], [72, 6, 8]]),
    )
    roll = roll_of(score)
    key = 60 - LOWEST
    assert roll.shape == (Channels.COUNT, 192)
    assert np.flatnonzero(roll[Channels.ONSET][key]).tolist() == [0, 30]
    assert np.flatnonzero(roll[Channels.HOLD][key]).tolist() == list(range(36))
    assert roll[Channels.VELOCITY][key, [0, 30]].tolist() == pytest.approx([1, 64 / 127])
    assert np.argwhere(roll[Channels.ONSET])[-1].tolist() == [KEYS - 1, 5]
    assert np.flatnonzero(roll[Channels.PEDAL]).tolist() == [*range(10), *range(11, 20)]
    assert roll[Channels.TEMPO, [0, 47, 48, 191]].tolist() == [0, 0, 1, 1]
    assert np.flatnonzero(roll[Channels.DOWNBEAT]).tolist() == [0, 72, 144]
    assert np.flatnonzero(roll[Channels.BEAT]).tolist() == [0, 24, 48, *range(72, 192, 12)]


def test_drums_and_keys_that_a_piano_has_not_are_left_out_and_can_be_counted() -> None:
    high = piano((0, 5, 109, 64), (0, 5, 20, 64), (0, 5, 21, 64))
    drums = replace(high.tracks[0], is_drum=True)
    score = replace(high, tracks=(*high.tracks, drums))
    assert playable(score) == 1 == roll_of(score)[Channels.ONSET].sum()


def test_what_is_off_the_grid_or_no_roll_is_refused() -> None:
    with pytest.raises(UsageError, match="ticks per quarter note"):
        roll_of(Score(480, 480))
    for first, last in ((5, 3), (0, 193), (-1, 5)):
        with pytest.raises(UsageError, match="valid range"):
            roll_of(piano((0, 5, 60, 64)), first, last)
    with pytest.raises(DataError, match="shape"):
        score_of(np.zeros((88, 5), np.float32))
    with pytest.raises(DataError, match="finite"):
        score_of(np.full((Channels.COUNT, 5), np.nan, np.float32))
    assert score_of(np.zeros((Channels.COUNT, 0), np.float32)) == Score(24, 0)


def blurred(roll: Floats) -> Floats:
    """As a decoder may estimate it: never sure, and a little before and after."""
    soft = roll.copy()
    near = roll[Channels.ONSET]
    soft[Channels.ONSET] = 0.85 * near
    soft[Channels.ONSET][:, 1:] += 0.6 * near[:, :-1]
    soft[Channels.ONSET][:, :-1] += 0.55 * near[:, 1:]
    soft[Channels.HOLD] = 0.1 + 0.7 * roll[Channels.HOLD]
    for channel in (Channels.PEDAL, Channels.DOWNBEAT, Channels.BEAT):
        soft[channel] = 0.2 + 0.6 * roll[channel]
    noise = np.random.default_rng(0).standard_normal(roll.shape[1], np.float32)
    soft[Channels.TEMPO] += np.float32(0.05) * noise
    return soft


def test_estimates_become_notes_on_their_peaks_and_few_tempos() -> None:
    score = replace(
        piano((0, 24, 60, 100), (24, 40, 60, 64), (0, 96, 48, 30), length=576, pedals=((3, 40),)),
        tempos=np.array([[0, 500_000], [288, 750_000]]),
        metres=np.array([[0, 3, 4], [144, 5, 8]]),
    )
    heard = score_of(blurred(roll_of(score)))
    assert heard.tracks == score.tracks
    assert heard.metres.tolist() == score.metres.tolist()
    assert len(heard.tempos) <= 12
    assert heard.duration == pytest.approx(score.duration, rel=0.01)


def test_a_key_that_is_struck_but_not_held_sounds_for_a_step() -> None:
    roll = np.zeros((Channels.COUNT, 24), np.float32)
    roll[Channels.ONSET][39, 5] = 1
    (track,) = score_of(roll).tracks
    assert (track.start.tolist(), track.end.tolist(), track.velocity.tolist()) == ([5], [6], [1])


@pytest.mark.parametrize(
    ("downbeats", "beats", "metres"),
    [
        ([], [], [[0, 4, 4]]),
        ([0, 72, 144], [], [[0, 3, 4]]),
        ([24, 120], [0, 24, 48, 72, 96, 120, 144, 168], [[0, 1, 4], [24, 4, 4]]),  # an upbeat
        ([0, 36, 72, 108, 144], [], [[0, 3, 8], [144, 2, 4]]),
        ([0, 72, 144], [0, 24, 48, 72, 96, 120, 144, 168], [[0, 3, 4]]),
        ([0, 96], [], [[0, 4, 4]]),
        ([0, 96], [0, 96], [[0, 1, 1]]),
        ([0, 100], [0, 24, 48, 72], [[0, 33, 32], [100, 33, 32]]),  # a bar that no metre fills: the nearest
    ],
)
def test_metres_are_read_off_the_downbeats(downbeats: list[int], beats: list[int], metres: list[list[int]]) -> None:
    roll = np.zeros((Channels.COUNT, 192), np.float32)
    roll[Channels.DOWNBEAT, downbeats] = 0.9
    roll[Channels.BEAT, beats] = 0.9
    score = score_of(roll)
    assert score.metres.tolist() == metres
    assert set(downbeats) <= set(score.bars().tolist())


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300))
def test_any_numbers_at_all_make_a_score(seed: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    roll = np.float32(10 ** rng.uniform(-2, 6)) * rng.standard_normal((Channels.COUNT, steps), np.float32)
    score = score_of(roll)
    assert score.length == steps and roll_of(score).shape == roll.shape
