"""SIGTERM and SIGHUP end a command as Ctrl-C does: what is half written is removed on the way out."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ending_tidily() -> Iterator[None]:
    """A block that SIGTERM and SIGHUP unwind rather than cut off; a training has handlers of its own."""
    ours = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != ours:  # a worker, forked since: its parent cleans up
            os._exit(128 + number)
        # Once is enough: a second one must not cut off what the first one has begun to tidy up.
        signal.signal(number, signal.SIG_IGN)
        sys.exit(128 + number)  # as a shell reports a program that a signal has ended

    if threading.current_thread() is not threading.main_thread():  # no other may
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # not all on Windows
    # What is ignored, as under nohup, stays so.
    numbers = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
