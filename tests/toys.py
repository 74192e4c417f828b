"""Toy-sized configurations, and the types of the shared fixtures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from musicldm.core.padded import Padded

TOY_VAE = """
[model]
latent_channels = 8
patch = 32
patch_kernel = 64
widths = [32, 48]
strides = [8]
blocks = 1
attention_block = 16
heads = 2

[loss]
time = 50.0
kl = 1e-2
fft_sizes = [512, 128]

[training]
steps = 150
batch_size = 8
seconds = 1.0
learning_rate = 3e-3
warmup = 10
ema = 0.9
validate_every = 75
demo_every = 150
validation_crops = 8
"""

TOY_SPECTRAL = """
[model]
front_end = "spectral"
latent_channels = 4
patch = 64
patch_kernel = 256
widths = [16]
strides = []
blocks = 1
attention_block = 16
heads = 2

[loss]
time = 10.0
mel = 1.0
fft_sizes = [256]
adversarial = 0.2
features = 0.4
adversarial_start = 3

[discriminator]
fft_sizes = [128]
width = 4
"""

TOY_LDM = """
[model.unet]
widths = [48, 64]
blocks = 1
attention_stages = 1

[training]
steps = 200
batch_size = 24
seconds = 2.0
learning_rate = 3e-3
warmup = 10
ema = 0.95
validate_every = 100
demo_every = 200
validation_crops = 8
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@dataclass(frozen=True)
class Pipeline:
    """The folders that a whole run left, and what its commands printed."""

    wav: Path
    vae: Path
    store: Path
    ldm: Path
    said: dict[str, Done]


T = TypeVar("T")


def full(batch: T | Padded) -> T:
    """A batch, of which no crop may be shorter than the others."""
    assert not isinstance(batch, Padded)
    return batch
