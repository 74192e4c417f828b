"""Fréchet distance between Gaussians fitted to the features of two sets of sounds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from musicldm.core.errors import DataError, MismatchError
from musicldm.evaluate.features import Floats


@dataclass(frozen=True)
class Gaussian:
    """The sufficient statistics of `count` feature vectors, in float64: of fixed size, however many there are."""

    count: int
    mean: Floats
    """[F]."""
    scatter: Floats
    """The sum of the outer products of the deviations from the mean, [F, F]."""

    @classmethod
    def of(cls, features: Iterable[Floats]) -> Gaussian:
        """Fitted to vectors that come in pieces [n, F], whose order and length do not matter.

        Raises:
            DataError: there are none, or some are not finite.
        """
        total: Gaussian | None = None
        for piece in features:
            if len(piece):
                part = cls._of_piece(piece)
                total = part if total is None else total + part
        if total is None:
            raise DataError("There is no sound to measure, or it is too short.", "Give it more or longer sounds.")
        return total

    @classmethod
    def _of_piece(cls, vectors: Floats) -> Gaussian:
        if not np.isfinite(vectors).all():
            raise DataError("The features of a sound are not finite.", "Check that its samples are.")
        mean = vectors.mean(axis=0)
        apart = vectors - mean
        return cls(len(vectors), mean, apart.T @ apart)

    def __add__(self, other: Gaussian) -> Gaussian:
        """That of both sets of vectors together (Chan, Golub & LeVeque 1979)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        return Gaussian(
            count,
            self.mean + apart * (other.count / count),
            self.scatter + other.scatter + np.outer(apart, apart) * (self.count * other.count / count),
        )

    @property
    def covariance(self) -> Floats:
        """The unbiased estimate, [F, F].

        Raises:
            DataError: one vector has none.
        """
        if self.count < 2:
            raise DataError("One vector has no covariance.", "Measure more or longer sounds.")
        # Divided by n − 1, as NumPy's `cov` does and FAD's usual code with it, so that figures can be compared.
        return self.scatter / (self.count - 1)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """‖μa − μb‖² + tr(Σa + Σb − 2·(Σa·Σb)^½)  (Dowson & Landau 1982, eq. 4), in squared units of the features.

    Correct for covariances of any rank.

    Raises:
        MismatchError: the two have different features.
        DataError: one of them is of a single vector.
    """
    if a.mean.shape != b.mean.shape:
        raise MismatchError(f"Features of {len(a.mean)} elements cannot be compared with features of {len(b.mean)}.")
    first, second = a.covariance, b.covariance
    # Σa·Σb is similar to M·Mᵀ for M = Σa^½·Σb^½, so the trace of its root is the sum of M's singular values.
    cross = np.linalg.svd(_square_root(first) @ _square_root(second), compute_uv=False).sum()
    gap = a.mean - b.mean
    # Of equal Gaussians the terms cancel, and rounding may leave a little less than nothing.
    return max(0.0, float(gap @ gap + np.trace(first) + np.trace(second) - 2 * cross))


def _square_root(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh(matrix)
    # What rounding left of a zero eigenvalue is no variance: its root would be 10⁸ times as large.
    values[values < len(values) * np.finfo(float).eps * values[-1]] = 0
    root: Floats = (vectors * np.sqrt(values)) @ vectors.T
    return root
