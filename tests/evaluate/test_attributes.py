"""MusicVAE's attributes of scores whose values are plain to see."""

from __future__ import annotations

import pytest
from hypothesis import given

from musicldm.evaluate.attributes import (
    ATTRIBUTES,
    diatonic,
    eighth_syncopation,
    highest_voice,
    mean_interval,
    note_density,
    sixteenth_syncopation,
)
from musicldm.media.notes.score import Score
from tests.evaluate.toy_scores import anything, score, tune


def test_membership_of_the_scale_of_c() -> None:
    scale = [60, 62, 64, 65, 67, 69, 71]
    assert [diatonic(tune(scale).transposed(by)) for by in (0, 12, 7, 1)] == [1, 1, 6 / 7, 2 / 7]


def test_density_is_in_notes_a_sixteenth() -> None:
    assert note_density(tune([60] * 16, 6)) == 1 and note_density(tune([60] * 16, 12)) == 0.5
    assert note_density(score((0, 6, 60), (0, 6, 64), length=24)) == 0.5


def test_intervals_are_those_of_the_highest_voice() -> None:
    assert mean_interval(tune([60, 64, 62, 62])) == 2
    # Chords' highest notes; and an accompaniment below a held note is none of the melody.
    chords = score((0, 24, 60), (0, 24, 67), (24, 48, 59), (24, 48, 72), (36, 48, 64), (48, 72, 64))
    assert highest_voice(chords).tolist() == [67, 72, 64]
    assert mean_interval(chords) == (5 + 8) / 2
    # A higher note that comes and goes above a held one does not set free what is below that.
    assert highest_voice(score((0, 48, 60), (12, 18, 65), (24, 30, 55), (48, 60, 50))).tolist() == [60, 65, 50]
    assert mean_interval(tune([60])) == 0


@given(anything())
def test_nothing_is_above_the_highest_voice(piece: Score) -> None:
    track = piece.tracks[0]
    wanted = [
        int(pitch)
        for start, pitch in zip(track.start, track.pitch, strict=True)
        if pitch == track.pitch[(track.start <= start) & (start < track.end)].max()
    ]
    assert highest_voice(piece).tolist() == wanted


def test_syncopation_is_a_weak_place_after_a_rest_on_the_strong_one() -> None:
    def at(*starts: int) -> Score:
        return score(*((start, start + 3, 60) for start in starts), length=192)

    straight = at(0, 6, 12, 18)
    assert sixteenth_syncopation(straight) == eighth_syncopation(straight) == 0
    assert sixteenth_syncopation(at(0, 18)) == 0.5 and eighth_syncopation(at(0, 18)) == 0
    assert eighth_syncopation(at(0, 24, 60)) == pytest.approx(1 / 3) and sixteenth_syncopation(at(0, 24, 60)) == 0
    assert eighth_syncopation(at(0, 48, 60)) == 0  # the strong place before has a note
    assert sixteenth_syncopation(at(0, 8, 16)) == 0  # triplets
    # A chord is one onset.
    assert sixteenth_syncopation(score((0, 6, 60), (0, 6, 64), (18, 24, 60), (18, 24, 64))) == 0.5


def test_places_are_counted_from_the_bar() -> None:
    offbeat = [(12, 20, 60), (36, 44, 60), (48, 50, 60)]
    metres = [[0, 3, 8], [36, 4, 4]]
    assert eighth_syncopation(score(*offbeat, length=132)) == pytest.approx(2 / 3)
    # In bars of three eighths the second begins at step 36, on a strong place; at 48 is a weak one, with a note before.
    assert eighth_syncopation(score(*offbeat, length=132, metres=metres)) == pytest.approx(1 / 3)


@given(anything())
def test_all_are_finite_and_but_one_do_not_know_the_key(piece: Score) -> None:
    for name, of in ATTRIBUTES.items():
        assert isinstance(of(piece), float) and of(piece) >= 0
        if name != "diatonic":
            assert of(piece.transposed(5)) == of(piece)


def test_of_no_notes_all_are_zero() -> None:
    assert [of(empty) for of in ATTRIBUTES.values() for empty in (Score(24, 0), Score(24, 96))] == [0.0] * 10
