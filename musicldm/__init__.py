"""musicldm: from artists' names to new music, by latent diffusion on raw waveforms.

Importing this package loads nothing heavy; the public names below arrive when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Codec": "musicldm.codecs.base",
    "Pipeline": "musicldm.sampling",
    "LatentStore": "musicldm.latents.store",
    "UNet": "musicldm.generators.diffusion.unet",
    "load_codec": "musicldm.codecs.base",
}

__all__ = ["Codec", "LatentStore", "Pipeline", "UNet", "__version__", "load_codec"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
