"""Configuration -> training -> run folder; started again, it resumes where it was."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from musicldm.core import bundle, durable
from musicldm.core.capacity import out_of_memory
from musicldm.core.errors import BundleError, CapacityError, DataError, MusicLDMError
from musicldm.core.jobs import CORES
from musicldm.core.progress import Progress, silent
from musicldm.training import run_folder
from musicldm.training.announce import Announce, ignore
from musicldm.training.checkpoints import FOLDER, Checkpoints
from musicldm.training.config import TrainingConfig
from musicldm.training.data import Batches, BatchSource, Workers, to_device
from musicldm.training.demos import write_demos
from musicldm.training.logging import CSVMetrics, Loggers, check_loggers
from musicldm.training.processes import Processes, check_devices, launch, rank_of
from musicldm.training.rollback import Rollback
from musicldm.training.run_folder import Upgrade, unchanged
from musicldm.training.signals import StopSignal
from musicldm.training.state import StepResult, TrainState
from musicldm.training.step import TrainStep, check_fit, restore_weights
from musicldm.training.trainable import Trainable

LOG_EVERY = 10
"""Steps between two rows of the training's own metrics."""


@dataclass(frozen=True)
class TrainingResult:
    """What a run left."""

    bundle: Path
    steps: int
    interrupted: bool
    first: dict[str, float]
    """The held-out losses before the first step; empty without held-out tracks."""
    last: dict[str, float]
    """The latest of them; empty where all was done before."""
    main: bool = True
    """Whether this is the process to speak of it, where several trained together."""


def fit(
    module: Trainable[Any],
    source: BatchSource,
    run: Path,
    config: dict[str, Any],
    seconds_per_step: float,
    device: torch.device,
    progress: Progress = silent,
    announce: Announce = ignore,
    upgrade: Upgrade = unchanged,
    dry_run: bool = False,
) -> TrainingResult:
    """Train `module` on batches of `source` until its last step, saving in the folder `run`.

    Where several devices train, each has a process that calls this; the main one writes, judges and speaks for all.

    Args:
        config: all that defines the run, as plain data; kept as `run/config.json`.
        seconds_per_step: seconds of audio in a batch, for the progress.
        announce: told what the user should know at once.
        upgrade: applied to the configuration that an earlier release left in `run`, before it is compared.
        dry_run: meet the errors that would come before the first step, and do nothing.

    Raises:
        OutputError: the folder cannot be written, another run is writing to it, or it holds files of others that would
            be replaced.
        MismatchError: the folder holds a run of another configuration, or on other data.
        DataError: no checkpoint can be read, or a batch cannot.
        TrainingError: the loss went wrong more often than `patience` allows.
        UsageError: more devices than there are.
        CapacityError: the GPU's memory does not hold a step.
        MissingProgramError: a logger that is not installed.
    """
    init = module.origin.digest if module.origin else ""
    identity = {**config, "data": run_folder.digest(module.tracks), "init": init}
    if dry_run:
        return _checked(module.training_config, run, identity, device, announce, upgrade)
    if rank_of(module.training_config):
        return _train(module, source, run, seconds_per_step, device, silent, ignore)
    run_folder.check(run)
    durable.make_folder(run / FOLDER)
    with durable.locked(run):
        # Only under the lock: nobody else is writing here, so what is unfinished will stay so.
        run_folder.sweep(run)
        run_folder.remember(run, identity, upgrade)
        return _train(module, source, run, seconds_per_step, device, progress, announce)


def _checked(
    plan: TrainingConfig,
    run: Path,
    identity: dict[str, Any],
    device: torch.device,
    announce: Announce,
    upgrade: Upgrade,
) -> TrainingResult:
    """What `fit` looks at before its first step, and no step; the folder stays as it is."""
    check_devices(plan, device)
    check_loggers(plan.wandb)
    durable.check_folder(run / FOLDER)
    durable.check_folder(run)
    run_folder.reconciled(run, identity, upgrade)
    checkpoints = Checkpoints(run / FOLDER, announce)
    step = checkpoints.read()["state"]["step"] if checkpoints.exist() else 0
    return TrainingResult(run / "bundle", step, False, {}, {}, rank_of(plan) == 0)


