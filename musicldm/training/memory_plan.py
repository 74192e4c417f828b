"""What fits into a GPU: the least costly way to train within its memory.

Memory is predicted (see `memory_trace`). Only a GPU can tell whether that holds: where there is one, the choice is
measured on it, and else the plan is called unverified.
"""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch

from musicldm.core.capacity import out_of_memory
from musicldm.core.config import Between, from_dict
from musicldm.core.devices import pick_precision
from musicldm.core.errors import CapacityError, UsageError
from musicldm.core.reading import read_json
from musicldm.training.config import PlanConfig, TrainingConfig
from musicldm.training.cuda_allocator import MIB
from musicldm.training.data import to_device
from musicldm.training.memory_trace import Memory, Trace, prepare, run_step, trace
from musicldm.training.rehearsal import Rehearsal
from musicldm.training.run_folder import CONFIG

GIB = 2**30

USABLE = 14 / 16
"""GiB that a training may take of each GB that is on the box: a T4 with 16 has under 15, and CUDA itself wants some."""
CONTEXT = 512 * MIB
"""What CUDA itself and the screen take of a GPU."""
CHOSEN = ("accumulate", "checkpointing", "seconds")
"""What a plan may change of a training."""
FEW = 4
"""Crops that keep a GPU busy: smaller micro-batches than this are worse than recomputing activations."""


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

    The crops of a step keep their length as long as possible. First they go through in micro-batches of no fewer than
    `FEW`, then activations are recomputed, then the micro-batches get smaller still, and at last the crops get shorter.

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
        return traced(choice).reserved(choice.micro_batch_size, choice.accumulate > 1)

    options = list(choices(training, rehearsal.shortest))
    least = options[-1]
    for choice in options:
        # Shorter crops are the last resort. Where not even the shortest fit, there is no need to try those between.
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
        f"Choose a smaller network, as with --preset, or a GPU for --vram {math.ceil(needed(least) / GIB / USABLE)}.",
    )


def choices(training: TrainingConfig, shortest: float) -> Iterator[TrainingConfig]:
    """Ways to train with less and less memory, the least costly first, beginning with what was requested."""
    share = training.batch_size // training.processes
    # Only divisors: all micro-batches of a step have the same size, and so the same weight in its gradient.
    counts = [number for number in range(training.accumulate, share + 1) if share % number == 0]
    if not training.checkpointing:
        for number in counts:
            if number == training.accumulate or share // number >= FEW:
                yield replace(training, accumulate=number)
    seconds = training.seconds
    while True:
        for number in counts:
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
        needed = foreseen.reserved(training.micro_batch_size, accumulating)
    else:
        needed = foreseen.alive(training.micro_batch_size) + accumulating * foreseen.kept.gradients
    return Plan(training, precision, foreseen.kept.filled_up(needed), None, False, None)


def decide(
    rehearsal: Rehearsal, training: TrainingConfig, run: Path, device: torch.device, vram: float | None = None
) -> tuple[TrainingConfig, PlanConfig | None, Plan | None]:
    """How to train in the folder `run`: as it was planned for it before, else by a plan for the memory there is.

    Without a GPU there is a plan only for a requested `vram`, unverified.

    Args:
        vram: gigabytes of the GPU; None: what it has.

    Returns:
        The training, the request where it was planned, and the plan where it is a new one.

    Raises:
        CapacityError: nothing fits.
        UsageError: more memory than the GPU has.
    """
    wanted = vram or 0.0
    request = PlanConfig(wanted, training.batch_size, training.seconds, training.accumulate, training.checkpointing)
    known, kept = _known(run)
    if known and known == (request if vram else replace(request, vram=known.vram)):
        return replace(training, **kept), known, None
    unplanned = kept and not known  # a run that was begun so goes on so
    if not vram and (unplanned or device.type != "cuda"):
        return training, None, None
    if device.type != "cuda":
        precision = "16" if training.precision == "auto" else training.precision  # bf16 takes as much
        found = plan(rehearsal, training, precision, int(wanted * USABLE * GIB))
    else:
        found = _on_gpu(rehearsal, training, device, vram)
    return found.training, request, found


def _on_gpu(rehearsal: Rehearsal, training: TrainingConfig, device: torch.device, vram: float | None) -> Plan:
    precision = pick_precision(training.precision, device)
    training = replace(training, precision=precision)
    # Of several processes none may find another plan than the rest, so none measures.
    tried = device if training.processes == 1 else None
    installed = torch.cuda.get_device_properties(device).total_memory
    wanted, there = int((vram or 0) * USABLE * GIB), installed - CONTEXT
    if wanted > installed:
        fits = plan(rehearsal, training, precision, there, tried)
        raise UsageError(
            f"The GPU has {installed / GIB:.1f} GiB, too little for --vram {vram:g}.",
            f"Leave --vram out: {fits.training.micro_batch_size} crops of {fits.training.seconds:.3g} s at once fit.",
        )
    return plan(rehearsal, training, precision, min(wanted or there, there), tried)


@dataclass(frozen=True)
class _Chosen:
    """`CHOSEN`, as a run's configuration has it."""

    accumulate: Annotated[int, Between(1, 1 << 20)]
    checkpointing: bool
    seconds: Annotated[float, Between(1e-6, 86400)]


def _known(run: Path) -> tuple[PlanConfig | None, dict[str, Any]]:
    """The request of the run in a folder, and what was chosen for it; nothing where no run was begun."""
    try:
        before = read_json(run / CONFIG)
        chosen = from_dict(_Chosen, {key: before["training"][key] for key in CHOSEN})
        kept = vars(chosen)
        return from_dict(PlanConfig, before["plan"]) if before.get("plan") else None, kept
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # a damaged file is reported later
        return None, {}


def _largest(trace: Trace, limit: int) -> int:
    """The most crops at once that fit; 0 where not even one does."""

    def fits(crops: int) -> bool:
        return trace.reserved(crops, accumulating=True) <= limit

    most, excess = 0, 1
    # First doubled until it does not fit, then bisected: every question replays a whole step.
    while fits(excess):
        most, excess = excess, 2 * excess
    while excess - most > 1:
        middle = (most + excess) // 2
        most, excess = (middle, excess) if fits(middle) else (most, middle)
    return most


def measure(rehearsal: Rehearsal, training: TrainingConfig, device: torch.device) -> int:
    """Bytes that CUDA's allocator reserves at most in two steps on the GPU; `sys.maxsize` if it is full."""

    def run() -> None:
        module, batch = rehearsal.make(training, training.micro_batch_size)
        module.to(device)
        batch = to_device(batch, device)
        optimizer = prepare(module)
        # The second step meets what the first one left in the allocator.
        for _ in range(2):
            run_step(module, optimizer, *[batch] * min(2, training.accumulate))

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        # The weights and noise of a rehearsal must not move on the numbers of the training.
        with torch.random.fork_rng([device]):
            run()
        return torch.cuda.max_memory_reserved(device)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return sys.maxsize
    finally:
        # What refers to itself in a circle keeps its tensors until the collector comes by.
        gc.collect()
        torch.cuda.empty_cache()
