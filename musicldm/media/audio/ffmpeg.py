"""What the ffmpeg program says where it writes nothing."""

from __future__ import annotations

import os
from pathlib import Path

from musicldm.core import durable
from musicldm.core.errors import OutputError


def refused(program: str, format: str, path: Path, said: str) -> OutputError:
    """Why ffmpeg has written nothing, by what it said."""
    for number in durable.FULL:
        if os.strerror(number) in said:
            return durable.cannot_write(path, OSError(number, os.strerror(number)))
    return OutputError(f"ffmpeg ({program}) could not write {format}.", "Write wav or flac instead.")
