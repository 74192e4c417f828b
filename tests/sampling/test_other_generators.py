"""The pipeline over a generator that is no diffusion model: it has no steps, and cannot do every task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from musicldm.conditions.base import ConditionConfig, ConditionSet
from musicldm.core import bundle
from musicldm.core.bundle import Component
from musicldm.core.errors import UsageError
from musicldm.core.progress import Progress, silent
from musicldm.generators.base import GENERATORS, GeneratorFamily, LatentGenerator, LatentRequest
from musicldm.latents.statistics import LatentStatistics
from musicldm.sampling import Extend, Loop, New, Pipeline
from tests.toy_model import RATE, chord, toy_bundle
from tests.toys import Command


@dataclass(frozen=True)
class NoiseOptions:
    """Its only option."""

    loudness: float = 1.0


class Noise(LatentGenerator):
    """White latents."""

    name = "noise"
    tasks = frozenset({"new", "extend"})
    channels = 4
    multiple = 8

    def __init__(self, component: Component, *_: Any) -> None:
        self.codec_hash: str = component.config["codec"]
        self.statistics = LatentStatistics(1, (0.0,) * 4, (1.0,) * 4)
        self.conditions = ConditionSet(ConditionConfig(names=()), 1)

    def generate(self, request: LatentRequest, progress: Progress = silent) -> Tensor:
        assert request.frames % self.multiple == 0
        options = request.options or NoiseOptions()
        rng = torch.Generator().manual_seed(1000 * request.seed + request.window)
        z = options.loudness * torch.randn(1, 4, request.frames, generator=rng)
        progress(1, 1, "")
        return z if request.known is None else torch.where(request.mask, request.known, z)  # type: ignore[arg-type]


def nothing(*_: Any) -> Any:
    raise NotImplementedError


FAMILY = GeneratorFamily(
    name="noise",
    package=__name__,
    from_component=Noise,
    run_config=NoiseOptions,
    train=nothing,
    rehearsal=nothing,
    options=NoiseOptions,
    describe=nothing,
)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> bundle.Bundle:
    monkeypatch.setitem(GENERATORS._entries, "noise", f"{__name__}:FAMILY")
    whole = toy_bundle()
    component = Component("noise", {"codec": whole.components["codec"].digest}, {"weight": torch.zeros(1)})
    return replace(whole, components={**whole.components, "generator": component})


def test_what_it_can_do(source: bundle.Bundle) -> None:
    pipeline = Pipeline(source, "cpu")
    for task, samples in ((New(1.0), RATE), (New(40.0), 40 * RATE), (Extend(chord(), 2.0), 6 * RATE)):
        audio = pipeline.sample(task, seed=1)
        assert audio.shape == (1, samples) and audio.isfinite().all()
        assert torch.equal(audio, pipeline.sample(task, seed=1))
    assert not torch.equal(pipeline.sample(New(1.0), loudness=0.5), pipeline.sample(New(1.0)))


def test_what_it_cannot(source: bundle.Bundle) -> None:
    pipeline = Pipeline(source, "cpu")
    with pytest.raises(UsageError, match="cannot do 'loop'"):
        pipeline.sample(Loop(1.0))
    with pytest.raises(UsageError, match="not a setting"):
        pipeline.sample(seconds=1.0, steps=3)


def test_by_the_command(source: bundle.Bundle, musicldm: Command, tmp_path: Path) -> None:
    bundle.write(tmp_path / "model", source)
    model = ["sample", "-m", tmp_path / "model", "--seconds", 1, "-o", tmp_path / "out.wav", "--device", "cpu"]
    done = musicldm(*model, "--steps", 3)
    assert done.code == 2 and "--steps does not go with a noise model" in done.err
    assert musicldm(*model).code == 0
    assert musicldm("sample", "--replay", tmp_path / "out.wav", "-o", tmp_path / "again.wav").code == 0
    assert (tmp_path / "again.wav").read_bytes() == (tmp_path / "out.wav").read_bytes()
