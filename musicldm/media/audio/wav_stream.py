"""Samples as the bytes of a WAV file, whose header has the right sizes from the start, so that a pipe can take it.

Shapes: C channels, T samples; audio is float32 [C, T] in [-1, 1].
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
BitDepth = int | Literal["float"]

LARGEST = (1 << 32) - 4096  # bytes that the 32-bit sizes of a WAV file can count, less room for the header


def quantise(audio: Floats, bit_depth: int, rng: np.random.Generator | None = None) -> NDArray[np.int32]:
    """Float [C, n] to integers of `bit_depth` bits, clipped; with `rng`, with triangular dither of two steps."""
    full = 1 << (bit_depth - 1)
    steps = audio * np.float32(full)
    if rng is not None:
        # The difference of two uniform numbers is triangular. That dither is the least that makes both mean and
        # variance of the error independent of the sound (Lipshitz, Wannamaker & Vanderkooy 1992).
        steps += rng.random(audio.shape, np.float32)
        steps -= rng.random(audio.shape, np.float32)
    # float32 is enough: its mantissa holds every integer of 24 bits.
    np.rint(steps, out=steps)
    return np.clip(steps, -full, full - 1, out=steps).astype(np.int32)


@contextmanager
def writer(
    file: BinaryIO, sample_rate: int, channels: int, samples: int, bit_depth: BitDepth, comment: str
) -> Iterator[Callable[[Floats], object]]:
    """A WAV whose header has the right sizes from the start, since a pipe cannot be corrected later."""
    # A file given as stdout may have content already; in append mode it cannot be corrected, like a pipe.
    begin = file.tell() if file.seekable() and not _only_grows(file) else None
    file.write(_wav_header(sample_rate, channels, samples, bit_depth, comment))
    written = 0

    def append(audio: Floats) -> None:
        nonlocal written
        file.write(pcm(audio, bit_depth))
        written += audio.shape[1]

    yield append
    frame = channels * _bytes(bit_depth)
    if written * frame % 2:
        file.write(b"\0")  # a chunk's size is even
    if written != samples and begin is not None:
        file.seek(begin)
        file.write(_wav_header(sample_rate, channels, written, bit_depth, comment, samples))
        file.seek(0, io.SEEK_END)


def _only_grows(file: BinaryIO) -> bool:
    """Whether the file is in append mode, where seeking does not change where writes go."""
    try:
        try:
            import fcntl
        except ImportError:  # on Windows, where nobody can tell it of a file that is given as stdout
            return file.fileno() == 1
        return bool(fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_APPEND)
    except OSError:  # not a file of the operating system
        return False


def _bytes(bit_depth: BitDepth) -> int:
    """Bytes of one sample."""
    return 4 if bit_depth == "float" else bit_depth // 8


def pcm(audio: Floats, bit_depth: BitDepth) -> bytes:
    """The bytes of samples in a WAV file."""
    if bit_depth == "float":
        return audio.T.astype("<f4").tobytes()
    return packed(quantise(audio, bit_depth), bit_depth)


def packed(samples: NDArray[np.int32], bit_depth: int) -> bytes:
    """The bytes in a WAV file of integers [C, n] of `bit_depth` bits."""
    if bit_depth == 8:
        return (samples.T + 128).astype(np.uint8).tobytes()  # 8-bit WAV alone is unsigned
    if bit_depth == 16:
        return samples.T.astype("<i2").tobytes()
    # NumPy has no integers of 24 bits: of each little-endian four bytes the last is left out.
    littles = np.ascontiguousarray(samples.T, dtype="<i4").view(np.uint8)
    return littles.reshape(-1, 4)[:, :3].tobytes()


def _wav_header(
    sample_rate: int, channels: int, samples: int, bit_depth: BitDepth, comment: str, planned: int | None = None
) -> bytes:
    """The header: all before the samples.

    Args:
        planned: samples of the header that this one overwrites, and whose length in bytes it must have.
    """
    width = _bytes(bit_depth)
    frame = channels * width
    # WAVE_FORMAT_IEEE_FLOAT, else WAVE_FORMAT_PCM. All but PCM must have a `fact` chunk.
    coding = 3 if bit_depth == "float" else 1
    chunks = struct.pack(
        "<4sIHHIIHH", b"fmt ", 16, coding, channels, sample_rate, sample_rate * frame, frame, 8 * width
    )
    if bit_depth == "float":
        chunks += struct.pack("<4sII", b"fact", 4, min(samples, 0xFFFFFFFF))
    if comment:
        text = comment.encode() + b"\0"
        text += b"\0" * (len(text) % 2)
        entry = struct.pack("<4sI", b"ICMT", len(text)) + text
        chunks += struct.pack("<4sI4s", b"LIST", 4 + len(entry), b"INFO") + entry
    data = samples * frame
    size = 4 + len(chunks) + 8 + data + data % 2
    # By the plan, since a corrected header must be as long as the one that it overwrites.
    if (samples if planned is None else planned) * frame + len(chunks) <= LARGEST:
        return struct.pack("<4sI4s", b"RIFF", size, b"WAVE") + chunks + struct.pack("<4sI", b"data", data)
    # The ds64 chunk itself takes 36 bytes. 32-bit sizes of all ones refer to the wide ones in it.
    wide = struct.pack("<4sIQQQI", b"ds64", 28, size + 36, data, samples, 0)
    unknown = 0xFFFFFFFF
    return struct.pack("<4sI4s", b"RF64", unknown, b"WAVE") + wide + chunks + struct.pack("<4sI", b"data", unknown)
