"""Names of files that are valid on any system, and differ there as they do here.

Linux tells `Song.wav` from `SONG.wav`, and an é of one character from one of two; APFS and NTFS do not. Windows has
names and characters of its own that no file can have.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

from musicldm.core.text import caseless

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # devices, to Windows


def portable(text: str, longest: int = 255) -> str:
    """`text` as the name of one file or folder on any system: it names neither another folder nor a hidden file.

    Args:
        longest: bytes of the name; file systems take 255.
    """
    # Some systems compose accented letters and others do not: one artist must not get two folders.
    name = unicodedata.normalize("NFC", text)
    name = "".join("_" if c in '/\\:*?"<>|' or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in name)
    name = name.encode()[:longest].decode(errors="ignore")
    name = name.lstrip(". ").rstrip(". ")
    return f"_{name}" if not name or _RESERVED.fullmatch(name) else name


def portable_path(path: str) -> PurePosixPath:
    """A relative path, each of whose names is `portable`."""
    return PurePosixPath(*map(portable, PurePosixPath(path).parts))


def key(path: str | PurePosixPath) -> str:
    """What two paths have in common that some file system takes for one: see `text.caseless`."""
    return caseless(str(path))
