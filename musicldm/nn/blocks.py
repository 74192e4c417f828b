"""The building blocks that networks share. B batch, C channels, L frames; every tensor is [B, C, L]."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from musicldm.nn.norms import RMSNorm


class Block(nn.Module):
    """A part of a network that can `recompute`: it keeps its inputs only, and runs again in backward.

    The gradients are the same; a step takes one more forward and a fraction of the memory (Chen et al. 2016).
    """

    recompute = False

    # Not `forward`, so that subclasses write theirs without thinking of this.
    def __call__(self, *inputs: Any) -> Any:
        if self.recompute and self.training and torch.is_grad_enabled():
            # Nothing inside is left to chance, so there is no state of a generator to bring back.
            # The reentrant variant would leave a block without gradients where no input of it requires any.
            return checkpoint(super().__call__, *inputs, use_reentrant=False, preserve_rng_state=False)
        return super().__call__(*inputs)


class Checkpointable(nn.Module):
    """A network made of blocks."""

    @property
    def checkpointing(self) -> bool:
        """Whether training recomputes the blocks' activations instead of keeping them."""
        return any(block.recompute for block in _blocks(self))

    @checkpointing.setter
    def checkpointing(self, on: bool) -> None:
        for block in _blocks(self):
            block.recompute = on


def _blocks(module: nn.Module) -> Iterator[Block]:
    """The outermost blocks: one inside another would run a third time."""
    for child in module.children():
        if isinstance(child, Block):
            yield child
        else:
            yield from _blocks(child)


class ResnetBlock(Block):
    """Two convolutions with pre-normalisation and a residual path; `embedding` steers the second by FiLM.

    Args:
        embedding_width: width of the conditioning vector [B, E], or 0 for none.
        dilation: of the first convolution.
    """

    def __init__(self, channels: int, out_channels: int, embedding_width: int = 0, dilation: int = 1) -> None:
        super().__init__()
        self.norm1 = RMSNorm(channels)
        self.conv1 = nn.Conv1d(channels, out_channels, 3, padding=dilation, dilation=dilation)
        self.film = nn.Linear(embedding_width, 2 * out_channels) if embedding_width else None
        self.norm2 = RMSNorm(out_channels)
        self.conv2 = nn.Conv1d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv1d(channels, out_channels, 1) if channels != out_channels else nn.Identity()
        nn.init.zeros_(self.conv2.weight)  # each block starts as the identity: deep stacks train from the first step
        if self.conv2.bias is not None:
            nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.norm2(h)
        if self.film is not None and embedding is not None:
            # [B, E] -> two of [B, C', 1]
            scale, shift = self.film(F.silu(embedding)).unsqueeze(-1).chunk(2, dim=1)
            # 1 + scale, so that a small output of `film` is a small change; in one pass over h.
            h = torch.addcmul(shift, h, 1 + scale)
        out: Tensor = self.skip(x) + self.conv2(F.silu(h))
        return out


class StridedConv1d(nn.Conv1d):
    """A convolution whose kernel spans whole strides: [B, C, L] -> [B, C', L / stride]."""

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int) -> None:
        # (L + (kernel − stride) − kernel) / stride + 1 = L / stride, as long as kernel − stride is even.
        super().__init__(channels, out_channels, kernel, stride, padding=(kernel - stride) // 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and self.stride[0] > 1:
            return self._folded(x)
        return super().forward(x)

    def _folded(self, x: Tensor) -> Tensor:
        """The same sums with no stride: the frames of a stride become channels of one frame.

        On CPUs with AMX, oneDNN gets many strided convolutions of few channels in bfloat16 altogether wrong
        (pytorch/pytorch#169688); those without a stride it gets right.
        """
        (stride,), (kernel,) = self.stride, self.kernel_size
        padding = (kernel - stride) // 2
        # [B, C, L'] -> [B, C, L'/stride, stride] -> [B, C·stride, L'/stride]; the kernel likewise.
        frames = F.pad(x, (padding, padding)).reshape(*x.shape[:2], -1, stride)
        weight = self.weight.reshape(*self.weight.shape[:2], -1, stride)
        return F.conv1d(frames.transpose(2, 3).flatten(1, 2), weight.transpose(2, 3).flatten(1, 2), self.bias)


class Downsample(StridedConv1d):
    """Frames fewer by the even factor `stride`: [B, C, L] -> [B, C', L/stride]; the kernel spans two strides."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__(channels, out_channels, 2 * stride, stride)


class Upsample(nn.ConvTranspose1d):
    """Frames more by the even factor `stride`: [B, C, L] -> [B, C', L·stride].

    The kernel is a whole multiple of the stride, so every output frame sums the same number of taps: no checkerboard
    (Odena et al. 2016).
    """

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        # (L − 1)·stride + 2·stride − 2·(stride / 2) = L·stride, for which the stride must be even.
        super().__init__(channels, out_channels, 2 * stride, stride, padding=stride // 2)
