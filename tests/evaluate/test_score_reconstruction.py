"""Reconstructions of scores whose errors are known; onsets against mir_eval."""

from __future__ import annotations

from dataclasses import replace

import mir_eval
import numpy as np
import pytest
from hypothesis import given, settings

from musicldm.core.errors import UsageError
from musicldm.evaluate.score_reconstruction import Matches, ScoreReconstruction, paired, reconstruction_of
from musicldm.media.notes.roll import Channels, roll_of
from musicldm.media.notes.score import Score, rescaled
from tests.evaluate.toy_scores import anything, music, score

ORIGINAL = score((0, 24, 60), (24, 48, 62), (48, 60, 64), (48, 60, 67), length=96, pedals=[[0, 40]])
FOUND = score((0, 24, 60), (25, 47, 62), (48, 66, 64), (50, 60, 67), (70, 80, 50), length=96, pedals=[[10, 50]])


def test_errors_counted_by_hand() -> None:
    louder = replace(FOUND.tracks[0], velocity=np.array([64, 70, 61, 64, 64]))
    found = ScoreReconstruction.of(ORIGINAL, replace(FOUND, tracks=(louder,)))
    assert found.onsets == Matches(2, 4, 5) and found.near_onsets == Matches(3, 4, 5)
    assert (found.onsets.precision, found.onsets.recall) == (2 / 5, 2 / 4)
    assert found.onsets.f1 == pytest.approx(2 * 0.4 * 0.5 / 0.9)
    assert found.holds == Matches(24 + 22 + 12 + 10, 24 + 24 + 12 + 12, 24 + 22 + 18 + 10 + 10)
    assert found.pedal == Matches(30, 40, 40)
    assert found.velocity_error == 3 and sorted(found.velocities.tolist()) == [-3, 0, 6]
    assert sorted(found.durations.tolist()) == [-2, 0, 6] and found.duration_error == 2
    assert found.durations_exact == pytest.approx(1 / 3)
    assert found.tempo_error == 0 and found.beats == Matches(4, 4, 4) and found.downbeats == Matches(1, 1, 1)


@settings(max_examples=40)
@given(anything())
def test_what_is_the_same_is_perfect(piece: Score) -> None:
    found = ScoreReconstruction.of(piece, piece)
    assert [each.f1 for each in (found.onsets, found.near_onsets, found.holds, found.beats, found.downbeats)] == [1] * 5
    assert found.pedal.f1 is None and found.tempo_error in (0, None)
    assert (found.velocity_error, found.duration_error, found.durations_exact) == (0, 0, 1)


@settings(max_examples=40)
@given(anything(), anything())
def test_onsets_are_those_of_mir_eval_and_holds_those_of_the_roll(one: Score, other: Score) -> None:
    found = ScoreReconstruction.of(one, other)
    for tolerance, matches in ((0.5, found.onsets), (1.5, found.near_onsets)):
        precision, recall, f1, _ = mir_eval.transcription.precision_recall_f1_overlap(
            *plain(one), *plain(other), onset_tolerance=tolerance, offset_ratio=None
        )
        assert (matches.precision, matches.recall, matches.f1) == pytest.approx((precision, recall, f1))
    length = max(one.length, other.length)
    rolls = [roll_of(replace(each, length=length))[Channels.HOLD] > 0 for each in (one, other)]
    assert found.holds == Matches(int((rolls[0] & rolls[1]).sum()), int(rolls[0].sum()), int(rolls[1].sum()))
    back = ScoreReconstruction.of(other, one)
    assert back.near_onsets == Matches(found.near_onsets.matched, found.near_onsets.found, found.near_onsets.original)
    assert found.near_onsets.matched >= found.onsets.matched


def plain(piece: Score) -> tuple[np.ndarray, np.ndarray]:
    """As mir_eval takes them: intervals, here in steps, and pitches in Hz."""
    track = piece.tracks[0]
    return np.stack([track.start, track.end], axis=1), 440 * 2 ** ((track.pitch - 69) / 12)


@settings(max_examples=40)
@given(anything(), anything())
def test_each_note_is_in_one_pair(one: Score, other: Score) -> None:
    pairs = paired(one.tracks[0], other.tracks[0], 1)
    assert all(len(set(column)) == len(pairs) for column in pairs.T.tolist())
    mine, theirs = one.tracks[0], other.tracks[0]
    for i, j in pairs.tolist():
        assert mine.pitch[i] == theirs.pitch[j] and abs(mine.start[i] - theirs.start[j]) <= 1


def test_tempo_is_what_a_quarter_lasts() -> None:
    piece = music(4)
    faster = replace(piece, tempos=np.array([[0, 250_000]]))
    assert ScoreReconstruction.of(piece, faster).tempos.tolist() == [1.0] * 16
    assert ScoreReconstruction.of(piece, faster).tempo_error == ScoreReconstruction.of(faster, piece).tempo_error == 1
    # As many events as there are steps, and quarters last as long as before.
    uneven = replace(piece, tempos=np.array([[step, 400_000 + 200_000 * (step % 2)] for step in range(384)]))
    assert ScoreReconstruction.of(piece, uneven).tempo_error == pytest.approx(0, abs=1e-9)
    rest = Score(24, 20)
    assert ScoreReconstruction.of(rest, rest).tempo_error is None


def test_beats_of_another_metre() -> None:
    piece = Score(24, 288)
    found = ScoreReconstruction.of(piece, replace(piece, metres=np.array([[0, 6, 8]])))
    assert found.downbeats == Matches(1, 3, 4) and found.beats == Matches(12, 12, 24)


def test_pieces_add_up() -> None:
    pairs = [(ORIGINAL, FOUND), (music(4), music(4, 1)), (music(3), music(3))]
    total = reconstruction_of(pairs)
    each = [ScoreReconstruction.of(*pair) for pair in pairs]
    assert total.onsets == Matches(*(sum(getattr(one.onsets, name) for one in each) for name in
                                     ("matched", "original", "found")))  # fmt: skip
    assert total.duration_error == np.median(np.abs(np.concatenate([one.durations for one in each])))
    assert total.velocity_error is not None and len(total.tempos) == 4 + 16 + 12
    nothing = reconstruction_of([])
    assert nothing.onsets.f1 is None and nothing.onsets.recall is None and nothing.durations_exact is None


def test_what_is_missing_or_added() -> None:
    empty = Score(24, 96)
    gone, added = ScoreReconstruction.of(ORIGINAL, empty), ScoreReconstruction.of(empty, ORIGINAL)
    for none in (gone, added):
        assert (none.onsets.precision, none.onsets.recall, none.onsets.f1, none.holds.f1) == (0, 0, 0, 0)
        assert none.velocity_error is None and none.duration_error is None
    assert gone.pedal == Matches(0, 40, 0) and added.pedal == Matches(0, 0, 40)
    # A reconstruction may be longer than its original: what is after the end of that counts.
    longer = replace(ORIGINAL, length=192, tracks=score((100, 110, 60)).tracks)
    assert ScoreReconstruction.of(ORIGINAL, longer).holds == Matches(0, 72, 10)
    with pytest.raises(UsageError, match="expected 24"):
        ScoreReconstruction.of(ORIGINAL, rescaled(ORIGINAL, 48))
