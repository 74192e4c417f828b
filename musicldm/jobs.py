"""A pool of worker processes that survives them.

Each worker has a pipe of its own, so when one dies (a decoder crashed, the kernel wanted its memory) it is known which
item it held. That item is tried again in a fresh process; one that kills its worker every time is set aside, and the
rest goes on. Tasks must therefore be idempotent, and should take a good part of a second and return little.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from musicldm.errors import MusicLDMError

T = TypeVar("T")
R = TypeVar("R")

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

TRIES = 3  # one death may be chance (a full memory, a stray kill); three on the same item are not


def run_all(
    function: Callable[[T], R], items: Iterable[T], jobs: int
) -> Generator[tuple[T, R | Exception], None, None]:
    """Call `function` on every item in `jobs` processes; yield (item, result or exception) as they finish.

    `function`, items and results travel by pickle. Also with one job the work is done in another process: what crashes
    there cannot take this one along. The workers ignore Ctrl-C; when the generator ends or is closed, by whatever
    cause, they are killed at once.
    """
    waiting = deque((item, 1) for item in items)
    workers: dict[Connection, _Worker] = {}
    try:
        while waiting or workers:
            while waiting and len(workers) < jobs:
                worker = _Worker.start(function)
                workers[worker.connection] = worker
                worker.give(*waiting.popleft())
            for connection in wait(list(workers)):
                worker = workers[connection]  # type: ignore[index]
                item, tries = worker.item, worker.tries
                try:
                    outcome = pickle.loads(worker.connection.recv_bytes())
                except (EOFError, OSError):  # OSError: it died in the middle of its answer
                    del workers[worker.connection]
                    code = worker.stop()
                    if tries < TRIES:
                        waiting.append((item, tries + 1))
                    else:
                        yield item, MusicLDMError(f"The process working on it died {tries} times ({_cause(code)}).")
                    continue
                if waiting:  # before the result is handed out, so that the worker does not wait for our caller
                    worker.give(*waiting.popleft())
                else:
                    del workers[worker.connection]
                    worker.stop()
                yield item, outcome
    finally:
        for worker in workers.values():
            worker.stop()


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    item: Any = None
    tries: int = 0

    @classmethod
    def start(cls, function: Callable[[Any], Any]) -> _Worker:
        # Spawned, not forked: the parent may hold torch's threads, whose locks a fork would copy in mid-air.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(function, theirs), daemon=True)
        resource_tracker.ensure_running()  # multiprocessing's own helper, whose start would release held interrupts
        with _interrupts_held():
            process.start()
        theirs.close()  # the worker's end must be the only one, else its death would go unseen
        return cls(process, ours)

    def give(self, item: Any, tries: int) -> None:
        self.item, self.tries = item, tries
        try:
            self.connection.send(item)
        except BrokenPipeError:
            pass  # it has died meanwhile; the main loop reads the end of its pipe and tries the item again

    def stop(self) -> int | None:
        self.process.kill()
        self.process.join()
        self.connection.close()
        return self.process.exitcode


@contextmanager
def _interrupts_held() -> Iterator[None]:
    # A blocked SIGINT stays blocked in a process started meanwhile: its whole life, import time included.
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _work(function: Callable[[Any], Any], connection: Connection) -> None:
    """The life of a worker: until its parent goes."""
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        try:
            outcome: Any = function(item)
        except Exception as error:
            outcome = error
        try:
            payload = pickle.dumps(outcome)
            pickle.loads(payload)  # some exceptions go into a pickle and never come out
        except Exception:
            payload = pickle.dumps(RuntimeError(f"{type(outcome).__name__}: {outcome}"))
        try:
            connection.send_bytes(payload)
        except BrokenPipeError:
            return


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"
