"""Seed -> normalised latents -> raw latents -> waveform: a bundle made ready to sample from, and all its ways."""

from musicldm.generate.generator import Generator, denoiser_part
from musicldm.generate.options import Sampling

__all__ = ["Generator", "Sampling", "denoiser_part"]
