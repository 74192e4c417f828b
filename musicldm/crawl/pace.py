"""Rate limits that threads share, and deadlines for answers."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """The crawl ends: raised in threads that wait for their turn or for data."""


class Pace:
    """Turns that all threads of a crawl share; to set `stop` ends every wait."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self._next: dict[str, float] = {}

    def turn(self, kind: str, seconds: float) -> None:
        """Wait for a turn of this kind; the next one comes `seconds` later at the earliest.

        Raises:
            Stopped: the crawl ends.
        """
        # The turn is reserved under the lock and waited for outside of it, or no other thread could even queue up, for
        # whatever kind.
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next.get(kind, now))
            self._next[kind] = start + seconds
        self.sleep(start - now)

    def sleep(self, seconds: float) -> None:
        """Wait so many seconds.

        Raises:
            Stopped: the crawl ends.
        """
        if self.stop.wait(max(0.0, seconds)):
            raise Stopped


def take(things: queue.SimpleQueue[T], seconds: float = float("inf")) -> T:
    """The next thing in the queue.

    It wakes up now and then, for Ctrl-C: the system may deliver that signal to another thread, which wakes nobody here.

    Raises:
        queue.Empty: nothing comes within so many seconds.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return things.get(timeout=max(0.0, min(0.2, deadline - time.monotonic())))
        except queue.Empty:
            if time.monotonic() >= deadline:
                raise


def within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns or raises, if it does so in time.

    A socket's own time-out begins anew with every byte, so a server that sends one now and then holds its client for
    ever. Nothing can end such a read from outside: it is left behind, on a thread that nobody waits for.

    Raises:
        TimeoutError: it takes longer than so many seconds.
    """
    answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:
            # Whatever it is belongs to the caller; on this thread nobody would see it.
            answers.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        answer, error = take(answers, seconds)
    except queue.Empty:
        raise TimeoutError(f"no complete answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return answer  # type: ignore[return-value]  # there was no error, so it is what `call` returned
