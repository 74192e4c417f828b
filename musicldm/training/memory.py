"""What fits: the memory of a training step, predicted without allocating it or measured on a GPU, and a plan for it.

    a step under fake tensors ─> trace of its storages ─replayed for any part─> bytes ─> plan ─> a step on the GPU

A step is rehearsed by a fresh module on crops of silence: nothing of it reaches the training. The trace says what a CPU
needs. What CUDA's allocator reserves for the same storages is replayed by its own rules; only a GPU can tell whether
that holds, so without one a plan is called unverified.
"""

from __future__ import annotations

import gc
import json
import math
import sys
import warnings
import weakref
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from musicldm.core.config import from_dict
from musicldm.core.devices import out_of_memory, pick_precision
from musicldm.core.errors import CapacityError, UsageError
from musicldm.training.config import PlanConfig, TrainingConfig
from musicldm.training.loop import Trainable
from musicldm.training.run import CONFIG

MIB, GIB = 2**20, 2**30

USABLE = 14 / 16
"""GiB that a training may take of each GB that is on the box: a T4 with 16 has under 15, and CUDA itself wants some."""
HANDLES = 40 * MIB
"""What cuBLAS keeps for itself as long as the process lives; 32 MiB on the largest cards."""
MARGIN = 1.05
"""On top of what the replayed allocator reserves: the real one sees other sizes too, such as validation's."""
SCRATCH = ("convolution", "_fft_", "_scaled_dot_product_")
"""Operators whose kernels take scratch space: as much as their operands, which they bring into another layout."""
CONTEXT = 512 * MIB
"""What CUDA itself and the screen take of a card."""
CHOSEN = ("accumulate", "checkpointing", "seconds")
"""What a plan may change of a training."""
FEW = 4
"""Crops that keep a GPU busy: smaller parts than this are worse than recomputing activations."""


@dataclass(frozen=True)
class Rehearsal:
    """What it takes to try a step of a training."""

    make: Callable[[TrainingConfig, int], tuple[Trainable[Any], Any]]
    """A fresh module for a training, and a part of so many crops for it."""
    shortest: float
    """The least seconds of a crop that the model allows."""


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


class Allocator:
    """What PyTorch's caching allocator reserves (c10/cuda/CUDACachingAllocator.cpp): the driver gives segments, blocks
    are cut from them for who fits best, and a freed one joins its free neighbours; nothing goes back to the driver.
    """

    def __init__(self) -> None:
        self.reserved = 0
        self._pools: dict[bool, list[tuple[int, int]]] = {True: [], False: []}  # small or not: free (size, start)
        self._sizes: dict[int, int] = {}  # free blocks by where they start,
        self._starts: dict[int, int] = {}  # and by where they end

    def allocate(self, size: int) -> tuple[int, int, bool]:
        """A block: its start, its size, and whether it is small."""
        size = _up(size, 512)
        small = size <= MIB
        pool = self._pools[small]
        place = bisect_left(pool, (size, 0))
        if place < len(pool):
            start, room = pool[place][1], self._withdraw(pool[place][1], small)
        else:
            room = 2 * MIB if small else 20 * MIB if size < 10 * MIB else _up(size, 2 * MIB)
            start = self.reserved * 2  # so that segments are never neighbours
            self.reserved += room
        if (spare := room - size) >= (512 if small else MIB + 1):
            self._offer(start + size, spare, small)
            room = size
        return start, room, small

    def release(self, start: int, size: int, small: bool) -> None:
        """Give back what `allocate` gave."""
        if start + size in self._sizes:
            size += self._withdraw(start + size, small)
        if start in self._starts:
            start = self._starts[start]
            size += self._withdraw(start, small)
        self._offer(start, size, small)

    def _offer(self, start: int, size: int, small: bool) -> None:
        insort(self._pools[small], (size, start))
        self._sizes[start], self._starts[start + size] = size, start

    def _withdraw(self, start: int, small: bool) -> int:
        size = self._sizes.pop(start)
        del self._starts[start + size]
        del self._pools[small][bisect_left(self._pools[small], (size, start))]
        return size


