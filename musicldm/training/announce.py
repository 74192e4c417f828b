"""How a training says what a person should read now."""

from __future__ import annotations

from collections.abc import Callable

Announce = Callable[[str], None]
"""Called with a sentence."""


def ignore(sentence: str) -> None:
    """The announcements to someone who does not listen."""


def announce_left_out(announce: Announce, left_out: int, used: int, seconds: float) -> None:
    """Say how many tracks are too short to train on, where there are some."""
    if left_out:
        announce(
            f"{left_out} of {left_out + used} training tracks are shorter than a crop of {seconds:.2f} s: left out."
        )
