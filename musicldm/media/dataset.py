"""Random crops of prepared tracks, for training codecs."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from musicldm.core.errors import DataError, MismatchError
from musicldm.core.padded import Padded, padded
from musicldm.core.seeding import derive
from musicldm.media.audio import resampled
from musicldm.media.manifest import PreparedTrack, Split, read_tracks
from musicldm.media.medium import UNIT, Medium


def check_format(tracks: Sequence[PreparedTrack], rate: int, channels: int) -> None:
    """Check that every track has the rate and the channels of the model.

    Raises:
        MismatchError: one has another rate or number of channels.
    """
    for track in tracks:
        if (track.rate, track.channels) != (rate, channels):
            raise MismatchError(
                f"{track.path} has {track.channels} channel(s) at {track.rate} Hz; "
                f"the model needs {channels} at {rate} Hz.",
                "Add --resample, choose another preset, or prepare it with "
                f"--sample-rate {rate} --channels {channels}.",
            )


class CropDataset:
    """Crops of `length` units whose starts lie on a grid, uniform over all positions in all tracks of a split.

    A track shorter than a crop has one position: it comes whole, `Padded` where it stands beside longer ones.
    A batch is a pure function of (seed, step): training resumes anywhere, with any number of workers.

    Args:
        length: of a crop, in the tracks' units; a multiple of `grid`.
        grid: crops start at multiples of so many units, where the codec's windows start.

    Attributes:
        short: how many tracks are shorter than a crop.

    Raises:
        DataError: there is no track.
    """

    def __init__(self, tracks: Sequence[PreparedTrack], length: int, grid: int, seed: int = 0) -> None:
        self.length = length
        self.grid = grid
        self.seed = seed
        self.tracks = [track for track in tracks if track.length]
        self.short = sum(track.length < length for track in self.tracks)
        if not self.tracks:
            raise DataError("There is no track to train on.", "Prepare more music.")
        positions = [max(0, track.length - length) // grid + 1 for track in self.tracks]
        self._ends = list(itertools.accumulate(positions))

    def batch(self, step: int, size: int, part: slice = slice(None)) -> Tensor | Padded:
        """Of the `size` crops of a training step, those of a micro-batch: [B, C, length]."""
        return self._read(self._draw(step, size)[part])

    def describe(self, step: int, size: int) -> list[str]:
        """Where each of the `size` crops of a training step comes from, for a person to read."""
        positions = [self._find(position) for position in self._draw(step, size)]
        return [
            f"{track.path.parent.name}/{track.path.name} at {start / track.rate:.1f} {UNIT[track.medium]}"
            for track, start in positions
        ]

    def fixed_batch(self, count: int) -> Tensor | Padded:
        """`count` crops (or as many as there are) evenly distributed over all positions: [count, C, length]."""
        count = min(count, self._ends[-1])
        return self._read([int((i + 0.5) * self._ends[-1] / count) for i in range(count)])

    def _draw(self, step: int, size: int) -> list[int]:
        rng = np.random.default_rng(derive(self.seed, "crop", step))
        positions: list[int] = rng.integers(self._ends[-1], size=size).tolist()
        return positions

    def _find(self, position: int) -> tuple[PreparedTrack, int]:
        """The track of a position, and the unit at which a crop there begins."""
        index = bisect.bisect_right(self._ends, position)
        return self.tracks[index], (position - (self._ends[index - 1] if index else 0)) * self.grid

    def _read(self, positions: list[int]) -> Tensor | Padded:
        places = [self._find(position) for position in positions]
        lengths = [min(self.length, track.length) for track, _ in places]
        crops = np.zeros((len(places), places[0][0].channels if places else 1, self.length), np.float32)
        for crop, length, (track, start) in zip(crops, lengths, places, strict=True):
            crop[:, :length] = track.read(start, start + length)
        return padded(torch.from_numpy(crops), torch.tensor(lengths), self.length)


def open_splits(
    data: Path, rate: int, channels: int, resample: bool = False, medium: Medium = "audio"
) -> dict[Split, list[PreparedTrack]]:
    """The tracks that `preprocess` left in a folder, by split; raises as `read_tracks` and `check_format` do.

    Args:
        resample: convert tracks of audio that have another rate or other channels.
    """
    tracks = read_tracks(data, medium)
    if resample and medium == "audio":
        tracks = resampled.fit(tracks, rate, channels)
    check_format(tracks, rate, channels)
    splits: dict[Split, list[PreparedTrack]] = {"train": [], "heldout": []}
    for track in tracks:
        splits[track.split].append(track)
    return splits
