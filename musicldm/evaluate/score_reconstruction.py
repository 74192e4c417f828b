"""What a codec leaves of scores: notes, durations, velocities, pedal, tempo and beats of a reconstruction, on the grid.

All is counted, so that the sum over pieces is one of counts (a micro average): a long piece weighs more.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from musicldm.evaluate.score_windows import Floats, melodic
from musicldm.media.notes.score import STEPS, Ints, Score, Track


@dataclass(frozen=True)
class Matches:
    """How many things of an original are in its reconstruction."""

    matched: int = 0
    original: int = 0
    found: int = 0

    def __add__(self, other: Matches) -> Matches:
        return Matches(self.matched + other.matched, self.original + other.original, self.found + other.found)

    @property
    def precision(self) -> float | None:
        """Of what was found, the fraction that is in the original. None where there is nothing on either side."""
        return self._fraction(self.found)

    @property
    def recall(self) -> float | None:
        """Of the original, the fraction that was found. None where there is nothing on either side."""
        return self._fraction(self.original)

    @property
    def f1(self) -> float | None:
        """2·precision·recall / (precision + recall). None where there is nothing on either side."""
        return 2 * self.matched / (self.original + self.found) if self.original + self.found else None

    def _fraction(self, of: int) -> float | None:
        if not self.original and not self.found:
            return None
        return self.matched / of if of else 0.0


@dataclass(frozen=True, eq=False)
class ScoreReconstruction:
    """One reconstruction, or the sum of several; n pairs of notes, q quarters."""

    onsets: Matches = Matches()
    """Notes of the same pitch that start at the same step."""
    near_onsets: Matches = Matches()
    """Within a step, each note once, as many as possible."""
    holds: Matches = Matches()
    """Steps for which a key is down, of all keys."""
    pedal: Matches = Matches()
    """Steps for which the pedal is down."""
    beats: Matches = Matches()
    """Beats of the metre at the same step."""
    downbeats: Matches = Matches()
    """Beginnings of bars at the same step."""
    velocities: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    """How much louder each of `near_onsets` became, of 127, [n]."""
    durations: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    """How many steps longer each of these became, [n]."""
    tempos: Floats = field(default_factory=lambda: np.empty(0))
    """How many octaves faster each quarter became, over its whole length, [q]."""

    @classmethod
    def of(cls, original: Score, reconstruction: Score) -> ScoreReconstruction:
        """
        Raises:
            UsageError: a score is not on the grid.
        """
        before, after = melodic(original), melodic(reconstruction)
        mine, theirs = paired(before, after, tolerance=1).T
        length = max(original.length, reconstruction.length)  # after the end of a score, all keys are up
        return cls(
            onsets=_shared(_keys(before), _keys(after)),
            near_onsets=Matches(len(mine), len(before), len(after)),
            holds=_holds(before, after, length),
            pedal=_both(_spanned(before.pedals, length), _spanned(after.pedals, length)),
            beats=_shared(original.beats(), reconstruction.beats()),
            downbeats=_shared(original.bars(), reconstruction.bars()),
            velocities=after.velocity[theirs] - before.velocity[mine],
            durations=(after.end - after.start)[theirs] - (before.end - before.start)[mine],
            tempos=_tempo_errors(original, reconstruction),
        )

    def __add__(self, other: ScoreReconstruction) -> ScoreReconstruction:
        return ScoreReconstruction(
            self.onsets + other.onsets,
            self.near_onsets + other.near_onsets,
            self.holds + other.holds,
            self.pedal + other.pedal,
            self.beats + other.beats,
            self.downbeats + other.downbeats,
            np.concatenate([self.velocities, other.velocities]),
            np.concatenate([self.durations, other.durations]),
            np.concatenate([self.tempos, other.tempos]),
        )

    def to_dict(self) -> dict[str, float | None]:
        """The figures by name, for JSON."""
        return {
            "onset_f1": self.onsets.f1,
            "near_onset_f1": self.near_onsets.f1,
            "hold_f1": self.holds.f1,
            "pedal_f1": self.pedal.f1,
            "beat_f1": self.beats.f1,
            "downbeat_f1": self.downbeats.f1,
            "velocity_error": self.velocity_error,
            "duration_error": self.duration_error,
            "durations_exact": self.durations_exact,
            "tempo_error": self.tempo_error,
        }

    @property
    def velocity_error(self) -> float | None:
        """The mean absolute difference of the velocities of `near_onsets`, of 127. None where there are none."""
        return float(np.abs(self.velocities).mean()) if len(self.velocities) else None

    @property
    def duration_error(self) -> float | None:
        """The median absolute difference of durations, in steps. None where no notes match."""
        return float(np.median(np.abs(self.durations))) if len(self.durations) else None

    @property
    def durations_exact(self) -> float | None:
        """The fraction of `near_onsets` that last as long as they did, 0 to 1. None where there are none."""
        return float((self.durations == 0).mean()) if len(self.durations) else None

    @property
    def tempo_error(self) -> float | None:
        """The median absolute difference of quarters' tempos, in octaves. None where there is not one quarter."""
        return float(np.median(np.abs(self.tempos))) if len(self.tempos) else None


