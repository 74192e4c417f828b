"""The figures of `evaluate samples`: how far one set of pieces is from another, by every embedding and statistic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from musicldm.evaluate.distances import FeatureSet, Reference
from musicldm.evaluate.estimates import Estimate, jackknife
from musicldm.evaluate.excerpts import EXCERPT
from musicldm.evaluate.extractor import PieceFeatures
from musicldm.evaluate.likeness import likeness
from musicldm.evaluate.similarity import STATISTICS
from musicldm.evaluate.two_sample import two_sample_test


@dataclass(frozen=True)
class Figure:
    """One value, and what is needed to interpret it."""

    metric: str
    embedding: str
    """What a sound is described by."""
    estimate: Estimate
    sounds: int
    """N."""
    seconds: float
    """The mean length of these."""
    against: int
    """Sounds of the reference."""


def figures_of(pieces: Sequence[PieceFeatures], reference: Sequence[PieceFeatures]) -> tuple[Figure, ...]:
    """All figures of a set of pieces against a reference described by the same extractor; neither is empty."""
    figures: list[Figure] = []
    for name in reference[0].vectors:
        ours, theirs = ([each for each in some if len(each.vectors[name])] for some in (pieces, reference))
        against, those = Reference(_feature_set(theirs, name)), _feature_set(ours, name)
        density, coverage = against.density_and_coverage(those)
        for metric, estimate in {
            "frechet": against.frechet(those),
            "frechet_infinity": against.frechet_at_infinity(those),
            "mmd": against.mmd(those),
            "density": density,
            "coverage": coverage,
        }.items():
            figures.append(_figure(metric, name, estimate, ours, theirs))
    return *figures, _two_sample(pieces, reference), *self_similarity(pieces, reference)


def _two_sample(pieces: Sequence[PieceFeatures], reference: Sequence[PieceFeatures]) -> Figure:
    """How often a classifier tells them apart by their excerpts; pieces that are shorter than one do not count."""
    ours, theirs = ([each for each in some if len(each.excerpts)] for some in (pieces, reference))
    estimate = two_sample_test(
        *(FeatureSet([each.excerpts for each in some], [each.track for each in some]) for some in (ours, theirs))
    )
    if short := len(pieces) - len(ours):
        estimate = estimate.noted(f"{short} shorter than {EXCERPT:g} s do not count")
    return _figure("two_sample", "excerpts", estimate, ours, theirs)


def self_similarity(pieces: Sequence[PieceFeatures], reference: Sequence[PieceFeatures]) -> list[Figure]:
    """The overlap of neighbouring windows, and how like the reference's it is, where there is a reference."""
    figures = []
    for name in STATISTICS:
        ours, theirs = ([each for each in some if each.overlaps[name]] for some in (pieces, reference))
        wanted = [value for each in theirs for value in each.overlaps[name]]
        metrics: dict[str, Callable[[list[float]], float | None]] = {"overlap": lambda values: float(np.mean(values))}
        if reference:
            metrics["consistency"] = lambda values, wanted=wanted: likeness(values, wanted).consistency  # type: ignore[misc]
            metrics["variance"] = lambda values, wanted=wanted: likeness(values, wanted).variance  # type: ignore[misc]
        for metric, of in metrics.items():
            figures.append(_figure(metric, name, _over_pieces(ours, name, of), ours, theirs))
    return figures


def _over_pieces(pieces: Sequence[PieceFeatures], name: str, of: Callable[[list[float]], float | None]) -> Estimate:
    """A figure of the overlaps of all pieces."""

    def figure(chosen: Sequence[int]) -> float:
        found = of([value for i in chosen for value in pieces[i].overlaps[name]])
        return float("nan") if found is None else found

    if not pieces or np.isnan(figure(range(len(pieces)))):
        return Estimate(None, note="nothing varies" if pieces else "too short")
    return jackknife(len(pieces), figure).bounded(0, 1)


def _feature_set(pieces: Sequence[PieceFeatures], name: str) -> FeatureSet:
    return FeatureSet([each.vectors[name] for each in pieces], [each.track for each in pieces])


def _figure(
    metric: str,
    embedding: str,
    estimate: Estimate,
    pieces: Sequence[PieceFeatures],
    reference: Sequence[PieceFeatures],
) -> Figure:
    seconds = float(np.mean([each.seconds for each in pieces])) if pieces else 0.0
    return Figure(metric, embedding, estimate, len(pieces), seconds, len(reference))
