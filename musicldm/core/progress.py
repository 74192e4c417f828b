"""Progress callbacks: the library calls them, and its caller draws the bar."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with the work done so far, the total (None: unknown) and a short text on the present state."""

    def __call__(self, done: float, total: float | None, text: str = "") -> None: ...


def silent(done: float, total: float | None, text: str = "") -> None:
    """Ignore the progress."""


def share(progress: Progress, number: int, count: int, what: str) -> Progress:
    """The progress of one of several equal parts.

    Args:
        number: counted from 0.
        what: a part is called.
    """

    def report(done: float, total: float | None, text: str = "") -> None:
        whole = total or 1.0
        words = text if count == 1 else f"{what} {number + 1} of {count}, {text}"
        progress(number * whole + done, count * whole, words)

    return report
