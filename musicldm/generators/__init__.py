"""Noise -> normalised latents [B, D, L]: one folder a family."""
