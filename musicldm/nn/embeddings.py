"""The time of the forward process as a vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """Time t [B], in steps -> vector [B, E]: sinusoids of geometric frequencies, then a small network."""

    frequencies: Tensor

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        # From 1 down to nearly 1/10000 radians a step (Vaswani et al. 2017, §3.5).
        frequencies = torch.exp(-math.log(10000) * torch.arange(width // 2) / (width // 2))
        # They follow from the width, so a bundle need not keep them.
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(width, out_width), nn.SiLU(), nn.Linear(out_width, out_width))

    def forward(self, t: Tensor) -> Tensor:
        # [B, 1] · [E/2]; t may be whole steps, in int64.
        angles = t.to(self.frequencies)[:, None] * self.frequencies
        embedding: Tensor = self.mlp(torch.cat([angles.sin(), angles.cos()], dim=1))
        return embedding
