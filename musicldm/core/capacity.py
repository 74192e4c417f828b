"""Whether something failed for lack of memory, whoever says so. Loads no torch."""

from __future__ import annotations

import errno

_WORDS = (
    "out of memory",
    "can't allocate memory",  # torch, of a CPU
    "cannot allocate memory",  # the system, and the linker
    "alloc_failed",  # NVIDIA's libraries
    "bad_alloc",
    "failed to map segment",  # the linker, of a library that does not fit
    "can't start new thread",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is a lack of memory, which Python, the system, a CPU, and every kind of GPU word differently."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    text = str(error).lower()
    return isinstance(error, (RuntimeError, OSError, ImportError)) and any(words in text for words in _WORDS)
