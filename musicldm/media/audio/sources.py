"""The files below a folder that may hold audio, as the file system describes them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Companions of music that are certainly none. All else is tried, and what fails is named.
_NOT_AUDIO = set(
    ".avif .bmp .cue .csv .db .gif .htm .html .ini .jpeg .jpg .json .jsonl .log .lrc .m3u .m3u8 .md .nfo .part .pdf"
    " .pls .png .py .rtf .sfv .srt .svg .tif .tiff .toml .torrent .txt .url .vtt .webp .xml .yaml .yml .ytdl".split()
)


@dataclass(frozen=True)
class SourceFile:
    """A file as the file system describes it: as long as this stays the same, nobody has touched it."""

    size: int
    mtime_ns: int
    ctime_ns: int


NO_FILE = SourceFile(-1, -1, -1)


def walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Every file below that may hold audio, in a fixed order; no folder twice (`seen`), so links lead in no circle."""
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        yield folder  # a task that will fail and say why
        return
    for name in names:
        path = folder / name
        if name.startswith("."):
            continue
        if os.path.isdir(path):
            yield from walk(path, seen)
        elif path.suffix.lower() not in _NOT_AUDIO:
            yield path


def look(path: Path) -> SourceFile | None:
    """What is behind a name: None where there is nothing, NO_FILE where it is a pipe or a device."""
    try:
        status = path.stat()
    except OSError:
        return None  # a link to nowhere, say: the worker will find the words
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return NO_FILE  # it might never end
    return SourceFile(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def size_of(path: Path) -> int | None:
    """In bytes; None where there is no such file."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def utf8(path: Path) -> str:
    """The path as text that any file can hold; bytes of a name that are not UTF-8 are spelled \\xNN."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")
