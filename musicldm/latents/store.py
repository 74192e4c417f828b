"""The latent store: whole tracks as raw latents on disk, in a zarr v3 group that only ever grows by whole segments.

What lies where is said in `latents.schema`. A segment is written once, by one writer, under a name that nobody else
has. Its chunks are on the disk before its `zarr.json` appears, all at once; a segment without one is the garbage of a
killed writer and is not seen. So a track is in the store wholly or not at all, writers never meet, and the same order
of writing serves object storage. Rewriting (`prune`, `compact`) writes a segment that stands for others; those are gone
for every store opened later, and deleted when nobody has it open.

Plain zarr reads everything: `zarr.open_group(path)[f"parts/{segment}/mean"][offset : offset + frames]`. The reader here
maps the shards into memory instead (`latents.shards`), and checks what zarr-python lets pass: a missing chunk is an
error and not zeros, and a file cut short is named before anything is mapped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from musicldm.core import durable, guard
from musicldm.core.errors import MismatchError, OutputError, UsageError
from musicldm.latents import listing, rewriting
from musicldm.latents.locks import ReadLease
from musicldm.latents.schema import (
    METADATA,
    SCHEMA,
    SEGMENTS,
    SegmentTable,
    StoreHeader,
    Track,
    TrackEntry,
    group_json,
    header_json,
)
from musicldm.latents.snapshot import Snapshot
from musicldm.latents.storage import Folder, Storage, storage_at
from musicldm.latents.table import INDEX, TrackTable
from musicldm.latents.writer import StoreWriter

__all__ = ["METADATA", "LatentStore", "StoreHeader", "StoreWriter", "Track", "TrackEntry"]

_NEW = "Choose a new folder."

# From here on an index is worth its file: this many tracks' metadata take about a tenth of a second to read.
_MANY_TRACKS = 2048


class LatentStore(Snapshot):
    """A store opened: a snapshot of the segments committed by then, and those that its own writer adds.

    Attributes:
        broken: the segments that `skip_broken` left out, and why.
        lease: keeps what is open from being deleted.
    """

    def __init__(self, storage: Storage, header: StoreHeader) -> None:
        super().__init__(storage, header)
        self.broken: dict[str, str] = {}
        self.lease = ReadLease(storage)
        self._skip_broken = False
        self._indexed: dict[str, int] = {}  # the segments in the index, and their tracks

    @classmethod
    def create(cls, path: Path | str, header: StoreHeader) -> LatentStore:
        """Make an empty store in a folder that is new or empty, or under a URL where nothing is.

        Args:
            header: the store gets the newest schema, whatever that of `header` is.

        Raises:
            OutputError: something is there already, or the store cannot be written.
        """
        if header.keep_bits is not None and not 1 <= header.keep_bits <= 10:
            raise UsageError(f"{header.keep_bits} bits cannot be kept: float16 has 10.")
        header = replace(header, schema=SCHEMA)
        storage = storage_at(path)
        if isinstance(storage, Folder):
            if (storage.path / METADATA).exists():
                raise OutputError(f"{path} already holds a zarr group; a new store cannot go there.", _NEW)
            cls.check_target(path)
            durable.make_folder(storage.path)
        elif cls.exists(path):
            raise OutputError(f"{path} already holds a zarr group; a new store cannot go there.", "Choose a new path.")
        # Groups, so that plain zarr finds its way to the segments: first the inner one, for the root's is the commit.
        storage.write(f"{SEGMENTS}/{METADATA}", group_json({}))
        storage.write(METADATA, header_json(header))
        return cls(storage, header)

    @staticmethod
    def check_target(path: Path | str) -> None:
        """See that there is a store to add to, or that a new one can be made; where it is far away, that shows later.

        Raises:
            OutputError: the folder holds other files, or cannot be written.
            DataError: the zarr that is there is no store of ours, or a damaged one.
            MismatchError: a store of a newer schema.
        """
        storage = storage_at(path)
        if not isinstance(storage, Folder):
            return
        guard.check_folder(storage.path)
        if (storage.path / METADATA).exists():
            listing.header_in(storage)
        elif storage.path.is_dir() and not _is_free(storage.path):
            raise OutputError(f"{path} is not empty; a new store cannot go there.", _NEW)

    @classmethod
    def open(cls, path: Path | str, skip_broken: bool = False) -> LatentStore:
        """Open a store and check that all of its files are there in their full size.

        Args:
            skip_broken: leave out the segments in which something is missing, and name them in `broken`.

        Raises:
            DataError: no store there, or a damaged one; the file is named.
            MismatchError: a store of a newer schema.
        """
        storage = storage_at(path)
        header = listing.header_in(storage)
        store = cls(storage, header)  # from now on nobody deletes what it reads
        store._skip_broken = skip_broken
        store.refresh()
        return store

    @staticmethod
    def exists(path: Path | str) -> bool:
        """Whether there is a store, or another zarr."""
        return storage_at(path).has(METADATA)

    def refresh(self) -> None:
        """See what others have added or rewritten since.

        Raises:
            DataError: as `open`.
        """
        index = listing.index_in(self.storage, self.header.channels)
        self._indexed = index.counts()
        table, self.broken = listing.tracks_in(self.storage, self.header, index, self._skip_broken)
        self._take_in(table)

    def require(self, header: StoreHeader) -> None:
        """See to it that latents made under `header` may stand beside those in this store.

        Raises:
            MismatchError: another codec, rate, hop, or number of channels; the sentence names both. Or another
                compression, where `header` asks for one.
        """
        ours, theirs = self.header, header
        hint = "Choose another store, or the codec that this one was made with."
        if (ours.codec, ours.codec_hash) != (theirs.codec, theirs.codec_hash):
            names = (f"{side.codec_name!r} ({side.codec_hash[:8]})" for side in (ours, theirs))
            what = "The store {} was made with the codec {}, not with {}.".format(self.storage, *names)
            raise MismatchError(what, hint)
        unit, period = ("samples", "second") if ours.medium == "audio" else ("ticks", "beat")
        for field, what in (
            ("medium", "as the medium"),
            ("rate", f"{unit} a {period}"),
            ("media_channels", f"{ours.medium} channels"),
            ("hop", f"{unit} a frame"),
            ("channels", "latent channels"),
        ):
            if (have := getattr(ours, field)) != (want := getattr(theirs, field)):
                raise MismatchError(f"The store {self.storage} was made with {have} {what}, not with {want}.", hint)
        if theirs.keep_bits not in (None, ours.keep_bits):
            have = "uncompressed" if ours.keep_bits is None else f"compressed to {ours.keep_bits} bits"
            what = f"The store {self.storage} is {have}; tracks compressed to {theirs.keep_bits} cannot go there."
            raise MismatchError(what, "Leave --compress out, or name another store.")

    # ---- Writing ----

    @contextmanager
    def writer(
        self, chunk_frames: int = 1024, shard_frames: int = 65536, max_tracks: int = 64, max_seconds: float = 60.0
    ) -> Iterator[StoreWriter]:
        """A writer; several may write to one store, each into segments of its own.

        Args:
            chunk_frames: frames under one checksum; what a read touches at least.
            shard_frames: frames in one file at most, and what an open segment may grow to before it is committed.
            max_tracks: tracks in an open segment before it is committed.
            max_seconds: age of an open segment's first track before it is committed.

        Raises:
            OutputError: the store cannot be written.
        """
        limits = chunk_frames, shard_frames, shard_frames, max_tracks, max_seconds
        with rewriting.writing(self):
            with StoreWriter(self.storage, self.header, self.add_segment, *limits) as writer:
                yield writer
            self.save_index()

    def prune(self, keys: Collection[str]) -> int:
        """Drop the tracks of these keys, and give back their space once nobody has the store open; how many they were.

        Raises:
            OutputError: someone is writing to the store, it cannot be written, or it is in object storage, which has no
                locks.
            DataError: a segment with such a track is damaged.
        """
        return rewriting.prune(self, keys)

    def compact(self) -> int:
        """Merge small segments into large ones, where there are many and nobody else is writing; how many went.

        Raises:
            OutputError: the store cannot be written.
            DataError: a segment is damaged.
        """
        return rewriting.compact(self)

    def add_segment(self, segment: SegmentTable, rows: list[dict[str, Any]]) -> None:
        """See a segment that was just committed, and no longer those that it stands for."""
        live = {known.id for known in self.segments}.difference(segment.replaces)
        self._take_in(self.everything.of_segments(live).and_those(TrackTable.of([(segment, rows)])))

    def write_index(self) -> None:
        """Write the index, so that the store opens faster; writers do so by themselves when it is worth it.

        Raises:
            OutputError: the store cannot be written.
        """
        self.storage.write(INDEX, self.everything.to_bytes())
        self._indexed = self.everything.counts()

    def save_index(self) -> None:
        """Write the index if enough has changed since it was written."""
        before, now = self._indexed, self.everything.counts()
        changed = sum((before | now)[segment] for segment in before.keys() ^ now.keys())
        # In proportion to the store: the whole index is written each time, and many small runs should not do so again
        # and again.
        if changed >= max(_MANY_TRACKS, len(self.everything) // 100):
            with suppress(OSError):  # it can wait: what was to be written is safe
                self.write_index()


def _is_free(folder: Path) -> bool:
    """Whether there is nothing but what a killed `create` may have left."""
    # So that a `create` that was killed can simply be run again.
    left = [child for child in (*folder.iterdir(), *folder.glob(f"{SEGMENTS}/*")) if child.name != SEGMENTS]
    return all(child.name.startswith(durable.TEMPORARY) or child == folder / SEGMENTS / METADATA for child in left)
