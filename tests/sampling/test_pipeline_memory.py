"""Too little memory: shorter windows, said once, and the result is whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from musicldm.conditions.base import Conditioning
from musicldm.core.errors import CapacityError
from musicldm.noise.schedule import NoiseLevel
from musicldm.sampling import New, Pipeline
from tests.toy_model import HOP, RATE, chord, diffusion_of, generator_of, toy, vae_of


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return toy()


@pytest.fixture(scope="module")
def audio() -> Tensor:
    return chord()


QUICK: dict[str, Any] = {"steps": 4}


MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("can't allocate memory: 9"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
]


@pytest.mark.parametrize("error", MEMORY)
def test_too_little_memory_halves_the_window(error: RuntimeError) -> None:
    """As often as it takes, and a sentence says so; the piece is whole."""
    said: list[str] = []
    small = toy()
    small.announce = said.append
    diffusion, limit = diffusion_of(small), 70
    original = diffusion.denoise

    def denoise(x: Tensor, level: NoiseLevel, conditioning: Conditioning) -> Tensor:
        if x.shape[-1] > limit:
            raise error
        return original(x, level, conditioning)

    diffusion.denoise = denoise  # type: ignore[method-assign]
    assert small.sample(seconds=2.0, **QUICK).shape == (1, 2 * RATE)
    assert len(said) == 2 and "windows of 0.496 s" in said[1]
    assert torch.cat(list(small.stream(New(5.0), window=2.0, **QUICK)), dim=1).shape == (1, 5 * RATE)
    assert len(said) == 2  # it remembers
    limit = 1
    with pytest.raises(CapacityError, match="even a short window"):
        small.sample(seconds=2.0, **QUICK)


def test_too_little_memory_for_several_windows() -> None:
    """First fewer at once, then shorter ones."""
    said: list[str] = []
    small, sizes = toy(), list[int]()
    small.announce, generator_of(small)._together = said.append, 8
    diffusion = diffusion_of(small)
    original = diffusion.denoise

    def denoise(x: Tensor, level: NoiseLevel, conditioning: Conditioning) -> Tensor:
        if x.shape[0] > 1:
            raise MEMORY[0]
        sizes.append(x.shape[-1])
        return original(x, level, conditioning)

    diffusion.denoise = denoise  # type: ignore[method-assign]
    small.latents(500, window=1.0, joint=True, **QUICK)
    assert set(sizes) == {124} and not said


@pytest.mark.parametrize("error", MEMORY)
def test_too_little_memory_for_the_codec(pipeline: Pipeline, audio: Tensor, error: RuntimeError) -> None:
    """Pieces that go through it are halved, said once; what comes out is the same."""
    said: list[str] = []
    small = toy()
    small.announce = said.append
    vae, limit = vae_of(small), 200
    encode, decode = vae.encode, vae.decode

    def fitting(original: Any, frames: int, x: Tensor) -> Any:
        if frames > limit:
            raise error
        return original(x)

    vae.encode = lambda x: fitting(encode, x.shape[-1] // HOP, x)  # type: ignore[method-assign]
    vae.decode = lambda z, *_: fitting(decode, z.shape[-1], z)  # type: ignore[method-assign]
    z = small.encode(audio)
    torch.testing.assert_close(z, pipeline.encode(audio), rtol=0, atol=1e-4)
    torch.testing.assert_close(small.decode(z[0]), pipeline.decode(z[0]), rtol=0, atol=1e-4)
    assert len(said) == 1 and "shorter pieces" in said[0]
    limit = 1
    for way in (lambda: small.encode(audio), lambda: small.decode(z[0])):
        with pytest.raises(CapacityError, match="even a short window"):
            way()
