"""The latent store: whole tracks as raw latents on disk, in a zarr v3 group that only ever grows by whole parts.

    latents.zarr/
    ├── zarr.json           group; its attributes are the StoreHeader
    ├── vae/                the bundle of the VAE that made the latents; put there by `latents.encode`
    └── parts/
        ├── zarr.json       group
        └── <id>/
            ├── zarr.json   group; its attributes hold the track table and the moments. Written last: the commit
            ├── mean/       float16 [frames, D]; zarr.json and one file for each shard: c/0/0, c/1/0, …
            └── logvar/     float16 [frames, D]; likewise

A part is written once, by one writer, under a name that nobody else has. Its chunks are on the disk before its
`zarr.json` appears, all at once; a part without one is the garbage of a killed writer and is not seen. So a track is
in the store wholly or not at all, writers never meet, and the same order of writing serves an object store.

Plain zarr reads everything: `zarr.open_group(path)[f"parts/{part}/mean"][offset : offset + frames]`. The reader here
maps the shards into memory instead (`latents.shards`), and checks what zarr-python lets pass: a missing chunk is an
error and not zeros, and a file cut short is named before anything is mapped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import google_crc32c
import numpy as np
import numpy.typing as npt

from musicldm import durable
from musicldm.errors import DataError, MismatchError, OutputError, UsageError
from musicldm.latents.shards import Latents, ShardedArray, damaged
from musicldm.latents.statistics import LatentStatistics, Moments

SCHEMA = 1
FORMAT = "musicldm-latents"
PART_FORMAT = "musicldm-latents-part"
METADATA = "zarr.json"

LARGEST_LOGVAR = 80.0
"""exp(logvar) beyond this overflows float32 when a latent is drawn; no posterior that works comes near it."""


# ---------------------------------------------------------------------------------------------------------------------
# What is in a store
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoreHeader:
    """What all latents of a store have in common."""

    sample_rate: int
    """Samples a second of the audio that was encoded."""
    hop: int
    """Samples in one latent frame."""
    channels: int
    """D, the numbers in one latent frame."""
    audio_channels: int
    """1 mono, 2 stereo."""
    vae_hash: str
    """The hash of the VAE's weights and configuration."""
    vae_name: str
    """What a person calls that VAE; two VAEs may share it."""
    schema: int = SCHEMA

    def key(self, content: str) -> str:
        """The name of a track's latents: it changes with the sound, the VAE, and nothing else.

        Args:
            content: the hash of the audio.
        """
        made_from = {**dataclasses.asdict(self), "vae_name": None, "content": content}
        return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()

    def frames(self, samples: int) -> int:
        """Latent frames of a track: the last one may be filled up with silence."""
        return -(-samples // self.hop)


@dataclass(frozen=True)
class Track:
    """What is known of a track before it is encoded."""

    samples: int
    """Its length at the store's sample rate."""
    content: str
    """The hash of its audio."""
    split: str
    """`train`, or `heldout` from every training."""
    artist: str
    title: str
    provenance: dict[str, Any]
    """Where it came from and under which licence: plain data, kept as given."""
    folder: str
    """Which data folder it was read from: a hash, since a path would tell of the machine."""
    source: str
    """Its waveform's path below that folder. A later track of the same folder and source takes this one's place."""

    @property
    def name(self) -> str:
        """For sentences."""
        return f"{self.artist} – {self.title}"


@dataclass(frozen=True)
class TrackEntry(Track):
    """A track in a store: frames `offset` to `offset + frames` of the part `part`."""

    part: str
    offset: int
    frames: int
    seconds: float
    key: str
    """See `StoreHeader.key`."""
    checksum: str
    """crc32c over the track's frames as stored, the mean of each followed by its log-variance."""


@dataclass(frozen=True)
class Part:
    """One committed part: its track table, the moments of its training tracks, and its two arrays."""

    id: str
    entries: tuple[TrackEntry, ...]
    moments: Moments
    mean: ShardedArray
    logvar: ShardedArray


# ---------------------------------------------------------------------------------------------------------------------
# The store
# ---------------------------------------------------------------------------------------------------------------------


class LatentStore:
    """A store opened: a snapshot of the parts committed by then, and those that its own writer adds.

    It may be pickled and shared by worker processes; each maps the shards for itself.
    """

    def __init__(self, path: Path, header: StoreHeader, parts: Iterable[Part] = ()) -> None:
        self.path = path
        self.header = header
        self._parts: dict[str, Part] = {}
        self._tracks: tuple[TrackEntry, ...] | None = None  # listed when asked for
        self._take_in(parts)

    @classmethod
    def create(cls, path: Path | str, header: StoreHeader) -> LatentStore:
        """Make an empty store in a folder that is new or empty.

        Raises:
            OutputError: the place is taken, or cannot be written.
        """
        path = Path(path)
        if path.is_dir() and any(not child.name.startswith(durable.TEMPORARY) for child in path.iterdir()):
            what = "already holds a zarr" if (path / METADATA).exists() else "is not empty"
            raise OutputError(f"{path} {what}; a new store cannot go there.", "Name a new folder.")
        durable.make_folder(path)
        _write_group(path, {"format": FORMAT, **dataclasses.asdict(header)})
        durable.flush(path.parent)
        return cls(path, header)

    @classmethod
    def open(cls, path: Path | str) -> LatentStore:
        """Open a store and check that all of its files are there in their full size.

        Raises:
            DataError: no store there, or a damaged one; the file is named.
            MismatchError: a store of a newer schema.
        """
        path = Path(path)
        header = _read_header(path)
        folders = sorted(path.glob(f"parts/*/{METADATA}"))
        return cls(path, header, [_read_part(file.parent, header) for file in folders])

    @property
    def tracks(self) -> tuple[TrackEntry, ...]:
        """Every track once, in the order of their parts' names (the time of the commit) and of their offsets."""
        if self._tracks is None:
            by_key: dict[str, TrackEntry] = {}
            for part in self._parts.values():
                for entry in part.entries:
                    by_key.setdefault(entry.key, entry)  # where two writers raced over a track, the earlier part has it
            self._tracks = tuple(by_key.values())
        return self._tracks

    @property
    def bytes(self) -> int:
        """The size on disk."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def require(self, header: StoreHeader) -> None:
        """See to it that latents made under `header` may stand beside those in this store.

        Raises:
            MismatchError: another VAE, sample rate, hop, or number of channels; the sentence names both.
        """
        ours, theirs = self.header, header
        hint = "Name another store, or the VAE that this one was made with."
        if ours.vae_hash != theirs.vae_hash:
            names = (f"{side.vae_name!r} ({side.vae_hash[:8]})" for side in (ours, theirs))
            raise MismatchError("The store {} was made with the VAE {}, not with {}.".format(self.path, *names), hint)
        for field, unit in (
            ("sample_rate", "samples a second"),
            ("audio_channels", "audio channels"),
            ("hop", "samples a frame"),
            ("channels", "latent channels"),
        ):
            if (have := getattr(ours, field)) != (want := getattr(theirs, field)):
                raise MismatchError(f"The store {self.path} was made with {have} {unit}, not with {want}.", hint)

    def read(self, entry: TrackEntry, start: int = 0, stop: int | None = None) -> tuple[Latents, Latents]:
        """Frames `start` to `stop` of a track (default: all): its mean and log-variance, raw, each float16 [l, D].

        Raises:
            DataError: a chunk is missing or was changed on disk; the file is named.
            UsageError: the frames lie outside of the track.
        """
        stop = entry.frames if stop is None else stop
        if not 0 <= start <= stop <= entry.frames:
            raise UsageError(f"Frames {start} to {stop} lie outside of {entry.name}, which has {entry.frames}.")
        part = self._parts[entry.part]
        first, last = entry.offset + start, entry.offset + stop
        return part.mean.read(first, last), part.logvar.read(first, last)

    def statistics(self) -> LatentStatistics:
        """The mean and spread of the training tracks, merged from the parts' moments in the order of their names.

        Raises:
            DataError: there are no training tracks.
        """
        return LatentStatistics.from_moments(sum(self._moments(), Moments.none(self.header.channels)))

    def writer(
        self, chunk_frames: int = 1024, shard_frames: int = 65536, max_tracks: int = 64, max_seconds: float = 60.0
    ) -> StoreWriter:
        """A writer, to be used in a `with` block; several may write to one store, each into parts of its own.

        Args:
            chunk_frames: frames under one checksum; what a read touches at least.
            shard_frames: frames in one file at most, and what an open part may grow to before it is committed.
            max_tracks: tracks in an open part before it is committed.
            max_seconds: age of an open part's first track before it is committed.
        """
        return StoreWriter(self, chunk_frames, shard_frames, max_tracks, max_seconds)

    def _take_in(self, parts: Iterable[Part]) -> None:
        known = self._parts | {part.id: part for part in parts}
        self._parts = dict(sorted(known.items()))
        self._tracks = None

    def _moments(self) -> Iterator[Moments]:
        listed = set(map(id, self.tracks))
        for part in self._parts.values():
            ours = [entry for entry in part.entries if id(entry) in listed]
            if len(ours) == len(part.entries):
                yield part.moments
            else:  # some of its tracks are listed from an earlier part and must not count twice
                yield from (Moments.of(*self.read(entry)) for entry in ours if entry.split == "train")


# ---------------------------------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------------------------------


class StoreWriter:
    """Appends whole tracks; complete ones are committed at the latest at the end of the `with` block.

    Frames wait in a spool, an unnamed file in the store's folder that vanishes with the process, as rows [2, D] of
    mean and log-variance. It holds the complete tracks of the open part, then the frames of the track being appended:
    dropping that one takes nothing but forgetting it.
    """

    def __init__(
        self, store: LatentStore, chunk_frames: int, shard_frames: int, max_tracks: int, max_seconds: float
    ) -> None:
        if not 0 < chunk_frames <= shard_frames or shard_frames % chunk_frames:
            raise UsageError(f"A shard of {shard_frames} frames cannot be cut into chunks of {chunk_frames}.")
        self._store = store
        self._chunk_frames = chunk_frames
        self._shard_frames = shard_frames
        self._max_tracks = max_tracks
        self._max_seconds = max_seconds
        self._row = np.dtype(("<f2", (2, store.header.channels)))
        self._spool = -1  # a file descriptor
        self._start = 0  # where in the spool the open part begins
        self._open: list[tuple[TrackEntry, Moments]] = []  # its complete tracks
        self._opened = 0.0

    def __enter__(self) -> Self:
        try:
            self._spool, name = tempfile.mkstemp(dir=self._store.path, prefix=durable.TEMPORARY)
            os.unlink(name)
        except OSError as error:
            raise durable.cannot_write(self._store.path, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._commit()
        except KeyboardInterrupt:
            self._commit()  # heard, but not before what is complete is safe
            raise
        finally:
            os.close(self._spool)

    def append(self, track: Track, pieces: Iterable[tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> None:
        """Append one whole track; when `pieces` raises, the track is dropped and the writer can go on.

        Args:
            pieces: successive mean and log-variance, each [l, D] of any length l, in float32 or float16.

        Raises:
            DataError: latents that are not finite or do not fit float16, or not as many as the track has samples for.
            OutputError: the disk is full, or the store cannot be written.
        """
        header = self._store.header
        frames, checksum, moments = 0, 0, Moments.none(header.channels)
        for mean, logvar in pieces:
            rows = self._as_rows(track, mean, logvar)
            data = rows.tobytes()
            self._write_spool(self._complete + frames, data)
            frames += len(rows)
            checksum = google_crc32c.extend(checksum, data)
            moments += Moments.of(rows[:, 0], rows[:, 1])
            if self._is_old():  # tracks that wait must not wait for a long one that follows
                self._commit()
        if frames != header.frames(track.samples) or not frames:
            expected = header.frames(track.samples)
            raise DataError(f"{track.name} has {frames} latent frames where {expected} were expected.")
        entry = TrackEntry(
            **{field.name: getattr(track, field.name) for field in dataclasses.fields(Track)},
            part="",  # named at the commit
            offset=self._complete - self._start,
            frames=frames,
            seconds=track.samples / header.sample_rate,
            key=header.key(track.content),
            checksum=f"{checksum:08x}",
        )
        if not self._open:
            self._opened = time.monotonic()
        self._open.append((entry, moments))
        full = self._complete - self._start >= self._shard_frames or len(self._open) >= self._max_tracks
        half_committed = self._start > 0  # the head of the spool waits to be given back
        if full or half_committed or self._is_old():
            self._commit()
            os.ftruncate(self._spool, 0)
            self._start = 0

    @property
    def _complete(self) -> int:
        """Where in the spool the last complete track ends."""
        if not self._open:
            return self._start
        last, _ = self._open[-1]
        return self._start + last.offset + last.frames

    def _is_old(self) -> bool:
        return bool(self._open) and time.monotonic() - self._opened >= self._max_seconds

    def _commit(self) -> None:
        """Turn the complete tracks of the open part into a part of the store."""
        if not self._open:
            return
        part = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f-") + secrets.token_hex(4)
        folder = self._store.path / "parts" / part
        frames = self._complete - self._start
        entries = [dataclasses.replace(entry, part=part) for entry, _ in self._open]
        moments = Moments.none(self._store.header.channels)
        for entry, of_track in self._open:
            if entry.split == "train":
                moments += of_track
        # As few shards as the limit allows, all of one size: the last one is not left nearly empty.
        chunks = -(-frames // self._chunk_frames)
        shards = -(-chunks * self._chunk_frames // self._shard_frames)
        shard_frames = -(-chunks // shards) * self._chunk_frames
        try:
            durable.make_folder(folder)
            self._write_arrays(folder, frames, shard_frames)
            _flush_tree(folder)
            durable.flush(folder.parent)
            if not (folder.parent / METADATA).exists():
                _write_group(folder.parent, {})
                durable.flush(self._store.path)
            _write_part(folder, entries, moments, frames, self._chunk_frames, shard_frames)
        except OutputError:
            raise
        except OSError as error:
            raise durable.cannot_write(folder, error) from error
        finally:
            if (folder / METADATA).exists():  # committed, even where Ctrl-C came a moment later
                self._start, self._open = self._complete, []
                self._store._take_in([_read_part(folder, self._store.header)])
            else:
                shutil.rmtree(folder, ignore_errors=True)

    def _write_arrays(self, folder: Path, frames: int, shard_frames: int) -> None:
        import zarr  # only here: readers need none of it, nor the thread that it starts
        from zarr.codecs import Crc32cCodec

        arrays = [
            zarr.create_array(
                store=str(folder / name),
                shape=(frames, self._store.header.channels),
                chunks=(self._chunk_frames, self._store.header.channels),
                shards=(shard_frames, self._store.header.channels),
                dtype="float16",
                filters=None,
                compressors=[Crc32cCodec()],  # float16 latents hardly compress; a flipped byte must not pass
                fill_value=0,
                config={"write_empty_chunks": True},  # a chunk of zeros is there too, so that a missing one is an error
                dimension_names=["frame", "channel"],
            )
            for name in ("mean", "logvar")
        ]
        for start in range(0, frames, shard_frames):
            stop = min(start + shard_frames, frames)
            rows = self._read_spool(self._start + start, self._start + stop)
            for i, array in enumerate(arrays):
                array[start:stop] = rows[:, i]

    def _as_rows(self, track: Track, mean: npt.NDArray[Any], logvar: npt.NDArray[Any]) -> Latents:
        """One piece as float16 [l, 2, D], or an error that names the track."""
        channels = self._store.header.channels
        if mean.shape != logvar.shape or mean.shape[1:] != (channels,):
            raise UsageError(f"Latents of shape {mean.shape} and {logvar.shape} where [l, {channels}] were expected.")
        hint = "Look at the VAE's training; this track was left out of the store."
        if not (np.isfinite(mean).all() and np.isfinite(logvar).all()):
            raise DataError(f"The latents of {track.name} are not all finite numbers.", hint)
        rows: Latents = np.empty(len(mean), self._row)
        with np.errstate(over="ignore"):  # looked for below
            rows[:, 0], rows[:, 1] = mean, logvar
        if not np.isfinite(rows).all() or rows[:, 1].max(initial=0) > LARGEST_LOGVAR:
            largest = f"{np.abs(mean).max():.3g} (mean) and {logvar.max():.3g} (log-variance)"
            raise DataError(f"The latents of {track.name} are too large to keep: up to {largest}.", hint)
        return rows

    def _write_spool(self, frame: int, data: bytes) -> None:
        position = frame * self._row.itemsize
        try:
            while data:  # a nearly full disk takes less than it is given
                written = os.pwrite(self._spool, data, position)
                data, position = data[written:], position + written
        except OSError as error:
            raise durable.cannot_write(self._store.path, error) from error

    def _read_spool(self, start: int, stop: int) -> Latents:
        data = os.pread(self._spool, (stop - start) * self._row.itemsize, start * self._row.itemsize)
        return np.frombuffer(data, self._row)


def _write_group(folder: Path, attributes: dict[str, Any]) -> None:
    """A zarr v3 group's metadata, durably: the group is there when this file is."""
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    durable.write_bytes(folder / METADATA, json.dumps(group, ensure_ascii=False).encode())


def _write_part(
    folder: Path, entries: list[TrackEntry], moments: Moments, frames: int, chunk_frames: int, shard_frames: int
) -> None:
    """Commit a part."""
    tracks = [dataclasses.asdict(entry) for entry in entries]
    for track in tracks:
        del track["part"]  # the folder's name says it
    part = {
        "format": PART_FORMAT,
        "frames": frames,
        "chunk_frames": chunk_frames,
        "shard_frames": shard_frames,
        "moments": moments.to_dict(),
        "tracks": tracks,
    }
    _write_group(folder, {**part, "crc32c": _crc_of_json(part)})


def _flush_tree(folder: Path) -> None:
    """fsync every file and folder under and with `folder`; zarr-python writes without."""
    for here, _, files in os.walk(folder, topdown=False):
        for name in files:
            durable.flush(Path(here, name))
        durable.flush(Path(here))


def _crc_of_json(data: Any) -> str:
    """JSON carries no checksum of its own."""
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
    return f"{google_crc32c.value(canonical):08x}"


# ---------------------------------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------------------------------


def _read_header(path: Path) -> StoreHeader:
    hint = "Name a store that `musicldm encode` made."
    if not (path / METADATA).is_file():
        what = "is a file, not a latent store" if path.is_file() else "is no latent store"
        raise DataError(f"{path} {what}." if path.exists() else f"There is no latent store at {path}.", hint)
    attributes = _read_attributes(path / METADATA)
    if attributes.get("format") != FORMAT:
        raise DataError(f"{path} is a zarr, but no latent store.", hint)
    if isinstance(schema := attributes.get("schema"), int) and schema > SCHEMA:
        raise MismatchError(f"The store {path} has schema {schema}; this musicldm knows {SCHEMA}.", "Update musicldm.")
    try:
        return StoreHeader(**{field.name: attributes[field.name] for field in dataclasses.fields(StoreHeader)})
    except KeyError as error:
        raise damaged(path / METADATA, f"{error} is missing") from error


def _read_part(folder: Path, header: StoreHeader) -> Part:
    """A part's table, and its arrays after a look at the size of every file."""
    file = folder / METADATA
    attributes = _read_attributes(file)
    if attributes.pop("crc32c", None) != _crc_of_json(attributes):
        raise damaged(file, "its checksum does not fit")
    try:
        entries = tuple(TrackEntry(part=folder.name, **track) for track in attributes["tracks"])
        moments = Moments.from_dict(attributes["moments"])
        shape = attributes["frames"], header.channels, attributes["chunk_frames"], attributes["shard_frames"]
    except (KeyError, TypeError) as error:
        raise damaged(file, "it is no part's table") from error
    mean, logvar = (ShardedArray(folder / name, *shape) for name in ("mean", "logvar"))
    mean.check_sizes()
    logvar.check_sizes()
    return Part(folder.name, entries, moments, mean, logvar)


def _read_attributes(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_bytes())["attributes"])
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(file, "it is not the metadata of a zarr group") from error
