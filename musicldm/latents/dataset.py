"""Latent store -> crops for training a generator. This is the hot path: from a folder it reads memory maps and nothing
else; what is compressed or far away is fetched a whole batch at once, and the next batches meanwhile.

Chance is counter-based: a batch is a pure function of (seed, step), so that a run resumed at any step sees exactly
what it would have seen, whatever happened to any global generator and however many workers read. Nor does it matter in
which order the tracks came into the store.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from musicldm.core.errors import DataError
from musicldm.core.names import counted
from musicldm.core.padded import Padded, padded
from musicldm.latents.store import LatentStore
from musicldm.latents.table import TrackTable

Floats = npt.NDArray[np.float32]

_AHEAD = 2  # batches that are fetched before they are needed


@dataclass(frozen=True)
class Crops:
    """Where the crops of a batch come from: all that a condition may look at.

    Where memory is only planned, they come from nowhere: from no artist, and from a table without tracks.
    """

    artists: list[str]
    """Of the track; empty where nobody knows it."""
    start: Tensor
    """Where in its track the crop begins, in seconds: float32 [B]."""
    total: Tensor
    """The length of its track in seconds: float32 [B]."""
    frames: int
    """L, of every crop."""
    tracks: TrackTable
    """All tracks in use."""
    numbers: npt.NDArray[np.int64]
    """Which of these tracks each crop is of, [B]."""
    first: npt.NDArray[np.int64]
    """The frame of its track with which it begins, [B]."""


class LatentBatch(NamedTuple):
    """Crops, and what they are conditioned on."""

    latents: Tensor
    """Normalised, drawn from the posterior: float32 [B, D, L]."""
    conditions: dict[str, Tensor]
    """The values of each condition that the dataset was given, [B, …], by its name."""


class LatentDataset:
    """Normalised crops of one split's tracks, uniformly over frames: a long track is drawn more often.

    A track shorter than a crop is one crop, which comes whole: `Padded` where it stands beside longer ones. A network
    never sees the padding, which would teach it that music stops.

    Args:
        store: where the latents are; tracks that are added later are not seen.
        crop_frames: L.
        split: whose tracks to read.
        seed: what the draws depend on, beside the step.
        without: keys of tracks to leave out.

    Attributes:
        tracks: the tracks in use, in the order of their keys.
        short: how many tracks of the split are shorter than a crop.
        seconds: the length of the tracks in use.
        statistics: of the store's training tracks, whatever the split.
        artists: the names of those by whom there is something to train on, sorted, whatever the split; of several
            spellings of one the most frequent.
        conditions: what gives the values of each condition for the crops of a batch; see `with_conditions`.

    Raises:
        DataError: there is no track of the split.
    """

    def __init__(
        self,
        store: LatentStore,
        crop_frames: int,
        split: str = "train",
        seed: int = 0,
        without: Collection[str] = (),
    ) -> None:
        tracks = store.tracks
        if without:
            tracks = tracks.chosen(np.array([entry.key not in without for entry in tracks], bool))
        of_split = tracks.chosen(tracks.columns["heldout"] == (split == "heldout"))
        self.tracks: TrackTable = of_split.chosen(np.argsort(of_split.columns["key"], kind="stable"))
        if not self.tracks:
            hint = "Encode more tracks." if store.tracks else "Encode some tracks first."
            raise DataError(f"The store {store.path} has no tracks of the split {split!r}.", hint)
        self.statistics = store.statistics()
        self.crop_frames = crop_frames
        self.seed = seed
        self._store = store
        self._mean = np.array(self.statistics.mean, np.float32)
        self._std = np.array(self.statistics.std, np.float32)
        columns = self.tracks.columns
        self._lengths = np.minimum(columns["frames"].astype(np.int64), crop_frames)
        self.short = int((self._lengths < crop_frames).sum())
        self._segments = [segment.id for segment in self.tracks.segments]
        self._segment, self._offset = columns["segment"].astype(np.int64), columns["offset"].astype(np.int64)
        self._seconds = columns["samples"] / store.header.rate
        self.seconds = float(self._seconds.sum())
        trained_on = ~tracks.columns["heldout"]
        # One name is one artist, however it is spelled, and nobody ("") is none.
        self.artists = sorted(name for name in counted(tracks.chosen(trained_on).artist_of_each()) if name)
        self._artist = columns["artist"].astype(np.int64)
        self.conditions: Mapping[str, Callable[[Crops], Tensor]] = {}
        # Crops are numbered through all tracks, one for each frame at which a crop can start.
        crops = columns["frames"].astype(np.int64) - self._lengths + 1
        self._ends = np.cumsum(crops)
        self._begins = self._ends - crops
        self._ahead = _Ahead() if not store.is_mapped else None

    def with_conditions(self, readers: Mapping[str, Callable[[Crops], Tensor]]) -> LatentDataset:
        """The same crops with the values of conditions, by the name of each.

        The readers run where crops are read, which may be another process: they must be pure and can be pickled.
        """
        dataset = copy.copy(self)
        dataset.conditions = dict(readers)
        dataset._ahead = _Ahead() if self._ahead is not None else None
        return dataset

    def batch(self, step: int, batch_size: int, part: slice = slice(None)) -> LatentBatch | Padded:
        """Of the `batch_size` crops of a training step those in `part`.

        A pure function of (seed, step, batch_size, part), and the parts of a step make up the whole.

        Raises:
            DataError: a chunk is missing or was changed on disk; the file is named.
        """
        if self._ahead is None:
            return self._batch(step, batch_size, part.start, part.stop)
        return self._ahead.batch(self._batch, step, batch_size, part.start, part.stop)

    def describe(self, step: int, batch_size: int) -> list[str]:
        """Where each of the crops of a training step comes from, as a person would say it."""
        tracks, starts = self._placed(self._random(step).integers(self._ends[-1], size=batch_size))
        entries = [self.tracks[track] for track in tracks.tolist()]
        seconds = (starts / self._store.header.frame_rate).tolist()
        return [f"{entry.artist}/{entry.title} at {start:.1f} s" for entry, start in zip(entries, seconds, strict=True)]

    def fixed_batch(self, count: int) -> LatentBatch | Padded:
        """The same `count` crops at every call, evenly spaced over the tracks, each the mean of its posterior."""
        tracks, starts = self._placed((2 * np.arange(count) + 1) * self._ends[-1] // (2 * count))
        mean, _ = self._read(tracks, starts)
        return self._conditioned(mean, tracks, starts)

    def _random(self, step: int) -> np.random.Generator:
        # A spawn key, not seed + step, by which seed 1 at step 2 would repeat seed 2 at step 1. The remainder, because
        # a SeedSequence takes no negative number.
        seeds = np.random.SeedSequence(self.seed % 2**64, spawn_key=(step,))
        return np.random.Generator(np.random.Philox(seeds))

    def _batch(self, step: int, batch_size: int, first: int | None, stop: int | None) -> LatentBatch | Padded:
        # Positions and noise are drawn for the whole batch and then cut: a part of a step is the same however the step
        # is divided among processes and micro-batches.
        random = self._random(step)
        tracks, starts = self._placed(random.integers(self._ends[-1], size=batch_size)[first:stop])
        mean, logvar = self._read(tracks, starts)
        noise = random.standard_normal((batch_size, *mean.shape[1:]), dtype=np.float32)[first:stop]
        # z = mean + exp(logvar / 2)·noise, in place: at this size memory is what it costs.
        logvar *= 0.5
        np.exp(logvar, out=logvar)
        logvar *= noise
        mean += logvar
        return self._conditioned(mean, tracks, starts)

    def _conditioned(
        self, raw: Floats, tracks: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]
    ) -> LatentBatch | Padded:
        """Raw latents of crops, normalised, with the values of their conditions."""
        latents, lengths = self._normalised(raw), torch.from_numpy(self._lengths[tracks])
        if not self.conditions:
            return padded(LatentBatch(latents, {}), lengths, self.crop_frames)
        crops = Crops(
            artists=[self.tracks.artists[number] for number in self._artist[tracks].tolist()],
            start=torch.from_numpy((starts / self._store.header.frame_rate).astype(np.float32)),
            total=torch.from_numpy(self._seconds[tracks].astype(np.float32)),
            frames=self.crop_frames,
            tracks=self.tracks,
            numbers=tracks,
            first=starts,
        )
        batch = LatentBatch(latents, {name: read(crops) for name, read in self.conditions.items()})
        return padded(batch, lengths, self.crop_frames)

    def _placed(self, crops: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The tracks of numbered crops, and the frames in them at which the crops begin."""
        # "right": the number at which one track's crops end is the next track's first.
        tracks = np.searchsorted(self._ends, crops, side="right")
        return tracks, crops - self._begins[tracks]

    def _read(self, tracks: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Mean and log-variance of crops, raw, [B, L, D]."""
        firsts = self._offset[tracks] + starts
        frames = [
            (self._segments[segment], first, first + length)
            for segment, first, length in zip(
                self._segment[tracks].tolist(), firsts.tolist(), self._lengths[tracks].tolist(), strict=True
            )
        ]
        # float32, into which the reader widens as it copies: exp and the products below would lose too much in float16.
        make = np.zeros if self.short else np.empty  # what is padded must not be left to chance
        mean, logvar = make((2, len(tracks), self.crop_frames, self._store.header.channels), np.float32)
        with self._store.prefetch(frames):
            for i, (segment, start, stop) in enumerate(frames):
                length = stop - start
                self._store.read_frames(segment, start, stop, (mean[i, :length], logvar[i, :length]))
        return mean, logvar

    def _normalised(self, raw: Floats) -> Tensor:
        """From here on latents are normalised: [B, L, D] as stored -> [B, D, L] as the denoiser takes them.

        The arithmetic of `LatentStatistics.normalise`, in place and along the rows.
        """
        raw -= self._mean
        raw /= self._std
        return torch.from_numpy(np.ascontiguousarray(raw.transpose(0, 2, 1)))


class _Ahead:
    """Batches that are made before they are needed. Steps come evenly spaced: worker w of n makes every n-th."""

    def __init__(self) -> None:
        self._process = 0
        self._threads: ThreadPoolExecutor | None = None
        self._coming: dict[tuple[int | None, ...], Future[LatentBatch | Padded]] = {}
        self._last = -1

    def __reduce__(self) -> tuple[Any, ...]:
        return _Ahead, ()

    def batch(self, make: Any, step: int, *which: int | None) -> LatentBatch | Padded:
        """What `make` returns for this step and for `which` of its crops."""
        if self._threads is None or self._process != os.getpid():  # a fork takes no threads along
            self._process, self._coming = os.getpid(), {}
            # One thread keeps the batches in order; each of them fetches its chunks in parallel anyway.
            self._threads = ThreadPoolExecutor(1, thread_name_prefix="latents")
        stride = step - self._last if 0 <= self._last < step else 1
        self._last = step
        wanted = [(step + n * stride, *which) for n in range(_AHEAD + 1)]
        # Only what is wanted from here on is kept: after a jump the others would never be asked for, and stay in
        # memory.
        self._coming = {call: self._coming.get(call) or self._threads.submit(make, *call) for call in wanted}
        return self._coming.pop(wanted[0]).result()
