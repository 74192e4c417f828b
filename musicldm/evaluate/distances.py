"""How far one set of sounds is from another. A sound is a few vectors [n, F], such as one for each second of it.

Vectors of one sound are more alike than those of the whole set, so the unit of all statistics is the sound, not the
vector: intervals are over sounds, and pairs within one sound do not count.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from musicldm.core.errors import DataError
from musicldm.core.seeding import derive
from musicldm.evaluate.estimates import Estimate, jackknife
from musicldm.evaluate.features import Floats
from musicldm.evaluate.frechet import Gaussian, frechet_distance

NEIGHBOURS = 5
"""Of density and coverage, as in the paper's experiments."""

_MOST = 2000  # vectors of either set in density and coverage
_WIDTH_OF = 1000  # vectors between which the kernel's width is the median distance
_SMALLEST_STD = 0.1  # times the median standard deviation of the features
_SIZES = 15  # of the sets by which the Fréchet distance is extrapolated, as in the paper's code


@dataclass(frozen=True)
class FeatureSet:
    """A set of sounds as vectors."""

    sounds: Sequence[Floats]
    """[n, F] each, n at least 1."""
    groups: Sequence[str]
    """The track that each is a piece of: pieces of one track are not independent."""

    @property
    def owners(self) -> NDArray[np.int64]:
        """The index of each sound's track; where all are of a single track, of each sound."""
        tracks = {name: number for number, name in enumerate(dict.fromkeys(self.groups))}
        numbers = [tracks[name] for name in self.groups] if len(tracks) > 1 else range(len(self.groups))
        return np.array(numbers, dtype=np.int64)

    @property
    def apart(self) -> NDArray[np.bool_]:
        """Which pairs of sounds are of two different tracks, [sounds, sounds]."""
        owners = self.owners
        different: NDArray[np.bool_] = owners[:, None] != owners
        return different

    def vectors(self, most: int) -> tuple[Floats, NDArray[np.int64]]:
        """At most so many of all vectors, evenly chosen, and the index of the sound of each."""
        whose = np.repeat(np.arange(len(self.sounds)), [len(sound) for sound in self.sounds])
        chosen = np.linspace(0, len(whose) - 1, min(most, len(whose))).round().astype(int)
        return np.concatenate(self.sounds)[chosen], whose[chosen]


