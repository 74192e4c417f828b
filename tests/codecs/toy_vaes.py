"""VAEs of toy size, of every kind that a configuration allows."""

from __future__ import annotations

import torch

from musicldm.codecs.vae.config import VAEConfig
from musicldm.codecs.vae.model import VAE

TOYS = {
    "patched": VAEConfig(
        latent_channels=6, patch=4, patch_kernel=16, widths=(8, 16), strides=(4,), attention_block=8, heads=2
    ),
    "full rate": VAEConfig(latent_channels=5, widths=(8, 8, 16), strides=(2, 4), blocks=1, attention_block=12, heads=2),
    "deep stereo": VAEConfig(
        audio_channels=2,
        latent_channels=4,
        patch=2,
        patch_kernel=8,
        widths=(8, 8, 8),
        strides=(2, 2),
        blocks=3,
        attention_block=4,
    ),
    "spectral": VAEConfig(
        front_end="spectral",
        latent_channels=6,
        patch=8,
        patch_kernel=32,
        widths=(8, 16),
        strides=(2,),
        attention_block=8,
        heads=2,
    ),
    "spectral stereo, polar, tanh": VAEConfig(
        front_end="spectral",
        polar=True,
        bottleneck="tanh",
        audio_channels=2,
        latent_channels=4,
        patch=8,
        patch_kernel=16,
        widths=(8,),
        strides=(),
        blocks=1,
        attention_block=4,
    ),
}


def awake(vae: VAE, seed: int = 0) -> VAE:
    """A network whose blocks and attention all do something, as after training: untrained, they are the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in vae.parameters():
            if weight.dim() > 1:
                fan_in = weight[0].numel()
                weight.normal_(generator=generator).mul_(1.2 * fan_in**-0.5)
    return vae.eval()
