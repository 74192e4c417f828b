"""What is read back from disk is data that anybody may have written: nothing in it is an order.

A file is read only where it is a regular one of a plausible size, JSON only where it is strict and flat enough for all
that walks through it later, and a path in it only where it stays inside the folder that it belongs to. What stands in
JSON is then checked, field by field, by `config.from_dict`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any, NoReturn

from musicldm.core.errors import DataError

LARGEST_JSON = 1 << 30
"""Bytes of a JSON file: the metadata of a million tracks take half of it."""
DEEPEST = 64
"""Levels of lists and tables in JSON; ours have six. Python's own functions give up at some hundred."""

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# A path that another system would take for an absolute one: C:\, C:/ and \\server.
_WINDOWS_ROOT = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def read_file(path: Path, limit: int = LARGEST_JSON) -> bytes:
    """A whole file.

    Raises:
        OSError: it is missing or cannot be read.
        DataError: it is a device or a pipe, which might never end, or is larger than `limit` bytes.
    """
    # Not blocking, since to open a pipe waits for whoever writes into it. What was opened is looked at, and not the
    # name, which may lead elsewhere by then.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} cannot be read: expected a regular file.")
        if status.st_size > limit:
            raise DataError(f"{path} is too large: {status.st_size:,} bytes, where at most {limit:,} are expected.")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(limit)
    finally:
        os.close(descriptor)


def head(path: Path, count: int) -> bytes:
    """The first bytes of a regular file, by which its kind is told; fewer where it is shorter, none where it cannot be
    read."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(count)
    except OSError:
        return b""


def sha256(path: Path) -> str:
    """The hash of a file, as hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_json(data: bytes | str, nan: bool = False) -> Any:
    """Plain data from strict JSON.

    Args:
        nan: take NaN and Infinity, too.

    Raises:
        ValueError: it is not JSON, has NaN or infinity, is nested too deep, or has text that is not Unicode.
    """
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if not _is_flat(raw):
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    found = json.loads(raw) if nan else json.loads(raw, parse_constant=_refuse, parse_float=_finite)
    # Half of a surrogate pair can be written as an escape, and is no text: it could be neither written nor printed.
    if _SURROGATE.search(raw):
        json.dumps(found, ensure_ascii=False).encode()
    return found


def read_json(path: Path, limit: int = LARGEST_JSON) -> Any:
    """Plain data from a JSON file.

    Raises:
        OSError, DataError: as `read_file`.
        ValueError: as `parse_json`.
    """
    return parse_json(read_file(path, limit))


def inside(folder: Path, name: object, links: bool = False) -> Path:
    """The path that `name`, read from some file, stands for in `folder`.

    Args:
        links: symbolic links may lead out, as those do in the cache of the Hugging Face Hub: for what is known by its
            hash, and only read.

    Raises:
        DataError: it leads out of the folder: by "..", as an absolute path of any system, or through a link.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(f"{name!r} is not a valid path: expected one inside {folder}.")
    path = Path(name)
    # On this system a backslash is a letter like any other, but the folder may be copied to one where it is not.
    if path.is_absolute() or path.drive or _WINDOWS_ROOT.match(name) or ".." in re.split(r"[\\/]", name):
        raise DataError(f"{name!r} leads out of {folder}.")
    if path == Path() or not (links or _stays(folder, path)):
        raise DataError(f"{name!r} leads out of {folder}.")
    return folder / path


def _stays(folder: Path, path: Path) -> bool:
    """Whether no link on the way from a folder to a path below it leads out again."""
    here = str(folder)
    try:
        for part in path.parts:
            here = os.path.join(here, part)
            # Usually there is no link, and to look for one is much cheaper than to resolve the whole path.
            if os.path.islink(here) and not Path(here).resolve().is_relative_to(folder.resolve()):
                return False
    except (OSError, RuntimeError, ValueError):  # links in a circle, or a name that no file can have
        return False
    return True


def _is_flat(data: bytes) -> bool:
    """Whether lists and tables are nested at most `DEEPEST` levels deep, if it is JSON at all."""
    if data.count(b"[") + data.count(b"{") <= DEEPEST:
        return True
    brackets = _STRINGS.sub(b"", data).translate(None, _NO_BRACKETS)
    for _ in range(DEEPEST):  # each time the innermost level goes
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return not brackets


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)  # 1e999 is infinite, too


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")
