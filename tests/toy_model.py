"""A model of a few thousand weights, all random: every output depends on every input, and nothing is trained.

It is a waveform VAE and a diffusion model; `vae_of`, `generator_of` and `diffusion_of` give a test these networks.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from musicldm.codecs.vae.config import VAEConfig
from musicldm.codecs.vae.model import VAE
from musicldm.conditions.base import ConditionConfig
from musicldm.core.bundle import Bundle, TrackFacts, TrainingFacts
from musicldm.generators.diffusion.config import DiffusionConfig
from musicldm.generators.diffusion.generate import DiffusionGenerator
from musicldm.generators.diffusion.model import Diffusion
from musicldm.generators.diffusion.unet import UNetConfig
from musicldm.latents.statistics import LatentStatistics
from musicldm.noise.schedule import NoiseConfig
from musicldm.sampling import Pipeline

ARTISTS = ("Frédéric Chopin", "Johann Sebastian Bach", "Brandenburg: Strings, Brass")
RATE, HOP = 8000, 64


def toy_bundle(noise: NoiseConfig | None = None, artists: tuple[str, ...] = ARTISTS, channels: int = 1) -> Bundle:
    """Such a VAE and a diffusion model for it."""
    torch.manual_seed(1)
    vae = VAE(
        VAEConfig(
            sample_rate=RATE,
            audio_channels=channels,
            latent_channels=4,
            patch=16,
            patch_kernel=32,
            widths=(16, 24),
            strides=(4,),
            blocks=1,
            attention_block=4,
            heads=2,
        )
    )
    config = DiffusionConfig(
        unet=UNetConfig(latent_channels=4, widths=(16, 24), blocks=1, heads=2),
        conditions=ConditionConfig(settings={"artist": {"names": list(artists)}}),
        noise=noise or NoiseConfig(),
    )
    diffusion = Diffusion(config)
    for parameter in diffusion.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    statistics = LatentStatistics(1, (0.0,) * 4, (1.0,) * 4)
    codec = vae.component()
    generator = diffusion.component(statistics, codec.digest)
    track = TrackFacts(ARTISTS[0], split="train", provenance={"licence": "CC0-1.0"})
    training = TrainingFacts(tracks=(track, replace(track, split="heldout")))
    return Bundle("toy", {"codec": codec, "generator": generator}, {"generator": training})


def toy(noise: NoiseConfig | None = None, artists: tuple[str, ...] = ARTISTS) -> Pipeline:
    """The two, ready to sample from."""
    return Pipeline(toy_bundle(noise, artists), "cpu")


def vae_of(pipeline: Pipeline) -> VAE:
    """Its codec, for what it is."""
    assert isinstance(pipeline.codec, VAE)
    return pipeline.codec


def generator_of(pipeline: Pipeline) -> DiffusionGenerator:
    """Its generator, for what it is."""
    assert isinstance(pipeline.generator, DiffusionGenerator)
    return pipeline.generator


def diffusion_of(pipeline: Pipeline) -> Diffusion:
    """The model in its generator."""
    return generator_of(pipeline).diffusion


def chord(seconds: float = 4.0) -> Tensor:
    """So many seconds of a chord with some noise, [1, T]."""
    time = torch.arange(round(seconds * RATE)) / RATE
    tones = sum(torch.sin(2 * math.pi * pitch * time) for pitch in (220, 277, 330))
    return (0.2 * tones + 0.01 * torch.randn(len(time), generator=torch.Generator().manual_seed(0)))[None]
