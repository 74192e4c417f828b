"""Waveforms [B, C, T] <-> raw latents [B, D, L] by magnitudes alone: latents that carry no phase are smooth in time.

    config ─> spectrogram ─> model ─> phase ─> (griffinlim | head)
    training = model + losses (+ discriminator)

`FAMILY` is all that the rest of the package knows of it, and arrives when it is first used.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "FAMILY":
        from musicldm.codecs.family import codec_family
        from musicldm.codecs.spectrum.config import SpectrumRunConfig
        from musicldm.codecs.spectrum.model import SpectrumCodec

        return codec_family(SpectrumCodec, SpectrumRunConfig, f"{__name__}.training:SpectrumTraining", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
