"""How the library says how far it is: it calls back, and whoever called it draws the bar."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with the work done so far, the whole of it (None: unknown) and a few words on the present state."""

    def __call__(self, done: float, total: float | None, text: str = "") -> None: ...


def silent(done: float, total: float | None, text: str = "") -> None:
    """The progress of someone who does not watch."""