def reconstruction_of(pairs: Iterable[tuple[Score, Score]]) -> ScoreReconstruction:
    """Originals with their reconstructions -> all of them together.

    Raises:
        UsageError: a score is not on the grid.
    """
    return functools.reduce(operator.add, (ScoreReconstruction.of(*pair) for pair in pairs), ScoreReconstruction())


def paired(original: Track, found: Track, tolerance: int) -> Ints:
    """As many pairs as possible of notes of one pitch whose onsets lie within `tolerance` steps, indices [n, 2].

    Both of `original` and of `found`, each note is in one pair at most.
    """
    pairs = []
    orders = [np.lexsort((track.start, track.pitch)) for track in (original, found)]
    places = [_keys(track)[order].tolist() for track, order in zip((original, found), orders, strict=True)]
    i = j = 0
    # Pitch by pitch, in the order of onsets. Where the earliest of both are within reach, no other pairing leaves more
    # for those that follow; else the earlier is out of reach of all others.
    while i < len(places[0]) and j < len(places[1]):
        apart = places[1][j] - places[0][i]
        if abs(apart) <= tolerance:
            pairs.append((orders[0][i], orders[1][j]))
            i, j = i + 1, j + 1
        elif apart < 0:
            j += 1
        else:
            i += 1
    return np.array(pairs, np.int64).reshape(-1, 2)


def _keys(track: Track) -> Ints:
    """A number for the pitch and start of each note; those of two pitches are never near each other."""
    keys: Ints = (track.pitch << 32) + track.start
    return keys


def _shared(original: Ints, found: Ints) -> Matches:
    """Of two lists of different numbers."""
    return Matches(len(np.intersect1d(original, found, assume_unique=True)), len(original), len(found))


def _both(original: NDArray[np.bool_], found: NDArray[np.bool_]) -> Matches:
    return Matches(int((original & found).sum()), int(original.sum()), int(found.sum()))


def _holds(original: Track, found: Track, length: int) -> Matches:
    total = Matches()
    # Key by key: a roll of all of them would take much memory of a long piece.
    for pitch in np.union1d(original.pitch, found.pitch).tolist():
        total += _both(_down(original, pitch, length), _down(found, pitch, length))
    return total


def _down(track: Track, pitch: int, length: int) -> NDArray[np.bool_]:
    """Whether a key is down, [length]."""
    chosen = track.pitch == pitch
    return _spanned(np.stack([track.start[chosen], track.end[chosen]], axis=1), length)


def _tempo_errors(original: Score, found: Score) -> Floats:
    quarters = np.arange(0, min(original.length, found.length) + 1, STEPS)
    # How long a quarter lasts is what is heard of a tempo map, however many events it is made of.
    seconds = [np.diff(score.seconds(quarters)) for score in (original, found)]
    return np.log2(seconds[0] / seconds[1])


def _spanned(spans: Ints, length: int) -> NDArray[np.bool_]:
    """Whether each step lies in one of these disjoint spans [P, 2], [length]."""
    changes = np.bincount(spans[:, 0], minlength=length + 1) - np.bincount(spans[:, 1], minlength=length + 1)
    inside: NDArray[np.bool_] = np.cumsum(changes)[:length] > 0
    return inside
