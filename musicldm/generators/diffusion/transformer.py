"""The other network: a transformer over latents [B, D, L] of any length.

    x ─in─ [norm, attention, (cross-attention,) norm, MLP] × depth ─norm─ out

The embedding of time and conditions scales, shifts and gates each half of a block, and every gate starts at zero, so
that an untrained block is the identity (adaLN-zero, Peebles & Xie 2023). Positions are rotations of queries and keys
(Su et al. 2021), which know distances only: a crop teaches what holds for any length. Where a condition is a sequence,
frames attend to it between the halves (Chen et al. 2023, "PixArt-α"); per-frame conditions are projected and added
behind the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musicldm.conditions.base import ConditionConfig, Conditioning, ConditionSet, Embedding
from musicldm.core.config import Between
from musicldm.core.errors import ConfigError
from musicldm.nn.attention import CrossAttention
from musicldm.nn.blocks import Block, Checkpointable
from musicldm.nn.embeddings import TimeEmbedding


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of the network."""

    latent_channels: Annotated[int, Between(1, 65536)] = 32
    """D; taken from the store when training."""
    width: Annotated[int, Between(1, 65536)] = 256
    """Channels."""
    depth: Annotated[int, Between(1, 256)] = 6
    """Blocks."""
    heads: Annotated[int, Between(1, 1024)] = 4
    """Attention heads."""
    expansion: Annotated[int, Between(1, 64)] = 4
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
    """Attention and an MLP, each between a normalisation that the embedding steers and a gate.

    Args:
        embedding_width: E, of the vector that steers it and of a sequence.
        cross_attention: whether frames attend to a sequence as well.
    """

    def __init__(self, config: TransformerConfig, embedding_width: int, cross_attention: bool = False) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        # Without scale and shift of their own: those come from the embedding.
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
        self.cross = CrossAttention(width, embedding_width, config.heads) if cross_attention else None

    def forward(self, h: Tensor, embedding: Tensor, rotation: Tensor, conditions: Embedding) -> Tensor:
        """h [B, L, width]; embedding [B, E]; rotation [L, width/heads/2], complex."""
        # [B, E] -> six of [B, 1, width]
        shift1, scale1, gate1, shift2, scale2, gate2 = self.steer(F.silu(embedding)).unsqueeze(1).chunk(6, dim=-1)
        h = h + gate1 * self._attend(self.norm1(h) * (1 + scale1) + shift1, rotation)
        if self.cross is not None:
            # `CrossAttention` takes channels before frames, as the U-Net has them.
            h = self.cross(h.transpose(1, 2), conditions.sequence, conditions.mask).transpose(1, 2)
        out: Tensor = h + gate2 * self.mlp(self.norm2(h) * (1 + scale2) + shift2)
        return out

    def _attend(self, h: Tensor, rotation: Tensor) -> Tensor:
        batch, frames, width = h.shape
        q, k, v = self.to_qkv(h).view(batch, frames, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # [B, heads, L, C]
        attended = F.scaled_dot_product_attention(_rotated(q, rotation), _rotated(k, rotation), v)
        out: Tensor = self.to_out(attended.transpose(1, 2).reshape(batch, frames, width))
        return out


class Transformer(Checkpointable):
    """(noisy latents [B, D, L], times t [B], conditioning) -> prediction [B, D, L], for any L."""

    def __init__(self, config: TransformerConfig, conditions: ConditionConfig) -> None:
        super().__init__()
        self.config = config
        embedding_width = 2 * config.width
        self.time = TimeEmbedding(config.width, embedding_width)
        self.conditions = ConditionSet(conditions, embedding_width)
        self.stem = nn.Linear(config.latent_channels, config.width)
        frame_channels, has_sequence = self.conditions.frame_channels, self.conditions.has_sequence
        self.frames = nn.Linear(frame_channels, config.width, bias=False) if frame_channels else None
        if self.frames is not None:
            nn.init.zeros_(self.frames.weight)  # it begins as it would be without them
        self.blocks = nn.ModuleList(
            TransformerBlock(config, embedding_width, has_sequence) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, elementwise_affine=False)
        self.steer = nn.Linear(embedding_width, 2 * config.width)
        self.head = nn.Linear(config.width, config.latent_channels)
        # Untrained, it predicts 0, whatever the input.
        for layer in (self.steer, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        conditions: Embedding = self.conditions(conditioning, x.shape[-1])
        embedding = self.time(t)
        if conditions.vector is not None:
            embedding = embedding + conditions.vector
        # [B, D, L] -> [B, L, width]
        h = self.stem(x.transpose(1, 2))
        if self.frames is not None and conditions.frames is not None:
            h = h + self.frames(conditions.frames.transpose(1, 2))
        rotation = _rotation(x.shape[-1], self.config.width // self.config.heads, x.device)
        for block in self.blocks:
            h = block(h, embedding, rotation, conditions)
        shift, scale = self.steer(F.silu(embedding)).unsqueeze(1).chunk(2, dim=-1)
        prediction: Tensor = self.head(self.norm(h) * (1 + scale) + shift)
        return prediction.transpose(1, 2)


def _rotation(frames: int, channels: int, device: torch.device) -> Tensor:
    """The turn of each pair of channels at each frame, as complex numbers [L, C/2]."""
    # The base is that of the paper (Su et al. 2021, §3.2.2).
    pace = 10000.0 ** (-torch.arange(0, channels, 2, device=device) / channels)
    angles = torch.arange(frames, device=device)[:, None] * pace
    return torch.polar(torch.ones_like(angles), angles)


def _rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """x [B, heads, L, C], its pairs of channels turned; in float32, whose phases hold over long tracks."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)
