"""The files below a folder that may hold audio, as the file system describes them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from musicldm.core.errors import DataError
from musicldm.core.reading import sha256

# Files that often lie beside music and are certainly not audio. All others are tried, and failures are reported.
_NOT_AUDIO = set(
    ".avif .bmp .cue .csv .db .gif .htm .html .ini .jpeg .jpg .json .jsonl .log .lrc .m3u .m3u8 .md .nfo .part .pdf"
    " .pls .png .py .rtf .sfv .srt .svg .tif .tiff .toml .torrent .txt .url .vtt .webp .xml .yaml .yml .ytdl".split()
)


@dataclass(frozen=True)
class SourceFile:
    """A file as the file system describes it: as long as this stays the same, nobody has touched it."""

    size: int
    # Both times: programs that copy or tag may set mtime back, but none can set ctime.
    mtime_ns: int
    ctime_ns: int


NO_FILE = SourceFile(-1, -1, -1)


def walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Every file below that may hold audio, in a fixed order; no folder twice (`seen`), so that circular links end."""
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        yield folder  # becomes a task, which fails with the reason
        return
    for name in names:
        path = folder / name
        # macOS leaves a hidden `._Song.mp3` beside each Song.mp3 on foreign disks, which is no audio.
        if name.startswith("."):
            continue
        if os.path.isdir(path):
            yield from walk(path, seen)
        elif path.suffix.lower() not in _NOT_AUDIO:
            yield path


def look(path: Path) -> SourceFile | None:
    """The file behind a path: None where there is none, NO_FILE where it is a pipe or a device."""
    try:
        status = path.stat()
    except OSError:
        return None  # a broken link, say: the worker will report it
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return NO_FILE  # reading it might never end
    return SourceFile(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def digest(path: Path) -> str:
    """SHA-256 of a file. Reading all of it also finds a disk's errors, which decoders take for the end of the file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        if path.is_dir():
            os.listdir(path)  # `walk` yields a folder only where it could not list it
        return sha256(path)
    except OSError as error:
        raise DataError(f"It cannot be read: {error.strerror or error}.") from error


def utf8(path: Path) -> str:
    """The path as text that any file can hold; bytes of a name that are not UTF-8 are spelled \\xNN."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")
