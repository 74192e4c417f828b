"""What every codec that is a torch module shares: where it came from, the form of its latents, its component."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from musicldm import models
from musicldm.codecs.base import LatentSpec
from musicldm.codecs.posterior import DiagonalGaussian
from musicldm.core import bundle
from musicldm.core.bundle import Bundle, Component, Role, TrainingFacts
from musicldm.core.config import to_dict
from musicldm.core.errors import UsageError
from musicldm.nn.blocks import Checkpointable


class CodecModule(Checkpointable, ABC):
    """One half of a `Codec`; a subclass adds `context`, `encode` and `decode`.

    Args:
        config: an instance of `config_class`: a `codecs.base.ModelConfig`.

    Attributes:
        name, weights_hash, facts: of the bundle that it was read from; empty of a new one.
    """

    config_class: ClassVar[type[Any]]
    """Its plain data stand in bundles, and digests go by them."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.name, self.weights_hash = "", ""
        self.facts: dict[Role, TrainingFacts] = {}

    @property
    def spec(self) -> LatentSpec:
        """The form of its latents, and whose they are."""
        form: LatentSpec = self.config.spec
        return form.of(self.weights_hash)

    @property
    def context(self) -> int:
        """Latent frames on either side that decide a frame, as the configuration has them."""
        frames: int = self.config.context
        return frames

    @abstractmethod
    def encode(self, x: Tensor, /) -> DiagonalGaussian:
        """Media [B, C, T] -> the posterior over raw latents [B, D, ceil(T / hop)]; see `Codec.encode`."""

    @abstractmethod
    def decode(self, z: Tensor, /, noise: Tensor | None = None, steps: int | None = None) -> Tensor:
        """Raw latents [B, D, L] -> media [B, C, L·hop]; see `Codec.decode`."""

    @staticmethod
    def one_pass(noise: Tensor | None, steps: int | None) -> None:
        """Refuse what a diffusion decoder alone takes; see `Codec.decode`.

        Raises:
            UsageError: one of them was given.
        """
        if noise is not None or steps is not None:
            raise UsageError("This codec decodes in one pass and takes neither noise nor steps.")

    @property
    def grid(self) -> int:
        """Windows and crops begin at multiples of so many latent frames."""
        frames: int = self.config.grid
        return frames

    @property
    def receptive_field(self) -> int:
        """As far as the context, unless a subclass knows better."""
        return self.context

    @property
    def keeps_phase(self) -> bool:
        """Unless a subclass makes phases up."""
        return True

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def component(self) -> Component:
        """This codec as a component of a bundle."""
        return Component(self.spec.codec, to_dict(self.config), self.state_dict())

    @classmethod
    def decisive(cls, component: Component) -> Component:
        """What of a component decides about its latents, and so makes the codec's hash: all of it.

        A subclass may leave out what can be trained again without making them another's.
        """
        return component

    @classmethod
    def load(cls, path: Path | str, device: torch.device | str = "cpu") -> Self:
        """Read the codec of whatever `models.find` takes (a bundle, a run folder, a model's name), ready to use.

        Raises:
            BundleError: missing, cut short or changed since it was written.
        """
        return cls.from_bundle(bundle.read(models.find(path))).to(device)

    @classmethod
    def from_bundle(cls, source: Bundle) -> Self:
        """The codec of a bundle in memory, in evaluation mode."""
        component = source.component("codec")
        config = bundle.configuration(cls.config_class, component.config)
        codec = bundle.build(lambda: cls(config), component)
        codec.name, codec.weights_hash, codec.facts = source.name, cls.decisive(component).digest, source.facts
        return codec.eval().requires_grad_(False)
