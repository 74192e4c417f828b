"""Locks on open files, by what the system has: shared or exclusive, and gone with the process however it ends.

Unix has `flock`. Windows locks ranges of bytes, each of them exclusively: to share is to hold any one byte of a range,
and to be alone is to hold all of it. Where there is neither, and on network file systems without locks, everybody gets
every lock: an unguarded run is better than none.
"""

from __future__ import annotations

import errno
import os
import time
from importlib import import_module
from types import ModuleType

_PLACES = 1024  # bytes of the range, so many can share; a lock may lie behind the end of a file
_AGAIN = 0.05  # seconds between two tries where Windows' own waiting would give up
_NO_LOCKS = errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS


def share(descriptor: int) -> None:
    """Hold the file together with others, as soon as nobody is alone; what was held before is released."""
    if unix := _module("fcntl"):
        # flock and not lockf: the latter is lost as soon as the process closes any descriptor of the file.
        _flock(unix, descriptor, unix.LOCK_SH)
    elif windows := _module("msvcrt"):
        _release(windows, descriptor)
        # Each begins elsewhere, so that many need not try the same bytes in turn.
        first = os.getpid() % _PLACES
        while not any(_lock(windows, descriptor, (first + i) % _PLACES, 1) for i in range(_PLACES)):
            time.sleep(_AGAIN)


def take(descriptor: int) -> bool:
    """Hold the file alone; False at once where others hold it. What was held before is released."""
    if unix := _module("fcntl"):
        try:
            _flock(unix, descriptor, unix.LOCK_EX | unix.LOCK_NB)
        except BlockingIOError:
            return False
    elif windows := _module("msvcrt"):
        _release(windows, descriptor)
        return _lock(windows, descriptor, 0, _PLACES)
    return True


def _module(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ImportError:
        return None


def _flock(unix: ModuleType, descriptor: int, kind: int) -> None:
    try:
        unix.flock(descriptor, kind)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _lock(windows: ModuleType, descriptor: int, first: int, count: int) -> bool:
    """Lock bytes from `first` on, if nobody has any of them."""
    os.lseek(descriptor, first, os.SEEK_SET)
    try:
        windows.locking(descriptor, windows.LK_NBLCK, count)
    except PermissionError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    _held[descriptor] = first, count
    return True


def _release(windows: ModuleType, descriptor: int) -> None:
    if held := _held.pop(descriptor, None):
        os.lseek(descriptor, held[0], os.SEEK_SET)
        windows.locking(descriptor, windows.LK_UNLCK, held[1])


def forget(descriptor: int) -> None:
    """Call this before the file is closed: its number may be another file's then."""
    _held.pop(descriptor, None)


_held: dict[int, tuple[int, int]] = {}
"""On Windows: the bytes that each descriptor has, which must be unlocked as they were locked."""
