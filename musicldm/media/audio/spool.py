"""A store for a sound while it is decoded, as its first output sample may depend on its last input."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from musicldm.core import durable
from musicldm.media.audio.decode import Floats

_IN_MEMORY = 64 << 20  # bytes that are held in RAM before they go to the disk: 17 minutes of 16 kHz mono


class Spool:
    """Float32 [C, samples], deleted when it is closed.

    Args:
        folder: for the file, once it needs one. The file has no name there, so not even a kill leaves it behind.
    """

    def __init__(self, channels: int, folder: Path) -> None:
        self.samples = 0
        self.channels = channels
        self._folder = folder
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(folder))

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def append(self, block: Floats) -> memoryview:
        """Append the samples [C, n]. Returns them as they are stored: [n, C].

        Raises:
            OutputError: the disk is full.
        """
        frames = np.ascontiguousarray(block.T, np.float32)
        try:
            self._file.write(frames.data)
        except OSError as error:
            raise durable.cannot_write(self._folder, error) from error
        self.samples += len(frames)
        return frames.data

    def clear(self) -> None:
        """Forget all that was appended."""
        self._file.seek(0)
        self._file.truncate()
        self.samples = 0

    def read(self, start: int, stop: int) -> Floats:
        """Samples [start, stop), [C, n]."""
        self._file.seek(4 * self.channels * start)
        # A copy that can be written to: torch complains of tensors on read-only memory.
        data = bytearray(self._file.read(4 * self.channels * (stop - start)))
        return np.frombuffer(data, np.float32).reshape(-1, self.channels).T
