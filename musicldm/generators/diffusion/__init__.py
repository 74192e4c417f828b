"""Noise -> normalised latents [B, D, L], by a diffusion model: networks, training and sampling."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """`FAMILY`, made when it is needed: whoever wants one module of this package loads no other."""
    if name == "FAMILY":
        from musicldm.generators.diffusion.family import FAMILY

        return FAMILY
    raise AttributeError(name)