def _train(
    module: Trainable[Any],
    source: BatchSource,
    run: Path,
    seconds_per_step: float,
    device: torch.device,
    progress: Progress,
    announce: Announce,
) -> TrainingResult:
    plan, main = module.training_config, rank_of(module.training_config) == 0
    checkpoints = Checkpoints(run / FOLDER, announce, partial(check_fit, module))
    start = checkpoints.read() if checkpoints.exist() else None
    state = TrainState(**start["state"]) if start else TrainState()
    metrics = CSVMetrics(run / "metrics.csv", state.step) if main else None
    if start and state.step >= plan.steps:
        restore_weights(module, start)
        if main:  # a kill may have come between the checkpoint and this
            bundle.write(run / "bundle", module.bundle(run.resolve().name))
        return TrainingResult(run / "bundle", state.step, False, metrics.first("val/") if metrics else {}, {}, main)
    if main:
        checkpoints.mend()

    loggers = Loggers(run, plan, metrics, state.step) if metrics else None
    stop = StopSignal(announce)
    with stop.listening(), Workers() as workers, _capacity_explained(device):
        processes = launch(plan, device)
        module.to(processes.device)
        report = ProgressReport(progress, plan.steps, seconds_per_step)
        loop = Loop(module, source, run, processes, checkpoints, loggers, stop, report, announce)
        try:
            loop.begin(start)
            del start  # its tensors are not needed again
            loop.run(_loader(plan, source, state.position, processes, workers))
        except BaseException:
            # Ctrl-C too: whatever ends this process leaves the others waiting in a sum that it will not join.
            processes.end()
            raise
        finally:
            if loggers:
                loggers.close()
    first = metrics.first("val/") if metrics else {}
    return TrainingResult(run / "bundle", module.step, module.step < plan.steps, first, loop.heldout, main)


def _loader(
    plan: TrainingConfig, source: BatchSource, position: int, processes: Processes, workers: Workers
) -> DataLoader[Any]:
    """This process's share of the batches from `position` on."""
    share = plan.batch_size // processes.size
    part = slice(processes.rank * share, (processes.rank + 1) * share)
    return DataLoader(
        Batches(source, plan.batch_size, position, part),
        # The source puts together whole batches by itself.
        batch_size=None,
        num_workers=min(plan.workers, CORES),
        worker_init_fn=workers.begin,
        pin_memory=processes.device.type == "cuda",
    )


@contextmanager
def _capacity_explained(device: torch.device) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise CapacityError(
            f"{device} does not have enough memory for a step of this training.",
            "Plan it again for less memory with --vram GB, in another folder with -o.",
        ) from error


