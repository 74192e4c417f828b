"""How long the track is that the music is from, in minutes: preludes are short, symphonies are long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from musicldm.conditions.base import Condition
from musicldm.core.errors import UsageError
from musicldm.latents.dataset import Crops


class LengthCondition(Condition):
    """Values are minutes, [B]; `embed` makes a vector of their logarithm."""

    name = "length"
    plural = "lengths"
    kind = "vector"

    def __init__(self, settings: Mapping[str, Any], width: int) -> None:
        super().__init__(settings, width)
        self.layer = nn.Linear(1, width)

    @classmethod
    def of_crops(cls, settings: Mapping[str, Any], crops: Crops) -> Tensor:
        return crops.total / 60

    def parse(self, value: Any) -> Tensor:
        try:
            minutes = float(value)
        except ValueError:
            minutes = 0.0
        if not 0 < minutes < 1e4:
            raise UsageError(f"{value!r} is not a valid length: expected minutes, such as 3.5.")
        return torch.tensor([minutes])

    def embed(self, values: Tensor) -> Tensor:
        embedded: Tensor = self.layer(values.clamp_min(1e-3).log()[:, None])
        return embedded
