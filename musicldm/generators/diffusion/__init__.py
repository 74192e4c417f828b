"""Noise -> normalised latents [B, D, L], by a diffusion model: networks, training and sampling.

`FAMILY` is all that the rest of the package knows of it, and arrives when it is first used.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "FAMILY":
        from musicldm.generators.diffusion import upgrade
        from musicldm.generators.diffusion.config import DiffusionRunConfig
        from musicldm.generators.diffusion.generate import DiffusionGenerator, DiffusionOptions
        from musicldm.generators.diffusion.model import Diffusion
        from musicldm.generators.family import latent_generator

        return latent_generator(
            Diffusion,
            DiffusionGenerator.from_component,
            DiffusionRunConfig,
            training=f"{__name__}.training:DiffusionTraining",
            package=__name__,
            options=DiffusionOptions,
            upgrade=upgrade.run_config,
            upgrade_component=upgrade.component,
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
