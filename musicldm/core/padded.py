"""Batches in which some crops are shorter than the others, and what keeps a training from seeing their padding.

A network is never shown padding: the crops of a batch go through it in groups of one length, each cut to it. So not
only losses and attention pass over it, but convolutions, transforms and a discriminator too, whatever the codec or the
generator; the gradient is that of batches without any padding, and no network needs a mask of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

Batch = TypeVar("Batch")
Cut = Callable[[Any, int], Any]
"""A batch, and how many samples or frames to cut off -> the same crops without these at their ends."""


class Padded(NamedTuple):
    """A batch of which a crop is shorter than the others; what lies behind its end means nothing."""

    batch: Any
    """As the source gives it where all crops are full."""
    missing: Tensor
    """How many samples or frames each crop lacks of a full one: int64 [B]."""


class Group(NamedTuple):
    """Crops of one length, out of a batch."""

    batch: Any
    rows: Tensor | None
    """Which crops of the batch these are, [n]; None: all."""
    missing: int
    """How many samples or frames each lacks of a full one."""
    weight: float
    """Their share of the batch's crops, which sums to 1 over all groups."""


def padded(batch: Batch, lengths: Tensor, full: int) -> Batch | Padded:
    """The batch, with the lengths of its crops [B] where one of them is shorter than `full`."""
    missing = full - lengths
    return Padded(batch, missing) if bool(missing.any()) else batch


def groups(batch: Any, cut: Cut) -> Iterator[Group]:
    """A batch, padded or not, in groups of one length, the longest first."""
    if not isinstance(batch, Padded):
        yield Group(batch, None, 0, 1.0)
        return
    missing = batch.missing.tolist()
    for each in sorted(set(missing)):
        rows = torch.tensor([row for row, other in enumerate(missing) if other == each])
        chosen = tree_map(lambda column, rows=rows: column[rows.to(column.device)], batch.batch)
        yield Group(cut(chosen, each) if each else chosen, rows, each, len(rows) / len(missing))


def split(batch: Any, size: int) -> Iterator[tuple[Any, int]]:
    """A batch, padded or not, in parts of at most `size` crops, each with the number of its crops."""
    leaf = batch.missing if isinstance(batch, Padded) else batch if isinstance(batch, Tensor) else batch[0]
    for first in range(0, len(leaf), size):
        stop = min(first + size, len(leaf))
        yield tree_map(lambda column, part=slice(first, stop): column[part], batch), stop - first
