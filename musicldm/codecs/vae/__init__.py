"""Waveforms [B, C, T] <-> raw latents [B, D, L], by a variational autoencoder."""
