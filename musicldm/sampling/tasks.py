"""What can be made: one dataclass for each task, in one table that the command line, Python and `--replay` read.

A new task is one class here, its line in `TASKS`, and the function that runs it in `running.py`. This module loads no
torch: the command line reads the table before it knows whether there is anything to do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from musicldm.core.errors import UsageError
from musicldm.core.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from musicldm.codecs.base import LatentSpec
    from musicldm.sampling.pipeline import Pipeline
    from musicldm.sampling.request import Request

Seconds = tuple[float, float]
"""A span of a file: where it begins and where it ends."""


class Form(NamedTuple):
    """How a sound is sampled."""

    rate: int
    """Samples a second."""
    channels: int


@dataclass(frozen=True)
class Original:
    """A file at its own rate and with its own channels."""

    audio: Tensor
    """[C, T]; C is 1 or 2."""
    rate: int

    @property
    def form(self) -> Form:
        return Form(self.rate, len(self.audio))


class Lengths(NamedTuple):
    """Of what comes out of a task, in samples."""

    samples: int
    new: int
    """How many of these are made: the others were there before."""


@dataclass(frozen=True)
class Given:
    """Everything that any task may be built from: what a command line says."""

    sounds: Sequence[Tensor] = ()
    """Each [C, T]."""
    originals: Sequence[Original | None] = ()
    """The same as the files have them, where that differs and is to be kept."""
    seconds: float = 10.0
    strength: float = 0.6
    spans: Sequence[Seconds] = ()
    seeds: tuple[int, int] = (0, 0)
    weight: float = 0.5
    """Between two: 0 the first, 1 the second."""


class Task(ABC):
    """One thing to make. Subclasses are frozen dataclasses of what it is made from."""

    name: ClassVar[str]
    """In `TASKS`, in sidecars and among what a generator says that it can do."""
    option: ClassVar[str] = ""
    """What chooses it on the command line; empty: it is what happens without any."""
    takes: ClassVar[frozenset[str]]
    """Those options of the command line that go with some tasks only, and with this one."""
    keeps_input: ClassVar[bool] = False
    """Whether a part of a file comes out as it was, to the last bit."""
    is_between: ClassVar[bool] = False
    """Whether takes are steps from one thing to another."""

    @classmethod
    @abstractmethod
    def of(cls, given: Given) -> Task:
        """The task for what is given."""

    def form(self, spec: LatentSpec) -> Form:
        """How the result is sampled: as the model is, unless a file is kept."""
        return Form(spec.rate, spec.media_channels)

    @abstractmethod
    def lengths(self, spec: LatentSpec) -> Lengths:
        """How long the result is, in its own samples.

        Raises:
            UsageError: there would be no result, or no end of it.
        """

    @abstractmethod
    def run(self, pipeline: Pipeline, request: Request, progress: Progress) -> Iterator[Tensor]:
        """The result in pieces [C, n], on the CPU; see `Pipeline.stream`."""


@dataclass(frozen=True)
class New(Task):
    """New music. What is longer than a window comes piece by piece, in memory that does not depend on the length."""

    seconds: float = 10.0

    name = "new"
    takes = frozenset({"seed", "seconds", "bars", "take", "joint", "normalize", "repaint", "tempo", "meter"})

    @classmethod
    def of(cls, given: Given) -> New:
        return cls(given.seconds)

    def lengths(self, spec: LatentSpec) -> Lengths:
        samples = samples_of(self.seconds, spec.rate)
        return Lengths(samples, samples)

    def run(self, pipeline: Pipeline, request: Request, progress: Progress) -> Iterator[Tensor]:
        # Here and in the other tasks so late, because `running` loads torch.
        from musicldm.sampling import running

        return running.new(self, pipeline, request, progress)


@dataclass(frozen=True)
class Vary(Task):
    """Audio [C, T] made anew from `strength` of the way to noise: near 0 it stays, at 1 it is forgotten."""

    audio: Tensor
    strength: float = 0.6

    name = "vary"
    option = "--vary"
    takes = frozenset({"seed", "take", "strength", "normalize", "tempo", "meter"})

    @classmethod
    def of(cls, given: Given) -> Vary:
        return cls(given.sounds[0], given.strength)

    def lengths(self, spec: LatentSpec) -> Lengths:
        return Lengths(self.audio.shape[1], self.audio.shape[1])

    def run(self, pipeline: Pipeline, request: Request, progress: Progress) -> Iterator[Tensor]:
        from musicldm.sampling import running

        return running.vary(self, pipeline, request, progress)


@dataclass(frozen=True)
class Infill(Task):
    """Audio [C, T] with the spans, in seconds, made anew.

    All that lies further than a short fade from a span is kept to the last bit: of the `original`, where there is one,
    which is the same music at another rate or with other channels. What is made is then brought to its form.
    """

    audio: Tensor
    spans: Sequence[Seconds]
    original: Original | None = None

    name = "infill"
    option = "--infill"
    takes = frozenset({"seed", "take", "start", "stop", "repaint"})
    keeps_input = True

    @classmethod
    def of(cls, given: Given) -> Infill:
        return cls(given.sounds[0], given.spans, *given.originals[:1])

    def form(self, spec: LatentSpec) -> Form:
        return self.original.form if self.original else super().form(spec)

    def lengths(self, spec: LatentSpec) -> Lengths:
        whole, rate = self.original.audio if self.original else self.audio, self.form(spec).rate
        return Lengths(whole.shape[1], sum(round((last - first) * rate) for first, last in self.spans))

    def run(self, pipeline: Pipeline, request: Request, progress: Progress) -> Iterator[Tensor]:
        from musicldm.sampling import running

        return running.infill(self, pipeline, request, progress)


@dataclass(frozen=True)
class Extend(Task):
    """Audio [C, T] and then so many seconds more, piece by piece; all but a short fade at its end is kept as it is.

    It begins to come once the first of what is new is there. An `original` is kept as `Infill` keeps it.
    """

    audio: Tensor
    seconds: float = 10.0
    original: Original | None = None

    name = "extend"
    option = "--extend"
    takes = frozenset({"seed", "seconds", "bars", "take", "joint", "repaint"})
    keeps_input = True

    @classmethod
    def of(cls, given: Given) -> Extend:
        return cls(given.sounds[0], given.seconds, *given.originals[:1])

    def form(self, spec: LatentSpec) -> Form:
        return self.original.form if self.original else super().form(spec)

    def lengths(self, spec: LatentSpec) -> Lengths:
        new = samples_of(self.seconds, self.form(spec).rate)
        return Lengths((self.original.audio if self.original else self.audio).shape[1] + new, new)

    def run(self, pipeline: Pipeline, request: Request, progress: Progress) -> Iterator[Tensor]:
        from musicldm.sampling import running

        return running.extend(self, pipeline, request, progress)


@dataclass(frozen=True)
class Interpolate(Task):
    """Between audio a and b, each [C, T], as far as the shorter goes: weight 0 is near a, weight 1 near b.

    Their latents are mixed along the great circle, get the same noise, and are made anew (Ho et al. 2020, §4.3).
    """

    a: Tensor
    b: Tensor
    weight: float = 0.5
    strength: float = 0.6

    name = "interpolate"
    option = "--interpolate"
    takes = frozenset({"seed", "strength", "normalize", "tempo", "meter"})
    is_between = True

    @classmethod
    def of(cls, given: Given) -> Interpolate:
        return cls(given.sounds[0], given.sounds[1], given.weight, given.strength)

    def lengths(self, spec: LatentSpec) -> Lengths:
        samples = min(self.a.shape[1], self.b.shape[1])
        return Lengths(samples, samples)

    def run(self, pipeline: Pipeline, request: Request, progress: Progress) -> Iterator[Tensor]:
        from musicldm.sampling import running

        return running.interpolate(self, pipeline, request, progress)


@dataclass(frozen=True)
class InterpolateSeeds(Task):
    """Between the new takes of two seeds: all noise is on the great circle between theirs."""

    seeds: tuple[int, int]
    seconds: float = 10.0
    weight: float = 0.5

    name = "interpolate_seeds"
    option = "--interpolate-seeds"
    takes = frozenset({"seconds", "bars", "normalize", "tempo", "meter"})
    is_between = True

    @classmethod
    def of(cls, given: Given) -> InterpolateSeeds:
        return cls(given.seeds, given.seconds, given.weight)

    def lengths(self, spec: LatentSpec) -> Lengths:
        samples = samples_of(self.seconds, spec.rate)
        return Lengths(samples, samples)

    def run(self, pipeline: Pipeline, request: Request, progress: Progress) -> Iterator[Tensor]:
        from musicldm.sampling import running

        return running.interpolate_seeds(self, pipeline, request, progress)


@dataclass(frozen=True)
class Loop(Task):
    """New music whose end leads into its beginning: as many whole latent frames as cover the seconds."""

    seconds: float = 10.0

    name = "loop"
    option = "--loop"
    takes = frozenset({"seed", "seconds", "bars", "take", "normalize", "tempo", "meter"})

    @classmethod
    def of(cls, given: Given) -> Loop:
        return cls(given.seconds)

    def lengths(self, spec: LatentSpec) -> Lengths:
        samples = spec.frames(samples_of(self.seconds, spec.rate)) * spec.hop
        return Lengths(samples, samples)

    def run(self, pipeline: Pipeline, request: Request, progress: Progress) -> Iterator[Tensor]:
        from musicldm.sampling import running

        return running.loop(self, pipeline, request, progress)


TASKS: dict[str, type[Task]] = {
    task.name: task for task in (New, Vary, Infill, Extend, Interpolate, InterpolateSeeds, Loop)
}


def samples_of(seconds: float, rate: int) -> int:
    """Samples of a piece of so many seconds.

    Raises:
        UsageError: there would be none, or no end of them.
    """
    samples = seconds * rate
    # Python rounds 0.5 to 0, and beyond 2⁵³ a float does not hold every whole number. NaN fails both comparisons.
    if not 0.5 < samples < 2**53:
        raise UsageError(f"{seconds:g} seconds cannot be sampled.", "Expected at least one sample, such as 30 seconds.")
    return round(samples)
