"""How a training says what a person should read now."""

from __future__ import annotations

from collections.abc import Callable

Announce = Callable[[str], None]
"""Called with a sentence."""


def ignore(sentence: str) -> None:
    """The announcements to someone who does not listen."""


def announce_short(announce: Announce, short: int, used: int, length: float, unit: str) -> None:
    """Say how many tracks are shorter than a crop of such a length, where there are some."""
    if short:
        announce(
            f"{short} of {used} training tracks are shorter than a crop of {length:.2f} {unit}: "
            "they are used as they are."
        )
