"""The training passages of a store as an index on disk, to be searched exactly and in memory that does not grow.

A passage becomes a point on the unit sphere: it is projected onto the first DIMENSIONS principal axes of the training
passages, each scaled to unit variance, and normalised. The similarity of two passages is the cosine between them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from musicldm.core import durable
from musicldm.core.config import Count, from_dict
from musicldm.core.errors import ConfigError, DataError, MusicLDMError
from musicldm.core.progress import Progress
from musicldm.evaluate.passages import (
    BANDS,
    NO_LEVELS,
    STRIDE,
    Levels,
    Vectors,
    count_passages,
    frame_seconds,
    levels,
    passages_of,
)
from musicldm.latents.store import LatentStore, TrackEntry

DIMENSIONS = 128
CALIBRATION = 3600.0
"""Seconds of held-out music that are searched for, at most."""

_FITTED = 8192  # passages that the axes are fitted to
_SEARCHED = 8192  # training passages that a block is compared with at once


@dataclass(frozen=True)
class _Place:
    """Which frames are a track's."""

    key: str
    start: Count
    stop: Count

    def __post_init__(self) -> None:
        if self.stop < self.start:
            raise ConfigError("stop is before start.")


class TrackFrames:
    """The frames of a store's tracks, as the codec decodes them: one file, and a journal of what lies where.

    Both are only appended to; what the journal does not name was being written when its writer was killed.
    """

    def __init__(self, folder: Path, sample_rate: int) -> None:
        self.seconds = frame_seconds(sample_rate)
        self._path = folder / "frames"
        self._rate = sample_rate
        self._journal = durable.Journal(
            folder / "frames.jsonl", "key", lambda record: from_dict(_Place, record, unknown="pass over")
        )
        self._size = self._path.stat().st_size if self._path.exists() else 0

    def __contains__(self, key: str) -> bool:
        record = self._journal.records.get(key)
        return record is not None and _bytes(record["stop"]) <= self._size  # else the file was cut short

    def of(self, key: str) -> Levels:
        """The frames of a track, [n, BANDS], memory-mapped."""
        if not (count := self.count(key)):
            return NO_LEVELS
        start = self._journal.records[key]["start"]
        return np.memmap(self._path, np.float16, "r", _bytes(start), (count, BANDS))

    def count(self, key: str) -> int:
        """How many frames a track has."""
        record = self._journal.records[key]
        return int(record["stop"] - record["start"])

    def add(
        self, tracks: Sequence[TrackEntry], decoded: Callable[[TrackEntry], Iterator[Tensor]], progress: Progress
    ) -> None:
        """Decode tracks; each is recorded once it is complete.

        Raises:
            DataError: a chunk of the store is missing or was changed on disk; the file is named.
            OutputError: the disk is full.
        """
        total, done = sum(entry.seconds for entry in tracks), 0.0
        end = max((record["stop"] for key, record in self._journal.records.items() if key in self), default=0)
        for entry in tracks:
            progress(done, total, entry.name)
            start = end
            try:
                # Not in append mode: what a killed writer left behind the last complete track is overwritten.
                with self._path.open("r+b" if self._path.exists() else "w+b") as file:
                    file.seek(_bytes(start))
                    for piece in levels(decoded(entry), self._rate):
                        file.write(piece.tobytes())
                        end += len(piece)
                # On the disk before the journal names it.
                durable.flush(self._path)
            except OSError as error:
                raise error if isinstance(error, MusicLDMError) else durable.cannot_write(self._path, error) from error
            self._size = self._path.stat().st_size
            self._journal.append({"key": entry.key, "start": start, "stop": end})
            done += entry.seconds


