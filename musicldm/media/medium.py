"""What music can be made of here, and how long it is: audio counts in seconds, notes in beats (quarters)."""

from __future__ import annotations

from typing import Literal

Medium = Literal["audio", "notes"]

UNIT = {"audio": "s", "notes": "beats"}
"""In which lengths are given."""


def hours_and_beats(medium: Medium, length: float) -> tuple[float | None, int | None]:
    """Seconds of audio as hours, or beats of notes as such; the other is None."""
    return (length / 3600, None) if medium == "audio" else (None, round(length))


def in_words(hours: float | None, beats: int | None) -> str:
    """A length as `hours_and_beats` gives it."""
    return f"{beats:,} beats" if hours is None else f"{hours:.2f} h"
