"""Reproducible randomness: every random choice has an address, from which its seed derives."""

from __future__ import annotations

import hashlib


def derive(*address: int | str) -> int:
    """A 63-bit seed from an address such as (seed, "take", 3); different addresses are independent."""
    # Not `hash`, which differs from process to process for text. A part that holds a slash would read as two.
    digest = hashlib.sha256("/".join(map(str, address)).encode()).digest()
    # 63 bits, because signed 64-bit integers are what many generators take as a seed.
    return int.from_bytes(digest[:8], "big") >> 1
