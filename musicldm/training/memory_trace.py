"""The memory of a training step, predicted without allocating it.

    a step under fake tensors ─> ledger of its storages ─> trace ─replayed for a micro-batch of any size─> bytes

A step is rehearsed by a fresh module on crops of silence: nothing of it reaches the training. The trace says what a CPU
needs. What CUDA's allocator reserves for the same storages is replayed by its own rules.
"""

from __future__ import annotations

import gc
import sys
import warnings
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from musicldm.training.config import TrainingConfig
from musicldm.training.cuda_allocator import MIB, Allocator
from musicldm.training.rehearsal import Rehearsal
from musicldm.training.trainable import Trainable

HANDLES = 40 * MIB
"""What cuBLAS keeps for itself as long as the process lives; 32 MiB on the largest GPUs."""
MARGIN = 1.05
"""On top of what the replayed allocator reserves: the real one sees other sizes too, such as validation's."""
SCRATCH = ("convolution", "_fft_", "_scaled_dot_product_")
"""Operators whose kernels take scratch space: as much as their operands, which they bring into another layout."""


@dataclass(frozen=True)
class Memory:
    """Where the bytes of a training are at the fullest moment of a step."""

    weights: int
    gradients: int
    optimizer: int
    ema: int
    activations: int
    """All the rest: what the gradient needs to remember, passing tensors, scratch space, and the allocator's waste."""

    @property
    def total(self) -> int:
        return sum(vars(self).values())

    def filled_up(self, total: int) -> Memory:
        """With so many activations that it is `total`."""
        return replace(self, activations=self.activations + total - self.total)


@dataclass(frozen=True)
class Trace:
    """The storages of a training, for micro-batches of any size: each has some bytes, and some more for every crop."""

    events: list[int]
    """n where storage n comes, ~n where it goes."""
    begins: int
    """The event with which a step begins; up to there, the module was made."""
    fixed: list[int]
    each: list[int]
    kept: Memory
    """What stays from one micro-batch to the next; no activations."""

    def alive(self, crops: int) -> int:
        """The most bytes that all storages have together: what a CPU needs."""
        sizes = self._sizes(crops)
        return max(accumulate(sizes[event] if event >= 0 else -sizes[~event] for event in self.events))

    def reserved(self, crops: int, accumulating: bool) -> int:
        """What CUDA's allocator takes from the driver in two steps, and what else a GPU needs.

        Args:
            accumulating: the gradients of another micro-batch are there already.
        """
        sizes, allocator = self._sizes(crops), Allocator()
        blocks = {}
        if accumulating:
            allocator.allocate(self.kept.gradients)
        # Two steps, since the second finds the first one's segments cut up differently.
        for event in (*self.events, *self.events[self.begins :]):
            if event >= 0:
                blocks[event] = allocator.allocate(sizes[event])
            else:
                allocator.release(*blocks.pop(~event))
        return int(MARGIN * (allocator.reserved + HANDLES))

    def _sizes(self, crops: int) -> list[int]:
        return [max(0, fixed + crops * each) for fixed, each in zip(self.fixed, self.each, strict=True)]


def trace(rehearsal: Rehearsal, training: TrainingConfig) -> Trace:
    """Go through a training step without allocating it."""
    # One crop would not do: of tensors with an axis of length 1 some operators make no copy.
    with _without_garbage():
        (ledger, begins, kept), (other, _, _) = (_record(rehearsal, training, crops) for crops in (2, 3))
    each = [three - two for two, three in zip(ledger.sizes, other.sizes, strict=True)]
    # Two points give a line: bytes = fixed + each · crops.
    fixed = [two - 2 * more for two, more in zip(ledger.sizes, each, strict=True)]
    return Trace(ledger.events, begins, fixed, each, kept)


def _record(rehearsal: Rehearsal, training: TrainingConfig, crops: int) -> tuple[Ledger, int, Memory]:
    """The ledger of a step, the event with which it begins, and what stays after it."""
    with warnings.catch_warnings(), _Fake(), Ledger() as ledger:
        warnings.simplefilter("ignore")  # torch's, about fake tensors
        module, batch = rehearsal.make(training, crops)
        optimizer = prepare(module)
        kept, begins = _kept(module, optimizer), len(ledger.events)
        run_step(module, optimizer, batch)
    return ledger, begins, kept


@contextmanager
def _without_garbage() -> Iterator[None]:
    """Storages go when the last reference does, not when the collector comes by: every trace in the same order."""
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def prepare(module: Trainable[Any]) -> torch.optim.Optimizer:
    """The optimizer, with all the state that it will ever have."""
    module.train()
    module.state.step = sys.maxsize  # when all of the loss takes part, a discriminator that comes late too
    optimizer = module.make_optimizer()
    for group in optimizer.param_groups:
        group["foreach"] = True  # as GPUs have it anyway
    for weight in _weights(optimizer):
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def run_step(module: Trainable[Any], optimizer: torch.optim.Optimizer, *micro_batches: Any) -> None:
    """A whole step, as `TrainStep` makes it."""
    for micro_batch in micro_batches:
        module.forward_backward(micro_batch)
    for group in optimizer.param_groups:
        nn.utils.clip_grad_norm_(group["params"], module.training_config.gradient_clip)
    optimizer.step()
    module.update_ema()
    optimizer.zero_grad()


def _weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _kept(module: Trainable[Any], optimizer: torch.optim.Optimizer) -> Memory:
    def size(tensors: Iterable[Any]) -> int:
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))

    ema = size([*module.ema.parameters(), *module.ema.buffers()])
    return Memory(
        weights=size([*module.parameters(), *module.buffers()]) - ema,
        gradients=size(_weights(optimizer)),
        optimizer=size(value for state in optimizer.state.values() for value in state.values()),
        ema=ema,
        activations=0,
    )


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is on, writes down in order when a storage comes and when it goes.

    Attributes:
        events: n where storage n comes, ~n where it goes.
        sizes: the bytes of each storage. Scratch space of kernels, which no tensor shows, is among them.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[int] = []
        self.sizes: list[int] = []
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._open = True

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        self._open = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        for tensor in _tensors(result):
            self._see(tensor.untyped_storage())
        if func.overloadpacket.__name__.startswith(SCRATCH):
            # It comes and goes within the operator.
            self.events.append(~self._comes(sum(tensor.nbytes for tensor in _tensors((args, kwargs)))))
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._alive and storage.nbytes():
            number = self._comes(storage.nbytes())

            def goes(_: weakref.ref[torch.UntypedStorage]) -> None:
                del self._alive[key]
                if self._open:
                    self.events.append(~number)

            self._alive[key] = weakref.ref(storage, goes)

    def _comes(self, size: int) -> int:
        self.events.append(len(self.sizes))
        self.sizes.append(size)
        return len(self.sizes) - 1


class _Fake(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Tensors without memory, of which the copy of a module has the same kind."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Fake:
        return self


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
