"""Many channels to fewer, and what becomes of the sound: channels in opposite phase cancel each other in their mean.

Shapes: C channels, n samples; audio is float32 [C, n].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

CANCELLED = 0.1
"""The energy of a mean as a fraction of that of the channels in it: less is no mix but a loss. Unrelated channels leave
a half; those with a correlation below -0.8 leave less than a tenth."""
_SILENT = 1e-10  # mean square; -100 dBFS, below which sums of squares are not exact enough


class Place(NamedTuple):
    """One channel of the output, for input of one layout."""

    layout: tuple[str, ...]
    output: int


@dataclass
class _Energy:
    """Sums over the samples of the channels of a place, and of their mean, the last row."""

    samples: int
    sums: NDArray[np.float64]
    squares: NDArray[np.float64]

    def variance(self) -> NDArray[np.float64]:
        """Without an offset, which never cancels."""
        variance: NDArray[np.float64] = self.squares / self.samples - np.square(self.sums / self.samples)
        return variance


@dataclass
class Mixer:
    """Blocks of any layout to so many channels.

    One channel is the mean of all. Of two, each is the mean of the channels on its side and of those on neither; mono
    is doubled.
    """

    channels: int
    alone: Mapping[Place, int] = field(default_factory=dict)
    """Where the mean would cancel: which channel of the input is taken instead."""
    _energies: dict[Place, _Energy] = field(default_factory=dict)

    def mix(self, audio: Floats, layout: tuple[str, ...]) -> Floats:
        """[C, n] to [channels, n]; `layout` has ffmpeg's names: FL FR FC LFE BL BR SL SR …"""
        if self.channels == len(audio):
            return audio
        sides = [list(range(len(audio)))]
        if self.channels == 2:
            # The left side is every channel but those on the right: FL, BL, SL and, in the middle, FC, BC and LFE.
            left = [i for i, name in enumerate(layout) if "R" not in name]
            right = [i for i, name in enumerate(layout) if "L" not in name or name.startswith("LFE")]
            sides = [side or sides[0] for side in (left, right)]
        return np.concatenate(
            [self._one(Place(layout, output), audio[side], side) for output, side in enumerate(sides)]
        )

    def cancelled(self) -> dict[Place, int]:
        """Where the mean of all blocks so far has lost nearly all energy: the channel that is loudest there."""
        found = {}
        for place, energy in self._energies.items():
            *channels, mean = energy.variance().tolist()
            loud = sum(channels) / len(channels)
            if loud > _SILENT and mean < CANCELLED * loud:
                found[place] = int(np.argmax(channels))
        return found

    def _one(self, place: Place, audio: Floats, side: list[int]) -> Floats:
        """The channels [k, n] of a side to [1, n]."""
        if place in self.alone:
            # By its number on that side.
            only: Floats = audio[self.alone[place]][None]
            return only
        if len(side) == 1:
            return audio
        mean: Floats = audio.sum(axis=0, keepdims=True)
        mean /= len(audio)
        if not self.alone:
            self._add(place, np.concatenate([audio, mean]))
        return mean

    def _add(self, place: Place, rows: Floats) -> None:
        blank = _Energy(0, np.zeros(len(rows)), np.zeros(len(rows)))
        energy = self._energies.setdefault(place, blank)
        energy.samples += rows.shape[1]
        with np.errstate(invalid="ignore", over="ignore"):  # samples that are not finite are refused elsewhere
            energy.sums += rows.sum(axis=1, dtype=np.float64)
            energy.squares += [float(np.dot(row, row)) for row in rows]


def mixers(channels: int) -> Iterator[Mixer]:
    """What to decode a file with: means, and then, where these have cancelled, once more with channels alone.

    The second comes when the iterator is asked for it, after a whole file has gone through the first.
    """
    first = Mixer(channels)
    yield first
    if cancelled := first.cancelled():
        yield Mixer(channels, cancelled)
