"""Noise -> normalised latents [B, D, L]."""