class Reference:
    """What sets are compared with; all that does not depend on them is computed once."""

    def __init__(self, features: FeatureSet) -> None:
        """
        Raises:
            DataError: it is empty, or holds values that are not finite.
        """
        self.features = features
        Gaussian.of(features.sounds)  # which checks that there are finite vectors
        vectors = np.concatenate(features.sounds)
        self.mean = vectors.mean(axis=0)
        std = vectors.std(axis=0)
        # A feature that hardly changes in the reference would outweigh all others in its own scale.
        self.scale = np.maximum(std, _SMALLEST_STD * float(np.median(std)) or 1.0)
        self.gaussian = Gaussian.of(map(self.scaled, features.sounds))
        self.gamma = 1 / (2 * _median_distance(self.scaled(vectors)) ** 2)

    def scaled(self, vectors: Floats) -> Floats:
        """Standardised: each feature by its mean and standard deviation in the reference."""
        scaled: Floats = (vectors - self.mean) / self.scale
        return scaled

    @functools.cached_property
    def likeness(self) -> float:
        """The mean of the kernel over pairs of its own sounds of different tracks."""
        means = self._kernel(self.features.sounds, self.features.sounds)
        apart = self.features.apart
        return float(means[apart].mean()) if apart.any() else float("nan")

    def _kernel(self, sounds: Sequence[Floats], others: Sequence[Floats]) -> Floats:
        """The mean of exp(−γ‖x − y‖²) over the vectors of each pair of sounds: [sounds, others]."""
        every = self.scaled(np.concatenate(others))
        starts = np.cumsum([0, *(len(other) for other in others)])[:-1]
        counts = np.array([len(other) for other in others])
        means = np.empty((len(sounds), len(others)))
        # Sound by sound: the kernel of all vectors with all others would not fit into memory.
        for i, sound in enumerate(sounds):
            values = np.exp(-self.gamma * _squared_distances(self.scaled(sound), every))
            means[i] = np.add.reduceat(values.mean(axis=0), starts) / counts
        return means

    # ---- Distances ----

    def frechet(self, those: FeatureSet) -> Estimate:
        """The Fréchet distance of the Gaussians fitted to the vectors of either set, standardised by the reference.

        In the features' own units, those with the largest variance would decide it alone: the level of mel bands.
        """
        parts = [Gaussian.of([self.scaled(sound)]) for sound in those.sounds]
        if sum(part.count for part in parts) < 2 or self.gaussian.count < 2:
            return Estimate(None, note="one vector has no covariance")

        def distance(chosen: list[int]) -> float:
            return _distance([parts[i] for i in chosen], self.gaussian)

        return jackknife(len(parts), distance).bounded(0).noted(self._rank(parts))

    def frechet_at_infinity(self, those: FeatureSet) -> Estimate:
        """The Fréchet distance extrapolated to infinitely many sounds (Chong & Forsyth 2020).

        A set's distance has a bias in 1/N: a line is fitted to the distances of random subsets over 1/N, and read at 0.
        The result may be negative. N counts vectors; the subsets are of whole sounds.
        """
        parts = [Gaussian.of([self.scaled(sound)]) for sound in those.sounds]
        vectors, features = sum(part.count for part in parts), len(self.mean)
        # Where covariances are not of full rank, the bias is not linear.
        # At least a fifth of the sounds, and so many that there are twice as many vectors as features.
        enough = max(len(parts) // 5, -(-2 * features * len(parts) // vectors), 2)
        if len(parts) < 8 or self.gaussian.count < 2:
            return Estimate(None, note="needs 8 sounds")
        # Never more than half, or the points would lie too close together for a line.
        smallest = min(enough, len(parts) // 2)
        rng = np.random.default_rng(derive("infinity"))
        inverse, distances = [], []
        for size in np.linspace(smallest, len(parts), _SIZES).round().astype(int):
            chosen = [parts[i] for i in rng.permutation(len(parts))[:size]]
            if sum(part.count for part in chosen) > 1:
                inverse.append(1 / sum(part.count for part in chosen))
                distances.append(_distance(chosen, self.gaussian))
        _, at_zero = np.polyfit(inverse, distances, 1)
        few = "" if enough <= len(parts) // 2 else f"{vectors} vectors of {features} elements: too few to rely on"
        return Estimate(float(at_zero), note=few)

    def _rank(self, parts: Sequence[Gaussian]) -> str:
        vectors, features = min(sum(part.count for part in parts), self.gaussian.count), len(self.mean)
        return f"{vectors} vectors of {features} elements: not of full rank" if vectors <= features else ""

    def mmd(self, those: FeatureSet) -> Estimate:
        """The squared maximum mean discrepancy, unbiased (Gretton et al. 2012, eq. 3): about 0 for sets that are alike.

        The kernel is exp(−‖x − y‖² / 2w²) of vectors standardised by the reference, w being the median distance between
        its vectors; for a pair of sounds it is averaged over their vectors. Pairs of one track do not count.
        """
        if len(those.sounds) < 2 or np.isnan(self.likeness):
            return Estimate(None, note="needs two sounds of each")
        within, across = self._kernel(those.sounds, those.sounds), self._kernel(those.sounds, self.features.sounds)
        apart = those.apart

        def discrepancy(chosen: list[int]) -> float:
            here = within[np.ix_(chosen, chosen)][apart[np.ix_(chosen, chosen)]]
            return float((here.mean() if len(here) else np.nan) + self.likeness - 2 * across[chosen].mean())

        if len(those.sounds) < 3:
            return Estimate(discrepancy([0, 1]), note="2 sounds: no interval")
        return _finite(jackknife(len(those.sounds), discrepancy))

    def density_and_coverage(self, those: FeatureSet) -> tuple[Estimate, Estimate]:
        """Density and coverage of Naeem et al. 2020, with equally many vectors of either set, standardised.

        Around each vector of the reference is a ball that reaches to its fifth neighbour of another track. Density is
        the number of balls that a vector lies in, divided by five: 1 is as dense as the reference. Coverage is the
        fraction of balls with a vector in them: for sets of the same distribution it is about 0.97.
        """
        size = min(_MOST, sum(map(len, those.sounds)), sum(map(len, self.features.sounds)))
        ours, whose = those.vectors(size)
        theirs, owners = self.features.vectors(size)
        owners = self.features.owners[owners]
        between = _squared_distances(self.scaled(theirs), self.scaled(theirs))
        # This removes each vector as its own nearest neighbour, too.
        between[owners[:, None] == owners] = np.inf
        if size <= NEIGHBOURS or np.isinf(radius := np.sort(between, axis=1)[:, NEIGHBOURS - 1]).any():
            short = Estimate(None, note=f"needs more than {NEIGHBOURS} vectors of other tracks")
            return short, short
        inside = _squared_distances(self.scaled(theirs), self.scaled(ours)) <= radius[:, None]  # [balls, vectors]

        def density(chosen: list[int]) -> float:
            return float(inside[:, np.isin(whose, chosen)].sum(axis=0).mean() / NEIGHBOURS)

        def coverage(chosen: list[int]) -> float:
            return float(inside[:, np.isin(whose, chosen)].any(axis=1).mean())

        count = len(those.sounds)
        return jackknife(count, density).bounded(0), jackknife(count, coverage).bounded(0, 1)


def _distance(parts: Sequence[Gaussian], other: Gaussian) -> float:
    return frechet_distance(functools.reduce(operator.add, parts), other)


def _finite(estimate: Estimate) -> Estimate:
    if estimate.value is None or np.isfinite([estimate.value, estimate.low or 0, estimate.high or 0]).all():
        return estimate
    return Estimate(estimate.value if np.isfinite(estimate.value) else None, note="too few tracks for an interval")


def _squared_distances(x: Floats, y: Floats) -> Floats:
    """[n, F] and [m, F] to [n, m]."""
    if x.shape[1] != y.shape[1]:
        raise DataError(f"Features of {x.shape[1]} elements cannot be compared with features of {y.shape[1]}.")
    # ‖x‖² + ‖y‖² − 2·x·y, which is one product of matrices; rounding may make it slightly negative.
    squares: Floats = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T
    return squares.clip(0)


def _median_distance(vectors: Floats) -> float:
    """Between pairs of vectors, the median; 1 where they are all the same."""
    # Of a thousand vectors the median is stable already, and the pairs of all of them would be too many.
    some = vectors[np.linspace(0, len(vectors) - 1, min(len(vectors), _WIDTH_OF)).round().astype(int)]
    distances = np.sqrt(_squared_distances(some, some)[np.triu_indices(len(some), 1)])
    median = float(np.median(distances)) if len(distances) else 0.0
    return median if median > 1e-9 else 1.0
