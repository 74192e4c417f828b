"""Disasters to order: a process of its own in which the n-th file operation is the last, or the first to fail."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import IO, Any

FAILED = 9
"""The exit status of a child whose action raised."""

Disaster = Callable[[int], None]
"""Called before each file operation with its number, counted from 0."""


def in_child(action: Callable[[Callable[[], None]], object], disaster: Disaster) -> tuple[int, int]:
    """Run `action` in a forked process; how often it called what it is given, and the status: 0, FAILED, or -SIGKILL.

    Python tells an audit hook of every file that is made, opened for writing, renamed or removed. So the disaster may
    come between any two of them, in any thread, whatever the code looks like.
    """
    operations = count()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if _writes(event, arguments):
            disaster(next(operations))

    def run(say: Callable[[str], None]) -> None:
        sys.addaudithook(hook)
        action(lambda: say("."))

    child, said = forked(run)
    with said:
        times = len(said.read())
    _, status = os.waitpid(child, 0)
    return times, os.waitstatus_to_exitcode(status)


def forked(action: Callable[[Callable[[str], None]], object]) -> tuple[int, IO[str]]:
    """A forked process that runs `action`, and the pipe of what that says; its status is 0, or FAILED on an OSError."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, os.fdopen(reading)
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
        os.close(reading)
        action(lambda text: os.write(writing, text.encode()) and None)
        status = 0
    except OSError:
        status = FAILED
    except KeyboardInterrupt:
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _writes(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open":
        flags = arguments[2]
        return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
    return event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


def killed_at(moment: int) -> Disaster:
    """kill -9 before that operation."""

    def disaster(operation: int) -> None:
        if operation == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    return disaster


def full_from(moment: int) -> Disaster:
    """A disk without space from that operation on. (What only removes is refused too: harder than the real thing.)"""

    def disaster(operation: int) -> None:
        if operation >= moment:
            raise OSError(errno.ENOSPC, "No space left on device")

    return disaster


def undisturbed(operation: int) -> None:
    """No disaster."""


def leftovers(store: Path) -> Iterator[Path]:
    """What killed writers have left in a store."""
    yield from store.rglob(".tmp-*")
    yield from (
        segment for segment in (store / "parts").iterdir() if segment.is_dir() and not (segment / "zarr.json").exists()
    )
