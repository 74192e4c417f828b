"""A bundle made ready to sample from: a codec, a generator, and the statistics of the latents between them.

Latents are normalised, [1, D, L], unless they are called raw, [D, L]; audio is [C, T] at the model's rate, on the CPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from musicldm import models
from musicldm.codecs.base import codec_of
from musicldm.core import bundle
from musicldm.core.devices import pick_device, pick_precision
from musicldm.core.errors import MismatchError, UsageError
from musicldm.core.names import counted
from musicldm.core.progress import Progress, silent
from musicldm.generators.base import GENERATORS, GeneratorFamily, LatentGenerator, LatentRequest
from musicldm.sampling.coder import Coder
from musicldm.sampling.request import Request, Setting, request_of
from musicldm.sampling.tasks import New, Task
from musicldm.sampling.windowing import STRETCH, WindowSize

Announce = Callable[[str], None]
"""Is called with a sentence that the user should read now."""


class About(TypedDict, total=False):
    """Those fields of a `LatentRequest` that differ from window to window and from task to task."""

    window: int
    known: Tensor | None
    mask: Tensor | None
    strength: float | None
    circular: bool
    seeds: tuple[int, int] | None
    weight: float


def _ignore(text: str) -> None:
    """For someone who does not listen."""


class Pipeline:
    """Everything from a seed, or from audio, to new audio.

        pipeline = Pipeline.load("piano")
        audio = pipeline.sample(seconds=10, seed=1, artist="Chopin", guidance=3)
        again = pipeline.sample(Vary(audio, strength=0.4), steps=20)

    On a CPU a result is a function of task and request and of nothing else.

    Args:
        source: a bundle with a codec and a generator.
        device: where to compute, as `pick_device` takes it.
        precision: of the generator, as `pick_precision` takes it.
        announce: is called with a sentence where the memory does not suffice and windows become shorter.

    Raises:
        BundleError: a component is missing or damaged.
        MismatchError: the generator was trained on another codec's latents.
    """

    def __init__(
        self, source: bundle.Bundle, device: str = "auto", precision: str = "auto", announce: Announce = _ignore
    ) -> None:
        component = source.component("generator")
        self.device = pick_device(device)
        self.precision = pick_precision(precision, self.device)
        self.announce = announce
        self.name, self.training = source.name, source.training("generator")
        self.hash = component.digest  # which names the codec, too
        self.codec = codec_of(source).to(self.device)
        self.spec = self.codec.spec
        # A sentence goes where `announce` leads by then: it may be set later.
        self.coder = Coder(self.codec, lambda text: self.announce(text))
        self.family: GeneratorFamily = GENERATORS.load(component.kind)
        self.generator: LatentGenerator = self.family.from_component(
            component, self.device, self.precision, self._on_halved
        )
        if self.generator.codec_hash != self.spec.codec_hash:
            raise MismatchError(
                f"The generator of {source.name} was trained on the latents of another codec.", bundle.REPAIR_HINT
            )

        # A scale for each channel: one of a single number would do for all of them, and sound wrong without a word.
        scaled, made = len(self.generator.statistics.mean), self.generator.channels
        if not scaled == made == self.spec.channels:
            raise MismatchError(
                f"The parts of {source.name} do not fit each other: {self.spec.channels} latent channels of the codec, "
                f"{made} of the generator, {scaled} in its statistics.",
                bundle.REPAIR_HINT,
            )

    @classmethod
    def load(
        cls, path: Path | str, device: str = "auto", precision: str = "auto", announce: Announce = _ignore
    ) -> Pipeline:
        """From whatever `models.find` takes: a bundle's folder, a run's, a model's name."""
        return cls(bundle.read(models.find(path)), device, precision, announce)

    @property
    def sample_rate(self) -> int:
        return self.spec.rate

    @property
    def channels(self) -> int:
        """C."""
        return self.spec.media_channels

    def provenance(self) -> dict[str, Any]:
        """Whose music the generator was trained on: how many tracks, the 50 most frequent artists, the licences."""
        tracks = [track for track in self.training.tracks if track.split == "train"]
        artists = counted(track.artist for track in tracks)
        licences = Counter(str(track.provenance.get("licence") or "unknown") for track in tracks)
        return {
            "tracks": len(tracks),
            "artists": {name or "unknown": count for name, count in list(artists.items())[:50]},
            "licences": dict(licences.most_common(50)),
        }

    # ---- Tasks -----------------------------------------------------------------------------------------------------

    def sample(
        self,
        task: Task | None = None,
        request: Request | None = None,
        *,
        seconds: float = 10.0,
        progress: Progress = silent,
        **settings: Setting,
    ) -> Tensor:
        """The result of a task, [C, T]: `stream`, as a whole."""
        return torch.cat(list(self.stream(task, request, seconds=seconds, progress=progress, **settings)), dim=1)

    def stream(
        self,
        task: Task | None = None,
        request: Request | None = None,
        *,
        seconds: float = 10.0,
        progress: Progress = silent,
        **settings: Setting,
    ) -> Iterator[Tensor]:
        """The result of a task, piece by piece [C, n], never beyond full scale but for what a file had already.

        Args:
            task: None: new music, of so many `seconds`.
            request: how; or else `settings`, which are the arguments of `request`.
            progress: is called with the steps of the generator that are done.

        Raises:
            UsageError: an option that makes no sense, here or of the task; see its class.
            NotFoundError: a condition that the model does not know, such as an artist.
            DataError: audio that cannot be used: too short, of other channels, or not finite.
            CapacityError: the memory does not hold even a short window.
        """
        if request is not None and settings:
            raise UsageError(
                "A request was given together with separate settings.", "Put the settings into the request."
            )
        request = self.request(**settings) if request is None else request
        return (New(seconds) if task is None else task).run(self, request, progress)

    def latents(
        self, frames: int, request: Request | None = None, progress: Progress = silent, **settings: Setting
    ) -> Tensor:
        """One new take of raw latents [D, L]."""
        from musicldm.sampling.running import continued

        request = self.request(**settings) if request is None else request
        self.check(New(), request)
        return self.raw(torch.cat(list(continued(self, request, frames, progress)), dim=-1))

    def request(self, **settings: Setting) -> Request:
        """A request from names and values: fields of `Request`, conditions and the generator's own options.

        Raises:
            UsageError: nobody knows a name, or a value makes no sense.
        """
        return request_of(settings, self.family.options)

    def check(self, task: Task, request: Request, strength: float | None = None) -> None:
        """Refuse what this model cannot do, before anything is computed.

        Raises:
            UsageError, NotFoundError: for that reason.
        """
        if task.name not in self.generator.tasks:
            can = ", ".join(sorted(self.generator.tasks))
            raise UsageError(f"{self.family.name} cannot do {task.name!r}.", f"It can do {can}.")
        self.generator.check(self._latent_request(request, 1, strength=strength))

    # ---- What tasks are made of ------------------------------------------------------------------------------------

    def window_size(self, request: Request) -> WindowSize:
        """How many frames may be generated at once, as far as the memory is known."""
        natural, multiple = self.generator.natural_window(self.training.crop_seconds), self.generator.multiple
        usual, longest = (self._frames(request.window or seconds) for seconds in (natural, STRETCH * natural))
        return WindowSize.of(usual, longest, multiple, self.generator.limit)

    def generate(self, request: Request, progress: Progress, frames: int, **about: Unpack[About]) -> Tensor:
        """One window of so many frames."""
        return self.generator.generate(self._latent_request(request, frames, **about), progress)

    def raw(self, z: Tensor) -> Tensor:
        """Normalised latents [1, D, L] -> raw ones [D, L]."""
        # Whatever the precision of the generator, latents are scaled and decoded in 32 bits.
        return self.generator.statistics.denormalise(z.float())[0]

    def encode(self, audio: Tensor) -> Tensor:
        """Audio -> normalised latents; see `Coder.encode`."""
        return self.generator.statistics.normalise(self.coder.encode(audio))[None].to(self.device)

    def decode(self, raw: Tensor) -> Tensor:
        """Raw latents -> audio; see `Coder.decode`."""
        return self.coder.decode(raw)

    def _latent_request(self, request: Request, frames: int, **about: Unpack[About]) -> LatentRequest:
        return LatentRequest(
            frames,
            seed=request.seed,
            take=request.take,
            conditions=request.conditions,
            at_once=self.window_size(request).at_once(frames),
            options=request.options,
            **about,
        )

    def _on_halved(self, frames: int) -> None:
        seconds = frames * self.spec.hop / self.spec.rate
        self.announce(f"Not enough memory: continuing in windows of {seconds:.3g} s.")

    def _frames(self, seconds: float) -> int:
        return max(1, self.spec.frames(round(seconds * self.spec.rate)))
