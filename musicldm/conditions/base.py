"""What a denoiser is told beside the noise level: whose music, and where in a track.

Every condition can be absent, for one item or for all: training drops each now and then, so that the network also
learns to do without, and guidance has something to compare with (Ho & Salimans 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from musicldm.core.errors import ConfigError


@dataclass(frozen=True)
class ConditionConfig:
    """What can be told."""

    artists: tuple[str, ...] = ()
    """Names in the order of their embeddings; taken from the store when training."""
    by_artist: bool = True
    """Whether to tell the artist."""
    by_position: bool = True
    """Whether to tell the position in the track."""
    dropout: float = 0.1
    """Share of the training crops of which a condition is not told."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ConfigError("conditions.dropout must lie in [0, 1).")


@dataclass(frozen=True)
class Conditions:
    """Of B items."""

    artists: Tensor
    """Shares of each artist, [B, A], which sum to 1; all 0 where none is told."""
    position: Tensor
    """Where the crop begins, as a share of its track, [B]; below 0 where it is not told."""

    @classmethod
    def none(cls, batch: int, artists: int, device: torch.device | str = "cpu") -> Conditions:
        """Nothing told."""
        return cls(torch.zeros(batch, artists, device=device), torch.full((batch,), -1.0, device=device))

    def dropped(self, artist: Tensor, position: Tensor) -> Conditions:
        """Without the artists and positions of the items where these, [B], are true."""
        return Conditions(self.artists.masked_fill(artist[:, None], 0.0), self.position.masked_fill(position, -1.0))

    def expanded(self, batch: int) -> Conditions:
        """Those of one item for so many."""
        return Conditions(self.artists.expand(batch, -1), self.position.expand(batch))

    @staticmethod
    def cat(parts: Sequence[Conditions]) -> Conditions:
        """One batch of several."""
        return Conditions(torch.cat([part.artists for part in parts]), torch.cat([part.position for part in parts]))


class ConditionEmbedding(nn.Module):
    """Conditions -> vectors [B, E], to be added to the embedding of the time."""

    frequencies: Tensor

    def __init__(self, config: ConditionConfig, width: int) -> None:
        super().__init__()
        self.by_artist = config.by_artist and bool(config.artists)
        self.by_position = config.by_position
        if self.by_artist:
            self.artists = nn.Parameter(torch.zeros(len(config.artists), width))
            self.no_artist = nn.Parameter(torch.zeros(width))
        if self.by_position:
            # From once to 16 times a track.
            self.register_buffer("frequencies", torch.pi * 2.0 ** torch.arange(6), persistent=False)
            self.position = nn.Sequential(nn.Linear(12, 64), nn.SiLU(), nn.Linear(64, width))
            self.no_position = nn.Parameter(torch.zeros(width))

    def forward(self, conditions: Conditions) -> Tensor | float:
        total: Tensor | float = 0.0
        if self.by_artist:
            told = conditions.artists.sum(dim=1, keepdim=True)
            total = total + conditions.artists @ self.artists + (1 - told) * self.no_artist
        if self.by_position:
            angles = conditions.position[:, None] * self.frequencies
            known = self.position(torch.cat([angles.sin(), angles.cos()], dim=1))
            total = total + torch.where((conditions.position < 0)[:, None], self.no_position, known)
        return total
