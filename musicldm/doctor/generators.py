"""Generators: whether one was made for the codec beside it, and has learned anything about its latents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from musicldm.doctor.findings import Finding

if TYPE_CHECKING:
    from torch import Tensor

    from musicldm.codecs.base import Codec
    from musicldm.core.bundle import Bundle

STD = 0.2, 5.0
"""Between these the standard deviation of normalised latents should lie; ideally it is 1."""
LEARNED = 0.97
"""Of the error of a guess by loudness alone: a denoiser that leaves less has learned something about the music."""


def examine_generator(
    about: str, source: Bundle, codec: Codec, latents: Tensor, what: str, device: str
) -> Iterator[Finding]:
    """All about the generator of a bundle.

    Args:
        codec: the bundle's.
        latents: raw latents [B, D, L] to try it on.
        what: whose latents these are, in words.

    Raises:
        BundleError: it does not state the scale of its latents, or whose they are.
    """
    from musicldm.latents.statistics import GeneratorLatents
    from musicldm.sampling import Pipeline

    trained = GeneratorLatents.of(source.component("generator"))
    ours = codec.spec.codec_hash
    if trained.codec_hash != ours:
        text = f"Its generator was trained on latents of another codec ({trained.codec_hash[:8]}, not {ours[:8]})."
        yield Finding(about, "wrong", text, "Copy the bundle again: such a pair gives noise, whatever the loss was.")
        return
    yield Finding(about, "ok", "Codec and generator were made for each other.")
    if trained.statistics.std == (1.0,) * len(trained.statistics.std):
        text = "Its latents were never measured: every channel is stated to have a standard deviation of 1."
        yield Finding(about, "warning", text, "Train on a store that musicldm encode made.")
    pipeline = Pipeline(source, device)
    z = trained.statistics.normalise(latents).to(pipeline.device)
    std = float(z.square().mean().sqrt())
    text = f"Latents of {what}, normalised, have a standard deviation of {std:.2f}; ideally it is 1."
    if not STD[0] <= std <= STD[1]:
        advice = "Latents are not scaled as the generator learned them: encode and train it again with this codec."
        yield Finding(about, "wrong", text, advice)
        return
    yield Finding(about, "ok", text)
    left = pipeline.generator.remaining_error(z)
    if left is not None:  # not every family can tell
        yield _learned(about, left, what)


def _learned(about: str, left: float, what: str) -> Finding:
    text = f"On {what}, the generator's denoising error is {left:.2f} times that of a guess by loudness alone."
    if left < LEARNED:
        return Finding(about, "ok", text)
    advice = "It has not learned this music: train it longer, or try it on the music that it was trained on."
    return Finding(about, "warning", text, advice)
