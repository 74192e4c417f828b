"""Waveforms [B, C, T] <-> raw latents [B, D, L], by a variational autoencoder.

    config ─> model (frontend ─ stages ─ middle) ─> posterior ─> model
    training = model + losses (+ discriminator)

`FAMILY` is all that the rest of the package knows of it, and arrives when it is first used: its presets lie in this
package, and looking for one of them loads no torch.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "FAMILY":
        from musicldm.codecs.family import codec_family
        from musicldm.codecs.vae.config import VAERunConfig
        from musicldm.codecs.vae.model import VAE

        return codec_family(VAE, VAERunConfig, f"{__name__}.training:VAETraining", __name__, figure="study")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
