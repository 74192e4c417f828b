"""Tracks of any length through the VAE in bounded memory, exactly as if they went through whole.

A window is the frames wanted plus `VAEConfig.margin` frames on either side, which are computed and thrown away. The
margin covers all that a frame depends on; windows start on the grid of the attention blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor

from musicldm.vae.model import VAE, Reader


def windows(frames: int, window: int, margin: int, grid: int) -> Iterator[tuple[int, int, int, int]]:
    """Cover `frames` with windows of about `window` frames: yields (start, stop, outer start, outer stop)."""
    window = max(grid, window // grid * grid)
    for start in range(0, frames, window):
        stop = min(start + window, frames)
        yield start, stop, max(0, start - margin), min(frames, stop + margin)


@torch.inference_mode()
def encode_long(vae: VAE, read: Reader, samples: int, window_frames: int = 1024) -> Iterator[tuple[Tensor, Tensor]]:
    """Encode a track of `samples` samples.

    Args:
        read: gives samples start to stop as [C, stop - start]; asked in rising order, with overlaps.
        window_frames: latent frames kept of each window.

    Yields:
        The posterior's mean and log-variance of successive pieces, each [D, l] on the CPU; ceil(samples / hop)
        frames in all.
    """
    config, device = vae.config, next(vae.parameters()).device
    frames = -(-samples // config.hop)
    for start, stop, first, last in windows(frames, window_frames, config.margin, config.attention_block):
        audio = read(first * config.hop, min(last * config.hop, samples))
        with _full_float32():
            posterior = vae.encode(audio[None].to(device))
        kept = slice(start - first, stop - first)
        yield posterior.mean[0, :, kept].cpu(), posterior.logvar[0, :, kept].cpu()


@torch.inference_mode()
def decode_long(vae: VAE, z: Tensor, window_frames: int = 1024) -> Iterator[Tensor]:
    """Decode raw latents [D, L] of any length; yields successive pieces of the waveform, [C, l·hop] on the CPU."""
    config, device = vae.config, next(vae.parameters()).device
    for start, stop, first, last in windows(z.shape[-1], window_frames, config.margin, config.attention_block):
        with _full_float32():
            audio = vae.decode(z[None, :, first:last].to(device))[0]
        yield audio[:, (start - first) * config.hop : (stop - first) * config.hop].cpu()


def reconstruct(vae: VAE, waveform: Tensor, window_frames: int = 1024) -> Tensor:
    """A waveform [C, T] through the VAE by its posterior's mode, in windows: [C, T]."""
    samples = waveform.shape[-1]
    means = [mean for mean, _ in encode_long(vae, lambda a, b: waveform[:, a:b], samples, window_frames)]
    audio = torch.cat(list(decode_long(vae, torch.cat(means, dim=-1), window_frames)), dim=-1)
    return F.pad(audio, (0, max(0, samples - audio.shape[-1])))[:, :samples]


def _full_float32() -> AbstractContextManager[None]:
    """No TF32 in convolutions: its 10 bits would let window and whole differ by more than 1e-4."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
