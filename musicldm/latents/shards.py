"""Frames from the shards of a zarr v3 array by memory map, with all that a map does not check by itself.

A shard file is its chunks, each of them raw float16 followed by its crc32c, and then an index: offset and length of
every chunk as uint64, and the crc32c of that. The map is some hundred times faster for a crop than zarr-python.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from musicldm.errors import DataError

Latents = npt.NDArray[np.float16]


class ShardedArray:
    """float16 [frames, D]; the shards are mapped when they are first read."""

    def __init__(self, folder: Path, frames: int, channels: int, chunk_frames: int, shard_frames: int) -> None:
        self.folder = folder
        self.shape = (frames, channels)
        self.chunk_frames = chunk_frames
        self.shard_frames = shard_frames
        self._shards: dict[int, Shard] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process maps the files for itself.
        return ShardedArray, (self.folder, *self.shape, self.chunk_frames, self.shard_frames)

    def check_sizes(self) -> None:
        """Look at every shard file: a map over one cut short would end the process by SIGBUS.

        Raises:
            DataError: a file is missing or too short.
        """
        frames, channels = self.shape
        for i, start in enumerate(range(0, frames, self.shard_frames)):
            chunks = -(-min(self.shard_frames, frames - start) // self.chunk_frames)
            expected = chunks * (2 * self.chunk_frames * channels + 4) + Shard.index_bytes(self._chunks)
            try:
                size = self._file(i).stat().st_size
            except OSError as error:
                raise damaged(self._file(i), "it is missing") from error
            if size < expected:
                raise damaged(self._file(i), f"it is cut short, {size:,} bytes of {expected:,}")

    def read(self, start: int, stop: int) -> Latents:
        """A copy of frames `start` to `stop`, [stop - start, D].

        Raises:
            DataError: a chunk is missing or was changed.
        """
        out: Latents = np.empty((stop - start, self.shape[1]), np.float16)
        filled = 0
        while filled < len(out):
            shard, within = divmod(start + filled, self.shard_frames)
            chunk, row = divmod(within, self.chunk_frames)
            count = min(len(out) - filled, self.chunk_frames - row)
            out[filled : filled + count] = self._shard(shard).chunk(chunk)[row : row + count]
            filled += count
        return out

    @property
    def _chunks(self) -> int:
        return self.shard_frames // self.chunk_frames

    def _file(self, shard: int) -> Path:
        return self.folder / "c" / str(shard) / "0"

    def _shard(self, number: int) -> Shard:
        if number not in self._shards:
            self._shards[number] = Shard(self._file(number), self._chunks, (self.chunk_frames, self.shape[1]))
        return self._shards[number]


class Shard:
    """One shard file, mapped; a chunk's checksum is verified when it is first touched."""

    def __init__(self, file: Path, chunks: int, chunk_shape: tuple[int, int]) -> None:
        self.file = file
        self._chunk_shape = chunk_shape
        self._verified: list[Latents | None] = [None] * chunks
        try:
            self._bytes = np.memmap(file, np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise damaged(file, "it cannot be read") from error
        index, crc = np.split(self._bytes[-self.index_bytes(chunks) :], [-4])
        if google_crc32c.value(index.tobytes()) != int.from_bytes(crc.tobytes(), "little"):
            raise damaged(file, "its index was changed")
        self._index = np.frombuffer(index.tobytes(), "<u8").reshape(chunks, 2)

    @staticmethod
    def index_bytes(chunks: int) -> int:
        """The length of a shard's index."""
        return 16 * chunks + 4

    def chunk(self, number: int) -> Latents:
        """A view of one chunk, [chunk_frames, D]."""
        chunk = self._verified[number]
        if chunk is None:
            chunk = self._verified[number] = self._first_touch(number)
        return chunk

    def _first_touch(self, number: int) -> Latents:
        offset, length = (int(value) for value in self._index[number])
        frames, channels = self._chunk_shape
        if length != 2 * frames * channels + 4 or offset + length > len(self._bytes):  # missing: both are 2⁶⁴ - 1
            raise damaged(self.file, f"chunk {number} is missing")
        stored = self._bytes[offset : offset + length]
        if google_crc32c.value(stored[:-4].tobytes()) != int.from_bytes(stored[-4:].tobytes(), "little"):
            raise damaged(self.file, f"chunk {number} was changed")
        return np.frombuffer(self._bytes, "<f2", frames * channels, offset).reshape(self._chunk_shape)


def damaged(file: Path, reason: str) -> DataError:
    """The sentence for a file of a store that cannot be used."""
    for folder in file.parents:
        if folder.parent.name == "parts":
            hint = f"Restore it from a copy, or delete {folder} and encode again: only the tracks in there are redone."
            return DataError(f"{file} is damaged: {reason}.", hint)
    return DataError(f"{file} is damaged: {reason}.", "Restore it from a copy, or make the store anew.")
