"""Ctrl-C during a long piece: what is done is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class UntilStopped(Iterator["Tensor"]):
    """Pieces until Ctrl-C, which interrupts only while one is being made: those that are done go where they should.

    Before there is any, it interrupts as ever; so does a second one.

    Attributes:
        stopped: whether there was one.
    """

    def __init__(self, pieces: Iterator[Tensor]) -> None:
        self.stopped = False
        self._pieces, self._making, self._any = pieces, False, False

    def __enter__(self) -> UntilStopped:
        if threading.current_thread() is threading.main_thread():  # no other may
            self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._before)

    def __next__(self) -> Tensor:
        if self.stopped:
            raise StopIteration
        self._making = True
        try:
            piece = next(self._pieces)
        except KeyboardInterrupt:
            if not self._any:
                raise
            self.stopped = True
            raise StopIteration from None
        finally:
            self._making = False
        self._any = True
        return piece

    def _on_signal(self, *_: object) -> None:
        # Between two pieces the last one is being written: raised there, the interruption could cut a file in the
        # middle.
        if self._making or self.stopped or not self._any:
            raise KeyboardInterrupt
        self.stopped = True
