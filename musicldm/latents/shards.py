"""Frames from the shards of a zarr v3 array, faster than zarr-python and with all that it lets pass.

A shard file is its chunks, each of them followed by its crc32c, and then an index: offset and length of every chunk as
uint64, and the crc32c of that. A chunk is raw float16, or the same in a Blosc frame. Raw shards of a folder are mapped
into memory, which is some hundred times faster for a crop than zarr-python; others are fetched, many pieces at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from musicldm.core.jobs import CORES
from musicldm.latents.schema import damaged
from musicldm.latents.storage import Bytes, Folder, Span, Storage

Latents = npt.NDArray[np.float16]


class ShardedArray:
    """float16 [frames, D] in the folder `name` of a storage; nothing is read before it is needed."""

    def __init__(
        self,
        storage: Storage,
        name: str,
        shape: tuple[int, int],
        chunk_frames: int,
        shard_frames: int,
        sizes: Sequence[int],
        compressed: bool,
    ) -> None:
        self.storage = storage
        self.name = name
        self.shape = shape
        self.chunk_frames = chunk_frames
        self.shard_frames = shard_frames
        self.sizes = sizes
        self.compressed = compressed
        self._shards: dict[int, Shard] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process maps the files for itself.
        arguments = (
            self.storage,
            self.name,
            self.shape,
            self.chunk_frames,
            self.shard_frames,
            self.sizes,
            self.compressed,
        )
        return ShardedArray, arguments

    @property
    def files(self) -> list[str]:
        """The names of the shards."""
        return [f"{self.name}/c/{number}/0" for number in range(len(self.sizes))]

    def read(self, start: int, stop: int, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """A copy of frames `start` to `stop`, [stop - start, D], in `out` where that is given.

        Raises:
            DataError: a chunk is missing or was changed.
        """
        if out is None:
            out = np.empty((stop - start, self.shape[1]), np.float16)
        filled = 0
        for shard, chunk, row in self._chunks(start, stop):
            count = min(stop - start - filled, self.chunk_frames - row)
            out[filled : filled + count] = shard.chunk(chunk)[row : row + count]
            filled += count
        return out

    def touched(self, start: int, stop: int) -> Iterator[tuple[Shard, int]]:
        """The chunks that frames `start` to `stop` are in: their shards and their numbers there."""
        for shard, chunk, _ in self._chunks(start, stop):
            yield shard, chunk

    def _chunks(self, start: int, stop: int) -> Iterator[tuple[Shard, int, int]]:
        """The chunks from frame `start` on: the shard, the chunk in it, and where in that to begin."""
        frame = start
        while frame < stop:
            shard, within = divmod(frame, self.shard_frames)
            chunk, row = divmod(within, self.chunk_frames)
            yield self._shard(shard), chunk, row
            frame += self.chunk_frames - row

    def _shard(self, number: int) -> Shard:
        if number not in self._shards:
            storage = self.storage
            self._shards[number] = (
                MappedShard(self, number, storage) if isinstance(storage, Folder) else FetchedShard(self, number)
            )
        return self._shards[number]


class Shard:
    """One shard file; every chunk is verified before it is first given out."""

    def __init__(self, array: ShardedArray, number: int) -> None:
        self.storage = array.storage
        self.name = array.files[number]
        self.compressed = array.compressed
        self.chunks = array.shard_frames // array.chunk_frames
        self.chunk_shape = array.chunk_frames, array.shape[1]
        size = array.sizes[number]
        # For each chunk two uint64, offset and length, and at the end 4 bytes of crc32c.
        self.index_span: Span = (self.name, size - 16 * self.chunks - 4, size)
        self.index: npt.NDArray[np.uint64] | None = None  # offset and length of every chunk, [chunks, 2]
        self.ready: dict[int, Latents] = {}  # chunks that are decoded already

    def chunk(self, number: int) -> Latents:
        """One chunk, [chunk_frames, D], to be read only.

        Raises:
            DataError: it is missing or was changed.
        """
        chunk = self.ready.get(number)
        return self.decoded(number, self.stored(number)) if chunk is None else chunk

    def stored(self, number: int) -> Bytes:
        """The bytes of a chunk, its crc32c included."""
        return fetch(self.storage, [self.span(number)])[0]

    def span(self, number: int) -> Span:
        """Where a chunk lies, its crc32c included."""
        offset, length = (int(value) for value in self._indexed()[number])
        if offset + length > self.index_span[1]:  # missing: both are 2⁶⁴ - 1
            raise damaged(str(self.storage), self.name, f"chunk {number} is missing")
        return self.name, offset, offset + length

    def take_index(self, stored: Bytes) -> npt.NDArray[np.uint64]:
        """Have the bytes of `index_span` for an index, which is returned."""
        data, crc = stored[:-4].tobytes(), stored[-4:].tobytes()
        if len(stored) != 16 * self.chunks + 4 or google_crc32c.value(data) != int.from_bytes(crc, "little"):
            raise damaged(str(self.storage), self.name, "its index was changed")
        self.index = index = np.frombuffer(data, "<u8").reshape(self.chunks, 2)
        return index

    def decoded(self, number: int, stored: Bytes) -> Latents:
        """A chunk from its bytes in the file, without a copy where it is raw."""
        if google_crc32c.value(stored[:-4].tobytes()) != int.from_bytes(stored[-4:].tobytes(), "little"):
            raise damaged(str(self.storage), self.name, f"chunk {number} was changed")
        raw: Bytes = stored[:-4]
        frames, channels = self.chunk_shape
        size = 2 * frames * channels
        if self.compressed:
            from numcodecs import blosc  # only here: raw stores, the usual ones, need none of it

            # A frame states its size, for which memory is taken before anything is unpacked.
            if int.from_bytes(raw[4:8].tobytes(), "little") != size:
                raise damaged(str(self.storage), self.name, f"chunk {number} has another size")
            try:
                raw = np.frombuffer(blosc.decompress(raw.tobytes()), np.uint8)
            except RuntimeError as error:
                raise damaged(str(self.storage), self.name, f"chunk {number} cannot be unpacked") from error
        # zarr fills up the last chunk of an array, so all of them have one size.
        if len(raw) != size:
            raise damaged(str(self.storage), self.name, f"chunk {number} has another size")
        return raw.view("<f2").reshape(self.chunk_shape)

    def _indexed(self) -> npt.NDArray[np.uint64]:
        return self.take_index(*fetch(self.storage, [self.index_span])) if self.index is None else self.index


class MappedShard(Shard):
    """A shard in a folder, as memory; of a raw one, the chunks are views of it, verified at first touch."""

    def __init__(self, array: ShardedArray, number: int, folder: Folder) -> None:
        super().__init__(array, number)
        try:
            # Not the memmap itself: whatever is cut from one is one again, ten times slower to cut.
            self._bytes = np.frombuffer(folder.map(self.name), np.uint8)
        except (OSError, ValueError) as error:
            raise damaged(str(self.storage), self.name, "it cannot be read") from error
        self.take_index(self._bytes[self.index_span[1] :])

    def chunk(self, number: int) -> Latents:
        """One chunk."""
        chunk = super().chunk(number)
        # Verified once for the life of this object, and kept as a view, which takes no memory. Unpacked chunks are not
        # kept, or memory would grow with all that is read.
        if not self.compressed:
            self.ready[number] = chunk
        return chunk

    def stored(self, number: int) -> Bytes:
        """A view of the bytes of a chunk, its crc32c included."""
        _, start, stop = self.span(number)
        return self._bytes[start:stop]


class FetchedShard(Shard):
    """A shard in object storage."""


@contextmanager
def prefetch(touched: Iterable[tuple[Shard, int]]) -> Iterator[None]:
    """Fetch and decode some chunks, all of them at once, and have them ready within this block.

    Raises:
        DataError: a chunk is missing or was changed.
    """
    # Crops of one batch often share chunks.
    wanted = list(dict.fromkeys(touched))
    shards = {shard for shard, _ in wanted}
    remote = [(shard, number) for shard, number in wanted if isinstance(shard, FetchedShard)]
    try:
        stored = dict(zip(remote, _fetch_all(remote), strict=True))
        chunks = _threads(os.getpid()).map(
            lambda each: each[0].decoded(each[1], stored[each] if each in stored else each[0].stored(each[1])), wanted
        )
        for (shard, number), chunk in zip(wanted, chunks, strict=True):
            shard.ready[number] = chunk
        yield
    finally:
        for shard in shards:
            shard.ready.clear()


def _fetch_all(chunks: Sequence[tuple[Shard, int]]) -> list[Bytes]:
    """The bytes of chunks in object storage; first the indexes that say where they are."""
    if not chunks:
        return []
    storage = chunks[0][0].storage
    unread = list({shard for shard, _ in chunks if shard.index is None})
    for shard, index in zip(unread, fetch(storage, [shard.index_span for shard in unread]), strict=True):
        shard.take_index(index)
    return fetch(storage, [shard.span(number) for shard, number in chunks])


@cache
def _threads(process: int) -> ThreadPoolExecutor:
    """For decoding, which leaves the interpreter to others. A fork takes no threads along: each process has its own."""
    return ThreadPoolExecutor(min(4, CORES), thread_name_prefix="latents")


def fetch(storage: Storage, spans: Sequence[Span]) -> list[Bytes]:
    """Pieces of shards.

    Raises:
        DataError: a shard is gone.
    """
    try:
        pieces = storage.fetch(spans)
    except FileNotFoundError as error:
        # The error need not say which of the files is missing.
        names = sorted({name for name, _, _ in spans})
        missing = next((name for name, size in zip(names, storage.sizes(names), strict=True) if size is None), names[0])
        raise damaged(str(storage), missing, "it is missing") from error
    for (name, start, stop), piece in zip(spans, pieces, strict=True):
        if len(piece) != stop - start:
            raise damaged(str(storage), name, "it was cut short")
    return pieces
