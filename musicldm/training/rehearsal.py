"""A training step that can be tried without any data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from musicldm.training.config import TrainingConfig
from musicldm.training.trainable import Trainable


@dataclass(frozen=True)
class Rehearsal:
    """What it takes to try a step of a training, to find out how much memory it needs."""

    make: Callable[[TrainingConfig, int], tuple[Trainable[Any], Any]]
    """A fresh module for a training, and a micro-batch of so many crops for it."""
    shortest: float
    """The least seconds of a crop that the model allows."""
