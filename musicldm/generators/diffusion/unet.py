"""One of the two networks: a 1-D U-Net over latents [B, D, L] that knows the noise level in every block.

    x ─in─ stage 0 ─↓─ stage 1 ─↓─ … middle … ─↑─ stage 1 ─↑─ stage 0 ─out─
              └──────────┴──── skips, concatenated ────┴──────────┘

A stage is a few ResNet blocks steered by the embedding of time and conditions (FiLM), each followed by attention at
the low rates: of the frames to each other and, where a condition is a sequence, to that. Per-frame conditions are
projected and added behind the input. After Ho et al. 2020, in one dimension.
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
from musicldm.nn.attention import CrossAttention, SelfAttention
from musicldm.nn.blocks import Block, Checkpointable, Downsample, ResnetBlock, Upsample
from musicldm.nn.embeddings import TimeEmbedding
from musicldm.nn.norms import RMSNorm


@dataclass(frozen=True)
class UNetConfig:
    """The shape of the network."""

    latent_channels: Annotated[int, Between(1, 65536)] = 32
    """D; taken from the store when training."""
    widths: Annotated[tuple[Annotated[int, Between(1, 65536)], ...], Between(1, 16)] = (128, 256, 384)
    """Channels of each stage; the rate halves from one to the next."""
    blocks: Annotated[int, Between(1, 64)] = 2
    """ResNet blocks in a stage, on the way down and again on the way up."""
    attention_stages: Annotated[int, Between(0, 16)] = 1
    """How many of the slowest stages have attention; the middle always has."""
    heads: Annotated[int, Between(1, 1024)] = 4
    """Attention heads."""

    def __post_init__(self) -> None:
        if not self.widths or any(width % (2 * self.heads) for width in self.widths):
            raise ConfigError("Every width of the U-Net must be a multiple of twice the heads.")

    @property
    def multiple(self) -> int:
        """Lengths are filled up to a multiple of this many frames."""
        return int(2 ** (len(self.widths) - 1))


class Unit(Block):
    """One ResNet block, with attention after it where wanted; a skip joins the input.

    Args:
        embedding_width: E, of the vector that steers it and of a sequence.
        attention: whether frames attend to each other.
        cross_attention: whether they attend to a sequence as well.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        embedding_width: int,
        heads: int,
        attention: bool,
        cross_attention: bool = False,
    ) -> None:
        super().__init__()
        self.block = ResnetBlock(channels, out_channels, embedding_width)
        self.attention = SelfAttention(out_channels, heads) if attention else nn.Identity()
        self.cross = CrossAttention(out_channels, embedding_width, heads) if cross_attention else None

    def forward(self, x: Tensor, embedding: Tensor, conditions: Embedding, skip: Tensor | None = None) -> Tensor:
        joined = x if skip is None else torch.cat([x, skip], dim=1)
        out: Tensor = self.attention(self.block(joined, embedding))
        if self.cross is not None:
            out = self.cross(out, conditions.sequence, conditions.mask)
        return out


class DownStage(nn.Module):
    """Units at one rate, then half of it; every output goes on the pile of skips."""

    def __init__(self, units: list[Unit], downsample: Downsample | None) -> None:
        super().__init__()
        self.units = nn.ModuleList(units)
        self.downsample = downsample

    def forward(self, h: Tensor, embedding: Tensor, conditions: Embedding, skips: list[Tensor]) -> Tensor:
        for unit in self.units:
            h = unit(h, embedding, conditions)
            skips.append(h)
        if self.downsample is not None:
            h = self.downsample(h)
            skips.append(h)
        return h


class UpStage(nn.Module):
    """Units at one rate, each with a skip from the top of the pile beside its input, then twice that rate."""

    def __init__(self, units: list[Unit], upsample: Upsample | None) -> None:
        super().__init__()
        self.units = nn.ModuleList(units)
        self.upsample = upsample

    def forward(self, h: Tensor, embedding: Tensor, conditions: Embedding, skips: list[Tensor]) -> Tensor:
        for unit in self.units:
            h = unit(h, embedding, conditions, skips.pop())
        return h if self.upsample is None else self.upsample(h)


class UNet(Checkpointable):
    """(noisy latents [B, D, L], times t [B], conditioning) -> prediction [B, D, L], for any L."""

    def __init__(self, config: UNetConfig, conditions: ConditionConfig) -> None:
        super().__init__()
        self.config = config
        # Four times as wide as the first stage, as in Ho et al.'s code.
        widths, embedding_width = config.widths, 4 * config.widths[0]
        last = len(widths) - 1
        self.time = TimeEmbedding(config.widths[0], embedding_width)
        self.conditions = ConditionSet(conditions, embedding_width)
        self.stem = nn.Conv1d(config.latent_channels, widths[0], 3, padding=1)
        frame_channels, has_sequence = self.conditions.frame_channels, self.conditions.has_sequence
        self.frames = nn.Conv1d(frame_channels, widths[0], 1, bias=False) if frame_channels else None
        if self.frames is not None:
            nn.init.zeros_(self.frames.weight)  # it begins as it would be without them

        def unit(channels: int, out_channels: int, stage: int) -> Unit:
            attention = stage >= len(widths) - config.attention_stages
            return Unit(channels, out_channels, embedding_width, config.heads, attention, attention and has_sequence)

        skips = [widths[0]]  # the channels of what will lie on the pile
        self.down = nn.ModuleList()
        for stage, width in enumerate(widths):
            units = [unit(skips[-1] if i == 0 else width, width, stage) for i in range(config.blocks)]
            skips += [width] * (config.blocks + (stage < last))
            self.down.append(DownStage(units, Downsample(width, width, 2) if stage < last else None))

        self.middle = nn.ModuleList([unit(widths[-1], widths[-1], len(widths)) for _ in range(2)])

        self.up = nn.ModuleList()
        channels = widths[-1]
        for stage, width in reversed(list(enumerate(widths))):
            units = []
            # One more than on the way down, for the skip that came with the downsampling or, at stage 0, with the stem.
            for _ in range(config.blocks + 1):
                units.append(unit(channels + skips.pop(), width, stage))
                channels = width
            self.up.append(UpStage(units, Upsample(width, width, 2) if stage else None))

        self.norm = RMSNorm(widths[0])
        self.head = nn.Conv1d(widths[0], config.latent_channels, 3, padding=1)
        # Untrained, it predicts 0, whatever the input.
        nn.init.zeros_(self.head.weight)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        frames = x.shape[-1]
        padding = 0, -frames % self.config.multiple
        # Before the padding: per-frame conditions have L frames, too.
        conditions: Embedding = self.conditions(conditioning, frames)
        embedding = self.time(t)
        if conditions.vector is not None:
            embedding = embedding + conditions.vector
        h = self.stem(F.pad(x, padding))
        if self.frames is not None and conditions.frames is not None:
            h = h + F.pad(self.frames(conditions.frames), padding)
        skips = [h]
        for stage in self.down:
            h = stage(h, embedding, conditions, skips)
        for unit in self.middle:
            h = unit(h, embedding, conditions)
        for stage in self.up:
            h = stage(h, embedding, conditions, skips)
        prediction: Tensor = self.head(F.silu(self.norm(h)))
        # What was filled up goes again: [B, D, L + padding] -> [B, D, L].
        return prediction[..., :frames]
