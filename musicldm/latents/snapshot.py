"""The committed segments of a store, read: their tracks as a table, and the frames of these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from musicldm.core.errors import UsageError
from musicldm.latents.schema import ARRAYS, SEGMENTS, SegmentTable, StoreHeader, TrackEntry
from musicldm.latents.shards import Latents, ShardedArray, prefetch
from musicldm.latents.statistics import LatentStatistics, Moments
from musicldm.latents.storage import Folder, Storage
from musicldm.latents.table import TrackTable

_PIECE = 8192  # frames


class Snapshot:
    """The segments of a store as they were committed at some moment.

    It may be pickled and shared by worker processes; each maps the shards for itself.

    Attributes:
        header: what all of its latents have in common.
        storage: its files.
        everything: the tracks of all segments, those included that do not count.
    """

    def __init__(self, storage: Storage, header: StoreHeader) -> None:
        self.header = header
        self.storage = storage
        self._tracks: TrackTable | None = None  # chosen when needed
        self._arrays: dict[str, tuple[ShardedArray, ...]] = {}
        self._take_in(TrackTable.of([]))

    # ---- What is in it ----

    @property
    def path(self) -> Path:
        """Its folder, where it has one; else its URL as a path, for sentences only."""
        return self.storage.path if isinstance(self.storage, Folder) else Path(str(self.storage))

    @property
    def tracks(self) -> TrackTable:
        """Every track once, in the order of their segments' names (the time of the commit) and of their offsets.

        Of the same file the latest is in it, and of the same key the first.
        """
        if self._tracks is None:
            self._tracks = self.everything.counting()
        return self._tracks

    @property
    def segments(self) -> list[SegmentTable]:
        """The committed segments, in the order of their names."""
        return self.everything.segments

    def tables(self) -> Iterator[TrackTable]:
        """The tracks of each segment, those included that do not count."""
        return (self.everything.rows_of(number) for number in range(len(self.segments)))

    @property
    def replaced(self) -> int:
        """Tracks that do not count: another version of the same file has come since, or the same once more."""
        return len(self.everything) - len(self.tracks)

    @property
    def is_remote(self) -> bool:
        """Whether it is in object storage."""
        return self.storage.is_remote

    @property
    def bytes(self) -> int:
        """The size on disk."""
        return self.storage.bytes()

    @property
    def is_mapped(self) -> bool:
        """Whether frames are read from memory maps; else they are fetched and unpacked."""
        return isinstance(self.storage, Folder) and self.header.keep_bits is None

    # ---- Frames ----

    def array(self, segment: str, name: str) -> ShardedArray:
        """The array `mean` or `logvar` of a segment."""
        return self._arrays[segment][ARRAYS.index(name)]

    def read(self, entry: TrackEntry, start: int = 0, stop: int | None = None) -> tuple[Latents, Latents]:
        """Frames `start` to `stop` of a track (default: all): its mean and log-variance, raw, each float16 [l, D].

        Raises:
            DataError: a chunk is missing or was changed on disk; the file is named.
            UsageError: the frames lie outside of the track.
        """
        stop = entry.frames if stop is None else stop
        if not 0 <= start <= stop <= entry.frames:
            raise UsageError(f"Frames {start} to {stop} lie outside {entry.name}, which has {entry.frames}.")
        return self.read_frames(entry.segment, entry.offset + start, entry.offset + stop)

    def pieces(self, entry: TrackEntry) -> Iterator[tuple[Latents, Latents]]:
        """The same of a whole track, piece after piece, so that a long one takes no more memory than a short one."""
        for start in range(0, entry.frames, _PIECE):
            yield self.read(entry, start, min(start + _PIECE, entry.frames))

    def read_frames(
        self, segment: str, start: int, stop: int, out: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """The same of frames `start` to `stop` of a segment, in the two arrays `out` where they are given."""
        (mean, logvar), (to_mean, to_logvar) = self._arrays[segment], out or (None, None)
        return mean.read(start, stop, to_mean), logvar.read(start, stop, to_logvar)

    def prefetch(self, frames: Iterable[tuple[str, int, int]]) -> AbstractContextManager[None]:
        """A block in which these frames (segment, start, stop) can be read without waiting for each.

        It fetches them all at once, which counts where the store is far away; a folder's raw ones need it not.
        """
        if self.is_mapped:
            return nullcontext()
        return prefetch(
            chunk
            for segment, start, stop in frames
            for array in self._arrays[segment]
            for chunk in array.touched(start, stop)
        )

    def statistics(self) -> LatentStatistics:
        """Mean and standard deviation of the training tracks, merged from the segments' moments in their order.

        Raises:
            DataError: there are no training tracks, or their latents are damaged.
        """
        return LatentStatistics.from_moments(self.moments())

    def moments(self) -> Moments:
        """What the statistics are made of.

        Raises:
            DataError: the latents of a track are damaged.
        """
        return sum(self._moments(), Moments.none(self.header.channels))

    # ---- Within ----

    def _take_in(self, table: TrackTable) -> None:
        self.everything: TrackTable = table
        self._tracks = None
        # Known segments keep their arrays: maps and verified chunks survive a refresh.
        self._arrays = {
            segment.id: self._arrays.get(segment.id) or self._arrays_of(segment) for segment in table.segments
        }

    def _arrays_of(self, segment: SegmentTable) -> tuple[ShardedArray, ...]:
        shape, compressed = (segment.frames, self.header.channels), self.header.keep_bits is not None
        return tuple(
            ShardedArray(
                self.storage,
                f"{SEGMENTS}/{segment.id}/{name}",
                shape,
                segment.chunk_frames,
                segment.shard_frames,
                segment.sizes[name],
                compressed,
            )
            for name in ARRAYS
        )

    def _moments(self) -> Iterator[Moments]:
        # The moments in a segment's metadata are of all its training tracks. They serve as they are unless one of these
        # no longer counts; only then are latents read.
        everything = np.bincount(self.everything.columns["segment"], minlength=len(self.segments))
        listed = np.bincount(self.tracks.columns["segment"], minlength=len(self.segments))
        for number, segment in enumerate(self.segments):
            if listed[number] == everything[number]:
                yield segment.moments
            else:  # some of its tracks do not count
                for entry in self.tracks.rows_of(number):
                    if entry.split == "train":
                        yield self._moments_of(entry)

    def _moments_of(self, entry: TrackEntry) -> Moments:
        moments = Moments.none(self.header.channels)
        for mean, logvar in self.pieces(entry):
            moments += Moments.of(mean, logvar)
        return moments
