"""Confidence intervals: of means over tracks by the bootstrap, of distances between sets by the jackknife."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from musicldm.core.seeding import derive

GROUPS = 20
"""Of sounds, for the jackknife, at most; fewer than `LEAST` give no interval."""
LEAST = 4

_DRAWS = 2000  # of the bootstrap


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % confidence interval, where there are both."""

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""
    """Why something is missing, or what limits its meaning."""

    def bounded(self, low: float, high: float = math.inf) -> Estimate:
        """The same with its interval cut to what is possible."""
        if self.low is None or self.high is None:
            return self
        return replace(self, low=max(low, self.low), high=min(high, self.high))

    def noted(self, *notes: str) -> Estimate:
        """The same with further notes."""
        return replace(self, note="; ".join(note for note in (self.note, *notes) if note))


def bootstrap(values: Sequence[float | None]) -> Estimate:
    """The mean of a figure over tracks, and its interval by resampling the tracks (Efron 1979; percentiles).

    Tracks without the figure do not count.
    """
    known = np.array([value for value in values if value is not None])
    if not len(known):
        return Estimate(None, note="no track has it")
    if len(known) == 1:
        return Estimate(float(known[0]), note="one track: no interval")
    # A seed of its own, which is always the same: an interval does not change from one run to the next.
    draws = np.random.default_rng(derive("bootstrap")).integers(len(known), size=(_DRAWS, len(known)))
    low, high = np.percentile(known[draws].mean(axis=1), [2.5, 97.5])
    return Estimate(float(known.mean()), float(low), float(high))


def jackknife(count: int, figure: Callable[[list[int]], float]) -> Estimate:
    """A figure of a set of sounds, and its interval by leaving out one group of them after another (Efron 1982).

    Not the bootstrap, which draws sounds twice: duplicates change covariances and nearest neighbours.

    Args:
        count: sounds in the set.
        figure: its value for the sounds with these indices.
    """
    everything = list(range(count))
    value = figure(everything)
    groups = min(GROUPS, count)
    if groups < LEAST:
        return Estimate(value, note=f"{count} sound{'s' * (count > 1)}: no interval")
    without = [figure([i for i in everything if i % groups != group]) for group in range(groups)]
    # np.var has divided by the number of groups, so this is Efron's (g − 1)/g · Σ(…)².
    error = math.sqrt((groups - 1) * float(np.var(without)))
    margin = _students_t(groups - 1) * error
    return Estimate(value, value - margin, value + margin)


def _students_t(degrees: int) -> float:
    """The 97.5th percentile of Student's distribution, within 4 % from three degrees of freedom (Fisher & Cornish)."""
    z = 1.959964
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
