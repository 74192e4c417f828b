"""The other denoiser: a transformer over latents [B, D, L] of any length.

    x ─in─ [norm, attention, norm, MLP] × depth ─norm─ out

The embedding of time and conditions scales, shifts and gates each half of a block, and every gate starts at zero, so
that an untrained block is the identity (adaLN-zero, Peebles & Xie 2023). Positions are rotations of queries and keys
(Su et al. 2021), which know distances only: a crop teaches what holds for any length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musicldm.conditions.base import ConditionConfig, ConditionEmbedding, Conditions
from musicldm.core.errors import ConfigError
from musicldm.nn.embeddings import TimeEmbedding
from musicldm.nn.layers import Block, Checkpointable


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of the network."""

    latent_channels: int = 32
    """D; taken from the store when training."""
    width: int = 256
    """Channels."""
    depth: int = 6
    """Blocks."""
    heads: int = 4
    """Attention heads."""
    expansion: int = 4
    """Width of a block's MLP, in widths."""

    def __post_init__(self) -> None:
        if min(self.depth, self.heads, self.expansion) < 1:
            raise ConfigError("A transformer needs a depth, heads and an expansion of at least 1.")
        if self.width % (2 * self.heads):
            raise ConfigError("The width of the transformer must be a multiple of twice the heads.")

    @property
    def multiple(self) -> int:
        """Lengths are multiples of this many frames."""
        return 1


class TransformerBlock(Block):
    """Attention and an MLP, each between a normalisation that the embedding steers and a gate."""

    def __init__(self, config: TransformerConfig, embedding_width: int) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.expansion * width),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.expansion * width, width),
        )
        self.steer = nn.Linear(embedding_width, 6 * width)
        nn.init.zeros_(self.steer.weight)
        nn.init.zeros_(self.steer.bias)

    def forward(self, h: Tensor, embedding: Tensor, rotation: Tensor) -> Tensor:
        """h [B, L, width]; embedding [B, E]; rotation [L, width/heads/2], complex."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.steer(F.silu(embedding)).unsqueeze(1).chunk(6, dim=-1)
        h = h + gate1 * self._attend(self.norm1(h) * (1 + scale1) + shift1, rotation)
        out: Tensor = h + gate2 * self.mlp(self.norm2(h) * (1 + scale2) + shift2)
        return out

    def _attend(self, h: Tensor, rotation: Tensor) -> Tensor:
        batch, frames, width = h.shape
        q, k, v = self.to_qkv(h).view(batch, frames, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # [B, heads, L, C]
        attended = F.scaled_dot_product_attention(_rotated(q, rotation), _rotated(k, rotation), v)
        out: Tensor = self.to_out(attended.transpose(1, 2).reshape(batch, frames, width))
        return out


class Transformer(Checkpointable):
    """(noisy latents [B, D, L], times t [B], conditions) -> prediction [B, D, L], for any L."""

    def __init__(self, config: TransformerConfig, conditions: ConditionConfig) -> None:
        super().__init__()
        self.config = config
        embedding_width = 2 * config.width
        self.time = TimeEmbedding(config.width, embedding_width)
        self.conditions = ConditionEmbedding(conditions, embedding_width)
        self.stem = nn.Linear(config.latent_channels, config.width)
        self.blocks = nn.ModuleList(TransformerBlock(config, embedding_width) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, elementwise_affine=False)
        self.steer = nn.Linear(embedding_width, 2 * config.width)
        self.head = nn.Linear(config.width, config.latent_channels)
        for layer in (self.steer, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        embedding = self.time(t) + self.conditions(conditions)
        h = self.stem(x.transpose(1, 2))
        rotation = _rotation(x.shape[-1], self.config.width // self.config.heads, x.device)
        for block in self.blocks:
            h = block(h, embedding, rotation)
        shift, scale = self.steer(F.silu(embedding)).unsqueeze(1).chunk(2, dim=-1)
        prediction: Tensor = self.head(self.norm(h) * (1 + scale) + shift)
        return prediction.transpose(1, 2)


def _rotation(frames: int, channels: int, device: torch.device) -> Tensor:
    """The turn of each pair of channels at each frame, as complex numbers [L, C/2]."""
    pace = 10000.0 ** (-torch.arange(0, channels, 2, device=device) / channels)
    angles = torch.arange(frames, device=device)[:, None] * pace
    return torch.polar(torch.ones_like(angles), angles)


def _rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """x [B, heads, L, C], its pairs of channels turned; in float32, whose phases hold over long tracks."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)