class Loop:
    """A step for every batch, and what happens around the steps: metrics, validation, demos, checkpoints, rollbacks.

    Args:
        loggers: of the main process; None in all others.
    """

    def __init__(
        self,
        module: Trainable[Any],
        source: BatchSource,
        run: Path,
        processes: Processes,
        checkpoints: Checkpoints,
        loggers: Loggers | None,
        stop: StopSignal,
        report: ProgressReport,
        announce: Announce,
    ) -> None:
        self.module = module
        self.run_folder = run
        self.processes = processes
        self.checkpoints = checkpoints
        self.loggers = loggers
        self.stop = stop
        self.report = report
        self.step = TrainStep(module, processes)
        self.roll_back = Rollback(self.step, source, checkpoints, run / "events.jsonl", announce)
        self.heldout: dict[str, float] = {}
        """The latest held-out losses."""
        self._validated = -1  # at this step
        self._saved = -1  # at this position

    def begin(self, start: dict[str, Any] | None) -> None:
        """Be where the checkpoint `start` was, or at the first weights.

        Raises:
            DataError: other processes are elsewhere.
        """
        if start:
            self.step.restore(start)
        if not self.processes.all_have(self.module.state.position):
            raise DataError(
                "The machines did not find the same checkpoint.", "Give a folder with -o on a disk that they share."
            )
        # A resumed run needs the figures for its report, but has logged them before if it validated at this step.
        self._validate(log=self.module.step == 0)
        # A rollback must have somewhere to go even from the first step.
        if not self.checkpoints.exist():
            self._save()
        self.report.begin()

    def run(self, batches: DataLoader[Any]) -> None:
        """Train until the last step or a signal."""
        for batch in batches:
            if isinstance(batch, MusicLDMError):  # see `Batches`
                raise batch
            result = self.step(to_device(batch, self.processes.device))
            if self._after(result):
                break

    def _after(self, result: StepResult) -> bool:
        """What follows a step; whether it was the last one."""
        plan = self.module.training_config
        if result.fault:
            self._go_back(result)
        step = self.module.step
        finished = step == plan.steps
        due = result.counted and (finished or step % plan.validate_every == 0)
        if result.counted and self.loggers:
            if step % min(LOG_EVERY, plan.steps) == 0:
                self.loggers.log("train", result.terms, step)
            if due:
                self._validate()
            if finished or step % plan.demo_every == 0:
                write_demos(self.module, self.run_folder / "demos", self.loggers.board)
        # Every process has to ask in every step: the answer is a sum over all, and who did not ask would leave the rest
        # waiting.
        stopping = self.processes.any(self.stop.requested)
        if stopping or due:
            self._save()
        if result.counted:
            self.report(step, result.terms, self.heldout)
        return stopping or finished

    def _validate(self, log: bool = True) -> None:
        if not self.loggers:
            return
        with torch.inference_mode():
            self.heldout = self.module.validate()
        self._validated = self.module.step
        if log:
            self.loggers.log("val", self.heldout, self.module.step)

    def _save(self) -> None:
        """Save the checkpoint to resume from and the bundle to use, between two steps."""
        state = self.module.state
        if not self.processes.main or state.position == self._saved:
            return
        loss = self.heldout.get("loss", math.inf) if self._validated == state.step else math.inf
        best = loss < state.best_loss  # never where it is no number
        if best:
            # Before the checkpoint is taken, which must hold it.
            state.best_loss = loss
        # The checkpoint before the bundle. After a kill in between, a finished run writes its bundle when it is started
        # again, and any other one with its next checkpoint.
        self.checkpoints.write(self.step.checkpoint(), best)
        try:
            bundle.write(self.run_folder / "bundle", self.module.bundle(self.run_folder.resolve().name))
        except BundleError:  # of weights that are no numbers, which the next step finds too and goes back from
            if state.step >= self.module.training_config.steps:
                raise
        self._saved = state.position

    def _go_back(self, result: StepResult) -> None:
        self.roll_back(result)
        if self.loggers:
            self.loggers.csv.forget(self.module.step)
            self.checkpoints.mend()
            self._save()  # or a run resumed from here would meet the batch again


class ProgressReport:
    """Tells the caller's progress how far the training is and how fast."""

    def __init__(self, progress: Progress, steps: int, seconds_per_step: float) -> None:
        self.progress = progress
        self.steps = steps
        self.seconds_per_step = seconds_per_step
        self._made = 0
        self._began = 0.0

    def begin(self) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def __call__(self, step: int, terms: dict[str, float], heldout: dict[str, float]) -> None:
        """Report a step with the terms of its loss, and the latest held-out losses."""
        self._made += 1
        speed = self._made / max(1e-9, time.monotonic() - self._began)
        others = [f"{name} {value:.3g}" for name, value in terms.items() if name not in ("total", "rate")]
        words = [f"step {step}", f"{speed:.2f} it/s", f"{speed * self.seconds_per_step:.0f} s of audio a second"]
        words += [f"loss {terms['total']:.4f} ({', '.join(others)})"]
        words += [f"held-out {heldout['loss']:.4f}"] if "loss" in heldout else []
        self.progress(step, self.steps, ", ".join(words))
