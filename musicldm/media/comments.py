"""What a file's own metadata say of it, whatever its medium."""

from __future__ import annotations

from pathlib import Path

from musicldm.media.audio.decode import probe
from musicldm.media.notes import midi


def comment_of(path: Path) -> str:
    """The comment of an audio or MIDI file; empty where it has none.

    Raises:
        DataError: it is neither, or is damaged.
    """
    return midi.comment_of(path) if midi.is_midi(path) else probe(path).comment
