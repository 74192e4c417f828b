"""The Fréchet distance against SciPy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from musicldm.core.errors import DataError, MismatchError
from musicldm.evaluate.features import Floats
from musicldm.evaluate.frechet import Gaussian, frechet_distance


def gaussian(mean: Floats, covariance: Floats) -> Gaussian:
    return Gaussian(101, mean, 100 * covariance)


def test_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(500, 12)) @ rng.normal(size=(12, 12))
    b = rng.normal(size=(400, 12)) @ rng.normal(size=(12, 12)) + 1
    one, other = np.cov(a.T), np.cov(b.T)
    root = linalg.sqrtm(one @ other).real
    wanted = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum() + np.trace(one + other - 2 * root)
    assert frechet_distance(Gaussian.of([a]), Gaussian.of([b])) == pytest.approx(wanted, rel=1e-9)


def test_a_known_move_gives_the_closed_form() -> None:
    still = gaussian(np.zeros(5), np.eye(5))
    moved = gaussian(np.full(5, 2.0), 9 * np.eye(5))
    assert frechet_distance(still, moved) == pytest.approx(5 * 4 + 5 * (3 - 1) ** 2)
    assert frechet_distance(moved, still) == frechet_distance(still, moved)
    assert frechet_distance(moved, moved) == pytest.approx(0, abs=1e-12)


def test_fewer_vectors_than_features_are_no_trouble() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(5, 40)), rng.normal(size=(7, 40)) + 0.5
    # From the vectors themselves: Σ = XᵀX / (N − 1), so tr((Σa·Σb)^½) is the sum of the singular values of Xa·Xbᵀ.
    x, y = ((each - each.mean(axis=0)) / np.sqrt(len(each) - 1) for each in (a, b))
    gap = a.mean(axis=0) - b.mean(axis=0)
    wanted = gap @ gap + (x**2).sum() + (y**2).sum() - 2 * linalg.svdvals(x @ y.T).sum()
    assert frechet_distance(Gaussian.of([a]), Gaussian.of([b])) == pytest.approx(wanted, rel=1e-9)


def test_features_that_never_change_are_no_trouble() -> None:
    flat, point = gaussian(np.zeros(4), np.diag([1.0, 0, 0, 0])), gaussian(np.zeros(4), np.zeros((4, 4)))
    assert frechet_distance(flat, point) == pytest.approx(1)
    assert frechet_distance(flat, flat) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(point, point) == 0


def test_order_and_length_of_the_pieces_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)) + 1e6  # where sums of squares would lose all digits
    shuffled = rng.permutation(vectors)
    pieces = np.split(shuffled, [1, 2, 50, 50, 299])
    whole, parts = Gaussian.of([vectors]), Gaussian.of(iter(pieces))
    halves = Gaussian.of(pieces[:3]) + Gaussian.of(pieces[3:])
    for fitted in (whole, parts, halves):
        assert fitted.count == 300
        np.testing.assert_allclose(fitted.mean, vectors.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(fitted.covariance, np.cov(vectors.T), rtol=1e-6, atol=1e-8)


def test_what_cannot_be_compared_is_refused() -> None:
    one, several = Gaussian.of([np.zeros((1, 3))]), Gaussian.of([np.eye(3)])
    with pytest.raises(DataError, match="no sound"):
        Gaussian.of([np.zeros((0, 3))])
    with pytest.raises(DataError, match="not finite"):
        Gaussian.of([np.array([[0.0, np.nan]])])
    with pytest.raises(DataError, match="One vector"):
        frechet_distance(one, several)
    with pytest.raises(MismatchError, match="3 elements"):
        frechet_distance(several, Gaussian.of([np.eye(4)]))
