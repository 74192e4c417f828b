"""Latent store -> crops for training a denoiser. This is the hot path: it reads from memory maps and nothing else.

Chance is counter-based: a batch is a pure function of (seed, step), so that a run resumed at any step sees exactly
what it would have seen, whatever happened to any global generator and however many workers read.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from musicldm.errors import DataError
from musicldm.latents.store import LatentStore, TrackEntry

Batch = npt.NDArray[np.float32]


class LatentDataset:
    """Normalised crops [B, D, L] of one split's tracks, uniformly over frames: a long track is drawn more often.

    Args:
        store: where the latents are; tracks that are added later are not seen.
        crop_frames: L.
        split: whose tracks to read.
        seed: what the draws depend on, beside the step.

    Attributes:
        tracks: the tracks in use, in the store's order.
        left_out: how many tracks of the split are shorter than a crop.
        seconds: the length of the tracks in use.
        statistics: of the store's training tracks, whatever the split.

    Raises:
        DataError: no track of the split is as long as a crop.
    """

    def __init__(self, store: LatentStore, crop_frames: int, split: str = "train", seed: int = 0) -> None:
        of_split = [entry for entry in store.tracks if entry.split == split]
        self.tracks: list[TrackEntry] = [entry for entry in of_split if entry.frames >= crop_frames]
        self.left_out = len(of_split) - len(self.tracks)
        if not self.tracks:
            raise _nothing_to_read(store, of_split, crop_frames, split)
        self.seconds = sum(entry.seconds for entry in self.tracks)
        self.statistics = store.statistics()
        self._mean = np.array(self.statistics.mean, np.float32)
        self._std = np.array(self.statistics.std, np.float32)
        self.crop_frames = crop_frames
        self.seed = seed
        self._store = store
        # Crops are numbered through all tracks, one for each frame at which a crop can start.
        crops = np.array([entry.frames - crop_frames + 1 for entry in self.tracks])
        self._ends = np.cumsum(crops)
        self._begins = self._ends - crops

    def batch(self, step: int, batch_size: int) -> Tensor:
        """The crops of one training step: drawn from the posterior and normalised, float32 [B, D, L].

        A pure function of (seed, step, batch_size).
        """
        seeds = np.random.SeedSequence(self.seed % 2**64, spawn_key=(step,))
        random = np.random.Generator(np.random.Philox(seeds))
        mean, logvar = self._read(random.integers(self._ends[-1], size=batch_size))
        noise = random.standard_normal(mean.shape, dtype=np.float32)
        return self._normalised(mean + np.exp(0.5 * logvar) * noise)

    def fixed_batch(self, count: int) -> Tensor:
        """The same `count` crops at every call, evenly spaced over the tracks: posterior means, float32 [B, D, L]."""
        mean, _ = self._read((2 * np.arange(count) + 1) * self._ends[-1] // (2 * count))
        return self._normalised(mean)

    def _read(self, crops: npt.NDArray[np.int64]) -> tuple[Batch, Batch]:
        """Mean and log-variance of numbered crops, raw, [B, L, D]."""
        tracks = np.searchsorted(self._ends, crops, side="right")
        starts = crops - self._begins[tracks]
        both = np.empty((2, len(crops), self.crop_frames, self._store.header.channels), np.float32)
        for i, (track, start) in enumerate(zip(tracks.tolist(), starts.tolist(), strict=True)):
            both[0, i], both[1, i] = self._store.read(self.tracks[track], start, start + self.crop_frames)
        return both[0], both[1]

    def _normalised(self, raw: Batch) -> Tensor:
        """From here on latents are normalised: [B, L, D] as stored -> [B, D, L] as the denoiser takes them.

        The arithmetic of `LatentStatistics.normalise`, in place and along the rows.
        """
        raw -= self._mean
        raw /= self._std
        return torch.from_numpy(np.ascontiguousarray(raw.transpose(0, 2, 1)))


def _nothing_to_read(store: LatentStore, of_split: list[TrackEntry], crop_frames: int, split: str) -> DataError:
    if not of_split:
        hint = "Encode more tracks." if store.tracks else "Encode some tracks first."
        return DataError(f"The store {store.path} has no tracks of the split {split!r}.", hint)
    longest = max(entry.frames for entry in of_split)
    return DataError(
        f"No {split!r} track of {store.path} is as long as a crop of {crop_frames} frames; the longest has {longest}.",
        f"Use a crop of at most {longest * store.header.hop / store.header.sample_rate:.1f} seconds, or longer tracks.",
    )
