"""How often a classifier tells two sets of sounds apart: the two-sample test of Lopez-Paz & Oquab 2017.

A classifier learns from half of either set and is asked about the other half: where the sets do not differ, it is right
half of the time, whatever it is. This one is a logistic regression, for which a few dozen sounds are enough.

Shapes: N vectors, F features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from musicldm.core.seeding import derive
from musicldm.evaluate.distances import FeatureSet
from musicldm.evaluate.estimates import Estimate
from musicldm.evaluate.features import Floats

LEAST = 6
"""Tracks of either set."""

_PENALTY = 0.1  # on half the squared norm of the weights, beside the mean cross-entropy
_OUTLIER = 5.0  # standard deviations: one odd vector, such as that of silence, does not decide the weights
_STEPS = 50  # of Newton's method, which takes about ten
_DRAWS = 2000  # of the bootstrap

Flags = NDArray[np.bool_]


def two_sample_test(those: FeatureSet, reference: FeatureSet) -> Estimate:
    """The fraction of vectors that are told to be of their own set: 0.5 where the sets are alike, 1 at most.

    The classifier learns from half of the tracks of each set and is tested on the others, and the other way round:
    every sound is tested once, and never by what has learned from another of its track. Either set counts half,
    however many sounds it has, and so does every track within its set.

    The interval is that of the bootstrap over tracks, but with draws of half as many tracks as there are. What either
    classifier takes for a difference by chance is in the halves' means, and their product decides both results (for a
    linear one, to first order, by (x̄₁ − ȳ₁)ᵀ S⁻¹ (x̄₂ − ȳ₂)): the two say no more than one does.
    """
    sets = those, reference
    # What is in both sets, such as the reference itself through a codec, is where the reference has it.
    half_of = _halves(those.groups) | _halves(reference.groups)
    if any(len({*each.groups}) < LEAST or len({half_of[name] for name in each.groups}) < 2 for each in sets):
        return Estimate(None, note=f"needs {LEAST} tracks of each")

    features = np.concatenate([*those.sounds, *reference.sounds])
    counts = [len(sound) for each in sets for sound in each.sounds]
    track = np.repeat([*those.groups, *reference.groups], counts)
    real = np.repeat([False] * len(those.sounds) + [True] * len(reference.sounds), counts)
    middle = np.array([half_of[name] for name in track])
    right = np.empty(len(features))
    for tested in (middle, ~middle):
        says = _taught(features[~tested], real[~tested], features[tested])
        right[tested] = says == real[tested]
    return _over_tracks(
        [
            np.array([right[(real == which) & (track == name)].mean() for name in dict.fromkeys(each.groups)])
            for which, each in zip((False, True), sets, strict=True)
        ]
    )


def _halves(groups: Sequence[str]) -> dict[str, bool]:
    """Track -> half: in the order of their names, the middle half and the outer quarters.

    Not in turns: neighbours, such as the movements of a sonata, are alike, and where they are of different sets the
    classifier would learn to mistake one for the other. This way nearly all of them are on one side.
    """
    names = sorted({*groups})
    return {name: len(names) / 4 <= place < 3 * len(names) / 4 for place, name in enumerate(names)}


def _over_tracks(right: Sequence[Floats]) -> Estimate:
    """The mean of both sets' means, and its interval, from the fraction of each track that was told rightly."""
    rng = np.random.default_rng(derive("two-sample test"))
    draws = np.zeros(_DRAWS)
    for each in right:
        draws += each[rng.integers(len(each), size=(_DRAWS, len(each) // 2))].mean(axis=1) / len(right)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Estimate(float(np.mean([each.mean() for each in right])), float(low), float(high))


# ---- The classifier ------------------------------------------------------------------------------------------------


def _taught(features: Floats, real: Flags, others: Floats) -> Flags:
    """What it says of others [M, F] after learning from vectors [N, F] and the set [N] of each; either set counts half.

    Features are standardised by those that it learns from.
    """
    weights = np.where(real, 0.5 / real.sum(), 0.5 / (~real).sum())
    mean = weights @ features
    std = np.sqrt(weights @ (features - mean) ** 2)
    std[std < 1e-9] = 1  # the same in all

    def scaled(vectors: Floats) -> Floats:
        return np.hstack([((vectors - mean) / std).clip(-_OUTLIER, _OUTLIER), np.ones((len(vectors), 1))])

    says: Flags = scaled(others) @ logistic_regression(scaled(features), real, weights) > 0
    return says


def logistic_regression(x: Floats, real: Flags, weights: Floats) -> Floats:
    """The coefficients [F] by which vectors [N, F] are told apart, that is, are of the real set where x @ b > 0.

    They minimise the weighted cross-entropy and the penalty, by Newton's method. The last feature is a constant, whose
    coefficient is not penalised.
    """
    penalty = np.full(x.shape[1], _PENALTY)
    penalty[-1] = 0
    sign = np.where(real, 1.0, -1.0)

    def loss(b: Floats) -> float:
        return float(weights @ np.logaddexp(0, -sign * (x @ b)) + penalty @ b**2 / 2)

    b = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        likely = (1 + np.tanh(x @ b / 2)) / 2  # the logistic function, without overflow
        gradient = x.T @ (weights * (likely - real)) + penalty * b
        if np.abs(gradient).max() < 1e-9:
            break
        hessian = (x.T * (weights * likely * (1 - likely))) @ x + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        # Halved until it descends: far from the minimum a whole step may go beyond it.
        sizes = 0.5 ** np.arange(20)
        b = b - step * next((size for size in sizes if loss(b - size * step) < loss(b)), 0.0)
    return b
