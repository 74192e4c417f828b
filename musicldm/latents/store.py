"""The latent store: whole tracks as raw latents on disk, in a zarr v3 group that only ever grows by whole parts.

What lies where is said in `latents.schema`. A part is written once, by one writer, under a name that nobody else has.
Its chunks are on the disk before its `zarr.json` appears, all at once; a part without one is the garbage of a killed
writer and is not seen. So a track is in the store wholly or not at all, writers never meet, and the same order of
writing serves an object store. Rewriting (`prune`, `compact`) writes a part that stands for others; those are gone for
every store opened later, and deleted when nobody has it open.

Plain zarr reads everything: `zarr.open_group(path)[f"parts/{part}/mean"][offset : offset + frames]`. The reader here
maps the shards into memory instead (`latents.shards`), and checks what zarr-python lets pass: a missing chunk is an
error and not zeros, and a file cut short is named before anything is mapped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from musicldm.core import durable
from musicldm.core.errors import DataError, MismatchError, MusicLDMError, OutputError, UsageError
from musicldm.latents.schema import (
    ARRAYS,
    METADATA,
    NAME_A_STORE,
    PARTS,
    PartTable,
    StoreHeader,
    Track,
    TrackEntry,
    damaged,
    group_json,
    header_json,
    read_header,
    read_part,
)
from musicldm.latents.shards import Latents, ShardedArray, at_hand
from musicldm.latents.statistics import LatentStatistics, Moments
from musicldm.latents.storage import Folder, Place, place_at
from musicldm.latents.table import INDEX, TrackTable
from musicldm.latents.writer import PART_TIME, StoreWriter

__all__ = ["METADATA", "LatentStore", "StoreHeader", "StoreWriter", "Track", "TrackEntry"]

READERS = ".readers"

_PIECE = 8192  # frames

# Parts as `compact` makes them: 18 hours at 16 frames a second, 67 MB in each array at 32 channels.
_LARGE_PART = 1 << 20
_MANY_SMALL_PARTS = 8

# From here on an index is worth its file: this many tracks' metadata take about a tenth of a second to read.
_MANY_TRACKS = 2048

# A bucket has no locks. What has no metadata after so long has no writer either.
_GARBAGE_AFTER = timedelta(days=1)


class LatentStore:
    """A store opened: a snapshot of the parts committed by then, and those that its own writer adds.

    It may be pickled and shared by worker processes; each maps the shards for itself.

    Attributes:
        path: where it is, as it was given: a folder, or a URL such as s3://bucket/latents.zarr.
        header: what all of its latents have in common.
        tracks: every track once, in the order of their parts' names (the time of the commit) and of their offsets.
        broken: the parts that `skip_broken` left out, and why.
    """

    def __init__(self, place: Place, header: StoreHeader) -> None:
        self.header = header
        self.broken: dict[str, str] = {}
        self._place = place
        self._lease = _Lease(place)
        self._skip_broken = False
        self._indexed: dict[str, int] = {}  # the parts in the index, and their tracks
        self._tracks: TrackTable | None = None  # chosen when asked for
        self._arrays: dict[str, tuple[ShardedArray, ...]] = {}
        self._take_in(TrackTable.of([]))

    @classmethod
    def create(cls, path: Path | str, header: StoreHeader) -> LatentStore:
        """Make an empty store in a folder that is new or empty, or under a URL where nothing is.

        Raises:
            OutputError: the place is taken, or cannot be written.
        """
        if header.keep_bits is not None and not 1 <= header.keep_bits <= 10:
            raise UsageError(f"{header.keep_bits} bits cannot be kept of float16's 10.")
        place = place_at(path)
        if isinstance(place, Folder):
            folder = place.path
            if folder.is_dir() and not _is_free(folder):
                what = "already holds a zarr" if (folder / METADATA).exists() else "is not empty"
                raise OutputError(f"{path} {what}; a new store cannot go there.", "Name a new folder.")
            durable.make_folder(folder)
        elif cls.exists(path):
            raise OutputError(f"{path} already holds a zarr; a new store cannot go there.", "Name a new place.")
        # The groups, so that plain zarr finds its way to the parts: first the inner one, for the root's is the commit.
        place.write(f"{PARTS}/{METADATA}", group_json({}))
        place.write(METADATA, header_json(header))
        return cls(place, header)

    @classmethod
    def open(cls, path: Path | str, skip_broken: bool = False) -> LatentStore:
        """Open a store and check that all of its files are there in their full size.

        Args:
            skip_broken: leave out the parts in which something is missing, and name them in `broken`.

        Raises:
            DataError: no store there, or a damaged one; the file is named.
            MismatchError: a store of a newer schema.
        """
        place = place_at(path)
        header = _read_header(place)
        store = cls(place, header)  # from now on nobody deletes what it reads
        store._skip_broken = skip_broken
        store.refresh()
        return store

    @staticmethod
    def exists(path: Path | str) -> bool:
        """Whether there is a store, or another zarr."""
        return place_at(path).sizes([METADATA]) != [None]

    def refresh(self) -> None:
        """See what others have added or rewritten since.

        Raises:
            DataError: as `open`.
        """
        index = _read_index(self._place)
        self._indexed = index.counts()
        table, self.broken = _read_table(self._place, index, self._skip_broken)
        self._take_in(table)

    # ---- What is in it ----

    @property
    def path(self) -> Path:
        """Its folder, where it has one; else its URL as a path, for sentences only."""
        return self._place.path if isinstance(self._place, Folder) else Path(str(self._place))

    @property
    def tracks(self) -> TrackTable:
        """Every track once, in the order of their parts' names (the time of the commit) and of their offsets.

        Of the same file the latest is in it, and of the same key the first.
        """
        if self._tracks is None:
            self._tracks = self._table.counting()
        return self._tracks

    @property
    def parts(self) -> list[PartTable]:
        """The committed parts, in the order of their names."""
        return self._table.parts

    def tables(self) -> Iterator[TrackTable]:
        """The tracks of each part, those included that do not count."""
        return (self._table.rows_of(number) for number in range(len(self.parts)))

    @property
    def replaced(self) -> int:
        """Tracks that do not count: another version of the same file has come since, or the same once more."""
        return len(self._table) - len(self.tracks)

    def file(self, name: str) -> bytes:
        """A file of the store; FileNotFoundError where there is none."""
        return self._place.read(name)

    def reading(self, name: str) -> AbstractContextManager[Path]:
        """A block with a local folder that has what is in a folder of the store, such as `vae`."""
        return self._place.reading(name)

    def adding(self, name: str, last: str) -> AbstractContextManager[Path]:
        """A block with a local folder; at its end all of it is in the store, the file `last` after the others."""
        return self._place.writing(name, last)

    def has(self, name: str) -> bool:
        """Whether there is such a file in the store."""
        return self._place.sizes([name]) != [None]

    @property
    def bytes(self) -> int:
        """The size on disk."""
        return self._place.bytes()

    def array(self, part: str, name: str) -> ShardedArray:
        """The array `mean` or `logvar` of a part."""
        return self._arrays[part][ARRAYS.index(name)]

    def require(self, header: StoreHeader) -> None:
        """See to it that latents made under `header` may stand beside those in this store.

        Raises:
            MismatchError: another VAE, sample rate, hop, or number of channels; the sentence names both. Or another
                compression, where `header` asks for one.
        """
        ours, theirs = self.header, header
        hint = "Name another store, or the VAE that this one was made with."
        if ours.vae_hash != theirs.vae_hash:
            names = (f"{side.vae_name!r} ({side.vae_hash[:8]})" for side in (ours, theirs))
            raise MismatchError("The store {} was made with the VAE {}, not with {}.".format(self._place, *names), hint)
        for field, unit in (
            ("sample_rate", "samples a second"),
            ("audio_channels", "audio channels"),
            ("hop", "samples a frame"),
            ("channels", "latent channels"),
        ):
            if (have := getattr(ours, field)) != (want := getattr(theirs, field)):
                raise MismatchError(f"The store {self._place} was made with {have} {unit}, not with {want}.", hint)
        if theirs.keep_bits not in (None, ours.keep_bits):
            have = "uncompressed" if ours.keep_bits is None else f"compressed to {ours.keep_bits} bits"
            what = f"The store {self._place} is {have}; tracks compressed to {theirs.keep_bits} cannot go there."
            raise MismatchError(what, "Leave --compress out, or name another store.")

    def read(self, entry: TrackEntry, start: int = 0, stop: int | None = None) -> tuple[Latents, Latents]:
        """Frames `start` to `stop` of a track (default: all): its mean and log-variance, raw, each float16 [l, D].

        Raises:
            DataError: a chunk is missing or was changed on disk; the file is named.
            UsageError: the frames lie outside of the track.
        """
        stop = entry.frames if stop is None else stop
        if not 0 <= start <= stop <= entry.frames:
            raise UsageError(f"Frames {start} to {stop} lie outside of {entry.name}, which has {entry.frames}.")
        return self.read_frames(entry.part, entry.offset + start, entry.offset + stop)

    def pieces(self, entry: TrackEntry) -> Iterator[tuple[Latents, Latents]]:
        """The same of a whole track, piece after piece, so that a long one takes no more memory than a short one."""
        for start in range(0, entry.frames, _PIECE):
            yield self.read(entry, start, min(start + _PIECE, entry.frames))

    def read_frames(
        self, part: str, start: int, stop: int, out: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """The same of frames `start` to `stop` of a part, in the two arrays `out` where they are given."""
        (mean, logvar), (to_mean, to_logvar) = self._arrays[part], out or (None, None)
        return mean.read(start, stop, to_mean), logvar.read(start, stop, to_logvar)

    def at_hand(self, frames: Iterable[tuple[str, int, int]]) -> AbstractContextManager[None]:
        """A block in which these frames (part, start, stop) can be read without waiting for each.

        It fetches them all at once, which counts where the store is far away; a folder's raw ones need it not.
        """
        if self.is_mapped:
            return nullcontext()
        return at_hand(
            chunk
            for part, start, stop in frames
            for array in self._arrays[part]
            for chunk in array.touched(start, stop)
        )

    @property
    def is_remote(self) -> bool:
        """Whether it is in a bucket."""
        return self._place.is_remote

    @property
    def is_mapped(self) -> bool:
        """Whether frames are read from memory maps; else they are fetched and unpacked."""
        return isinstance(self._place, Folder) and self.header.keep_bits is None

    def statistics(self) -> LatentStatistics:
        """The mean and spread of the training tracks, merged from the parts' moments in the order of their names.

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

    # ---- Writing ----

    @contextmanager
    def writer(
        self, chunk_frames: int = 1024, shard_frames: int = 65536, max_tracks: int = 64, max_seconds: float = 60.0
    ) -> Iterator[StoreWriter]:
        """A writer; several may write to one store, each into parts of its own.

        Args:
            chunk_frames: frames under one checksum; what a read touches at least.
            shard_frames: frames in one file at most, and what an open part may grow to before it is committed.
            max_tracks: tracks in an open part before it is committed.
            max_seconds: age of an open part's first track before it is committed.

        Raises:
            OutputError: the store cannot be written.
        """
        limits = chunk_frames, shard_frames, shard_frames, max_tracks, max_seconds
        with self._writing():
            with StoreWriter(self._place, self.header, self._committed, *limits) as writer:
                yield writer
            self._save_index()

    def prune(self, keys: Collection[str]) -> int:
        """Drop the tracks of these keys, and give back their space once nobody has the store open; how many they were.

        Raises:
            OutputError: someone is writing to the store, it cannot be written, or it is in a bucket: that has no locks.
            DataError: a part with such a track is damaged.
        """
        if self.is_remote:
            what = f"{self._place} is no folder of this machine; tracks cannot be dropped there."
            raise OutputError(what, "Drop them from a copy in a folder, and put that in its place.")
        with self._rewriting() as alone:
            if not alone:
                raise OutputError(f"Another run is writing to {self._place}.", "Wait until it is done.")
            self.refresh()
            dropped = 0
            everything, listed = self._table, self.tracks  # with every part that is rewritten these change
            for number, part in enumerate(everything.parts):
                rows = listed.rows_of(number)
                kept = [entry for entry in rows if entry.key not in keys]
                dropped += len(rows) - len(kept)
                if len(kept) < len(everything.rows_of(number)):
                    self._rewrite([part], kept)
            self._sweep()
            self._save_index()
        return dropped

    def compact(self) -> int:
        """Merge small parts into large ones, where there are many and nobody else is writing; how many went.

        Raises:
            OutputError: the store cannot be written.
            DataError: a part is damaged.
        """
        merged = 0
        with self._rewriting() as alone:
            if not alone:
                return 0
            self.refresh()
            for group in _groups([part for part in self.parts if part.frames < _LARGE_PART // 2]):
                numbers = [self.parts.index(part) for part in group]
                self._rewrite(group, [entry for number in numbers for entry in self.tracks.rows_of(number)])
                merged += len(group)
            self._sweep()
            self._save_index()
        return merged

    # ---- Within ----

    def _lock(self, name: str) -> durable.Lock:
        if not isinstance(self._place, Folder):
            return durable.Lock(None)
        try:
            return durable.Lock(self._place.path / name)
        except OSError as error:
            raise durable.cannot_write(self._place.path, error) from error

    def _take_in(self, table: TrackTable) -> None:
        self._table = table
        self._tracks = None
        self._arrays = {part.id: self._arrays.get(part.id) or self._arrays_of(part) for part in table.parts}

    def _arrays_of(self, part: PartTable) -> tuple[ShardedArray, ...]:
        shape, compressed = (part.frames, self.header.channels), self.header.keep_bits is not None
        return tuple(
            ShardedArray(
                self._place,
                f"{PARTS}/{part.id}/{name}",
                shape,
                part.chunk_frames,
                part.shard_frames,
                part.sizes[name],
                compressed,
            )
            for name in ARRAYS
        )

    def _committed(self, part: PartTable, rows: list[dict[str, Any]]) -> None:
        live = {known.id for known in self.parts}.difference(part.replaces)
        self._take_in(self._table.of_parts(live).and_those(TrackTable.of([(part, rows)])))

    def _moments(self) -> Iterator[Moments]:
        everything = np.bincount(self._table.columns["part"], minlength=len(self.parts))
        listed = np.bincount(self.tracks.columns["part"], minlength=len(self.parts))
        for number, part in enumerate(self.parts):
            if listed[number] == everything[number]:
                yield part.moments
            else:  # some of its tracks do not count
                for entry in self.tracks.rows_of(number):
                    if entry.split == "train":
                        yield self._moments_of(entry)

    def _moments_of(self, entry: TrackEntry) -> Moments:
        moments = Moments.none(self.header.channels)
        for mean, logvar in self.pieces(entry):
            moments += Moments.of(mean, logvar)
        return moments

    def _rewrite(self, parts: Sequence[PartTable], kept: Sequence[TrackEntry]) -> None:
        """Write one part that stands for others and has only these tracks of theirs."""
        there = set(self._place.folders(PARTS))
        replaces = [part.id for part in parts] + [old for part in parts for old in part.replaces if old in there]
        chunk_frames = max(part.chunk_frames for part in parts)
        limits = chunk_frames, 64 * chunk_frames, inf, inf, inf
        with StoreWriter(self._place, self.header, self._committed, *limits, replaces) as writer:
            for entry in kept:
                writer.append(entry, self.pieces(entry))
            if not kept:
                writer.commit_nothing()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Be one of the writers; nobody rewrites meanwhile."""
        lock = self._lock(durable.LOCK)
        with closing(lock):
            if lock.take():
                self._sweep()
            lock.share()
            yield

    @contextmanager
    def _rewriting(self) -> Iterator[bool]:
        """Be the only writer, where that can be had. A bucket has no locks, so there it never can."""
        lock = self._lock(durable.LOCK)
        with closing(lock):
            yield isinstance(self._place, Folder) and lock.take()

    def _sweep(self) -> None:
        """Delete what killed writers have left and what rewriting has replaced. Nobody writes meanwhile."""
        names = self._place.folders(PARTS)
        committed = self._place.sizes([f"{PARTS}/{name}/{METADATA}" for name in names])
        garbage = [name for name, size in zip(names, committed, strict=True) if size is None]
        if isinstance(self._place, Folder):
            for folder in (self._place.path, self._place.path / PARTS):
                for file in folder.glob(f"{durable.TEMPORARY}*"):
                    with suppress(OSError):
                        file.unlink()
        else:
            garbage = [name for name in garbage if _is_old(name)]
        replaced = {old for part in self.parts for old in part.replaces}.intersection(names)
        for name in garbage:
            self._place.remove(f"{PARTS}/{name}")
        with self._lease.alone() as nobody_reads:
            for name in replaced if nobody_reads else ():
                self._place.remove(f"{PARTS}/{name}")

    def write_index(self) -> None:
        """Write the index, so that the store opens faster; writers do so by themselves when it is worth it.

        Raises:
            OutputError: the store cannot be written.
        """
        self._place.write(INDEX, self._table.to_bytes())
        self._indexed = self._table.counts()

    def _save_index(self) -> None:
        before, now = self._indexed, self._table.counts()
        changed = sum((before | now)[part] for part in before.keys() ^ now.keys())
        if changed >= max(_MANY_TRACKS, len(self._table) // 100):
            with suppress(OSError):  # it can wait: what was to be written is safe
                self.write_index()


class _Lease:
    """What keeps the parts that a store has open from being deleted; the kernel takes it back with the process."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._lock = None
        if isinstance(place, Folder):
            with suppress(OSError):  # where we may not write, nobody with our rights deletes
                self._lock = durable.Lock(place.path / READERS)
                self._lock.share()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Lease, (self._place,)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody else has the store open, and then nobody opens it within the block."""
        if self._lock is None:
            yield False
            return
        try:
            yield self._lock.take()
        finally:
            self._lock.share()


def _groups(small: list[PartTable]) -> Iterator[list[PartTable]]:
    """Successive parts to be merged: as many as make a large one, or else many."""
    group: list[PartTable] = []
    for part in small:
        group.append(part)
        if sum(member.frames for member in group) >= _LARGE_PART:
            yield group
            group = []
    if len(group) >= _MANY_SMALL_PARTS:
        yield group


def _is_old(part: str) -> bool:
    """Whether a part was begun so long ago that its writer, if it had one still, would have committed it."""
    try:
        begun = datetime.strptime(part.split("-")[0], PART_TIME).replace(tzinfo=UTC)
    except ValueError:
        return False
    return datetime.now(UTC) - begun > _GARBAGE_AFTER


def _is_free(folder: Path) -> bool:
    """Whether there is nothing but what a killed `create` may have left."""
    left = [child for child in (*folder.iterdir(), *folder.glob(f"{PARTS}/*")) if child.name != PARTS]
    return all(child.name.startswith(durable.TEMPORARY) or child == folder / PARTS / METADATA for child in left)


def _read_header(place: Place) -> StoreHeader:
    try:
        data = place.read(METADATA)
    except (FileNotFoundError, NotADirectoryError):
        what = f"There is no latent store at {place}."
        if isinstance(place, Folder) and place.path.exists():
            what = f"{place} is {'a file, not a' if place.path.is_file() else 'no'} latent store."
        raise DataError(what, NAME_A_STORE) from None
    except OSError as error:
        if isinstance(error, MusicLDMError):
            raise
        raise DataError(f"{place} cannot be read: {error.strerror}.", "Check its permissions.") from error
    return read_header(data, str(place))


def _read_table(place: Place, table: TrackTable, skip_broken: bool) -> tuple[TrackTable, dict[str, str]]:
    """The tracks of the parts that are in a store, and the parts that are broken with the reason.

    Args:
        table: what the index has.
    """
    names = place.folders(PARTS)
    broken: dict[str, str] = {}
    known = {part.id for part in table.parts}
    unknown = [name for name in names if name not in known]
    new = []
    metadata = place.read_all([f"{PARTS}/{name}/{METADATA}" for name in unknown])
    for name, data in zip(unknown, metadata, strict=True):
        if data is not None:  # else it is the garbage of a killed writer, or being written
            try:
                new.append(read_part(name, data, str(place)))
            except DataError as error:
                if not skip_broken:
                    raise
                broken[name] = error.message
    replaced = {old for part in [*table.parts, *(part for part, _ in new)] for old in part.replaces}
    table = table.of_parts(set(names) - replaced).and_those(
        TrackTable.of((part, rows) for part, rows in new if part.id not in replaced)
    )
    expected = {
        f"{PARTS}/{part.id}/{name}/c/{shard}/0": size
        for part in table.parts
        for name, sizes in part.sizes.items()
        for shard, size in enumerate(sizes)
    }
    commits = {f"{PARTS}/{part.id}/{METADATA}": part.id for part in table.parts if part.id in known}
    sizes = dict(zip([*expected, *commits], place.sizes([*expected, *commits]), strict=True))
    gone = {part for name, part in commits.items() if sizes[name] is None}  # or is just being deleted
    for name, size in expected.items():
        if (found := sizes[name]) != size and name.split("/")[1] not in gone:
            reason = "it is missing" if found is None else f"it has {found:,} bytes instead of {size:,}"
            damage = damaged(str(place), name, reason)
            if not skip_broken:
                raise damage
            broken.setdefault(name.split("/")[1], damage.message)
    return table.of_parts({part.id for part in table.parts} - broken.keys() - gone), broken


def _read_index(place: Place) -> TrackTable:
    """The table in the index; an empty one where there is none that is whole."""
    try:
        data = place.map(INDEX) if isinstance(place, Folder) else np.frombuffer(place.read(INDEX), np.uint8)
    except (OSError, ValueError):
        data = np.empty(0, np.uint8)
    return TrackTable.from_bytes(data, f"{place}/{INDEX}") or TrackTable.of([])
