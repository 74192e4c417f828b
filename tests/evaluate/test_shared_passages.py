"""Shared passages against a search by brute force, copies that must be found, and repetition that must not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musicldm.core.errors import UsageError
from musicldm.evaluate.shared_passages import FIGURE, shared_passages
from musicldm.media.notes.score import Score, joined, separate
from tests.evaluate.toy_scores import music, score, tune

Steps = list[tuple[int, int]]


def steps(piece: Score) -> Steps:
    """From each note to the next: the wait, and the interval."""
    track = piece.tracks[0]
    return list(zip(np.diff(track.start).tolist(), np.diff(track.pitch).tolist(), strict=True))


def length_of(passage: Steps) -> int:
    """As the module has it, by another way."""
    if not passage:
        return 0
    figures = {tuple(passage[i : i + FIGURE - 1]) for i in range(len(passage) - FIGURE + 2)}
    return min(len(passage) + 1, FIGURE - 1) + len(figures)


def brute(piece: Score, training: Sequence[Score]) -> int:
    best = 0
    mine = steps(piece)
    for theirs in map(steps, training):
        for i in range(len(mine)):
            for j in range(len(theirs)):
                common = 0
                while mine[i + common : i + common + 1] == theirs[j + common : j + common + 1] != []:
                    common += 1
                best = max(best, length_of(mine[i : i + common]))
    return best


# Few pitches and waits, so that much is shared and much repeats.
tunes = st.lists(st.tuples(st.sampled_from([6, 6, 12]), st.integers(60, 62)), min_size=1, max_size=25).map(
    lambda rows: score(
        *((int(start), int(start) + 3, pitch) for start, (_, pitch) in
          zip(np.cumsum([wait for wait, _ in rows]), rows, strict=True))
    )
)  # fmt: skip


@settings(max_examples=60)
@given(st.lists(tunes, min_size=1, max_size=3), st.lists(tunes, min_size=1, max_size=3))
def test_it_finds_what_brute_force_finds(scores: list[Score], training: list[Score]) -> None:
    for piece, found in zip(scores, shared_passages(scores, training), strict=True):
        assert found.length == brute(piece, training)
        if not found.notes:
            continue
        # And it is where it says.
        mine, theirs = piece.tracks[0], training[found.piece].tracks[0]
        here, there = (int(np.searchsorted(track.start, step)) for track, step in
                       ((mine, found.start), (theirs, found.piece_start)))  # fmt: skip
        passage = steps(piece)[here : here + found.notes - 1]
        assert passage == steps(training[found.piece])[there : there + found.notes - 1]
        assert length_of(passage) == found.length and mine.start[here + found.notes - 1] == found.end
        assert mine.pitch[here] - theirs.pitch[there] == found.transposition


def disguised(piece: Score, semitones: int) -> Score:
    """In another key, with other velocities, durations and tempo."""
    track = piece.transposed(semitones).tracks[0]
    rng = np.random.default_rng(1)
    notes = separate(
        track.start, track.start + rng.integers(1, 7, len(track)), track.pitch, rng.integers(1, 127, len(track))
    )
    return Score(24, piece.length, (replace(track, start=notes.columns[0], end=notes.columns[1], pitch=notes.columns[2],
                 velocity=notes.columns[3]),), np.array([[0, 400_000]]))  # fmt: skip


@pytest.mark.parametrize("semitones", [3, -5, 0])
def test_a_copy_is_found_in_another_key_and_disguise(semitones: int) -> None:
    training = [music(40, seed) for seed in range(20)]
    copied = training[7].cut(96 * 10, 96 * 18)
    take = joined([music(12, 100), disguised(copied, semitones), music(12, 101)])
    (found,) = shared_passages([take], training)
    assert found.piece == 7 and found.transposition == semitones
    assert abs(found.start - 96 * 12) < 24 and found.piece_start - 96 * 10 == found.start - 96 * 12
    assert copied.notes <= found.notes <= copied.notes + 3 and found.length > 0.6 * copied.notes
    others = shared_passages([music(12, 100), music(12, 101)], training)
    assert max(each.length for each in others) < found.length / 2


def test_repetition_makes_nothing_longer() -> None:
    training = [tune([60] * 300, 6), tune([60, 67, 64, 67] * 100, 6)]
    tremolo, alberti, both = shared_passages(
        [tune([72] * 200, 6), tune([65, 72, 69, 72] * 50, 6), tune([72] * 9 + [70, 71], 6)], training
    )
    assert (tremolo.length, tremolo.notes, tremolo.piece, tremolo.transposition) == (4, 200, 0, 12)
    assert (alberti.length, alberti.notes, alberti.piece, alberti.transposition) == (FIGURE - 1 + 4, 200, 1, 5)
    assert both.length == 4 and both.notes == 9
    # A passage of seven different steps outweighs a tremolo.
    short = tune([60, 62, 65, 61, 66, 60, 67, 73], 6)
    (found,) = shared_passages([joined([tune([72] * 200, 6), short])], [*training, short])
    assert found.length >= 8 and found.piece == 2


def test_one_note_more_ends_a_passage() -> None:
    piece = music(8)
    (whole,) = shared_passages([piece], [piece])
    assert whole.notes == piece.notes and (whole.start, whole.piece_start) == (0, 0)
    track = piece.tracks[0]
    middle = len(track) // 2
    pitch = track.pitch.copy()
    pitch[middle] += 1
    (found,) = shared_passages([replace(piece, tracks=(replace(track, pitch=pitch),))], [piece])
    assert found.notes <= max(middle, len(track) - middle) + 1


def test_where_nothing_can_be_shared() -> None:
    piece, empty = music(4), Score(24, 96)
    one = score((0, 6, 60))
    nothing, single, something = shared_passages([empty, one, piece], [empty, piece, one])
    assert (nothing.notes, single.notes) == (0, 0) and something.piece == 1
    assert shared_passages([piece], [empty])[0].notes == 0 and shared_passages([], [piece]) == []
    # Nothing is found across the end of one training score and the beginning of the next.
    halves = [piece.cut(0, 192), piece.cut(192, 384)]
    assert shared_passages([piece], halves)[0].notes <= max(half.notes for half in halves)
    with pytest.raises(UsageError, match="one training score"):
        shared_passages([piece], [])
