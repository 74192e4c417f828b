"""How consistent scores are: framewise self-similarity of pitch and duration (Mittal et al. 2021; Choi et al. 2020).

A normal distribution is fitted to the pitches, and another to the durations, of the notes that start in each window of
four bars, two bars after the last. The area that those of neighbouring windows share tells how much they have in
common. Music is neither the same all the time nor always another: what counts is how like the overlaps of a reference
theirs are, in mean (consistency) and in variance.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

from musicldm.evaluate.likeness import Likeness, likeness
from musicldm.evaluate.score_windows import FOUR_BARS, Floats, Windows, melodic
from musicldm.media.notes.score import STEPS, Score

LEAST = 2
"""Notes of a window that counts: fewer have no spread."""

# A pitch is known to a semitone, a duration hardly better than to a sixteenth, and a value that may lie anywhere within
# a unit has the standard deviation 1/√12. Without such a floor two windows on one repeated note would share all or
# nothing, and the fit would fail.
PITCH_STD = 1 / math.sqrt(12)
"""The least standard deviation of pitches, in semitones."""
DURATION_STD = 0.25 / math.sqrt(12)
"""The least of durations, in quarters."""


@dataclass(frozen=True)
class Overlaps:
    """The area that each pair of neighbouring windows shares, in [0, 1], of one score or of several.

    Pairs with a window of fewer than two notes do not count.
    """

    pitch: tuple[float, ...] = ()
    duration: tuple[float, ...] = ()
    """As many."""
    windows: int = 0
    """All of them."""
    skipped: int = 0
    """Those with fewer than two notes."""

    @classmethod
    def of(cls, score: Score, windows: Windows = FOUR_BARS) -> Overlaps:
        """
        Raises:
            UsageError: the score is not on the grid.
        """
        track, spans = melodic(score), windows.of(score)
        durations = (track.end - track.start) / STEPS
        fits: list[tuple[NormalDist, NormalDist] | None] = []
        # Notes are in the order of their starts.
        for first, last in track.start.searchsorted(spans).tolist():
            enough = last - first >= LEAST
            pitch, duration = track.pitch[first:last].astype(float), durations[first:last]
            fits.append((_normal(pitch, PITCH_STD), _normal(duration, DURATION_STD)) if enough else None)
        pairs = [(one, other) for one, other in pairwise(fits) if one and other]
        # The paper's formula for the area lacks the ½ before each erf and has σ² in σ's place. NormalDist has it right,
        # also where the variances are equal.
        return cls(
            tuple(one[0].overlap(other[0]) for one, other in pairs),
            tuple(one[1].overlap(other[1]) for one, other in pairs),
            len(fits),
            fits.count(None),
        )

    def __add__(self, other: Overlaps) -> Overlaps:
        return Overlaps(
            self.pitch + other.pitch,
            self.duration + other.duration,
            self.windows + other.windows,
            self.skipped + other.skipped,
        )

    def likeness(self, reference: Overlaps) -> dict[str, Likeness]:
        """Consistency and variance of `pitch` and of `duration`, from 0 to 1 where they agree with the reference's."""
        return {
            "pitch": likeness(self.pitch, reference.pitch),
            "duration": likeness(self.duration, reference.duration),
        }


def overlaps_of(scores: Iterable[Score], windows: Windows = FOUR_BARS) -> Overlaps:
    """Those of all scores together: a long one counts more.

    Raises:
        UsageError: a score is not on the grid.
    """
    return functools.reduce(operator.add, (Overlaps.of(score, windows) for score in scores), Overlaps())


def _normal(values: Floats, least: float) -> NormalDist:
    return NormalDist(float(values.mean()), max(least, float(values.std())))
