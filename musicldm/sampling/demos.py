"""The demos of a generator in training: its bundle made a pipeline, and each request one take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from musicldm.codecs.base import LatentSpec
from musicldm.core.bundle import Bundle
from musicldm.generators.base import DemoRequest
from musicldm.media.notes.synth import DEMO_RATE, render_roll
from musicldm.sampling.pipeline import Pipeline
from musicldm.sampling.request import Request
from musicldm.sampling.tasks import New


def render(source: Bundle, requests: Sequence[DemoRequest], device: str, precision: str) -> list[tuple[Tensor, int]]:
    """See `musicldm.generators.base.Render`."""
    pipeline = Pipeline(source, device, precision)

    def audio(demo: DemoRequest) -> Tensor:
        request = Request(take=demo.take, conditions=demo.conditions, options=demo.options)
        return played(pipeline.sample(New(demo.seconds), request), pipeline.spec)

    rate = pipeline.sample_rate if pipeline.spec.medium == "audio" else DEMO_RATE
    return [(audio(demo), rate) for demo in requests]


def played(media: Tensor, spec: LatentSpec) -> Tensor:
    """Media [C, T] as it sounds: a waveform as it is, a roll by the built-in piano, [1, n] at `DEMO_RATE`."""
    if spec.medium == "audio":
        return media
    return torch.from_numpy(render_roll(media.numpy()))
