"""A training so small that its loop can be looked at: a line that is learned from noisy points.

As a script it trains in as many processes as are asked for: `python toy_training.py RUN '{"devices": 2}'`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from musicldm.core.bundle import Bundle, Component, TrainingFacts
from musicldm.core.errors import DataError
from musicldm.core.seeding import derive
from musicldm.training.config import TrainingConfig
from musicldm.training.loop import TrainingResult, fit
from musicldm.training.processes import rank_of
from musicldm.training.trainable import Demo, Trainable

CPU = torch.device("cpu")
SHORT: dict[str, Any] = {
    "steps": 12,
    "batch_size": 4,
    "validate_every": 5,
    "demo_every": 1000,
    "learning_rate": 0.01,
    "warmup": 2,
    "ema": 0.5,
    "precision": "32",
}


class Points:
    """Crops [B, 3] whose sum is to be learned; some positions are bad."""

    def __init__(self, bad: dict[int, float] | None = None) -> None:
        self.bad = bad or {}
        self.drawn: list[int] = []

    def batch(self, position: int, batch_size: int, part: slice) -> Tensor:
        self.drawn.append(position)
        generator = torch.Generator().manual_seed(derive("points", position))
        points = torch.randn(batch_size, 3, generator=generator)
        if position in self.bad:
            points[1] *= self.bad[position]
        return points[part]

    def describe(self, position: int, batch_size: int) -> list[str]:
        return [f"Artist/Song {position}.wav at {number}.0 s" for number in range(batch_size)]


class Line(Trainable[nn.Linear]):
    """Linear regression with noise of its own, beside a critic in a parameter group of its own."""

    def __init__(self, config: TrainingConfig, on_losses: Callable[[Line], None] = lambda line: None) -> None:
        torch.manual_seed(derive(config.seed, "weights"))
        super().__init__(nn.Linear(3, 1), config, [])
        self.critic = nn.Linear(1, 1)
        self.on_losses = on_losses

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [*super().parameter_groups(), {"params": list(self.critic.parameters()), "name": "critic", "lr": 0.003}]

    def losses(self, batch: Tensor) -> dict[str, Tensor]:
        self.on_losses(self)
        output = self.model(batch + 0.1 * self.randn_like(batch)).float()
        error = (output - batch.sum(dim=1, keepdim=True)).square().mean()
        critic = (self.critic(output.detach()) - 1).square().mean()
        return {"total": error + 0.1 * critic, "error": error, "critic": critic}

    def validate(self) -> dict[str, float]:
        points = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        output = self.ema(points.to(self.device)).cpu()
        return {"loss": (output - points.sum(dim=1, keepdim=True)).square().mean().item()}

    def demos(self) -> list[Demo]:
        return []

    def bundle(self, name: str) -> Bundle:
        part = Component("toy", {"width": 3}, self.ema.state_dict())
        return Bundle(name, {"codec": part}, {"codec": TrainingFacts(step=self.step)})


def train(
    run: Path,
    source: Points | None = None,
    module: type[Line] = Line,
    on_losses: Callable[[Line], None] = lambda line: None,
    progress: Callable[..., None] = lambda done, total, text="": None,
    announce: Callable[[str], None] = lambda sentence: None,
    **options: Any,
) -> TrainingResult:
    config = TrainingConfig(**SHORT | options)
    return fit_line(module(config, on_losses), run, source, progress, announce)


def fit_line(
    line: Line,
    run: Path,
    source: Points | None = None,
    progress: Callable[..., None] = lambda done, total, text="": None,
    announce: Callable[[str], None] = lambda sentence: None,
) -> TrainingResult:
    config = {"training": vars(line.training_config)}
    return fit(line, source or Points(), run, config, 1.0, CPU, progress, announce)


def differing(one: Path, other: Path) -> list[str]:
    """The names of all tensors and numbers in which the last checkpoints of two runs differ."""

    def flat(value: Any, name: str = "") -> dict[str, Any]:
        if not isinstance(value, dict | list | tuple):
            return {name: value}
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for label, child in items for key, leaf in flat(child, f"{name}/{label}").items()}

    a, b = (flat(torch.load(run / "checkpoints/last.ckpt", weights_only=True)) for run in (one, other))
    if a.keys() != b.keys():
        raise DataError(f"Other keys: {sorted(a.keys() ^ b.keys())}")
    return [key for key in a if not (torch.equal(a[key], b[key]) if torch.is_tensor(a[key]) else a[key] == b[key])]


def stopped_at(position: int, rank: int) -> Callable[[Line], None]:
    """SIGTERM to the process of that rank, in the middle of the step of that position."""

    def stop(line: Line) -> None:
        if (line.state.position, rank_of(line.training_config)) == (position, rank):
            os.kill(os.getpid(), signal.SIGTERM)

    return stop


if __name__ == "__main__":
    options = json.loads(sys.argv[2])
    source = Points({int(position): float(factor) for position, factor in options.pop("bad").items()})
    stop = stopped_at(options.pop("stop"), rank=1)
    run, line = Path(sys.argv[1]), Line(TrainingConfig(**SHORT | options), stop)
    result = fit_line(line, run, source, announce=print)
    # Each process leaves its weights beside the run's folder.
    torch.save(line.state_dict(), run.with_name(f"rank-{rank_of(line.training_config)}.pt"))
    print(json.dumps({"main": result.main, "steps": result.steps, "interrupted": result.interrupted}))
