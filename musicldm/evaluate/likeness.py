"""How like a reference's the overlaps of neighbouring windows are, in notes as in audio (Mittal et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Likeness:
    """How like the reference's the overlaps are: from 0 to 1, where their distributions agree."""

    consistency: float | None
    """max(0, 1 − |μ − μ'| / μ'), of the means: is it as consistent as the reference?"""
    variance: float | None
    """max(0, 1 − |σ² − σ'²| / σ'²), of the variances: is it consistent now more, now less, as the reference is?"""


def likeness(those: Sequence[float], reference: Sequence[float]) -> Likeness:
    """Consistency and variance of Mittal et al. 2021. None where there is nothing to compare with."""
    if not len(those) or not len(reference):
        return Likeness(None, None)

    def near(value: float, wanted: float) -> float | None:
        return max(0.0, 1 - abs(value - wanted) / wanted) if wanted > 1e-12 else None

    enough = len(those) > 1 and len(reference) > 1
    return Likeness(
        near(float(np.mean(those)), float(np.mean(reference))),
        near(float(np.var(those)), float(np.var(reference))) if enough else None,
    )
