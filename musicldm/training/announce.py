"""How a training says what a person should read now."""

from __future__ import annotations

from collections.abc import Callable

Announce = Callable[[str], None]
"""Called with a sentence."""


def ignore(sentence: str) -> None:
    """The announcements to someone who does not listen."""


def announce_short(announce: Announce, short: int, used: int, seconds: float) -> None:
    """Say how many tracks are shorter than a crop, where there are some."""
    if short:
        announce(
            f"{short} of {used} training tracks are shorter than a crop of {seconds:.2f} s: they are used as they are."
        )
