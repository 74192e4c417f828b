"""Ctrl-C and SIGTERM, which must not cut a training in the middle of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from musicldm.training.announce import Announce


class StopSignal:
    """Ctrl-C and SIGTERM request the training to save and stop; a second Ctrl-C stops it at once.

    Args:
        announce: told that the first one was received.
    """

    def __init__(self, announce: Announce) -> None:
        self.requested = False
        self.announce = announce

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals while this lasts."""
        if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
            yield
            return
        previous = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            # A second SIGTERM is no reason to drop what is being saved: batch systems may send several.
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.requested = True
        self.announce("Saving after this step; Ctrl-C again stops at once.")
