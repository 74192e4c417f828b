"""What all takes of a `musicldm sample` share, whatever the model makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from musicldm.cli.console import Console
from musicldm.cli.sample_options import SampleOptions
from musicldm.sampling.tasks import Task

if TYPE_CHECKING:
    from musicldm.sampling import Pipeline
    from musicldm.sampling.request import Request


@dataclass(frozen=True)
class Session:
    """A command, ready to make takes."""

    options: SampleOptions
    given: frozenset[str]
    task: type[Task]
    of: int
    """How many takes there are between two things."""
    pipeline: Pipeline
    console: Console

    def weight(self, take: int) -> float:
        """Between two things: how near to the second a take is."""
        return (take - 1) / (self.of - 1) if self.of > 1 else 0.5

    def request(self, take: int) -> Request:
        """How a take is sampled."""
        # Between two things the noise is the same throughout.
        number = 0 if self.task.is_between else take - 1
        return self.options.request(self.pipeline.family, number, self.given)
