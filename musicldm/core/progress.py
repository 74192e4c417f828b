"""Progress callbacks: the library calls them, and its caller draws the bar."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with the work done so far, the total (None: unknown) and a short text on the present state."""

    def __call__(self, done: float, total: float | None, text: str = "") -> None: ...


def silent(done: float, total: float | None, text: str = "") -> None:
    """Ignore the progress."""
