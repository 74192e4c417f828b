"""How the ffmpeg program ended."""

from __future__ import annotations

import os
from pathlib import Path

from musicldm.core import durable
from musicldm.core.errors import OutputError


def check_end(program: str, format: str, path: Path, code: int, said: str) -> None:
    """See that it has written all of a file.

    Args:
        code: its exit status, which may be 0 where the disk was full at the end.
        said: what it printed, in the C locale.

    Raises:
        OutputError: it has not.
    """
    for number in durable.FULL:
        if os.strerror(number) in said:
            raise durable.cannot_write(path, OSError(number, os.strerror(number)))
    if code:
        raise OutputError(f"ffmpeg ({program}) could not write {format}.", "Write wav or flac instead.")
