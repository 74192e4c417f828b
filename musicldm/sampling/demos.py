"""The demos of a generator in training: its bundle made a pipeline, and each request one take."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from musicldm.core.bundle import Bundle
from musicldm.generators.base import DemoRequest
from musicldm.sampling.pipeline import Pipeline
from musicldm.sampling.request import Request
from musicldm.sampling.tasks import New


def render(source: Bundle, requests: Sequence[DemoRequest], device: str, precision: str) -> list[tuple[Tensor, int]]:
    """See `musicldm.generators.base.Render`."""
    pipeline = Pipeline(source, device, precision)

    def audio(demo: DemoRequest) -> Tensor:
        request = Request(take=demo.take, conditions=demo.conditions, options=demo.options)
        return pipeline.sample(New(demo.seconds), request)

    return [(audio(demo), pipeline.sample_rate) for demo in requests]
