"""Tracks -> segments of a store: spooled, written with zarr, committed by their metadata."""

from __future__ import annotations

import dataclasses
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import google_crc32c
import numpy as np
import numpy.typing as npt

from musicldm.core import durable
from musicldm.core.errors import DataError, MusicLDMError, UsageError
from musicldm.latents.schema import (
    ARRAYS,
    METADATA,
    SEGMENTS,
    SegmentTable,
    StoreHeader,
    Track,
    TrackEntry,
    group_json,
)
from musicldm.latents.shards import Latents
from musicldm.latents.statistics import Moments
from musicldm.latents.storage import Folder, Storage

LARGEST_LOGVAR = 80.0
"""exp(logvar) beyond this overflows float32 when a latent is drawn; no posterior that works comes near it."""


class StoreWriter:
    """Appends whole tracks; complete ones are committed at the latest at the end of the `with` block.

    Frames wait in a spool, an unnamed file in the store's folder that vanishes with the process, as rows [2, D] of
    mean and log-variance. It holds the complete tracks of the open segment, then the frames of the track that is being
    appended: dropping that one takes nothing but forgetting it.
    """

    def __init__(
        self,
        storage: Storage,
        header: StoreHeader,
        on_commit: Callable[[SegmentTable, list[dict[str, Any]]], None],
        chunk_frames: int,
        shard_frames: int,
        max_frames: float,
        max_tracks: float,
        max_seconds: float,
        replaces: Sequence[str] = (),
    ) -> None:
        if not 0 < chunk_frames <= shard_frames or shard_frames % chunk_frames:
            raise UsageError(f"A shard of {shard_frames} frames cannot be cut into chunks of {chunk_frames}.")
        self._storage = storage
        self._header = header
        self._on_commit = on_commit
        self._chunk_frames = chunk_frames
        self._shard_frames = shard_frames
        self._max_frames = max_frames
        self._max_tracks = max_tracks
        self._max_seconds = max_seconds
        self._replaces = tuple(replaces)
        self._row = np.dtype(("<f2", (2, header.channels)))
        self._spool = -1  # a file descriptor
        self._start = 0  # where in the spool the open segment begins
        self._open: list[tuple[TrackEntry, Moments]] = []  # its complete tracks
        self._opened = 0.0

    def __enter__(self) -> Self:
        # Beside the store, not in the system's folder for temporary files, which may be small or in RAM.
        folder = self._storage.path if isinstance(self._storage, Folder) else Path(tempfile.gettempdir())
        try:
            # A kill between these two lines leaves a file whose name `rewriting.sweep` knows.
            self._spool, name = tempfile.mkstemp(dir=folder, prefix=durable.TEMPORARY)
            os.unlink(name)
        except OSError as error:
            raise durable.cannot_write(folder, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None or not self._replaces:  # what stands for other segments must have all of their tracks
                self._commit()
        except KeyboardInterrupt:
            self._commit()  # but first what is complete must be safe
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
        header = self._header
        frames, checksum, loss, moments = 0, 0, 0.0, Moments.none(header.channels)
        for mean, logvar in pieces:
            rows = self._as_rows(track, mean, logvar)
            loss += float(np.square(np.subtract(rows[:, 0], mean, dtype=np.float64)).sum())
            data = rows.tobytes()
            self._write_spool(self._complete + frames, data)
            frames += len(rows)
            checksum = google_crc32c.extend(checksum, data)
            moments += Moments.of(rows[:, 0], rows[:, 1])
            # A commit moves `_start` up to `_complete`, which itself stays: the frames of this track are not touched.
            if self._is_old():  # tracks that wait must not wait for a long one that follows
                self._commit()
        if frames != header.frames(track.samples) or not frames:
            expected = header.frames(track.samples)
            raise DataError(f"{track.name} has {frames} latent frames where {expected} were expected.")
        entry = TrackEntry(
            **{field.name: getattr(track, field.name) for field in dataclasses.fields(Track)},
            segment="",  # named at the commit
            offset=self._complete - self._start,
            frames=frames,
            seconds=track.samples / header.rate,
            key=header.key(track.content),
            checksum=f"{checksum:08x}",
            # Of an entry that is only moved: what was lost when it was first written, and what others know of it.
            loss=track.loss if isinstance(track, TrackEntry) else loss,
            extra=track.extra if isinstance(track, TrackEntry) else {},
        )
        if not self._open:
            self._opened = time.monotonic()
        self._open.append((entry, moments))
        full = self._complete - self._start >= self._max_frames or len(self._open) >= self._max_tracks
        half_committed = self._start > 0  # the head of the spool waits to be given back
        if full or half_committed or self._is_old():
            self._commit()
            # Only between tracks: within one, its own frames lie behind those that were committed.
            os.ftruncate(self._spool, 0)
            self._start = 0

    def commit_nothing(self) -> None:
        """Add a segment without tracks, which only stands for those that it replaces."""
        segment, name = _new_segment()
        moments, sizes = Moments.none(self._header.channels), {str(array): list[int]() for array in ARRAYS}
        table = SegmentTable(segment, 0, self._chunk_frames, self._shard_frames, sizes, moments, self._replaces)
        self._storage.write(f"{name}/{METADATA}", group_json(table.to_attributes([])))
        self._on_commit(table, [])

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
        """Turn the complete tracks of the open segment into a segment of the store."""
        if not self._open:
            return
        segment, name = _new_segment()
        frames = self._complete - self._start
        moments = Moments.none(self._header.channels)
        for entry, of_track in self._open:
            if entry.split == "train":
                moments += of_track
        # As few shards as the limit allows, all of one size: the last one is not left nearly empty.
        chunks = -(-frames // self._chunk_frames)
        shards = -(-chunks * self._chunk_frames // self._shard_frames)
        shard_frames = -(-chunks // shards) * self._chunk_frames
        committed = False
        try:
            with self._storage.writing(name) as folder:
                sizes = self._write_arrays(folder, frames, shard_frames)
            table = SegmentTable(segment, frames, self._chunk_frames, shard_frames, sizes, moments, self._replaces)
            rows = [entry.to_dict() for entry, _ in self._open]
            self._storage.write(f"{name}/{METADATA}", group_json(table.to_attributes(rows)))
            committed = True
        except MusicLDMError:
            raise
        except OSError as error:
            raise durable.cannot_write(Path(str(self._storage)) / name, error) from error
        finally:
            # The metadata is the commit: whether it is there, not how far we came, says whether the segment exists.
            if committed or self._storage.has(f"{name}/{METADATA}"):  # even where Ctrl-C came a moment later
                self._start, self._open = self._complete, []
                self._on_commit(table, rows)
            else:
                self._storage.remove(name)

    def _write_arrays(self, folder: Path, frames: int, shard_frames: int) -> dict[str, list[int]]:
        """Both arrays, and the sizes of their shards."""
        import zarr  # only here: readers need none of it, nor the thread that it starts
        from zarr.codecs import BloscCodec, Crc32cCodec

        # Uncompressed chunks stay raw, so that readers can map them. The shuffle puts all high bytes (sign and
        # exponent), which repeat, before the low ones, whose last bits `rounded` has made zero.
        squeeze = [] if self._header.keep_bits is None else [BloscCodec(cname="zstd", clevel=5, shuffle="shuffle")]
        arrays = [
            zarr.create_array(
                store=str(folder / name),
                shape=(frames, self._header.channels),
                chunks=(self._chunk_frames, self._header.channels),
                shards=(shard_frames, self._header.channels),
                dtype="float16",
                filters=None,
                compressors=[*squeeze, Crc32cCodec()],  # a flipped byte must not pass
                fill_value=0,
                config={"write_empty_chunks": True},  # a chunk of zeros is there too, so that a missing one is an error
                dimension_names=["frame", "channel"],
            )
            for name in ARRAYS
        ]
        for start in range(0, frames, shard_frames):
            stop = min(start + shard_frames, frames)
            rows = self._read_spool(self._start + start, self._start + stop)
            for i, array in enumerate(arrays):
                array[start:stop] = rows[:, i]
        # The sizes go into the metadata, so that `open` notices a file cut short without reading it.
        return {
            name: [
                (folder / name / "c" / str(shard) / "0").stat().st_size for shard in range(-(-frames // shard_frames))
            ]
            for name in ARRAYS
        }

    def _as_rows(self, track: Track, mean: npt.NDArray[Any], logvar: npt.NDArray[Any]) -> Latents:
        """One piece as float16 [l, 2, D], or an error that names the track."""
        channels = self._header.channels
        if mean.shape != logvar.shape or mean.shape[1:] != (channels,):
            raise UsageError(f"Latents of shape {mean.shape} and {logvar.shape} where [l, {channels}] were expected.")
        hint = "Check the codec's training; this track was left out of the store."
        if not (np.isfinite(mean).all() and np.isfinite(logvar).all()):
            raise DataError(f"The latents of {track.name} are not all finite numbers.", hint)
        rows: Latents = np.empty(len(mean), self._row)
        with np.errstate(over="ignore"):  # looked for below
            rows[:, 0], rows[:, 1] = mean, logvar
        if self._header.keep_bits is not None:
            rows = rounded(rows, self._header.keep_bits)
        if not np.isfinite(rows).all() or rows[:, 1].max(initial=0) > LARGEST_LOGVAR:
            largest = f"{np.abs(mean).max():.3g} (mean) and {logvar.max():.3g} (log-variance)"
            raise DataError(f"The latents of {track.name} are too large to store: up to {largest}.", hint)
        return rows

    def _write_spool(self, frame: int, data: bytes) -> None:
        position = frame * self._row.itemsize
        try:
            while data:  # a nearly full disk takes less than it is given
                written = os.pwrite(self._spool, data, position)
                data, position = data[written:], position + written
        except OSError as error:
            raise durable.cannot_write(Path(str(self._storage)), error) from error

    def _read_spool(self, start: int, stop: int) -> Latents:
        data = os.pread(self._spool, (stop - start) * self._row.itemsize, start * self._row.itemsize)
        return np.frombuffer(data, self._row)


SEGMENT_TIME = "%Y%m%dT%H%M%S%f"


def _new_segment() -> tuple[str, str]:
    """A segment's id that sorts by time, and its folder."""
    # With a random piece, since two writers may commit at the same moment and must never share a folder.
    segment = f"{datetime.now(UTC).strftime(SEGMENT_TIME)}-{secrets.token_hex(4)}"
    return segment, f"{SEGMENTS}/{segment}"


def rounded(values: Latents, keep_bits: int) -> Latents:
    """Numbers with only so many bits of their mantissas, so that they compress; the rest is rounded away."""
    from numcodecs import BitRound

    rounding = BitRound(keepbits=keep_bits)
    bits: Latents = rounding.decode(rounding.encode(np.ascontiguousarray(values))).view(np.float16)
    return bits.reshape(values.shape)
