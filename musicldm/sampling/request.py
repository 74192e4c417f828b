"""What a take is a function of, beside the model and the task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from musicldm.core.errors import UsageError


@dataclass(frozen=True)
class Request:
    """How to sample, whatever the task.

    Raises:
        UsageError: an impossible window.
    """

    seed: int = 0
    """Where all chance comes from."""
    take: int = 0
    """Which of the takes of this seed; each is independent of how many there are."""
    conditions: Mapping[str, object] = field(default_factory=dict)
    """By their names, such as {"artist": "Chopin:0.7,Bach:0.3"}; None and "" stand for an absent condition."""
    options: object | None = None
    """The generator's own: an instance of its family's `options`; None: its defaults."""
    window: float | None = None
    """Seconds that are generated at once, at most; None: what suits the generator."""
    joint: bool = False
    """Of a long piece: all windows together rather than one after another."""

    def __post_init__(self) -> None:
        if self.window is not None and not 0 < self.window < math.inf:
            raise UsageError(f"A window of {self.window:g} seconds is not a valid window: expected more than 0.")
