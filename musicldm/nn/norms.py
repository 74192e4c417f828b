"""Normalisations that see the channels of one frame only. B batch, C channels, L frames; every tensor is [B, C, L].

Nothing in `nn` pools over time. So a track worked through in windows comes out exactly as it would whole.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the channels of each frame (Zhang & Sennrich 2019)."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        # Under autocast x may have 16 bits: squares in float16 overflow from 256 on, sums in bfloat16 lose small terms.
        power = x.float().square().mean(dim=1, keepdim=True)
        # The factors take x's type and not the other way round, or all activations after this would take 32 bits.
        return x * torch.rsqrt(power + self.eps).to(x.dtype) * self.gain.to(x.dtype)
