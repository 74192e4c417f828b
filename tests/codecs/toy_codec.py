"""A codec that is no VAE and no torch module: what stands at a sample's place, a few frames of its surroundings added.

Each frame is a linear function of `REACH` frames on either side, so that a window without its context shows; memory may
be short; and the decoder takes noise and steps, as a diffusion decoder does.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from musicldm.codecs.base import LatentSpec
from musicldm.codecs.posterior import Deterministic, DiagonalGaussian
from musicldm.core.bundle import Component, Role, TrainingFacts

REACH = 3
HOP = 6


class ToyCodec:
    """Two channels of notes, 6 ticks to a frame, 12 latent channels.

    Args:
        holds: frames of a window, of all its batch, beyond which the memory is out.
    """

    def __init__(self, holds: int = 10**9) -> None:
        self.name = "toy"
        self.facts: dict[Role, TrainingFacts] = {}
        self.holds = holds
        self.tried: list[int] = []

    @property
    def spec(self) -> LatentSpec:
        return LatentSpec("notes", channels=12, media_channels=2, rate=24, hop=HOP, codec="toy", codec_hash="c0ffee")

    @property
    def context(self) -> int:
        return REACH

    @property
    def grid(self) -> int:
        return 1

    @property
    def receptive_field(self) -> int:
        return REACH

    @property
    def keeps_phase(self) -> bool:
        return True

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def encode(self, x: Tensor, /) -> DiagonalGaussian:
        padded = F.pad(x, (0, -x.shape[-1] % HOP))
        frames = padded.view(*x.shape[:2], -1, HOP).transpose(2, 3).flatten(1, 2)
        self._remember(len(x) * frames.shape[-1])
        return Deterministic(frames + self._surroundings(frames))

    def decode(self, z: Tensor, /, noise: Tensor | None = None, steps: int | None = None) -> Tensor:
        self._remember(len(z) * z.shape[-1])
        frames = z - self._surroundings(z) / 2
        media = frames.view(len(z), 2, HOP, -1).transpose(2, 3).flatten(2)
        return media if noise is None else media + (steps or 1) * noise

    def component(self) -> Component:
        return Component("toy", {}, {})

    def to(self, device: torch.device | str) -> Self:
        return self

    def _remember(self, frames: int) -> None:
        self.tried.append(frames)
        if frames > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    @staticmethod
    def _surroundings(frames: Tensor) -> Tensor:
        return F.avg_pool1d(frames, 2 * REACH + 1, stride=1, padding=REACH)
