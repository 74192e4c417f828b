"""Distances between sets of sounds, against plain readings of the papers and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import linalg, stats

from musicldm.core.errors import DataError
from musicldm.evaluate.distances import NEIGHBOURS, FeatureSet, Reference
from musicldm.evaluate.estimates import Estimate, bootstrap, jackknife
from musicldm.evaluate.features import Floats


def sounds(seed: int, count: int, move: float = 0.0, features: int = 4, vectors: int = 3) -> FeatureSet:
    """Sounds whose vectors lie around a place of their own."""
    rng = np.random.default_rng(seed)
    made = [rng.normal(size=features) + 0.5 * rng.normal(size=(vectors, features)) + move for _ in range(count)]
    return FeatureSet(made, [f"{seed} {number}" for number in range(count)])


def value(estimate: Estimate) -> float:
    assert estimate.value is not None
    return estimate.value


def test_frechet_agrees_with_scipy() -> None:
    a, b = sounds(0, 30), sounds(1, 40, move=0.7)
    x, y = np.concatenate(a.sounds), np.concatenate(b.sounds)
    x, y = ((z - y.mean(axis=0)) / y.std(axis=0) for z in (x, y))
    one, other = np.cov(x.T), np.cov(y.T)
    gap = x.mean(axis=0) - y.mean(axis=0)
    wanted = gap @ gap + np.trace(one + other - 2 * linalg.sqrtm(one @ other).real)
    found = Reference(b).frechet(a)
    assert found.value == pytest.approx(wanted, rel=1e-6)
    assert found.low is not None and found.high is not None and found.low < wanted < found.high


def test_infinitely_many_sounds_have_no_bias() -> None:
    """Of few sounds of one kind the distance is far above 0, and by a known amount; its extrapolation is near it."""
    reference = Reference(sounds(0, 1500, features=6, vectors=1))
    biased, straight = [], []
    for seed in range(1, 7):
        some = sounds(seed, 60, features=6, vectors=1)
        biased.append(value(reference.frechet(some)))
        straight.append(value(reference.frechet_at_infinity(some)))
    assert np.mean(biased) > 0.1
    assert abs(np.mean(straight)) < 0.4 * np.mean(biased)
    moved = reference.frechet_at_infinity(sounds(20, 400, move=1.0, features=6, vectors=1))
    assert moved.value == pytest.approx(6 / 1.25, rel=0.2), "the variance of a vector is 1 + 0.5²"


def plain_mmd(ours: FeatureSet, theirs: FeatureSet, gamma: float) -> float:
    """Pair by pair; a pair of sounds has the mean of the kernel over their vectors."""

    def kernel(x: Floats, y: Floats) -> float:
        return float(np.mean([np.exp(-gamma * ((a - b) ** 2).sum()) for a in x for b in y]))

    def within(some: FeatureSet) -> float:
        pairs = itertools.permutations(zip(some.sounds, some.groups, strict=True), 2)
        return float(np.mean([kernel(x, y) for (x, g), (y, h) in pairs if g != h]))

    across = [kernel(x, y) for x in ours.sounds for y in theirs.sounds]
    return within(ours) + within(theirs) - 2 * float(np.mean(across))


def test_mmd_is_the_double_loop() -> None:
    ours, theirs = sounds(0, 7, move=0.5), sounds(1, 9)
    theirs = FeatureSet([*theirs.sounds[:8], theirs.sounds[8][:1]], ["one track", "one track", *theirs.groups[2:]])
    reference = Reference(theirs)
    first, second = (FeatureSet([reference.scaled(x) for x in each.sounds], each.groups) for each in (ours, theirs))
    vectors = np.concatenate(second.sounds)
    apart = [np.sqrt(((a - b) ** 2).sum()) for a, b in itertools.combinations(vectors, 2)]
    wanted = plain_mmd(first, second, gamma=float(1 / (2 * np.median(apart) ** 2)))
    found = reference.mmd(ours)
    assert found.value == pytest.approx(wanted, rel=1e-9)
    assert found.low is not None and found.low < wanted


def test_mmd_is_unbiased() -> None:
    reference = Reference(sounds(0, 200))
    near = [value(reference.mmd(sounds(seed, 12))) for seed in range(1, 41)]
    assert min(near) < 0 < max(near)
    assert abs(np.mean(near)) < 3 * np.std(near) / np.sqrt(len(near)) + 0.005
    assert value(reference.mmd(sounds(50, 12, move=1.0))) > 5 * max(near)


def plain_density_and_coverage(fake: Floats, real: Floats) -> tuple[float, float]:
    radii = []
    for i, x in enumerate(real):
        others = [np.linalg.norm(x - other) for j, other in enumerate(real) if j != i]
        radii.append(sorted(others)[NEIGHBOURS - 1])
    inside = [[np.linalg.norm(y - x) <= radius for y in fake] for x, radius in zip(real, radii, strict=True)]
    return float(np.sum(inside)) / (NEIGHBOURS * len(fake)), float(np.mean(np.any(inside, axis=1)))


def test_density_and_coverage_are_the_papers() -> None:
    ours, theirs = sounds(0, 25, move=0.8, vectors=1), sounds(1, 25, vectors=1)
    reference = Reference(theirs)
    fake, real = (np.concatenate([reference.scaled(x) for x in each.sounds]) for each in (ours, theirs))
    density, coverage = reference.density_and_coverage(ours)
    assert (density.value, coverage.value) == pytest.approx(plain_density_and_coverage(fake, real))
    assert 0 < value(density) < 1 and 0 < value(coverage) < 1


def test_neighbours_of_the_same_track_do_not_count() -> None:
    """Each vector twice, in two pieces of its track: else its own twin would be its neighbour."""
    ours, theirs = sounds(0, 25, vectors=1), sounds(1, 25, vectors=1)
    twice = FeatureSet([*theirs.sounds, *theirs.sounds], [*theirs.groups, *theirs.groups])
    pairs = FeatureSet([np.concatenate([x, x]) for x in ours.sounds], ours.groups)
    once = Reference(FeatureSet(theirs.sounds, theirs.groups)).density_and_coverage(ours)
    reference = Reference(twice)
    inside = [value(each) for each in reference.density_and_coverage(pairs)]
    # The fifth neighbour of others is now the third: smaller balls, and of each two.
    assert 0.5 * value(once[0]) < inside[0] < 1.5 * value(once[0]) and inside[1] > 0.5 * value(once[1])
    lone = Reference(FeatureSet(twice.sounds, [str(number) for number in range(50)]))
    assert value(lone.density_and_coverage(pairs)[0]) < inside[0]


def test_density_and_coverage_of_sets_alike_far_and_collapsed() -> None:
    reference = Reference(sounds(0, 200, vectors=1))
    alike = [value(each) for each in reference.density_and_coverage(sounds(1, 200, vectors=1))]
    assert alike == pytest.approx([1, 1 - 0.5**NEIGHBOURS], abs=0.15)
    assert [value(each) for each in reference.density_and_coverage(sounds(2, 200, move=50, vectors=1))] == [0, 0]
    one = FeatureSet([np.zeros((1, 4))] * 200, [str(number) for number in range(200)])
    density, coverage = reference.density_and_coverage(one)
    assert value(density) > 1 and value(coverage) < 0.5, "all in the midst of the music, and always the same"


def test_too_few_sounds_give_reasons_and_no_nan() -> None:
    reference = Reference(sounds(0, 3))
    single, pair = sounds(1, 1), sounds(2, 2)
    assert reference.frechet(single).note == "1 sound: no interval; 3 vectors of 4 elements: not of full rank"
    assert value(reference.frechet(single)) > 0
    assert reference.frechet(FeatureSet([np.zeros((1, 4))], ["a"])).note == "one vector has no covariance"
    assert reference.mmd(single) == Estimate(None, note="needs two sounds of each")
    assert reference.mmd(pair).note == "2 sounds: no interval" and np.isfinite(value(reference.mmd(pair)))
    assert reference.frechet_at_infinity(pair) == Estimate(None, note="needs 8 sounds")
    assert Reference(pair).density_and_coverage(pair)[0].value is None, "three vectors of another track"
    assert Reference(single).mmd(pair).value is None
    with pytest.raises(DataError, match="no sound to measure"):
        Reference(FeatureSet([], []))


def test_what_never_changes_is_no_trouble() -> None:
    """Silence: every vector the same."""
    same = FeatureSet([np.full((3, 4), 2.0)] * 8, [str(number) for number in range(8)])
    for ours, theirs in ((same, sounds(0, 8)), (sounds(0, 8), same), (same, same)):
        reference = Reference(theirs)
        density, coverage = reference.density_and_coverage(ours)
        for each in (
            reference.frechet(ours),
            reference.frechet_at_infinity(ours),
            reference.mmd(ours),
            density,
            coverage,
        ):
            assert np.isfinite(value(each))


def test_the_bootstrap_of_a_mean_is_about_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(3, 2, 200)
    found = bootstrap([*values, None])
    assert found.value == pytest.approx(values.mean()) and found.low is not None and found.high is not None
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / np.sqrt(200), rel=0.1)
    assert bootstrap([1.5]) == Estimate(1.5, note="one track: no interval")
    assert bootstrap([None]).value is None


@pytest.mark.parametrize("count", [4, 12, 200])
def test_the_jackknife_of_a_mean_is_students_interval(count: int) -> None:
    values = np.random.default_rng(0).normal(3, 2, count)
    found = jackknife(count, lambda chosen: float(values[chosen].mean()))
    assert found.value == pytest.approx(values.mean()) and found.low is not None and found.high is not None
    groups = min(20, count)
    means = np.array([values[i::groups].mean() for i in range(groups)])
    wanted = stats.t.ppf(0.975, groups - 1) * means.std(ddof=1) / np.sqrt(groups)
    assert (found.high - found.low) / 2 == pytest.approx(wanted, rel=0.05)