def _up(size: int, multiple: int) -> int:
    return max(1, -(-size // multiple)) * multiple


@dataclass(frozen=True)
class Memory:
    """Where the bytes of a training are at the fullest moment of a step."""

    weights: int
    gradients: int
    optimizer: int
    averaged: int
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
    """The storages of a training, for parts of any size: each has some bytes, and some more for every crop."""

    events: list[int]
    """n where storage n comes, ~n where it goes."""
    begins: int
    """The event with which a step begins; up to there, the module was made."""
    fixed: list[int]
    each: list[int]
    kept: Memory
    """What stays from part to part; no activations."""

    def alive(self, crops: int) -> int:
        """The most bytes that all storages have together: what a CPU needs."""
        sizes = self._sizes(crops)
        return max(accumulate(sizes[event] if event >= 0 else -sizes[~event] for event in self.events))

    def reserved(self, crops: int, accumulating: bool) -> int:
        """What CUDA's allocator takes from the driver in two steps, and what else a GPU needs.

        Args:
            accumulating: the gradients of another part are there already.
        """
        sizes, allocator = self._sizes(crops), Allocator()
        blocks = {}
        if accumulating:
            allocator.allocate(self.kept.gradients)
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
    fixed = [two - 2 * more for two, more in zip(ledger.sizes, each, strict=True)]
    return Trace(ledger.events, begins, fixed, each, kept)


def _record(rehearsal: Rehearsal, training: TrainingConfig, crops: int) -> tuple[Ledger, int, Memory]:
    """The ledger of a step, the event with which it begins, and what stays after it."""
    with warnings.catch_warnings(), _Fake(), Ledger() as ledger:
        warnings.simplefilter("ignore")  # torch's, about fake tensors
        module, part = rehearsal.make(training, crops)
        optimizer = _begin(module)
        kept, begins = _kept(module, optimizer), len(ledger.events)
        _step(module, optimizer, part)
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


def _begin(module: Trainable[Any]) -> torch.optim.Optimizer:
    """The optimizer, with all the state that it will ever have."""
    module.train()
    module.course.step = sys.maxsize  # when all of the loss takes part, a discriminator that comes late too
    optimizer = module.configure_optimizers()
    for group in optimizer.param_groups:
        group["foreach"] = True  # as GPUs have it anyway
    for weight in _weights(optimizer):
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def _step(module: Trainable[Any], optimizer: torch.optim.Optimizer, *parts: Any) -> None:
    for part in parts:
        module.learn(part)
    for group in optimizer.param_groups:
        nn.utils.clip_grad_norm_(group["params"], module.training_config.gradient_clip)
    optimizer.step()
    module.average()
    optimizer.zero_grad()


def _weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _kept(module: Trainable[Any], optimizer: torch.optim.Optimizer) -> Memory:
    def size(tensors: Iterable[Any]) -> int:
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))

    averaged = size([*module.averaged.parameters(), *module.averaged.buffers()])
    return Memory(
        weights=size([*module.parameters(), *module.buffers()]) - averaged,
        gradients=size(_weights(optimizer)),
        optimizer=size(value for state in optimizer.state.values() for value in state.values()),
        averaged=averaged,
        activations=0,
    )


def measure(rehearsal: Rehearsal, training: TrainingConfig, device: torch.device) -> int:
    """Bytes that CUDA's allocator reserves at most in two steps on the GPU; more than any card has, if it is full."""

    def run() -> None:
        module, part = rehearsal.make(training, training.part_size)
        module.to(device)
        part = tree_map(lambda leaf: leaf.to(device), part)
        optimizer = _begin(module)
        for _ in range(2):
            _step(module, optimizer, *[part] * min(2, training.accumulate))

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        with torch.random.fork_rng([device]):
            run()
        return torch.cuda.max_memory_reserved(device)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return sys.maxsize
    finally:
        gc.collect()
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Plan:
    """How the crops of a step go through a device, and what that takes."""

    training: TrainingConfig
    precision: str
    """32, 16 or bf16."""
    memory: Memory
    limit: int | None
    """Bytes that may be taken, where they are limited."""
    verified: bool
    """Whether the memory was measured on the GPU; else it is predicted."""
    largest: int | None
    """Crops of this length that would fit at once."""


def plan(
    rehearsal: Rehearsal, training: TrainingConfig, precision: str, limit: int, device: torch.device | None = None
) -> Plan:
    """The least costly way to train within `limit` bytes of a GPU.

    A step keeps its crops as long as can be. First they go through in parts of no fewer than `FEW`, then activations
    are computed again, then the parts get smaller still, and at last the crops get shorter.

    Args:
        precision: 32, 16 or bf16.
        device: a GPU on which the choice is tried; without one it stays a prediction.

    Raises:
        CapacityError: not even the shortest crop fits, one at a time.
    """
    traces: dict[tuple[bool, float], Trace] = {}

    def traced(choice: TrainingConfig) -> Trace:
        setting = choice.checkpointing, choice.seconds
        if setting not in traces:
            traces[setting] = trace(rehearsal, replace(choice, precision=precision))
        return traces[setting]

    def needed(choice: TrainingConfig) -> int:
        return traced(choice).reserved(choice.part_size, choice.accumulate > 1)

    options = list(choices(training, rehearsal.shortest))
    least = options[-1]
    for choice in options:
        if choice.seconds < training.seconds and needed(least) > limit:
            break
        total = needed(choice)
        if total <= limit and device is not None:
            total = measure(rehearsal, replace(choice, precision=precision), device)
        if total <= limit:
            memory = traced(choice).kept.filled_up(total)
            return Plan(choice, precision, memory, limit, device is not None, _largest(traced(choice), limit))
    raise CapacityError(
        f"This training needs {needed(least) / GIB:.3g} GiB even for one crop of {least.seconds:.2g} s at a time, "
        f"and may take {limit / GIB:.3g}.",
        f"Choose a smaller network, as with --preset, or a card for --vram {math.ceil(needed(least) / GIB / USABLE)}.",
    )


