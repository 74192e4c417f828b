"""How far a training is, and what became of its latest step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from musicldm.core.bundle import TrackFacts
from musicldm.core.config import Count, from_dict


@dataclass
class TrainState:
    """Progress and history of a training: with the tensors, all that a checkpoint must hold."""

    step: Count = 0
    """Optimizer steps that count."""
    position: Count = 0
    """Batches drawn so far, also those whose step does not count: data and noise are a function of it."""
    lr_factor: float = 1.0
    """Of the learning rate; halved at every rollback."""
    rollbacks: int = 0
    """To the last good checkpoint."""
    rolled_back_to: int = -1
    """The step that the latest rollback led to."""
    overflows: int = 0
    """Consecutive steps that did not count because their gradients left the range of 16 bits."""
    loss_mean: float = 0.0
    """Of the loss's logarithm, over recent steps."""
    loss_variance: float = 0.0
    """Likewise."""
    best_loss: float = math.inf
    """The lowest held-out loss."""


@dataclass(frozen=True)
class StepResult:
    """What became of a batch."""

    counted: bool
    """Whether the step was made."""
    terms: dict[str, float] = field(default_factory=dict)
    """The terms of the loss over the whole batch, the norm of the gradient, and the learning rate as `rate`."""
    fault: str = ""
    """Why the training must go back to its last checkpoint; the rest of a sentence that begins with the loss."""
    micro_batches: tuple[int, ...] = ()
    """Those of the batch where the fault lies; empty: anywhere."""


@dataclass(frozen=True)
class Origin:
    """The bundle whose weights were the first ones."""

    name: str
    digest: str
    """Of the component."""
    tracks: tuple[TrackFacts, ...] = ()
    """What it was trained on, and what it held out."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as a checkpoint keeps it."""
        return {"name": self.name, "digest": self.digest, "tracks": [asdict(track) for track in self.tracks]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Origin:
        """The reverse of `to_dict`.

        Raises:
            ConfigError: it is not.
        """
        return from_dict(cls, dict(data), unknown="pass over")
