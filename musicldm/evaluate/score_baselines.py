"""What a measure of scores must tell from music: baselines made of music itself, and a Markov chain trained on it.

Each is a function of the score and the seed. Notes that fall on a key that is down already end the earlier one, and of
two that fall on one key and step a single one is left: a few notes are lost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from musicldm.core.errors import DataError
from musicldm.core.seeding import derive
from musicldm.evaluate.score_windows import melodic
from musicldm.media.notes.score import STEPS, Ints, Score, Track, separate


def shuffled_bars(score: Score, seed: int = 0) -> Score:
    """Its bars in another order, each where one as long was: what is left is all but the form.

    A note belongs to the bar in which it starts. Metres, tempos and the pedal stay where they are.
    """
    rng = np.random.default_rng(derive(seed, "shuffled bars"))
    track, bars = melodic(score), score.bars()
    lengths = np.diff(np.append(bars, score.length))
    moved = bars.copy()
    for length in np.unique(lengths):
        alike = lengths == length
        moved[alike] = rng.permutation(bars[alike])
    bar = np.searchsorted(bars, track.start, side="right") - 1
    shift = (moved - bars)[bar]
    return _with(score, track, track.start + shift, track.end + shift, track.pitch, track.velocity)


def shuffled_notes(score: Score, seed: int = 0) -> Score:
    """Its notes, each with its pitch, duration and velocity, at each other's onsets: neither harmony nor melody."""
    rng = np.random.default_rng(derive(seed, "shuffled notes"))
    track = melodic(score)
    order = rng.permutation(len(track))
    duration = (track.end - track.start)[order]
    return _with(score, track, track.start, track.start + duration, track.pitch[order], track.velocity[order])


def random_notes(score: Score, seed: int = 0) -> Score:
    """As many notes within the same range, as long and as loud on average, and nothing else of it.

    Onsets and pitches are uniform, durations and velocities too, around the score's means.
    """
    rng = np.random.default_rng(derive(seed, "random notes"))
    track = melodic(score)
    count = len(track)
    if not count:
        return _with(score, track, track.start, track.end, track.pitch, track.velocity)
    start = rng.integers(0, score.length, count)
    longest = max(1, round(2 * float((track.end - track.start).mean())) - 1)
    pitch = rng.integers(track.pitch.min(), track.pitch.max(), count, endpoint=True)
    spread = min(float(track.velocity.mean()) - 1, 127 - float(track.velocity.mean()), 20.0)
    velocity = np.rint(track.velocity.mean() + spread * rng.uniform(-1, 1, count)).astype(np.int64)
    return _with(score, track, start, start + rng.integers(1, longest, count, endpoint=True), pitch, velocity)


class MarkovChain:
    """A chain of chords: what follows a chord is what has followed the same keys somewhere in its training scores.

    A chord is the keys struck at one step. It comes with its durations, its velocities and the time until the next.
    Chords that occur once are followed as they were there, so a chain copies passages, and is made of little else if
    its training scores are few.
    """

    def __init__(self, scores: Sequence[Score]) -> None:
        """
        Raises:
            DataError: no score has two chords.
            UsageError: a score is not on the grid.
        """
        self._chords: list[tuple[int, Ints, Ints, Ints]] = []  # the wait until the next, pitches, durations, velocities
        self._keys: list[tuple[int, ...]] = []
        self._followers: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for score in scores:
            self._add(melodic(score))
        if not self._chords:
            raise DataError("A score is too short for a Markov chain: expected two chords or more.")

    def _add(self, track: Track) -> None:
        onsets, first = np.unique(track.start, return_index=True)
        last = np.append(first[1:], len(track))
        # The last chord of a score has no successor, and its own time until the end says little.
        for onset, until, begin, end in zip(onsets[:-1], onsets[1:], first[:-1], last[:-1], strict=True):
            pitch = track.pitch[begin:end]
            durations = track.end[begin:end] - onset
            if len(self._keys) and begin:
                self._followers[self._keys[-1]].append(len(self._keys))
            self._keys.append(tuple(pitch.tolist()))
            self._chords.append((int(until - onset), pitch, durations, track.velocity[begin:end]))

    def sample(self, length: int, seed: int = 0) -> Score:
        """A score of so many steps, of one piano in 4/4, that begins at any chord."""
        rng = np.random.default_rng(derive(seed, "markov chain"))
        columns: list[tuple[Ints, Ints, Ints, Ints]] = []
        step, chord = 0, int(rng.integers(len(self._chords)))
        while step < length:
            wait, pitch, duration, velocity = self._chords[chord]
            start = np.full(len(pitch), step)
            columns.append((start, np.minimum(start + duration, length), pitch, velocity))
            step += wait
            # Where a score ended and nothing else has followed, the chain begins anew.
            choice = self._followers.get(self._keys[chord]) or range(len(self._chords))
            chord = choice[int(rng.integers(len(choice)))]
        if not columns:
            return Score(STEPS, length)
        notes = separate(*(np.concatenate(column) for column in zip(*columns, strict=True)))
        return Score(STEPS, length, (Track(*notes.columns),))


def _with(score: Score, track: Track, start: Ints, end: Ints, pitch: Ints, velocity: Ints) -> Score:
    """The score with these notes instead of its own, cut where it ends."""
    notes = separate(start, np.minimum(end, score.length), pitch, velocity)
    return replace(score, tracks=(Track(*notes.columns, program=track.program, pedals=track.pedals),))
