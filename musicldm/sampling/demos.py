"""The demos of a generator in training: its bundle made a pipeline, and each request one take."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from musicldm.core.bundle import Bundle
from musicldm.generators.base import DemoRequest
from musicldm.sampling.pipeline import Generator


def render(source: Bundle, requests: Sequence[DemoRequest], device: str, precision: str) -> list[tuple[Tensor, int]]:
    """See `musicldm.generators.base.Render`."""
    pipeline = Generator(source, device, precision)
    return [
        (
            pipeline.sample(request.seconds, take=request.take, **request.conditions, **(request.options or {})),
            pipeline.sample_rate,
        )
        for request in requests
    ]
