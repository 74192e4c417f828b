"""What sets of scores are made of (pitches, rhythm, density, harmony), and how far one set is from another in each.

Histograms are over all notes of a set. Other features are a number for each window of sixteen quarters, and a set is
the distribution of these. Tempo and dynamics do not count.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from musicldm.core.errors import DataError, UsageError
from musicldm.evaluate.score_windows import SIXTEEN_QUARTERS, SIXTEENTH, Floats, Windows, melodic
from musicldm.media.notes.score import STEPS, Ints, Score, Track

HISTOGRAMS: Final = ("pitch_classes", "durations", "inter_onsets")
SCALARS: Final = ("density", "polyphony", "scale_consistency", "on_sixteenths", "range")

BINS: Final = 4 * 7 + 1
"""Of durations and of times between onsets: from 1/16 to 8 quarters, four an octave, each around its own value; what is
shorter or longer goes to the first or last. Straight, dotted and triplet values lie in bins of their own."""

_SHORTEST = 1 / 16  # of a quarter

_MAJOR = (0, 2, 4, 5, 7, 9, 11)
# A natural minor scale has the pitches of a major one, so 12 sets of pitch classes are all of the 24 scales.
_SCALES = np.array([[(pitch - tonic) % 12 in _MAJOR for pitch in range(12)] for tonic in range(12)])


@dataclass(frozen=True, eq=False)
class ScoreFeatures:
    """The features of a score, or of the set of scores whose features were added; W windows.

    Windows in which no note starts have a density of 0, and no other feature.
    """

    pitch_classes: Floats
    """Notes on each, from C on, [12]. Transposed music differs in it."""
    durations: Floats
    """Notes in each bin, [BINS]."""
    inter_onsets: Floats
    """In each bin, times from a step with an onset to the next such one, [BINS]."""
    density: Floats
    """Notes a quarter, [W]."""
    polyphony: Floats
    """Keys that are down at once, on average over the steps with any, [W]; the pedal does not count."""
    scale_consistency: Floats
    """The largest fraction of notes in one of the 24 major and natural minor scales, [W]."""
    on_sixteenths: Floats
    """Of steps with an onset, the fraction that lies on a sixteenth, [W]."""
    range: Floats
    """Semitones from the lowest note to the highest, [W]."""

    @classmethod
    def of(cls, score: Score, windows: Windows = SIXTEEN_QUARTERS) -> ScoreFeatures:
        """
        Raises:
            UsageError: the score is not on the grid.
        """
        track, spans = melodic(score), windows.of(score)
        onsets: Ints = np.unique(track.start)
        down = keys_down(track, score.length)
        notes = track.start.searchsorted(spans)  # which are in the order of their starts
        scalars = [
            _scalars(track.start[first:last], track.pitch[first:last], down[start:end])
            for (first, last), (start, end) in zip(notes.tolist(), spans.tolist(), strict=True)
            if last > first
        ]
        polyphony, consistency, on_sixteenths, span = np.array(scalars).reshape(-1, len(SCALARS) - 1).T
        return cls(
            pitch_classes=np.bincount(track.pitch % 12, minlength=12).astype(float),
            durations=_binned(track.end - track.start),
            inter_onsets=_binned(onsets[1:] - onsets[:-1]),
            density=np.diff(notes)[:, 0] * STEPS / np.diff(spans)[:, 0],
            polyphony=polyphony,
            scale_consistency=consistency,
            on_sixteenths=on_sixteenths,
            range=span,
        )

    def __add__(self, other: ScoreFeatures) -> ScoreFeatures:
        columns = ((getattr(self, name), getattr(other, name)) for name in SCALARS)
        return ScoreFeatures(
            self.pitch_classes + other.pitch_classes,
            self.durations + other.durations,
            self.inter_onsets + other.inter_onsets,
            *map(np.concatenate, columns),
        )

    def distances(self, reference: ScoreFeatures) -> dict[str, float]:
        """By feature: 0 where the two sets agree, and symmetric.

        Histograms: the Jensen–Shannon distance, from 0 to 1. Unlike the area they share, it weighs a value that one set
        never has more than one that it has too seldom. Others: the Wasserstein-1 distance, in the feature's own unit,
        that is, how far values have to move on average for one distribution to become the other.

        Raises:
            DataError: in none of a set's windows does a note start.
        """
        if not len(self.range) or not len(reference.range):
            raise DataError(
                "A set of scores without notes has no features.", "Give longer scores, or scores with notes."
            )
        found = {name: jensen_shannon(getattr(self, name), getattr(reference, name)) for name in HISTOGRAMS}
        return found | {name: wasserstein(getattr(self, name), getattr(reference, name)) for name in SCALARS}


def features_of(scores: Iterable[Score], windows: Windows = SIXTEEN_QUARTERS) -> ScoreFeatures:
    """Those of all scores together: a long one counts more.

    Raises:
        UsageError: a score is not on the grid, or there is none.
    """
    each = [ScoreFeatures.of(score, windows) for score in scores]
    if not each:
        raise UsageError("There are no scores to take features of: expected one or more.")
    return functools.reduce(operator.add, each)


def jensen_shannon(p: Floats, q: Floats) -> float:
    """The square root of the Jensen–Shannon divergence in bits of two histograms [n] (Endres & Schindelin 2003).

    It is a metric: 0 for equal ones, 1 for those that share no bin. A histogram of nothing counts as even.
    """
    p, q = (each / each.sum() if each.sum() else np.full(len(each), 1 / len(each)) for each in (p, q))
    middle = (p + q) / 2
    divergence = 0.0
    for each in (p, q):
        some = each > 0
        divergence += float((each[some] * np.log2(each[some] / middle[some])).sum()) / 2
    return float(np.sqrt(min(max(divergence, 0.0), 1.0)))


def wasserstein(x: Floats, y: Floats) -> float:
    """The Wasserstein-1 distance of the distributions of two sets of values, [n] and [m]: ∫|F − G|.

    Raises:
        DataError: one has no values.
    """
    if not len(x) or not len(y):
        raise DataError("There is nothing to compare: expected one value or more on each side.")
    every = np.sort(np.concatenate([x, y]))
    ranks = [np.searchsorted(np.sort(values), every[:-1], side="right") / len(values) for values in (x, y)]
    return float((np.abs(ranks[0] - ranks[1]) * np.diff(every)).sum())


def keys_down(track: Track, length: int) -> Ints:
    """How many keys are down at each step, [length]."""
    changes = np.bincount(track.start, minlength=length + 1) - np.bincount(track.end, minlength=length + 1)
    down: Ints = np.cumsum(changes)[:length]
    return down


def scale_consistency(pitch: Ints) -> float:
    """The largest fraction of these pitches [N] in one of the 24 major and natural minor scales; N at least 1."""
    return float((_SCALES @ np.bincount(pitch % 12, minlength=12)).max() / len(pitch))


def _binned(steps: Ints) -> Floats:
    """Of times in steps, how many lie in each bin, [BINS]."""
    octaves = np.log2(np.maximum(steps, 1) / STEPS / _SHORTEST)
    bins = np.clip(np.rint(4 * octaves), 0, BINS - 1).astype(np.int64)
    return np.bincount(bins, minlength=BINS).astype(float)


def _scalars(start: Ints, pitch: Ints, down: Ints) -> tuple[float, ...]:
    """All of `SCALARS` but the first, of one window in which notes start; `down` is of its steps."""
    onsets = np.unique(start)
    return (
        float(down[down > 0].mean()),
        scale_consistency(pitch),
        float((onsets % SIXTEENTH == 0).mean()),
        float(np.ptp(pitch)),
    )
