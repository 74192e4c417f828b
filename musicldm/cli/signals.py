"""SIGTERM and SIGHUP end a command as Ctrl-C does: what is half written is removed on the way out."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType


def end_tidily() -> None:
    """From now on, SIGTERM and SIGHUP unwind the program rather than cut it off; a training has handlers of its own."""
    if threading.current_thread() is not threading.main_thread():  # no other may
        return
    ours = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != ours:  # a worker, forked since: its parent cleans up
            os._exit(128 + number)
        # Once is enough: a second one must not cut off what the first one has begun to tidy up.
        signal.signal(number, signal.SIG_IGN)
        sys.exit(128 + number)  # as a shell reports a program that a signal has ended

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        # What is ignored, as under nohup, stays so.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)
