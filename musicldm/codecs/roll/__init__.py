"""Piano rolls [B, C, T] <-> raw latents [B, D, L], one frame a beat: music as notes, of any length.

    config ─> model          training = model + losses

`FAMILY` is all that the rest of the package knows of it, and arrives when it is first used.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "FAMILY":
        from musicldm.codecs.family import codec_family
        from musicldm.codecs.roll.config import RollRunConfig
        from musicldm.codecs.roll.model import RollCodec

        training = f"{__name__}.training:RollTraining"
        return codec_family(RollCodec, RollRunConfig, training, __name__, figure="onset_f1")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
