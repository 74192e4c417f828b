"""Who may do what to a store at the same time. Folders have locks, which the kernel takes back with the process.

Any number of writers work side by side (a shared lock), each on segments of its own. What rewrites is alone (the same
lock, exclusive). Readers hold a lease; what was rewritten is deleted only when there is none. Object storage has no
locks: nothing is rewritten there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from musicldm.core import durable
from musicldm.latents.storage import Folder, Storage

READERS = ".readers"


def writers_lock(storage: Storage) -> durable.Lock:
    """The lock that writers share and rewriting has alone, not yet taken.

    Raises:
        OutputError: the store cannot be written.
    """
    if not isinstance(storage, Folder):
        return durable.Lock(None)
    try:
        return durable.Lock(storage.path / durable.LOCK)
    except OSError as error:
        raise durable.cannot_write(storage.path, error) from error


class ReadLease:
    """What keeps the segments that a store has open from being deleted; the kernel takes it back with the process."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = None
        if isinstance(storage, Folder):
            with suppress(OSError):  # where we may not write, nobody with our rights deletes
                self._lock = durable.Lock(storage.path / READERS)
                self._lock.share()

    def __reduce__(self) -> tuple[Any, ...]:
        # A lock belongs to its open file; the other process takes one of its own.
        return ReadLease, (self._storage,)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody else has the store open, and then nobody opens it within the block."""
        if self._lock is None:
            yield False
            return
        try:
            yield self._lock.take()
        finally:
            # flock gives up the shared lock before it tries for the exclusive one, so it is gone in either case.
            self._lock.share()
