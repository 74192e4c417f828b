"""What a take is a function of, beside the model and the task."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from musicldm.conditions.base import CONDITIONS, USUAL
from musicldm.core.errors import UsageError

Setting = str | int | float | bool | tuple[float, float] | None
"""What a person gives for a field of `Request`, a condition or one of the generator's options."""


@dataclass(frozen=True)
class Request:
    """How to sample, whatever the task.

    Raises:
        UsageError: an impossible window.
    """

    seed: int = 0
    """The random seed."""
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


def request_of(settings: Mapping[str, Setting], options: type[Any]) -> Request:
    """A request from names and values: fields of `Request`, conditions, and the generator's own options.

    Args:
        options: the generator family's.

    Raises:
        UsageError: nobody knows a name, or a value makes no sense.
    """
    own = {each.name for each in fields(options)}
    general = {each.name for each in fields(Request)} - {"conditions", "options"}
    known = [*general, *own, *USUAL]
    for name in settings:
        # Looking for conditions of other packages takes time that the usual names need not cost.
        if name not in known and name not in (known := [*general, *own, *CONDITIONS.names()]):
            near = difflib.get_close_matches(name, known, n=1)
            raise UsageError(f"{name!r} is not a setting of this model.", f"Did you mean {near[0]}?" if near else "")
    return replace(
        Request(
            conditions={name: value for name, value in settings.items() if name not in own | general},
            options=options(**{name: value for name, value in settings.items() if name in own}),
        ),
        **{name: value for name, value in settings.items() if name in general},  # type: ignore[arg-type]
    )
