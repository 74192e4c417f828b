"""What all measures of scores look at: a score's notes as one instrument's, and windows of it.

Scores are on the grid of 24 steps a quarter. A quarter is a quarter note, whatever the metre's beat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from musicldm.core.errors import UsageError
from musicldm.media.notes.grid import require_grid
from musicldm.media.notes.score import STEPS, Ints, Score, Track

Floats = NDArray[np.float64]

SIXTEENTH: Final = STEPS // 4
"""Steps."""


def melodic(score: Score) -> Track:
    """All its notes but the drums', as one track; an empty one if there are none.

    Raises:
        UsageError: the score is not on the grid.
    """
    require_grid(score)
    tracks = score.merged().tracks
    if tracks:
        return tracks[0]
    none = np.empty(0, np.int64)
    return Track(none, none, none, none)


@dataclass(frozen=True)
class Windows:
    """Windows of equal size, each so much later than the last.

    Raises:
        UsageError: a size or hop below 1.
    """

    size: int
    hop: int
    unit: Literal["bars", "quarters"] = "bars"
    """Bars are as long as the metres say, so windows of a piece may differ in length. What is made without metres, or
    with metres that mean little, is better cut into quarters."""

    def __post_init__(self) -> None:
        if self.size < 1 or self.hop < 1:
            raise UsageError(f"Windows of {self.size} every {self.hop} are not valid: expected 1 or more.")

    def of(self, score: Score) -> Ints:
        """The first step of each window and the first after it, [windows, 2].

        Windows are whole, though the score's last bar need not be; a score shorter than one is itself the only one, and
        one without length has none.
        """
        require_grid(score)
        if not score.length:
            return np.empty((0, 2), np.int64)
        if self.unit == "bars":
            edges = np.append(score.bars(), score.length)
        else:
            edges = np.arange(0, score.length + 1, STEPS)
        first = np.arange(0, len(edges) - self.size, self.hop)
        if not len(first):
            return np.array([[0, score.length]])
        return np.stack([edges[first], edges[first + self.size]], axis=1)


FOUR_BARS: Final = Windows(4, 2)
"""Of framewise self-similarity (Mittal et al. 2021): they overlap by half."""

SIXTEEN_QUARTERS: Final = Windows(16, 16, "quarters")
"""As long as four bars of 4/4, and the same of any music."""
