"""Generators: whether one was made for the codec beside it, and has learned anything about its latents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from musicldm.doctor.findings import Finding

if TYPE_CHECKING:
    from torch import Tensor

    from musicldm.codecs.base import Codec
    from musicldm.core.bundle import Bundle
    from musicldm.sampling import Generator

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
    from musicldm.sampling import Generator

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
    pipeline = Generator(source, device)
    z = trained.statistics.normalise(latents).to(pipeline.device)
    std = float(z.square().mean().sqrt())
    text = f"Latents of {what}, normalised, have a standard deviation of {std:.2f}; ideally it is 1."
    if not STD[0] <= std <= STD[1]:
        advice = "Latents are not scaled as the generator learned them: encode and train it again with this codec."
        yield Finding(about, "wrong", text, advice)
        return
    yield Finding(about, "ok", text)
    left = remaining_error(pipeline, z)
    text = f"Of noise as loud as {what} the denoiser leaves {left:.2f} of what a guess by loudness leaves."
    if left < LEARNED:
        yield Finding(about, "ok", text)
        return
    advice = "It has not learned this music: train it longer, or try it on the music that it was trained on."
    yield Finding(about, "warning", text, advice)


def remaining_error(pipeline: Generator, z: Tensor) -> float:
    """The denoiser's squared error on normalised latents [B, D, L] under as much noise, beside that of a guess.

    The guess is what is best for one who knows the loudness alone: the linear one for white latents of the same power.
    """
    import torch

    from musicldm.conditions.base import Conditions

    diffusion = pipeline.diffusion
    level = diffusion.schedule.at(diffusion.schedule.time_of(1.0))  # as much noise as signal
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).to(z)
    noisy = level.mix(z, noise)
    with torch.inference_mode():
        unconditional = Conditions.none(len(z), len(pipeline.artists), z.device)
        left = float((diffusion.denoise(noisy, level, unconditional) - z).square().mean())
    alpha, sigma, power = float(level.alpha), float(level.sigma), float(z.square().mean())
    guess = float((alpha * power / (alpha**2 * power + sigma**2) * noisy - z).square().mean())
    return left / guess
