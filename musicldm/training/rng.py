"""Random numbers of a training step, which do not depend on how the step is split."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from musicldm.core.seeding import derive


class CropGenerator:
    """Random numbers for crops: each crop has its own, whatever micro-batch and device it comes to.

    Args:
        batch_size: crops in a step, over all devices.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._rows: slice | Tensor = slice(0, None)
        self._generator: torch.Generator | None = None  # before the first `seed`: torch's own

    def seed(
        self,
        device: torch.device,
        seed: int,
        position: int,
        micro_batch: int,
        size: int,
        rows: Tensor | None = None,
        missing: int = 0,
    ) -> None:
        """Prepare for a micro-batch of `size` crops: its number, counted over all devices, of the step at `position`.

        Or only for the crops `rows` [n] of it, all `missing` so much of a full length; see `core.padded`.

        torch's global generator is seeded too, which serves what belongs to no crop, such as dropout.
        """
        torch.manual_seed(derive(seed, "step", position, micro_batch))
        if self._generator is None:
            self._generator = torch.Generator(device)
        # Without the micro-batch in the address: all draw the same numbers for the whole step, and each keeps its part.
        address = ("crops", position, missing) if missing else ("crops", position)
        self._generator.manual_seed(derive(seed, *address))
        first = micro_batch * size
        self._rows = slice(first, first + size) if rows is None else first + rows

    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal numbers for crops [B, …]."""
        return self._own(
            x, lambda *shape: torch.randn(*shape, device=x.device, dtype=x.dtype, generator=self._generator)
        )

    def rand_like(self, x: Tensor) -> Tensor:
        """Uniform numbers in [0, 1) for crops [B, …]."""
        return self._own(
            x, lambda *shape: torch.rand(*shape, device=x.device, dtype=x.dtype, generator=self._generator)
        )

    def _own(self, x: Tensor, draw: Callable[..., Tensor]) -> Tensor:
        # Noise is drawn for the crops of all micro-batches, of which these keep theirs: that costs next to nothing.
        whole = draw(max(self.batch_size, len(x)), *x.shape[1:])
        if isinstance(self._rows, Tensor):
            return whole[self._rows.to(whole.device)]
        return whole[self._rows][: len(x)]
