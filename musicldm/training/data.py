"""Batches for a training: where they come from, and the worker processes that read them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import wait
from typing import Any, Protocol, Self

import torch
from torch.utils._pytree import tree_map
from torch.utils.data import IterableDataset, get_worker_info

from musicldm.core.errors import MusicLDMError


class BatchSource(Protocol):
    """A dataset whose batches are a pure function of the position in the training.

    A batch is a tensor, or a named tuple or dictionary of tensors, whose first axis is the crops.
    """

    def batch(self, position: int, batch_size: int, part: slice, /) -> Any:
        """The crops in `part` of the `batch_size` crops that are drawn at `position`."""

    def describe(self, position: int, batch_size: int, /) -> list[str]:
        """What each of those crops is, for a person."""


class Batches(IterableDataset[Any]):
    """The batches of all positions from `start` on, for a DataLoader with any number of workers.

    An error is handed on like a batch: raised in a worker process, torch would bury its sentence in a traceback.
    """

    def __init__(self, source: BatchSource, batch_size: int, start: int, part: slice = slice(None)) -> None:
        self.source = source
        self.batch_size = batch_size
        self.start = start
        self.part = part

    def __iter__(self) -> Iterator[Any]:
        # A DataLoader takes from its workers in turn: worker w of n makes every n-th batch.
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        position = self.start + first
        while True:
            try:
                yield self.source.batch(position, self.batch_size, self.part)
            except MusicLDMError as error:
                yield error
            position += stride


class Workers:
    """The worker processes of a DataLoader: they end when the main process says so, or with it.

    Signals to the whole group, such as Ctrl-C, must not take them away from a training that is about to save itself.
    Nor can it be left to multiprocessing to end them, which would wait for ever for what ignores SIGTERM.
    """

    def __init__(self) -> None:
        self._closed, self._open = multiprocessing.Pipe(duplex=False)  # workers end when the latter is closed

    def begin(self, worker: int) -> None:
        """The DataLoader's `worker_init_fn`."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._open.close()  # our copy; the last one to be open is the main process's

        def watch() -> None:
            wait([self._closed])
            # sys.exit would end this thread alone.
            os._exit(0)

        threading.Thread(target=watch, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()
        self._closed.close()


def micro_batch(batch: Any, part: slice) -> Any:
    """Some crops of a batch."""
    return tree_map(lambda column: column[part], batch)


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch on a device; from pinned memory, without waiting for it."""
    return tree_map(lambda column: column.to(device, non_blocking=True), batch)
