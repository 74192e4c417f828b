"""Where the metrics of a training go: a table, TensorBoard, Weights & Biases."""

from __future__ import annotations

import csv
import importlib.util
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from musicldm.core import durable
from musicldm.core.errors import MissingProgramError
from musicldm.training.config import TrainingConfig

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Logger(Protocol):
    """What takes metrics."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Note the metrics of a step."""

    def close(self) -> None:
        """Write what is not written yet."""


class CSVMetrics:
    """The metrics in one tidy table, `step,name,value`, which a run resumed from step `done` goes on writing."""

    def __init__(self, path: Path, done: int) -> None:
        self.path = path
        if not done:
            path.unlink(missing_ok=True)
        self.forget(done)

    def forget(self, done: int) -> None:
        """Drop what was measured after step `done`: it will be measured again."""
        rows = list(csv.reader(self.path.read_text(encoding="utf-8").splitlines()))[1:] if self.path.exists() else []
        # A kill may have cut the last row short.
        kept = [row for row in rows if len(row) == 3 and row[0].isdigit() and int(row[0]) <= done]
        lines = (",".join(row) + "\n" for row in (["step", "name", "value"], *kept))
        durable.write_bytes(self.path, "".join(lines).encode())

    def first(self, prefix: str) -> dict[str, float]:
        """The earliest value of every metric whose name starts so, under the rest of its name."""
        found: dict[str, float] = {}
        for _, name, value in list(csv.reader(self.path.read_text(encoding="utf-8").splitlines()))[1:]:
            if name.startswith(prefix):
                found.setdefault(name.removeprefix(prefix), float(value))
        return found

    def log(self, metrics: dict[str, float], step: int) -> None:
        # Opened for each step: `forget` puts another file in its place, which an open one would never see.
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows((step, name, f"{value:.6g}") for name, value in metrics.items())

    def close(self) -> None:
        """Every row is written at once."""


class TensorBoard:
    """Event files for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: SummaryWriter = SummaryWriter(folder)

    def log(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A run of a project of Weights & Biases.

    Args:
        resumed: continue the run there that this folder began, by the identity in `wandb-id`.

    Raises:
        MissingProgramError: wandb is not installed.
    """

    def __init__(self, project: str, folder: Path, resumed: bool) -> None:
        check_loggers(project)
        import wandb

        identity = folder / "wandb-id"
        if not (resumed and identity.exists()):
            durable.write_bytes(identity, secrets.token_hex(4).encode())
        self.run: Any = wandb.init(
            project=project,
            name=folder.resolve().name,
            dir=str(folder),
            id=identity.read_text(encoding="utf-8"),
            resume="allow",
        )
        # wandb's own count of steps can only rise; ours goes back in a rollback.
        self.run.define_metric("*", step_metric="step")

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.run.log({**metrics, "step": step})

    def close(self) -> None:
        self.run.finish()


def check_loggers(wandb: str) -> None:
    """See that all loggers are installed.

    Args:
        wandb: the project there; empty: none.

    Raises:
        MissingProgramError: wandb is wanted, and not installed.
    """
    if wandb and importlib.util.find_spec("wandb") is None:
        raise MissingProgramError("Weights & Biases is not installed.", "pip install wandb, or leave out --wandb.")


class Loggers:
    """All the loggers of a run.

    Args:
        run: its folder.
        csv: the table.
        done: the step from which the run is resumed.
    """

    def __init__(self, run: Path, plan: TrainingConfig, csv: CSVMetrics, done: int) -> None:
        self.csv = csv
        self.board = TensorBoard(run / "tensorboard")
        self._all: list[Logger] = [csv, self.board]
        if plan.wandb:
            self._all.append(WandB(plan.wandb, run, resumed=done > 0))

    def log(self, prefix: str, metrics: dict[str, float], step: int) -> None:
        """Note metrics under `prefix/`."""
        for logger in self._all:
            logger.log({f"{prefix}/{name}": value for name, value in metrics.items()}, step)

    def close(self) -> None:
        """Write what is not written yet."""
        for logger in self._all:
            logger.close()
