"""What a WAV file's header states of its length, and what the file holds: a killed recorder leaves them at odds."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_SIZE_IS_OPEN = 0x7FFF0000  # writers to a pipe put this or more for a size that they cannot know
_WIDE = 0xFFFFFFFF  # in RF64: the size is in the ds64 chunk
_TAGS = (b"ID3", b"TAG", b"APETAGEX")  # what taggers append without wrapping it into a chunk
_SMALLEST, _SHORTEST = 0.02, 0.2  # of the stated length, and in seconds: less is no lost sound


@dataclass(frozen=True)
class WavData:
    """The samples of a WAV file, in bytes."""

    stated: int
    """By the header."""
    there: int
    """From where the samples begin to the end of the file."""
    beyond: int
    """After those that are stated, what is sound as well: neither chunks nor tags nor zeros."""
    bytes_a_second: int

    @property
    def fraction(self) -> float:
        """Of what is stated, what is there."""
        return min(1.0, self.there / self.stated)

    @property
    def beyond_seconds(self) -> float:
        return self.beyond / self.bytes_a_second


def wav_data(path: Path) -> WavData | None:
    """The data chunk of a RIFF or RF64 file; None where there is none, or its header leaves the size open.

    Raises:
        OSError: it cannot be read.
    """
    end = path.stat().st_size
    with path.open("rb") as file:
        if file.read(12)[:4] not in (b"RIFF", b"RF64"):
            return None
        wide, rate = 0, 0
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[4:], "little")
            begin = file.tell()
            if head[:4] == b"data":
                stated = wide if size == _WIDE else size
                if not (0 < stated and (size < _SIZE_IS_OPEN or wide)):
                    return None
                beyond = _sound_after(file, begin + stated + stated % 2, end, stated, rate)
                return WavData(stated, end - begin, beyond, max(1, rate))
            body = file.read(min(size, 32))
            if head[:4] == b"ds64" and len(body) >= 16:
                wide = struct.unpack_from("<8xQ", body)[0]
            if head[:4] == b"fmt " and len(body) >= 12:
                rate = struct.unpack_from("<8xI", body)[0]
            file.seek(begin + size + size % 2)
    return None


def _sound_after(file: BinaryIO, begin: int, end: int, stated: int, rate: int) -> int:
    """The bytes from `begin` to the end, where they are sound; else 0."""
    if end - begin <= max(_SMALLEST * stated, _SHORTEST * rate) or _are_chunks(file, begin, end):
        return 0
    file.seek(begin)
    if file.read(8).startswith(_TAGS):
        return 0
    file.seek(begin)
    while block := file.read(1 << 20):
        if block.count(0) < len(block):
            return end - begin
    return 0


def _are_chunks(file: BinaryIO, at: int, end: int) -> bool:
    """Whether there are only chunks from `at` to the end: four letters and a size that fits, one after another."""
    while at + 8 <= end:
        file.seek(at)
        head = file.read(8)
        if not all(32 <= letter < 127 for letter in head[:4]):
            return False
        size = int.from_bytes(head[4:], "little")
        at = file.seek(size + size % 2, io.SEEK_CUR)
        if at > end + 1:
            return False
    return True
