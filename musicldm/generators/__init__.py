"""Noise -> normalised latents."""
