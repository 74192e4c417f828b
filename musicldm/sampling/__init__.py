"""Seed -> normalised latents -> raw latents -> waveform: a bundle made ready to sample from, and its tasks.

The public names arrive when first used: the command line reads the table of tasks without loading torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from musicldm.sampling.pipeline import Pipeline
    from musicldm.sampling.request import Request
    from musicldm.sampling.tasks import (
        TASKS,
        Extend,
        Infill,
        Interpolate,
        InterpolateSeeds,
        Loop,
        New,
        Original,
        Task,
        Vary,
    )

_PUBLIC = {
    "Pipeline": "pipeline",
    "Request": "request",
    **dict.fromkeys(
        ("TASKS", "Extend", "Infill", "Interpolate", "InterpolateSeeds", "Loop", "New", "Original", "Task", "Vary"),
        "tasks",
    ),
}

__all__ = [
    "TASKS",
    "Extend",
    "Infill",
    "Interpolate",
    "InterpolateSeeds",
    "Loop",
    "New",
    "Original",
    "Pipeline",
    "Request",
    "Task",
    "Vary",
]


if not TYPE_CHECKING:  # to a type checker, a name that is not there is not there

    def __getattr__(name: str) -> Any:
        if name in _PUBLIC:
            return getattr(import_module(f"musicldm.sampling.{_PUBLIC[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
