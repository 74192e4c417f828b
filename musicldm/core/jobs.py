"""Many items through one function, in processes here (`run_all`) or on a Dask cluster (`run_on_cluster`).

Both survive their workers. When one dies (a decoder crashed, the kernel ran out of memory), its item is tried
again elsewhere; an item that kills its worker every time is set aside, and the rest continues. Tasks must therefore
be idempotent, and should take a good part of a second and return little.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import pickle
import queue
import signal
import socket
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from musicldm import __version__
from musicldm.core.errors import MismatchError, MissingProgramError, MusicLDMError, NetworkError, UsageError

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
R = TypeVar("R")

# Those that this process may use: a batch system or taskset may have given it fewer than the machine has.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

TRIES = 3  # one death may be bad luck (a full RAM, a stray kill); three on the same item are not


# ---- In processes of this machine ----------------------------------------------------------------------------------


def run_all(
    function: Callable[[T], R], items: Iterable[T], jobs: int, time_limit: float | None = None
) -> Generator[tuple[T, R | Exception], None, None]:
    """Call `function` on every item in `jobs` processes; yield (item, result or exception) as they finish.

    A worker that takes longer than `time_limit` seconds for an item is killed, and the item is returned as an error at
    once, without another try. The start of a worker does not count.

    `function`, items and results travel by pickle. Also with one job the work is done in another process: what crashes
    there cannot take this one along. The workers ignore Ctrl-C; when the generator ends or is closed, by whatever
    cause, they are killed at once. When this process itself is killed, they end as well.
    """
    yield from run_each([function] * jobs, items, time_limit)


def run_each(
    functions: Sequence[Callable[[T], R]], items: Iterable[T], time_limit: float | None = None
) -> Generator[tuple[T, R | Exception], None, None]:
    """As `run_all`, with one process for each function: every item goes to one of them, whichever is free."""
    waiting = deque((item, 1) for item in items)
    free = list(functions)
    workers: dict[Connection, _Worker] = {}

    def leave(worker: _Worker) -> int | None:
        del workers[worker.connection]
        free.append(worker.function)
        return worker.stop()

    try:
        while waiting or workers:
            # No more workers than items: each takes seconds to start, and imports everything anew.
            while waiting and free:
                worker = _Worker.start(free.pop(0), time_limit)
                workers[worker.connection] = worker
                worker.give(*waiting.popleft())
            # A pipe whose other end was closed counts as ready too, so that this wakes up when a worker dies.
            for connection in wait(list(workers), _until_the_next_deadline(workers.values())):
                worker = workers[connection]  # type: ignore[index]
                item, tries = worker.item, worker.tries
                try:
                    message = worker.connection.recv_bytes()
                except (EOFError, OSError):  # OSError: it died in the middle of its answer
                    code = leave(worker)
                    if tries < TRIES:
                        # At the end of the queue: by then whatever else filled the memory may be done.
                        waiting.append((item, tries + 1))
                    else:
                        yield item, MusicLDMError(f"The process working on it died {tries} times ({_cause(code)}).")
                    continue
                if message == _BEGUN:
                    worker.start_the_clock()
                    continue
                if waiting:  # before the result is yielded, so that the worker does not wait for our caller
                    worker.give(*waiting.popleft())
                else:
                    leave(worker)
                yield item, pickle.loads(message)
            for worker in [worker for worker in workers.values() if worker.is_overdue()]:
                leave(worker)
                yield worker.item, _overtime(worker.time_limit)
    finally:
        for worker in workers.values():
            worker.stop()


@dataclass
class _Worker:
    function: Callable[[Any], Any]
    process: SpawnProcess
    connection: Connection
    time_limit: float
    item: Any = None
    tries: int = 0
    deadline: float = math.inf

    @classmethod
    def start(cls, function: Callable[[Any], Any], time_limit: float | None) -> _Worker:
        # Spawned, not forked: the parent may have torch's threads, whose locks a fork would copy while they are held.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        # As a daemon it ends also where this process exits without closing the generator.
        process = context.Process(target=_work, args=(function, theirs), daemon=True)
        if os.name == "posix":  # multiprocessing's own helper, whose start would unblock interrupts
            resource_tracker.ensure_running()
        with _interrupts_held():
            process.start()
        theirs.close()  # the worker must hold the only other end, else its death would not be noticed
        return cls(function, process, ours, math.inf if time_limit is None else time_limit)

    def give(self, item: Any, tries: int) -> None:
        self.item, self.tries, self.deadline = item, tries, math.inf
        try:
            self.connection.send(item)
        except BrokenPipeError:
            pass  # it has died since; the main loop reads the end of its pipe and tries the item again

    def start_the_clock(self) -> None:
        self.deadline = time.monotonic() + self.time_limit

    def is_overdue(self) -> bool:
        # An answer in the pipe is in time: only our caller has delayed us since.
        return time.monotonic() >= self.deadline and not self.connection.poll()

    def stop(self) -> int | None:
        # SIGKILL, because a decoder stuck in C code heeds nothing less; `join` also collects the exit code.
        self.process.kill()
        self.process.join()
        self.connection.close()
        return self.process.exitcode


def _until_the_next_deadline(workers: Iterable[_Worker]) -> float | None:
    deadline = min(worker.deadline for worker in workers)
    return None if deadline == math.inf else max(0.0, deadline - time.monotonic())


@contextmanager
def _interrupts_held() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):  # on Windows Ctrl-C reaches the workers, and ends them early
        yield
        return
    # A blocked SIGINT stays blocked in a process started meanwhile: its whole life, import time included.
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


_BEGUN = b""  # what a worker sends when it takes up an item; an answer is never empty


def _work(function: Callable[[Any], Any], connection: Connection) -> None:
    """The loop of a worker, until its parent goes."""
    _die_with_the_parent()
    while True:
        try:
            item = connection.recv()
            connection.send_bytes(_BEGUN)
            connection.send_bytes(_answer(function, item))
        except (EOFError, BrokenPipeError):
            return


def _die_with_the_parent() -> None:
    """Make an orphan end in the middle of its item, so that it touches nothing that the next run works on."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    orphaned = parent.sentinel  # a pipe's end that becomes readable when the parent has gone, killed or not
    with suppress(ImportError):  # which is on Windows
        import fcntl

        if hasattr(fcntl, "F_SETSIG"):  # Linux: the kernel kills it, even inside C code that lets no thread run
            # Whom to signal and how must be set before O_ASYNC, which arms it.
            fcntl.fcntl(orphaned, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(orphaned, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(orphaned, fcntl.F_SETFL, fcntl.fcntl(orphaned, fcntl.F_GETFL) | os.O_ASYNC)

    def watch() -> None:  # elsewhere, and where the parent ended before this
        wait([orphaned])
        # sys.exit would end this thread alone.
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _answer(function: Callable[[Any], Any], item: Any) -> bytes:
    """The pickle of what the function returns or raises."""
    try:
        outcome: Any = function(item)
    except Exception as error:
        outcome = error
    try:
        # Here and not in `Connection.send`: what cannot be pickled must become an answer too, and not end the worker.
        answer = pickle.dumps(outcome)
        pickle.loads(answer)  # some exceptions can be pickled but not unpickled
    except Exception:
        answer = pickle.dumps(RuntimeError(f"{type(outcome).__name__}: {outcome}"))
    return answer


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def _overtime(time_limit: float) -> MusicLDMError:
    return MusicLDMError(f"It took longer than {time_limit:g} s.")


# ---- On a cluster --------------------------------------------------------------------------------------------------

_ANSWERING = 10  # seconds until a scheduler that does not answer is given up
_WITHOUT_WORKERS = 60  # seconds that a scheduler may be without any worker
_LOOKING = 1  # seconds between two looks at the number of workers, at most


def run_on_cluster(
    function: Callable[[T], R], items: Iterable[T], address: str, time_limit: float | None = None
) -> Generator[tuple[T, R | Exception], None, None]:
    """As `run_all`, on the workers of the Dask scheduler at `address`, for instance tcp://host:8786.

    The workers need the same version of this package, and the same files under the same paths: a shared file system.
    `function`, items and results travel by pickle. A worker that dies costs the items that it held another try. One
    with an item past `time_limit` seconds is restarted, and whatever else it held is begun again; a worker without a
    nanny cannot be restarted, and goes on with what nobody waits for any more.

    When the generator is closed, what has not begun is cancelled; what has begun ends on its own.

    Raises:
        MissingProgramError: distributed is not installed.
        UsageError: `address` is not an address.
        NetworkError: the scheduler does not answer, has gone away, or has had no worker for a minute.
        MismatchError: a worker cannot load the function, or has another version of this package.
    """
    with _connected(address) as client:
        from distributed import KilledWorker

        suspects = []
        for item, outcome in _submit_all(client, function, items, time_limit):
            if isinstance(outcome, KilledWorker):
                suspects.append(item)
            else:
                yield item, outcome
        # The scheduler blames every item that a dead worker held. One at a time, the others succeed.
        for item, outcome in _submit_all(client, function, suspects, time_limit, at_once=1):
            if isinstance(outcome, KilledWorker):
                outcome = MusicLDMError(f"The process working on it died {outcome.allowed_failures + 1} times.")
            yield item, outcome


def _submit_all(
    client: Client, function: Callable[[T], R], items: Iterable[T], time_limit: float | None, at_once: int | None = None
) -> Iterator[tuple[T, Any]]:
    """Yield (item, result or exception). Without `at_once`, every thread has one item in work and one waiting."""
    from distributed import Future, KilledWorker

    waiting = deque(items)
    submitted: dict[Future, T] = {}
    # Callbacks come in threads of the client; through the queue, results are taken up in this one.
    finished: queue.SimpleQueue[Future] = queue.SimpleQueue()
    last_worker = time.monotonic()
    while waiting or submitted:
        threads = sum(client.nthreads().values())
        if threads:
            last_worker = time.monotonic()
        elif time.monotonic() > last_worker + _WITHOUT_WORKERS:
            address = client.scheduler.address
            raise NetworkError(f"The scheduler at {address} has no workers.", f"Start some: dask worker {address}")
        # One even where there is no thread: a cluster that grows with its load has to see some.
        while waiting and len(submitted) < (at_once or max(1, 2 * threads)):
            item = waiting.popleft()
            call = _Call((function, item, time_limit, __version__))
            # Unless told that a function is impure, Dask takes equal calls for one and computes it once.
            future = client.submit(pickle.loads, pickle.dumps(call), pure=False)
            submitted[future] = item
            future.add_done_callback(finished.put)
        try:
            future = finished.get(timeout=_LOOKING)
        except queue.Empty:
            continue
        outcome: Any
        try:
            outcome = pickle.loads(future.result(timeout=_ANSWERING))
        except TimeoutError:  # a worker died with the answer, and the scheduler has another one work it out again
            future.add_done_callback(finished.put)
            continue
        except KilledWorker as error:
            outcome = error
        except (MusicLDMError, OSError, CancelledError):
            raise
        except Exception as error:  # the function's own exceptions are returned as answers; this is of the transport
            raise MismatchError(f"The cluster cannot do this work: {error.__cause__ or error}.", _SAME) from error
        item = submitted.pop(future)
        future.release()  # else the scheduler would compute it again when its worker leaves
        if isinstance(outcome, _Overdue):
            # Before the item is yielded: after that its worker must not write any more.
            with suppress(ValueError, KeyError):  # it has no nanny, or has died meanwhile
                client.restart_workers([outcome.worker], raise_for_error=False)
            outcome = _overtime(outcome.time_limit)
        yield item, outcome


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    """A client of the scheduler at `address`; its errors are raised, and not logged as well."""
    try:
        import dask
        import distributed
        from distributed.versions import VersionMismatchWarning
    except ImportError as error:
        raise MissingProgramError(
            "A cluster needs the package distributed.", "Install it: pip install 'musicldm[cluster]'"
        ) from error

    try:
        url = urlsplit(address)
        valid = url.scheme in ("tcp", "tls") and url.hostname and url.port
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(
            f"{address!r} is not a valid address of a scheduler.", "Expected, for example, tcp://host:8786."
        )
    with _quiet_loggers(), dask.config.set({"distributed.comm.timeouts.connect": _ANSWERING}):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", VersionMismatchWarning)  # what does not match will fail with its reason
                # Not with TLS, where it is the client that speaks first.
                if url.scheme == "tcp":
                    _check_that_it_answers(url.hostname, url.port)
                # The caller may have a client of its own, which stays the default.
                client = distributed.Client(address, set_as_default=False)
        except OSError as error:
            raise NetworkError(
                f"There is no Dask scheduler at {address}.", "Start one with `dask scheduler`, and give its address."
            ) from error
        try:
            yield client
        except MusicLDMError:
            raise
        except (OSError, CancelledError) as error:
            raise NetworkError(
                f"The scheduler at {address} has gone away.", "Once it is back, the same command continues from here."
            ) from error
        finally:
            client.close()


def _check_that_it_answers(host: str | None, port: int | None) -> None:
    # A scheduler sends first. At another port, such as that of its dashboard, a client would wait for ever.
    with socket.create_connection((host, port), timeout=_ANSWERING) as connection:
        if not connection.recv(1):
            raise ConnectionError("It hung up.")


@contextmanager
def _quiet_loggers() -> Iterator[None]:
    # They log a lost connection with tracebacks, from threads of their own; our caller gets one sentence.
    loggers = [
        logging.getLogger(name)
        for name in ("distributed", "distributed.client", "tornado", "tornado.application", "asyncio")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# In the cluster's workers:


@dataclass(frozen=True)
class _Overdue:
    worker: str
    """Its address."""
    time_limit: float


_SAME = "Install the same musicldm, under the same Python, on all its machines."


@dataclass(frozen=True)
class _Call:
    """An object that is unpickled as the result of `_attempt`.

    A function submitted as such would have to be imported by the scheduler too, and where a worker lacks it, Dask lets
    that worker die. So they only see bytes and `pickle.loads`, and the task reports what is missing.
    """

    arguments: tuple[Any, ...]

    def __reduce__(self) -> tuple[Callable[..., bytes], tuple[Any, ...]]:
        return _attempt, self.arguments


def _attempt(function: Callable[[Any], Any], item: Any, time_limit: float | None, version: str) -> bytes:
    """The pickle of what the function returns or raises, or of `_Overdue`."""
    if version != __version__:
        raise MismatchError(f"A worker has musicldm {__version__}, and this machine has {version}.", _SAME)
    if time_limit is None:
        return _answer(function, item)

    import distributed

    answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    # No thread can be stopped from outside: an overdue one goes on until its worker is restarted.
    threading.Thread(target=lambda: answers.put(_answer(function, item)), daemon=True).start()
    try:
        return answers.get(timeout=time_limit)
    except queue.Empty:
        return pickle.dumps(_Overdue(distributed.get_worker().address, time_limit))
