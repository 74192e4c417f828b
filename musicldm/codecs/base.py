"""What every codec is to the rest of the package: media <-> raw latents, and a spec that tells their form.

    name ─CODECS─> CodecFamily ─from_bundle─> Codec ─> LatentSpec

A codec is one folder. Its line in `CODECS` names a `CodecFamily`, by which commands build, train and describe it;
nothing outside that folder names it anywhere else. This module loads no torch.

Shapes: B batch, C channels of the media, T units of it (of audio: samples), D latent channels, L latent frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Self

from musicldm.core.config import Between
from musicldm.core.registry import Registry
from musicldm.media.medium import UNIT, Medium

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from musicldm.codecs.posterior import DiagonalGaussian
    from musicldm.core.bundle import Bundle, Component, Role, TrainingFacts
    from musicldm.core.progress import Progress
    from musicldm.training.config import PlanConfig, TrainingConfig
    from musicldm.training.loop import TrainingResult
    from musicldm.training.rehearsal import Rehearsal

CODECS = Registry(
    "codec",
    {
        "spectrum": "musicldm.codecs.spectrum:FAMILY",
        "vae": "musicldm.codecs.vae:FAMILY",
        "roll": "musicldm.codecs.roll:FAMILY",
    },
)


@dataclass(frozen=True)
class LatentSpec:
    """The form of a codec's latents: all that the store, generators and sampling know of it."""

    medium: Medium
    """What is encoded."""
    channels: Annotated[int, Between(1, 65536)]
    """D, the elements of one latent frame."""
    media_channels: Annotated[int, Between(1, 65536)]
    """C. Of audio: 1 mono, 2 stereo."""
    rate: Annotated[int, Between(1, 10_000_000)]
    """Units in a second of audio (samples), or in a beat of notes (ticks)."""
    hop: Annotated[int, Between(1, 1 << 24)]
    """Units in one latent frame."""
    codec: str
    """Its name in `CODECS`."""
    codec_hash: str
    """The digest of its weights and configuration; empty while it is not yet trained."""

    @property
    def compression(self) -> float:
        """How many times fewer elements the latent has than the media."""
        return self.media_channels * self.hop / self.channels

    @property
    def frame_rate(self) -> float:
        """Latent frames a second (or a beat)."""
        return self.rate / self.hop

    @property
    def unit(self) -> str:
        """In which lengths are given: "s" or "beats"."""
        return UNIT[self.medium]

    def of(self, codec_hash: str) -> LatentSpec:
        """The same form, of a codec with this digest."""
        return replace(self, codec_hash=codec_hash)

    def frames(self, units: int) -> int:
        """L, the latent frames that cover so many units; the last of them may be filled up with silence."""
        return -(-units // self.hop)


class Codec(Protocol):
    """Media [B, C, T] <-> raw latents [B, D, L], where L = ceil(T / hop); ready to use, usually a torch module."""

    name: str
    """What a person calls this trained codec: the name of its bundle."""
    facts: dict[Role, TrainingFacts]
    """What that bundle tells of its training."""

    @property
    def spec(self) -> LatentSpec:
        """The form of its latents."""

    @property
    def context(self) -> int:
        """Latent frames on either side that decide a frame: a window with so many agrees with the whole track."""

    @property
    def grid(self) -> int:
        """Windows begin at multiples of so many frames; 1 where it does not matter."""

    @property
    def receptive_field(self) -> int:
        """Latent frames on either side that decide a frame in one direction, encoding or decoding alone."""

    @property
    def keeps_phase(self) -> bool:
        """Whether what it decodes follows the waveform; without, figures that compare sample by sample say nothing."""

    @property
    def device(self) -> torch.device:
        """Where its weights are; `encode` and `decode` take tensors that are there too."""

    def encode(self, x: Tensor, /) -> DiagonalGaussian:
        """Media [B, C, T] -> the posterior over raw latents [B, D, L]; the end is filled up with silence.

        A codec without a posterior gives a `Deterministic` one.
        """

    def decode(self, z: Tensor, /, noise: Tensor | None = None, steps: int | None = None) -> Tensor:
        """Raw latents [B, D, L] -> media [B, C, L·hop].

        Args:
            noise: where a diffusion decoder starts, [B, C, L·hop]; None: its own choice.
            steps: of a diffusion decoder; None: its own choice.

        Raises:
            UsageError: either is given to a codec that decodes in one pass.
        """

    def component(self) -> Component:
        """This codec as a component of a bundle."""

    def to(self, device: torch.device | str) -> Self:
        """The same codec, moved."""


class ModelConfig(Protocol):
    """A dataclass by which a codec is built; its plain data stand in bundles, and digests go by them."""

    @property
    def spec(self) -> LatentSpec:
        """The form of the latents, of a codec that is not yet trained."""

    @property
    def grid(self) -> int:
        """See `Codec.grid`: training crops begin where windows do, so that training sees what a whole track will."""


class RunConfig(Protocol):
    """The dataclass of a whole training of a codec, as a preset or a TOML file gives it."""

    @property
    def model(self) -> ModelConfig: ...

    @property
    def training(self) -> TrainingConfig: ...

    @property
    def plan(self) -> PlanConfig | None:
        """What was requested, where `training` is what a memory plan made of it."""


class Train(Protocol):
    """Prepared music -> a trained codec."""

    def __call__(
        self,
        data: Path,
        run: Path,
        config: Any,
        device: torch.device,
        progress: Progress,
        announce: Callable[[str], None],
        init_from: Path | None,
        resample: bool,
        dry_run: bool,
        /,
    ) -> TrainingResult:
        """Train in the folder `run` on what preprocess left in `data`.

        Args:
            config: an instance of the family's `run_config`.
            announce: is called with what a person should read at once.
            init_from: a bundle whose weights are the first ones; None: random ones.
            resample: take tracks of other rates and channels too, and convert them on the fly.
            dry_run: only raise what a training would raise before its first step.
        """


@dataclass(frozen=True)
class CodecFamily:
    """A kind of codec, as the commands know it: where its presets lie, how it is read, trained and described."""

    name: str
    """In `CODECS`."""
    package: str
    """The package whose `presets/` folder has its presets; `tiny` is always among them."""
    from_bundle: Callable[[Bundle], Codec]
    """The codec of a bundle, in evaluation mode."""
    run_config: type[Any]
    """The dataclass of a whole training: a `RunConfig` whose fields have defaults, with what else the codec needs."""
    train: Train
    """Trains one, in a run folder that it resumes where there is one."""
    rehearsal: Callable[[Any], Rehearsal]
    """A run's configuration -> a step to try, by which its memory is planned."""
    describe: Callable[[Any], list[tuple[str, str]]]
    """A model's configuration -> its size, rates and receptive field, each with its name."""
    figure: str = "loss"
    """Of the held-out figures, the one that a training reports in the end."""


def load_codec(path: Path | str, device: torch.device | str = "cpu") -> Codec:
    """Read the codec of whatever `models.find` takes (a bundle, a run folder, a model's name), ready to use.

    Raises:
        BundleError: missing, cut short or changed since it was written; or as `codec_of`.
    """
    from musicldm import models
    from musicldm.core import bundle

    codec = codec_of(bundle.read(models.find(path)))
    return codec.to(device)


def codec_of(source: Bundle) -> Codec:
    """The codec of a bundle in memory, in evaluation mode.

    Raises:
        BundleError: it has no codec, or one that does not fit its configuration.
        UsageError: its codec is of a kind that this installation does not know.
    """
    family: CodecFamily = CODECS.load(source.component("codec").kind)
    return family.from_bundle(source)
