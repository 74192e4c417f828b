"""Attention of frames to each other, within blocks or to all, and to a sequence beside them.

B batch, C channels, L frames, S elements of a sequence of width E; frames are [B, C, L].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musicldm.nn.blocks import Block
from musicldm.nn.norms import RMSNorm


class AttentionLayer(Block):
    """Queries, keys and values of normalised frames, attention, and a residual path; untrained, the identity."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = RMSNorm(channels)
        self.to_qkv = nn.Conv1d(channels, 3 * channels, 1, bias=False)
        self.to_out = nn.Conv1d(channels, channels, 1)
        nn.init.zeros_(self.to_out.weight)
        if self.to_out.bias is not None:
            nn.init.zeros_(self.to_out.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.to_out(self.attend(self.to_qkv(self.norm(x))))
        return out

    def attend(self, qkv: Tensor) -> Tensor:
        """Queries, keys and values [B, 3C, L] -> [B, C, L]."""
        raise NotImplementedError


class LinearAttention(AttentionLayer):
    """Attention whose cost grows with the length, not its square (Shen et al. 2018, "Efficient Attention").

    Frames attend within blocks of `block` frames that lie on the track's own grid: the first block starts at frame 0
    of the input, so an input that starts at a multiple of `block` gives what the whole track would give.
    """

    def __init__(self, channels: int, block: int, heads: int = 4) -> None:
        super().__init__(channels, heads)
        self.block = block

    def attend(self, qkv: Tensor) -> Tensor:
        with torch.autocast(qkv.device.type, enabled=False):  # sums over many frames need float32
            batch, channels, frames = qkv.shape[0], qkv.shape[1] // 3, qkv.shape[2]
            padding = -frames % self.block
            # [B, 3C, L] -> three of [B, blocks, heads, C/heads, block]
            qkv = F.pad(qkv.float(), (0, padding)).view(batch, 3, self.heads, channels // self.heads, -1, self.block)
            q, k, v = qkv.permute(1, 0, 4, 2, 3, 5).unbind(0)
            if padding:  # frames that do not exist draw no attention
                # [blocks, 1, 1, block]. Less than a block is padded, so that no softmax is over absent frames alone.
                exists = torch.arange(frames + padding, device=k.device).view(-1, 1, 1, self.block) < frames
                k = k.masked_fill(~exists, -torch.inf)
            # Queries over channels, keys over frames: the weights with which a frame attends then have a constant sum,
            # though they are never computed one by one.
            q = q.softmax(dim=-2) / math.sqrt(channels // self.heads)
            # Keys with values first: their product has (C/heads)² numbers whatever the block; queries with keys would
            # have one for each pair of frames.
            context = k.softmax(dim=-1) @ v.transpose(-1, -2)  # [B, blocks, heads, C/heads, C/heads]
            out = context.transpose(-1, -2) @ q
            return out.permute(0, 2, 3, 1, 4).reshape(batch, channels, -1)[..., :frames]


class SelfAttention(AttentionLayer):
    """Softmax attention over all frames: for the low resolutions of the U-Net."""

    def attend(self, qkv: Tensor) -> Tensor:
        batch, channels, frames = qkv.shape[0], qkv.shape[1] // 3, qkv.shape[2]
        # [B, 3C, L] -> [B, 3, heads, L, C/heads]
        qkv = qkv.view(batch, 3, self.heads, channels // self.heads, frames).transpose(-1, -2)
        # The fused kernels want a frame's channels side by side; without them every pair of frames has its number.
        q, k, v = qkv.contiguous().unbind(1)
        return F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(batch, channels, frames)


class CrossAttention(Block):
    """Frames [B, C, L] attend to a sequence [B, S, E], such as a text (Rombach et al. 2022, §3.3), and a residual path;
    untrained, the identity.

    Args:
        context_width: E.
    """

    def __init__(self, channels: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = RMSNorm(channels)
        self.to_q = nn.Conv1d(channels, channels, 1, bias=False)
        self.to_kv = nn.Linear(context_width, 2 * channels, bias=False)
        self.to_out = nn.Conv1d(channels, channels, 1)
        nn.init.zeros_(self.to_out.weight)
        if self.to_out.bias is not None:
            nn.init.zeros_(self.to_out.bias)

    def forward(self, x: Tensor, sequence: Tensor, mask: Tensor) -> Tensor:
        """mask [B, S] is true where the sequence has an element; every item has at least one."""
        batch, channels, frames = x.shape
        q = self.to_q(self.norm(x)).view(batch, self.heads, -1, frames).transpose(-1, -2)  # [B, heads, L, C/heads]
        # [B, S, 2C] -> two of [B, heads, S, C/heads]
        k, v = self.to_kv(sequence).view(batch, sequence.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        # The mask as [B, 1, 1, S]: the same for all heads and frames.
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        out: Tensor = x + self.to_out(attended.transpose(-1, -2).reshape(batch, channels, frames))
        return out
