"""Diffusion as the commands know it. Training and its engine are loaded when a function here is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from musicldm.generators.base import GeneratorFamily
from musicldm.generators.diffusion import upgrade
from musicldm.generators.diffusion.config import DiffusionConfig, DiffusionRunConfig
from musicldm.generators.diffusion.generate import DiffusionGenerator, DiffusionOptions
from musicldm.generators.diffusion.model import KIND

if TYPE_CHECKING:
    from musicldm.latents.schema import StoreHeader
    from musicldm.training.loop import TrainingResult
    from musicldm.training.rehearsal import Rehearsal


def train(*arguments: Any) -> TrainingResult:
    """See `train_diffusion`."""
    from musicldm.generators.diffusion.training import train_diffusion

    return train_diffusion(*arguments)


def rehearsal(config: DiffusionRunConfig, header: StoreHeader) -> Rehearsal:
    """See `diffusion_rehearsal`."""
    from musicldm.generators.diffusion.rehearsal import rehearsal as diffusion_rehearsal

    return diffusion_rehearsal(config, header)


def describe(model: DiffusionConfig) -> list[tuple[str, str]]:
    """A model's size."""
    import torch

    from musicldm.generators.diffusion.model import Diffusion

    with torch.device("meta"):  # only to be counted
        parameters = sum(weight.numel() for weight in Diffusion(model).parameters())
    return [("parameters", f"{parameters / 1e6:.1f} M")]


FAMILY = GeneratorFamily(
    name=KIND,
    package="musicldm.generators.diffusion",
    from_component=DiffusionGenerator.from_component,
    run_config=DiffusionRunConfig,
    train=train,
    rehearsal=rehearsal,
    options=DiffusionOptions,
    describe=describe,
    upgrade=upgrade.run_config,
)
