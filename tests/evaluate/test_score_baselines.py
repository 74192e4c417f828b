"""What baselines keep of a score, and what they do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given

from musicldm.core.errors import DataError
from musicldm.evaluate.score_baselines import MarkovChain, random_notes, shuffled_bars, shuffled_notes
from musicldm.evaluate.shared_passages import shared_passages
from musicldm.media.notes.score import Score
from tests.evaluate.toy_scores import anything, music, score, tune

BASELINES = (shuffled_bars, shuffled_notes, random_notes)

Notes = list[tuple[int, ...]]


def notes(piece: Score) -> Notes:
    """Start, duration, pitch and velocity of each."""
    track = piece.tracks[0]
    columns = (track.start, track.end - track.start, track.pitch, track.velocity)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("baseline", BASELINES)
@given(piece=anything())
def test_a_baseline_is_its_seeds(baseline: Callable[[Score, int], Score], piece: Score) -> None:
    made = baseline(piece, 3)
    assert made == baseline(piece, 3)
    assert made.length == piece.length and np.array_equal(made.metres, piece.metres)
    assert 0 < made.notes <= piece.notes


@pytest.mark.parametrize("baseline", BASELINES)
def test_other_seeds_make_others(baseline: Callable[[Score, int], Score]) -> None:
    piece = music(16)
    assert len({tuple(notes(baseline(piece, seed))) for seed in range(4)}) == 4
    empty = Score(24, 96)
    assert baseline(empty, 0).notes == 0 and baseline(empty, 0).length == 96


def test_shuffled_bars_are_the_same_bars_and_stay_in_their_metre() -> None:
    piece = replace(music(12), metres=np.array([[0, 4, 4], [96 * 4, 2, 4], [96 * 8, 4, 4]]))

    def bars(some: Score) -> list[Notes]:
        edges = [*some.bars().tolist(), some.length]
        return [
            [(note[0] - first, *note[1:]) for note in notes(some) if first <= note[0] < last]
            for first, last in pairwise(edges)
        ]

    before, after = bars(piece), bars(shuffled_bars(piece))
    assert before != after
    # Those of 2/4 change places among themselves, the others do so over the whole piece. Notes that were held over a
    # bar line may be cut by what comes next.
    starts = [[sorted((note[0], note[2]) for note in bar) for bar in some] for some in (before, after)]
    assert sorted(starts[0][4:12]) == sorted(starts[1][4:12])
    assert sorted(starts[0][:4] + starts[0][12:]) == sorted(starts[1][:4] + starts[1][12:])


def test_shuffled_notes_keep_every_note_and_every_onset() -> None:
    piece = tune(list(range(50, 90)), 12)  # no pitch twice: nothing is lost
    piece = replace(piece, length=piece.length + 96)
    shuffled = shuffled_notes(piece)
    assert Counter(note[1:] for note in notes(shuffled)) == Counter(note[1:] for note in notes(piece))
    assert [note[0] for note in notes(shuffled)] == [note[0] for note in notes(piece)]
    assert [note[2] for note in notes(shuffled)] != [note[2] for note in notes(piece)]


def test_random_notes_are_as_dense_and_as_long() -> None:
    piece = music(200)
    made = random_notes(piece)
    mean = [float(np.mean([note[1] for note in notes(each)])) for each in (made, piece)]
    assert 0.9 * piece.notes < made.notes <= piece.notes and mean[0] == pytest.approx(mean[1], rel=0.15)
    pitches = [[note[2] for note in notes(each)] for each in (made, piece)]
    assert (min(pitches[0]), max(pitches[0])) == (min(pitches[1]), max(pitches[1]))
    # Uniform: as many in each quarter of the range and of the time.
    for column, low, high in ((0, 0, piece.length), (2, min(pitches[1]), max(pitches[1]) + 1)):
        counts, _ = np.histogram([note[column] for note in notes(made)], np.linspace(low, high, 5))
        assert counts == pytest.approx(np.full(4, made.notes / 4), rel=0.2)


def test_a_chain_goes_on_as_its_training_scores_did() -> None:
    pieces = [music(16, seed) for seed in range(3)]
    seen = set()
    for piece in pieces:
        chords = steps(piece)
        seen |= set(pairwise(chords))
    sample = MarkovChain(pieces).sample(96 * 40, seed=1)
    pairs = list(pairwise(steps(sample)))
    # But for the few places where a score had ended.
    assert sum(pair in seen for pair in pairs) >= 0.9 * len(pairs) and len(pairs) > 100
    assert shared_passages([sample], pieces)[0].notes < sample.notes / 2


def steps(piece: Score) -> list[tuple[int, ...]]:
    """The keys struck at each step with an onset."""
    track = piece.tracks[0]
    return [tuple(track.pitch[track.start == step].tolist()) for step in np.unique(track.start)]


def test_a_chain_is_its_seeds_and_as_long_as_asked() -> None:
    chain = MarkovChain([music(8)])
    assert chain.sample(1000, 1) == chain.sample(1000, 1) != chain.sample(1000, 2)
    assert chain.sample(1000).length == 1000 and chain.sample(0).notes == 0


def test_a_chain_of_two_chords_alternates() -> None:
    made = MarkovChain([score((0, 12, 60), (0, 12, 64), (12, 24, 67), (24, 36, 60), (24, 36, 64), (36, 40, 67))])
    chords = steps(made.sample(24 * 10))
    assert set(pairwise(chords)) == {((60, 64), (67,)), ((67,), (60, 64))}
    with pytest.raises(DataError, match="two chords"):
        MarkovChain([score((0, 12, 60), (0, 12, 64)), Score(24, 96)])
    assert steps(MarkovChain([score((0, 12, 60), (24, 36, 64))]).sample(96)) == [(60,)] * 4


def test_the_end_of_one_score_does_not_lead_to_the_next() -> None:
    ends = [score((0, 12, pitch), (12, 24, pitch + 1)) for pitch in (60, 70)]
    pairs = set(pairwise(steps(MarkovChain(ends).sample(24 * 60))))
    # With nothing that has ever followed, any chord does.
    assert pairs == {((one,), (other,)) for one in (60, 70) for other in (60, 70)}