@dataclass(frozen=True)
class PassageIndex:
    """The training passages of a store as vectors, and how similar its held-out tracks are to them."""

    vectors: NDArray[np.float16]
    """[passages, K], of unit norm; memory-mapped."""
    mean: Vectors
    """[FRAMES · BANDS]."""
    axes: Vectors
    """[FRAMES · BANDS, K]."""
    heldout: list[Vectors]
    """The similarities that `nearest` gives of each held-out track that was searched for."""

    @classmethod
    def read(cls, folder: Path, digest: str) -> PassageIndex | None:
        """The folder's index for a store of these tracks; None where there is none, or a damaged one."""
        try:
            vectors = np.load(folder / f"{digest}.npy", mmap_mode="r")
            with np.load(folder / f"{digest}.npz") as rest:
                parts = np.split(rest["heldout"], np.cumsum(rest["lengths"])[:-1])
                return cls(vectors, rest["mean"], rest["axes"], parts)
        except (OSError, EOFError, ValueError, KeyError, BadZipFile):
            # Whatever a damaged file raises: the index can be made again.
            return None

    @classmethod
    def make(
        cls, folder: Path, digest: str, store: LatentStore, frames: TrackFrames, progress: Progress
    ) -> PassageIndex:
        """Fit the axes, and write first the vectors, then the rest, which is the commit.

        Raises:
            DataError: no training track is as long as a passage.
            OutputError: the folder cannot be written.
        """
        held = store.tracks.columns["heldout"]
        keys = [entry.key for entry in store.tracks.chosen(~held)]
        count = sum(count_passages(frames.count(key), STRIDE) for key in keys)
        if not count:
            raise DataError(f"No training track of {store.path} is as long as a passage.", "Encode longer tracks.")
        mean, axes = _axes(_some(map(frames.of, keys), max(1, count // _FITTED)))

        def tracks() -> Iterator[Levels]:
            for number, key in enumerate(keys):
                progress(number, len(keys), "indexing")
                yield frames.of(key)

        vectors = _write_vectors(folder / f"{digest}.npy", tracks(), count, mean, axes)
        index = cls(vectors, mean, axes, [])
        heldout: list[Vectors] = []
        for entry in _as_far_as(store.tracks.chosen(held), CALIBRATION):
            progress(len(heldout), int(held.sum()), "searching for held-out tracks")
            heldout.append(index.nearest(frames.of(entry.key)[: int(CALIBRATION / frames.seconds)])[0])
        written = io.BytesIO()
        # Joined, with their lengths beside: arrays of different lengths could only be pickled, which np.load refuses to
        # read.
        joined = np.concatenate([np.empty(0, np.float32), *heldout])
        np.savez(written, mean=mean, axes=axes, heldout=joined, lengths=np.array([len(each) for each in heldout], int))
        durable.write_bytes(folder / f"{digest}.npz", written.getvalue())
        for old in folder.glob("*.np[yz]"):  # of the store as it was before
            if len(old.stem) == len(digest) and not set(old.stem) - set("0123456789abcdef") and old.stem != digest:
                old.unlink(missing_ok=True)
        return replace(index, heldout=heldout)

    def nearest(self, frames: Levels) -> tuple[Vectors, NDArray[np.int64]]:
        """Of the passage that begins at each frame: the highest similarity to a training passage, and its index.

        The similarity is -1 where there is nothing to recognise.
        """
        similarities, numbers = [np.empty(0, np.float32)], [np.empty(0, np.int64)]
        for vectors, known in passages_of(frames, 1):
            best, where = np.full(len(vectors), -1, np.float32), np.zeros(len(vectors), np.int64)
            best[known], where[known] = self._search(_on_sphere(vectors[known], self.mean, self.axes))
            similarities.append(best)
            numbers.append(where)
        return np.concatenate(similarities), np.concatenate(numbers)

    def _search(self, queries: Vectors) -> tuple[Vectors, NDArray[np.int64]]:
        best, where = np.full(len(queries), -1, np.float32), np.zeros(len(queries), np.int64)
        for start in range(0, len(self.vectors), _SEARCHED):
            # Widened block by block: a CPU multiplies half precision slowly, and all vectors at once might not fit.
            similarity = queries @ self.vectors[start : start + _SEARCHED].astype(np.float32).T
            nearest = similarity.argmax(axis=1)
            value = similarity[np.arange(len(queries)), nearest]
            where = np.where(value > best, start + nearest, where)
            best = np.maximum(value, best)
        return best, where


def _write_vectors(
    path: Path, tracks: Iterable[Levels], count: int, mean: Vectors, axes: Vectors
) -> NDArray[np.float16]:
    """Write the `count` vectors of all tracks, with one block of a track in memory; returns them memory-mapped."""
    header = {"descr": "<f2", "fortran_order": False, "shape": (count, axes.shape[1])}
    try:
        # A file object, since for a path NumPy insists on its own suffix.
        with durable.replacing(path) as temporary, temporary.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for frames in tracks:
                for vectors, _ in passages_of(frames, STRIDE):
                    file.write(_on_sphere(vectors, mean, axes).astype("<f2").tobytes())
    except OSError as error:
        raise durable.cannot_write(path.parent, error) from error
    written: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return written


def _some(tracks: Iterable[Levels], every: int) -> Vectors:
    """One in every so many of all training passages, [m, FRAMES · BANDS]."""
    chosen, phase = [], 0
    for frames in tracks:
        for vectors, _ in passages_of(frames[STRIDE * phase :], STRIDE * every):
            chosen.append(vectors)
        # One in so many of all passages, wherever tracks begin: else every track would add one, however short.
        phase = (phase - count_passages(len(frames), STRIDE)) % every
    return np.concatenate(chosen)


def _axes(vectors: Vectors) -> tuple[Vectors, Vectors]:
    """The mean of some passages, and their principal axes divided by the standard deviation along each."""
    mean: Vectors = vectors.mean(axis=0, dtype=np.float32)
    apart = vectors - mean
    variances, directions = np.linalg.eigh(apart.T @ apart / len(apart))
    # Along an axis that hardly varies, unit variance would only make noise loud.
    kept = np.flatnonzero(variances > 1e-4 * variances[-1])[-DIMENSIONS:]
    return mean, (directions[:, kept] / np.sqrt(variances[kept])).astype(np.float32)


def _on_sphere(vectors: Vectors, mean: Vectors, axes: Vectors) -> Vectors:
    """Passages [m, FRAMES · BANDS] projected onto the axes and normalised: [m, K]."""
    points = (vectors - mean) @ axes
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    # A passage that is the mean itself has no direction.
    return np.asarray(points / np.maximum(lengths, 1e-6), np.float32)


def _as_far_as(tracks: Iterable[TrackEntry], seconds: float) -> Iterator[TrackEntry]:
    """Tracks until there are so many seconds of them, in the order of their keys: as these are hashes, at random."""
    passed = 0.0
    for entry in sorted(tracks, key=lambda entry: entry.key):
        if passed >= seconds:
            return
        yield entry
        passed += entry.seconds


def _bytes(frames: int) -> int:
    return frames * BANDS * 2
