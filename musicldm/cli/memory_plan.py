"""What --vram adds to both training commands: a plan for the GPU's memory, as a sentence, a table or data."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

if TYPE_CHECKING:
    import torch

    from musicldm.training.config import PlanConfig, TrainingConfig
    from musicldm.training.memory_plan import Plan
    from musicldm.training.rehearsal import Rehearsal


class RunConfig(Protocol):
    """The dataclass of a whole training, of any codec or generator."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def training(self) -> TrainingConfig: ...

    @property
    def plan(self) -> PlanConfig | None: ...


Run = TypeVar("Run", bound=RunConfig)


def fitted(
    config: Run, rehearsal: Rehearsal, run: Path, device: torch.device, vram: float | None
) -> tuple[Run, Plan | None]:
    """The configuration fitted into the memory there is, and the plan where it is a new one."""
    from musicldm.training import memory_plan

    training, request, plan = memory_plan.decide(rehearsal, config.training, run, device, vram)
    return replace(config, training=training, plan=request), plan


def foreseen(config: RunConfig, rehearsal: Rehearsal, device: torch.device) -> Plan:
    """What the training takes as it is."""
    from musicldm.training import memory_plan

    return memory_plan.as_is(rehearsal, config.training, device)


def sentence(plan: Plan) -> str:
    """A plan in one line."""
    training = plan.training
    crops = f"{training.micro_batch_size} crops of {training.seconds:.3g} s at once"
    repeated = f", {training.accumulate} times a step" if training.accumulate > 1 else ""
    recomputed = ", activations recomputed" if training.checkpointing else ""
    return f"{crops}{repeated}{recomputed}, precision {plan.precision}: {_total(plan)}, {_trust(plan)}."


def rows(plan: Plan) -> list[tuple[str, str]]:
    """A plan with all its figures."""
    training = plan.training
    devices = f" on each of {training.processes} devices" if training.processes > 1 else ""
    either = plan.limit is not None and training.precision == "auto"
    found = [
        ("crop", f"{training.seconds:.3g} s"),
        ("batch", f"{training.batch_size} crops = {training.accumulate} × {training.micro_batch_size}{devices}"),
        ("checkpointing", "yes" if training.checkpointing else "no"),
        ("precision", "bf16 where the GPU has it, else 16" if either else plan.precision),
        *((name, size(count)) for name, count in asdict(plan.memory).items()),
        ("total", f"{_total(plan)}, {_trust(plan)}"),
    ]
    return found if plan.largest is None else [*found, ("most at once", f"{plan.largest} crops")]


def data(plan: Plan) -> dict[str, Any]:
    """The same for --json; memory in bytes."""
    training = plan.training
    return {
        "seconds": training.seconds,
        "batch_size": training.batch_size,
        "accumulate": training.accumulate,
        "micro_batch_size": training.micro_batch_size,
        "checkpointing": training.checkpointing,
        "precision": plan.precision,
        **asdict(plan.memory),
        "total": plan.memory.total,
        "limit": plan.limit,
        "verified": plan.verified,
        "largest": plan.largest,
    }


def size(count: int) -> str:
    """Bytes, for a person."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _total(plan: Plan) -> str:
    return size(plan.memory.total) + (f" of {size(plan.limit)}" if plan.limit is not None else "")


def _trust(plan: Plan) -> str:
    return "measured on this GPU" if plan.verified else "predicted, unverified"