def choices(training: TrainingConfig, shortest: float) -> Iterator[TrainingConfig]:
    """Ways to train with less and less memory, the least costly first; what was asked for is the least that is done."""
    share = training.batch_size // training.processes
    parts = [number for number in range(training.accumulate, share + 1) if share % number == 0]
    if not training.checkpointing:
        for number in parts:
            if number == training.accumulate or share // number >= FEW:
                yield replace(training, accumulate=number)
    seconds = training.seconds
    while True:
        for number in parts:
            yield replace(training, accumulate=number, checkpointing=True, seconds=seconds)
        if seconds <= shortest:
            return
        seconds = max(shortest, seconds / 2)


def as_is(rehearsal: Rehearsal, training: TrainingConfig, device: torch.device) -> Plan:
    """What a training takes without any plan: on a GPU by CUDA's allocator, elsewhere the bytes of its tensors."""
    precision = pick_precision(training.precision, device)
    foreseen = trace(rehearsal, replace(training, precision=precision))
    accumulating = training.accumulate > 1
    if device.type == "cuda":
        needed = foreseen.reserved(training.part_size, accumulating)
    else:
        needed = foreseen.alive(training.part_size) + accumulating * foreseen.kept.gradients
    return Plan(training, precision, foreseen.kept.filled_up(needed), None, False, None)


def decide(
    rehearsal: Rehearsal, training: TrainingConfig, run: Path, device: torch.device, vram: float | None = None
) -> tuple[TrainingConfig, PlanConfig | None, Plan | None]:
    """How to train in the folder `run`: as it was planned for it before, else by a plan for the memory there is.

    Without a GPU there is a plan only for a `vram` that was asked for, unverified.

    Args:
        vram: gigabytes of the card; None: what it has.

    Returns:
        The training, what was asked for where it was planned, and the plan where it is a new one.

    Raises:
        CapacityError: nothing fits.
        UsageError: more memory than the GPU has.
    """
    asked = PlanConfig(vram or 0.0, training.batch_size, training.seconds, training.accumulate, training.checkpointing)
    known, kept = _known(run)
    if known and known == (asked if vram else replace(asked, vram=known.vram)):
        return replace(training, **kept), known, None
    unplanned = kept and not known  # a run that was begun so goes on so
    if not vram and (unplanned or device.type != "cuda"):
        return training, None, None
    if device.type != "cuda":
        precision = "16" if training.precision == "auto" else training.precision  # bf16 takes as much
        found = plan(rehearsal, training, precision, int((vram or 0) * USABLE * GIB))
    else:
        found = _on_card(rehearsal, training, device, vram)
    return found.training, asked, found


def _on_card(rehearsal: Rehearsal, training: TrainingConfig, device: torch.device, vram: float | None) -> Plan:
    precision = pick_precision(training.precision, device)
    training = replace(training, precision=precision)
    # Of several processes none may find another plan than the rest, so none measures.
    tried = device if training.processes == 1 else None
    whole = torch.cuda.get_device_properties(device).total_memory
    wanted, there = int((vram or 0) * USABLE * GIB), whole - CONTEXT
    if wanted > whole:
        fits = plan(rehearsal, training, precision, there, tried)
        raise UsageError(
            f"The GPU has {whole / GIB:.1f} GiB, too little for --vram {vram:g}.",
            f"Leave --vram out: {fits.training.part_size} crops of {fits.training.seconds:.3g} s at once fit.",
        )
    return plan(rehearsal, training, precision, min(wanted or there, there), tried)


def _known(run: Path) -> tuple[PlanConfig | None, dict[str, Any]]:
    """What was asked for in a run's folder, and what was chosen; nothing where no run was begun."""
    try:
        before = json.loads((run / CONFIG).read_bytes())
        kept = {key: before["training"][key] for key in CHOSEN}
        return from_dict(PlanConfig, before["plan"]) if before.get("plan") else None, kept
    except (OSError, ValueError, KeyError, TypeError):  # a damaged file is told of later
        return None, {}


def _largest(trace: Trace, limit: int) -> int:
    """The most crops at once that fit; 0 where not even one does."""

    def fits(crops: int) -> bool:
        return trace.reserved(crops, accumulating=True) <= limit

    most, excess = 0, 1
    while fits(excess):
        most, excess = excess, 2 * excess
    while excess - most > 1:
        middle = (most + excess) // 2
        most, excess = (middle, excess) if fits(middle) else (most, middle)
    return most
