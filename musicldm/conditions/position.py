"""Where in its track a crop begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from musicldm.conditions.base import Condition
from musicldm.core.errors import UsageError

if TYPE_CHECKING:
    from musicldm.latents.dataset import Crops


class PositionCondition(Condition):
    """Sinusoids of the position, then a small network. Values are fractions of the track, [B]; below 0: absent."""

    name = "position"
    plural = "positions"
    kind = "vector"

    frequencies: Tensor

    def __init__(self, settings: Mapping[str, Any], width: int) -> None:
        super().__init__(settings, width)
        # From once to 16 times a track.
        self.register_buffer("frequencies", torch.pi * 2.0 ** torch.arange(6), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(12, 64), nn.SiLU(), nn.Linear(64, width))

    @classmethod
    def of_crops(cls, settings: Mapping[str, Any], crops: Crops) -> Tensor:
        # Where memory is only planned, crops have no track: 0 / 0 would be no number.
        return crops.start / crops.total.clamp_min(1e-6)

    def parse(self, value: Any) -> Tensor:
        try:
            position = float(value)
        except (TypeError, ValueError):
            position = -1.0
        if not 0 <= position <= 1:
            raise UsageError(f"There is no position {value} in a track.", "0 is its start, 1 its end.")
        return torch.tensor([position])

    def embed(self, values: Tensor) -> Tensor:
        angles = values[:, None] * self.frequencies
        embedded: Tensor = self.mlp(torch.cat([angles.sin(), angles.cos()], dim=1))
        return embedded

    def present(self, values: Tensor) -> Tensor:
        return values >= 0
