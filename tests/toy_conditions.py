"""Conditions for tests: those of a toy model, and one of each other kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from musicldm.conditions.base import CONDITIONS, Condition, ConditionConfig, Conditioning
from musicldm.latents.dataset import Crops


def usual(*artists: str, dropout: float = 0.1) -> ConditionConfig:
    """Artist and position, as a store with these artists gives them."""
    return ConditionConfig(settings={"artist": {"names": artists}} if artists else {}, dropout=dropout)


def conditioning(weights: Tensor, position: Tensor) -> Conditioning:
    """Of B items: weights of the artists [B, A], all 0 where there is none, and position [B], below 0 where none."""
    values = {"artist": weights, "position": position}
    return Conditioning(len(position), values, {"artist": weights.sum(dim=1) > 0, "position": position >= 0})


class WordsCondition(Condition):
    """A sequence: numbers of words, [B, S]; 0 is padding."""

    name = "words"
    plural = "words"
    kind = "sequence"

    def __init__(self, settings: Mapping[str, Any], width: int) -> None:
        super().__init__(settings, width)
        self.table = nn.Embedding(10, width)

    @classmethod
    def of_crops(cls, settings: Mapping[str, Any], crops: Crops) -> Tensor:
        return torch.ones(len(crops.artists), 4, dtype=torch.long)

    def parse(self, value: Any) -> Tensor:
        numbers = [int(word) for word in str(value).split()]
        return torch.tensor([numbers + [0] * (4 - len(numbers))])

    def embed(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return self.table(values), values > 0


class CurveCondition(Condition):
    """A value for each latent frame: [B, L]."""

    name = "curve"
    plural = "curves"
    kind = "frames"

    def __init__(self, settings: Mapping[str, Any], width: int) -> None:
        super().__init__(settings, 2)

    @classmethod
    def of_crops(cls, settings: Mapping[str, Any], crops: Crops) -> Tensor:
        return torch.zeros(len(crops.artists), crops.frames)

    def parse(self, value: Any) -> Tensor:
        assert isinstance(value, Sequence)
        return torch.tensor([[float(each) for each in value]])

    def embed(self, values: Tensor) -> Tensor:
        return torch.stack([values, values.square()], dim=1)


@contextmanager
def registered(*conditions: type[Condition]) -> Iterator[None]:
    """While this holds, these conditions can be chosen too."""
    with pytest.MonkeyPatch.context() as patch:
        places = {condition.name: f"{condition.__module__}:{condition.__name__}" for condition in conditions}
        patch.setattr(CONDITIONS, "_entries", {**CONDITIONS._entries, **places})
        yield
