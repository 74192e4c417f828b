"""What every codec is to the rest of the package: media <-> raw latents, and a spec that tells their form.

A codec is one folder. Its line in `CODECS` names a `CodecFamily`, by which commands build, train and describe it;
nothing outside that folder names it anywhere else. This module loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from musicldm.core.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from musicldm.codecs.posterior import DiagonalGaussian
    from musicldm.core.bundle import Bundle, Component, Role, TrainingFacts

CODECS = Registry("codec", {"vae": "musicldm.codecs.vae:FAMILY"})

Medium = Literal["audio", "notes"]


@dataclass(frozen=True)
class LatentSpec:
    """The form of a codec's latents: all that the store, generators and sampling know of it."""

    medium: Medium
    """What is encoded."""
    channels: int
    """D, the numbers in one latent frame."""
    media_channels: int
    """Of audio: 1 mono, 2 stereo."""
    rate: int
    """Units a second of audio (samples), or a beat of notes (ticks)."""
    hop: int
    """Units in one latent frame."""
    codec: str
    """Its name in `CODECS`."""
    codec_hash: str
    """The digest of its weights and configuration; empty while it is not yet trained."""

    @property
    def compression(self) -> float:
        """How many times fewer numbers the latent has than the media."""
        return self.media_channels * self.hop / self.channels

    @property
    def frame_rate(self) -> float:
        """Latent frames a second (or a beat)."""
        return self.rate / self.hop

    def frames(self, units: int) -> int:
        """Latent frames that cover so many units: the last one may be filled up."""
        return -(-units // self.hop)


class Codec(Protocol):
    """Media [B, C, T] <-> raw latents [B, D, L], where L = ceil(T / hop); a torch module, ready to use."""

    name: str
    """What a person calls this trained codec."""
    facts: dict[Role, TrainingFacts]
    """What the bundle tells of its training."""

    @property
    def spec(self) -> LatentSpec: ...

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
    def device(self) -> torch.device: ...

    def encode(self, x: Tensor, /) -> DiagonalGaussian:
        """Media [B, C, T] -> the posterior over raw latents [B, D, L]; the end is filled with silence."""

    def decode(self, z: Tensor, /, noise: Tensor | None = None, steps: int | None = None) -> Tensor:
        """Raw latents [B, D, L] -> media [B, C, L·hop]; only a diffusion decoder takes noise and steps."""

    def component(self) -> Component:
        """This codec as a component of a bundle."""

    def to(self, device: torch.device | str) -> Self:
        """The same codec, moved."""


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
    """The dataclass of a whole training: `model`, `training`, and what else the codec needs."""
    train: Callable[..., Any]
    """(data, run, config, device, progress, announce, init_from, resample) -> TrainingResult."""
    rehearsal: Callable[[Any], Any]
    """A run's configuration -> the `Rehearsal` that plans its memory."""
    describe: Callable[[Any], list[tuple[str, str]]]
    """A model's configuration -> its size, rates and reach, each with its name."""


def load_codec(path: Path | str, device: torch.device | str = "cpu") -> Codec:
    """Read the codec of whatever `models.find` takes (a bundle, a run folder, a model's name), ready to use.

    Raises:
        BundleError: missing, cut short or changed since it was written.
    """
    from musicldm import models
    from musicldm.core import bundle

    codec = codec_of(bundle.read(models.find(path)))
    return codec.to(device)


def codec_of(source: Bundle) -> Codec:
    """The codec of a bundle in memory, in evaluation mode."""
    family: CodecFamily = CODECS.load(source.component("codec").kind)
    return family.from_bundle(source)
