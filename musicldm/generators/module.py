"""What every generator that is a torch module shares: how it stands in a bundle."""

from __future__ import annotations

from abc import ABC
from typing import Any, ClassVar, Self

from musicldm.core import bundle
from musicldm.core.bundle import Component
from musicldm.core.config import to_dict
from musicldm.latents.statistics import GeneratorLatents, LatentStatistics
from musicldm.nn.blocks import Checkpointable


class GeneratorModule(Checkpointable, ABC):
    """The network of a generator, and what else it needs to be trained and used.

    Args:
        config: an instance of `config_class`, a dataclass.
    """

    kind: ClassVar[str]
    """In `GENERATORS`."""
    config_class: ClassVar[type[Any]]
    """Its plain data stand in bundles, and digests go by them."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def component(self, statistics: LatentStatistics, codec_hash: str) -> Component:
        """This model as a component of a bundle.

        Args:
            statistics: how the latents that it makes are scaled.
            codec_hash: the digest of the codec that they belong to.
        """
        latents = GeneratorLatents(statistics, codec_hash)
        return Component(self.kind, {**to_dict(self.config), **latents.to_dict()}, self.state_dict())

    @classmethod
    def from_component(cls, component: Component) -> tuple[Self, LatentStatistics, str]:
        """A model from a bundle of any release, in evaluation mode, with the statistics of the latents that it makes
        and the digest of the codec that they belong to.

        Raises:
            BundleError: the configuration or the weights are damaged.
        """
        latents = GeneratorLatents.of(component)
        config = bundle.configuration(cls.config_class, GeneratorLatents.without(component.config), cls.upgraded)
        model = bundle.build(lambda: cls(config), component)
        return model.eval().requires_grad_(False), latents.statistics, latents.codec_hash

    @classmethod
    def upgraded(cls, config: dict[str, Any]) -> dict[str, Any]:
        """A configuration of an earlier release as this one has it."""
        return config
