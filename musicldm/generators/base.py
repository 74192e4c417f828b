"""What every generator is to the rest of the package: a request -> normalised latents [1, D, L].

A generator is one folder. Its line in `GENERATORS` names a `GeneratorFamily`, by which commands build, train and
describe it; nothing outside that folder names it anywhere else. This module loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from musicldm.core.progress import Progress
from musicldm.core.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from musicldm.conditions.base import ConditionConfig, ConditionSet, Source
    from musicldm.core.bundle import Bundle
    from musicldm.latents.schema import StoreHeader
    from musicldm.latents.statistics import LatentStatistics
    from musicldm.training.config import PlanConfig, TrainingConfig
    from musicldm.training.loop import TrainingResult
    from musicldm.training.rehearsal import Rehearsal

GENERATORS = Registry("generator", {"diffusion": "musicldm.generators.diffusion:FAMILY"})

OnHalved = Callable[[int], None]
"""Is called with the frames that are generated at once from now on, where the memory did not hold more."""


@dataclass(frozen=True)
class LatentRequest:
    """What a pipeline asks of any generator: one window of normalised latents [1, D, L]."""

    frames: int
    """L."""
    seed: int = 0
    """The random seed."""
    take: int = 0
    """Which of the takes of this seed; each is independent of how many there are."""
    window: int = 0
    """Which of the take's windows this is: each has its own noise."""
    known: Tensor | None = None
    """Latents [1, D, L] to start from, or to keep where `mask` says so."""
    mask: Tensor | None = None
    """Where `known` is kept: bool [1, 1, L]; None: nowhere."""
    strength: float | None = None
    """How far from `known` to go, in (0, 1]: near 0 it stays, at 1 it is forgotten; None: there is nothing to vary."""
    circular: bool = False
    """Whether the end goes on with the beginning."""
    conditions: Mapping[str, object] = field(default_factory=dict)
    """What a person asks for, by the conditions' names."""
    seeds: tuple[int, int] | None = None
    """Two seeds between whose noise to interpolate, in place of `seed`."""
    weight: float = 0.0
    """Of the second of the two seeds, from 0 to 1."""
    at_once: int | None = None
    """Frames that may be made at once; None: as many as the generator likes."""
    options: Any = None
    """The family's own dataclass of options; None: its defaults."""


class LatentGenerator(Protocol):
    """A trained generator, ready to use. A class that derives from this one has what is optional already."""

    name: str
    """Of its family, in `GENERATORS`."""
    tasks: frozenset[str]
    """The names of the tasks that it can do: new, vary, infill, extend, interpolate, loop …"""
    statistics: LatentStatistics
    """Of the latents that it was trained on: by these its own are normalised."""
    codec_hash: str
    """The digest of the codec whose latents these are."""

    channels: int
    """D."""
    multiple: int
    """Lengths are multiples of so many frames; 1 where it does not matter."""
    conditions: ConditionSet
    """What it can be conditioned on."""
    limit: int | None = None
    """Frames that the memory is known to hold at once; None: no limit has shown yet."""

    def natural_window(self, trained: float) -> float:
        """Seconds that it makes best at once, having been trained on crops of so many (0: that is not known)."""
        return trained or 16.0

    def compile(self) -> None:
        """Compile the network, where it has one to compile: pays off over many takes."""

    def check(self, request: LatentRequest) -> None:
        """Refuse what `generate` would, before anything is computed.

        Raises:
            UsageError, NotFoundError: as `generate`.
        """

    def generate(self, request: LatentRequest, progress: Progress) -> Tensor:
        """Make normalised latents [1, D, L] as requested. On a CPU the result is a function of the request alone.

        Raises:
            UsageError, NotFoundError: an option or a condition that makes no sense for this model.
            CapacityError: the memory does not suffice.
        """

    def remaining_error(self, z: Tensor) -> float | None:
        """How much of the error of a guess by loudness alone it leaves on these normalised latents [B, D, L]: 1 where
        it has learned nothing of them; None where that cannot be said of this kind of generator."""
        return None


@dataclass(frozen=True)
class DemoRequest:
    """Something to hear of a generator in training."""

    title: str
    """What it is called, which can be part of a file's name."""
    seconds: float
    """Its length."""
    take: int = 0
    """Which of the takes of seed 0."""
    conditions: Mapping[str, object] = field(default_factory=dict)
    """What it is conditioned on."""
    options: Any = None
    """The family's own dataclass of options; None: its defaults."""


class Render(Protocol):
    """Makes demos heard. A training has no codec of its own to decode with: whoever starts it hands this in."""

    def __call__(
        self, source: Bundle, requests: Sequence[DemoRequest], device: str, precision: str
    ) -> list[tuple[Tensor, int]]:
        """The waveform [C, T] of each request, and its sample rate."""


class ModelConfig(Protocol):
    """A dataclass by which a generator is built; its plain data stand in bundles, and digests go by them."""

    @property
    def conditions(self) -> ConditionConfig:
        """What the model is conditioned on."""

    @property
    def multiple(self) -> int:
        """Crops are a multiple of this many latent frames."""

    def fitted(self, channels: int, source: Source | None = None) -> Self:
        """The same for latents of so many channels, with what conditions take from the music to train on."""


class RunConfig(Protocol):
    """The dataclass of a whole training of a generator, as a preset or a TOML file gives it."""

    @property
    def model(self) -> ModelConfig: ...

    @property
    def training(self) -> TrainingConfig: ...

    @property
    def plan(self) -> PlanConfig | None:
        """What was requested, where `training` is what a memory plan made of it."""


@dataclass(frozen=True)
class NoOptions:
    """The sampling options of a generator that has none."""


class Train(Protocol):
    """A latent store -> a trained generator."""

    def __call__(
        self,
        store: Path | str,
        run: Path,
        config: Any,
        device: torch.device,
        progress: Progress,
        announce: Callable[[str], None],
        skip_broken: bool,
        init_from: Path | None,
        render: Render | None,
        dry_run: bool,
        /,
    ) -> TrainingResult:
        """Train in the folder `run` on the latents of `store`.

        Args:
            config: an instance of the family's `run_config`.
            announce: is called with what a person should read at once.
            skip_broken: leave out the tracks that are damaged.
            init_from: a bundle whose weights are the first ones; None: random ones.
            render: makes demos heard; None: there are none.
            dry_run: only raise what a training would raise before its first step.
        """


@dataclass(frozen=True)
class GeneratorFamily:
    """A kind of generator, as the commands know it: where its presets lie, how it is read, trained and described."""

    name: str
    """In `GENERATORS`."""
    package: str
    """The package whose `presets/` folder has its presets; `tiny` is always among them."""
    from_component: Callable[..., LatentGenerator]
    """(component, device, precision, on_halved) -> the generator of a bundle, in evaluation mode; see `OnHalved`."""
    run_config: type[Any]
    """The dataclass of a whole training: a `RunConfig` whose fields have defaults, with what else it needs."""
    train: Train
    """Trains one, in a run folder that it resumes where there is one."""
    rehearsal: Callable[[Any, StoreHeader], Rehearsal]
    """A run's configuration and the header of its store -> a step to try, by which its memory is planned."""
    options: type[Any]
    """The dataclass of its own sampling options."""
    describe: Callable[[Any], list[tuple[str, str]]]
    """A model's configuration -> facts about it, each with its name."""
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict
    """A run's configuration, or a part of it, as an earlier release wrote it -> as `run_config` has it."""
