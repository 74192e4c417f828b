"""Mean and standard deviation of latents, channel by channel: what turns raw latents into normalised ones and back.

The statistics are of the training tracks, over the float16 values as stored. A latent is a draw from its posterior,
so a channel's variance has two terms: Var(mean) + E[exp(logvar)] (law of total variance).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt

from musicldm.core.bundle import REPAIR_HINT, Component, codec_key
from musicldm.core.config import Between, Count, from_dict
from musicldm.core.errors import BundleError, ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_STD = 1e-4
"""The floor under a channel's standard deviation: a dead channel is normalised to zeros, not divided by zero."""
DEAD_STD = 1e-3
"""A channel of a smaller standard deviation is dead: what is left of it is the noise of rounding."""


@dataclass(frozen=True)
class Moments:
    """Sums over frames, in float64, that merge exactly; every array is [D]."""

    count: int
    """Frames."""
    mean: npt.NDArray[np.float64]
    """The average of the posterior means."""
    squares: npt.NDArray[np.float64]
    """The sum of squared distances of the posterior means from their average."""
    variances: npt.NDArray[np.float64]
    """The sum of the posterior variances, exp(logvar)."""

    @classmethod
    def none(cls, channels: int) -> Moments:
        """The moments of no frames at all."""
        return cls(0, np.zeros(channels), np.zeros(channels), np.zeros(channels))

    @classmethod
    def of(cls, mean: npt.NDArray[np.float16], logvar: npt.NDArray[np.float16]) -> Moments:
        """The moments of some frames, given as [l, D]."""
        if not len(mean):
            return cls.none(mean.shape[1])
        wide = mean.astype(np.float64)
        average = wide.mean(axis=0)
        variances = np.exp(logvar.astype(np.float64))
        # About the mean, in a second pass: Σx² − n·mean² would be the small difference of two large numbers.
        return cls(len(wide), average, np.square(wide - average).sum(axis=0), variances.sum(axis=0))

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets of frames together (Chan, Golub & LeVeque 1979)."""
        count = self.count + other.count
        if not count:
            return self
        apart = other.mean - self.mean
        return Moments(
            count,
            self.mean + apart * (other.count / count),
            self.squares + other.squares + np.square(apart) * (self.count * other.count / count),
            self.variances + other.variances,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; Python's floats come back bit for bit."""
        arrays = {"mean": self.mean, "squares": self.squares, "variances": self.variances}
        return {"count": self.count, **{name: array.tolist() for name, array in arrays.items()}}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Moments:
        """The reverse of `to_dict`.

        Raises:
            ConfigError: it is not.
        """
        read = from_dict(_Sums, data, unknown="pass over")
        return cls(
            read.count, *(np.array(each, dtype=np.float64) for each in (read.mean, read.squares, read.variances))
        )


@dataclass(frozen=True)
class _Sums:
    """`Moments` as JSON has them."""

    count: Count
    # Of numbers of float16, which end at 65504: what is larger was never measured, and would overflow when squared.
    mean: tuple[Annotated[float, Between(-1e5, 1e5)], ...]
    squares: tuple[Annotated[float, Between(0, 1e30)], ...]
    variances: tuple[Annotated[float, Between(0, 1e100)], ...]

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.squares) == len(self.variances):
            raise ConfigError("The moments do not all have the same channels.")


@dataclass(frozen=True)
class LatentStatistics:
    """The mean and standard deviation of each latent channel."""

    count: Count
    """Frames that were measured."""
    mean: tuple[float, ...]
    """D averages."""
    std: tuple[float, ...]
    """D standard deviations, none below `SMALLEST_STD`."""

    @classmethod
    def from_moments(cls, moments: Moments) -> LatentStatistics:
        """The statistics of at least one frame.

        Raises:
            DataError: the moments are of no frames.
        """
        if not moments.count:
            raise DataError("There are no training tracks to measure.", "Encode some tracks of the split 'train'.")
        variance = (moments.squares + moments.variances) / moments.count
        std = np.maximum(np.sqrt(variance), SMALLEST_STD)
        return cls(moments.count, tuple(moments.mean.tolist()), tuple(std.tolist()))

    def normalise(self, z: Tensor) -> Tensor:
        """Raw latents [B, D, L] or [D, L] -> normalised latents: mean 0 and standard deviation 1 in each channel."""
        return (z - z.new_tensor(self.mean)[:, None]) / z.new_tensor(self.std)[:, None]

    def denormalise(self, z: Tensor) -> Tensor:
        """Normalised latents [B, D, L] or [D, L] -> raw latents, as the codec's decoder takes them."""
        return z * z.new_tensor(self.std)[:, None] + z.new_tensor(self.mean)[:, None]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"count": self.count, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LatentStatistics:
        """The reverse of `to_dict`.

        Raises:
            DataError: a key is missing, or the lists do not fit each other.
        """
        try:
            statistics = from_dict(cls, dict(data), unknown="pass over")
        except (TypeError, ValueError) as error:
            raise DataError("The latent statistics are damaged.", REPAIR_HINT) from error
        if len(statistics.mean) != len(statistics.std) or not all(value > 0 for value in statistics.std):
            raise DataError("The latent statistics are damaged.", REPAIR_HINT)
        return statistics


@dataclass(frozen=True)
class GeneratorLatents:
    """What a generator's component states of the latents that it makes: how they are scaled, and whose they are."""

    statistics: LatentStatistics
    codec_hash: str
    """The digest of the codec that they belong to."""

    @classmethod
    def of(cls, component: Component) -> GeneratorLatents:
        """Read them from a generator's component, of this release or an earlier one.

        Raises:
            BundleError: it does not state both.
        """
        config = component.config
        try:
            digest = config[codec_key(config)]
            if not isinstance(digest, str):
                raise DataError("The hash of the codec is not valid.")
            return cls(LatentStatistics.from_dict(config["statistics"]), digest)
        except (KeyError, DataError) as error:
            message = "The bundle does not state which codec's latents its generator makes, and how they are scaled."
            raise BundleError(message, REPAIR_HINT) from error

    @staticmethod
    def without(config: Mapping[str, Any]) -> dict[str, Any]:
        """What else stands in the configuration of such a component: that of the network."""
        return {key: value for key, value in config.items() if key not in ("statistics", codec_key(config))}

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the configuration of a component."""
        return {"statistics": self.statistics.to_dict(), "codec": self.codec_hash}
