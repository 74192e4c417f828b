"""Seed -> normalised latents -> raw latents -> waveform: a bundle made ready to sample from, and all its ways."""

from musicldm.sampling.options import Sampling
from musicldm.sampling.pipeline import Generator

__all__ = ["Generator", "Sampling"]
