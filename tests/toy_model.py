"""A model of a few thousand weights, all random: every output depends on every input, and nothing is trained."""

from __future__ import annotations

from dataclasses import replace

import torch

from musicldm.codecs.vae.config import VAEConfig
from musicldm.codecs.vae.model import VAE
from musicldm.conditions.base import ConditionConfig
from musicldm.core.bundle import Bundle, TrackFacts, TrainingFacts
from musicldm.generators.diffusion.model import Diffusion, DiffusionConfig
from musicldm.generators.diffusion.unet import UNetConfig
from musicldm.latents.statistics import LatentStatistics
from musicldm.noise.schedule import NoiseConfig
from musicldm.sampling import Generator, generator_component

ARTISTS = ("Frédéric Chopin", "Johann Sebastian Bach", "Brandenburg: Strings, Brass")
RATE, HOP = 8000, 64


def toy_bundle(noise: NoiseConfig | None = None, artists: tuple[str, ...] = ARTISTS, channels: int = 1) -> Bundle:
    """Such a VAE and a denoiser for it."""
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
        conditions=ConditionConfig(artists=artists),
        noise=noise or NoiseConfig(),
    )
    diffusion = Diffusion(config)
    for parameter in diffusion.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    statistics = LatentStatistics(1, (0.0,) * 4, (1.0,) * 4)
    vae_part = vae.component()
    parts = {"codec": vae_part, "generator": generator_component(diffusion, statistics, vae_part.digest)}
    track = TrackFacts(ARTISTS[0], split="train", provenance={"licence": "CC0-1.0"})
    training = TrainingFacts(tracks=(track, replace(track, split="heldout")))
    return Bundle("toy", parts, {"generator": training})


def toy(noise: NoiseConfig | None = None, artists: tuple[str, ...] = ARTISTS) -> Generator:
    """The two, ready to sample from."""
    return Generator(toy_bundle(noise, artists), "cpu")
