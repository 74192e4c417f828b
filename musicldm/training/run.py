"""Configuration -> Trainer -> run folder; started again, it goes on where it was."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import math
import os
import secrets
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader

from musicldm import models
from musicldm.core import bundle, durable
from musicldm.core.devices import out_of_memory, pick_precision
from musicldm.core.errors import CapacityError, DataError, MismatchError, MissingProgramError, UsageError
from musicldm.core.jobs import CORES
from musicldm.core.progress import Progress, silent
from musicldm.training.callbacks import CSVMetrics, Demos, Metrics, Returning, Saving, StopSignal, Validation, Watching
from musicldm.training.checkpoints import FOLDER, Checkpoints
from musicldm.training.config import TrainingConfig
from musicldm.training.loop import Batches, BatchSource, Trainable, Workers, differences

# A resumed run may train longer or look more often; anything else would make it another run.
MAY_CHANGE = {f"training.{key}" for key in ("steps", "validate_every", "demo_every", "workers", "patience", "wandb")}
CONFIG = "config.json"


Announce = Callable[[str], None]
"""Told a sentence that the user should read now."""


def ignore(sentence: str) -> None:
    """The announcement to someone who does not listen."""


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
    seconds_a_step: float,
    device: torch.device,
    progress: Progress = silent,
    announce: Announce = ignore,
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> TrainingResult:
    """Train `module` on batches of `source` until its last step, saving in the folder `run`.

    Where several devices train, each has a process that calls this; the main one writes, judges and speaks for all.

    Args:
        config: all that defines the run, as plain data; kept as `run/config.json`.
        seconds_a_step: seconds of audio in a batch, for the progress.
        announce: told what the user should know at once.
        upgrade: a `run/config.json` of an earlier release -> as `config` has it.

    Raises:
        OutputError: the folder cannot be written, or another run is writing to it.
        MismatchError: the folder holds a run of another configuration, or on other data.
        DataError: no checkpoint can be read.
        TrainingError: the loss went wrong more often than `patience` allows.
        UsageError: more devices than there are.
        CapacityError: the GPU's memory does not hold a step.
        MissingProgramError: a logger that is not installed.
    """
    plan = module.training_config
    rank = rank_of(plan)
    if rank:
        return _fit(module, source, run, seconds_a_step, device, rank, silent, ignore)
    durable.make_folder(run / FOLDER)
    with durable.locked(run):
        _sweep(run)
        identity = {**config, "data": _digest(module), "init": module.origin.get("digest", "")}
        _remember(run, identity, upgrade)
        return _fit(module, source, run, seconds_a_step, device, rank, progress, announce)


def _fit(
    module: Trainable[Any],
    source: BatchSource,
    run: Path,
    seconds_a_step: float,
    device: torch.device,
    rank: int,
    progress: Progress,
    announce: Announce,
) -> TrainingResult:
    plan, name, main = module.training_config, run.resolve().name, rank == 0
    checkpoints = Checkpoints(run / FOLDER, announce)
    start = checkpoints.read() if checkpoints.exist() else {}
    done, position = (int(start["course"][key]) for key in ("step", "position")) if start else (0, 0)
    metrics = CSVMetrics(run / "metrics.csv", done) if main else None
    if start and done >= plan.steps:
        module.recall(start)
        if main:
            bundle.write(run / "bundle", module.bundle(name))  # a kill may have come between the checkpoint and this
        return TrainingResult(run / "bundle", done, False, metrics.first("val/") if metrics else {}, {}, main)
    if main:
        checkpoints.mend()

    stop = StopSignal(announce)
    validation = Validation(plan.validate_every)
    saving = Saving(run, name, plan.validate_every, checkpoints, validation, stop)
    with _quiet_lightning(), _environment_kept():
        trainer = pl.Trainer(
            **_devices(plan, device),
            max_steps=-1,  # the module counts, and says when to stop
            max_epochs=-1,
            log_every_n_steps=min(10, plan.steps),
            logger=_loggers(run, plan, metrics, done) if metrics else False,
            callbacks=[
                Returning(start, source, saving, run / "events.jsonl", metrics, announce),
                Metrics(min(10, plan.steps)),
                validation,
                Demos(run / "demos", plan.demo_every),
                saving,
                Watching(progress, seconds_a_step, validation),
            ],
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=run,
        )
        with stop.listening(), Workers() as workers:
            share = plan.batch_size // plan.processes
            loader = DataLoader(
                Batches(source, plan.batch_size, position, slice(rank * share, (rank + 1) * share)),
                batch_size=None,
                num_workers=min(plan.workers, CORES),
                worker_init_fn=workers.begin,
                pin_memory=device.type == "cuda",
            )
            try:
                trainer.fit(module, loader)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                raise CapacityError(
                    f"The memory of {device} does not hold a step of this training.",
                    "Plan it anew for less with --vram GB, in another folder with -o.",
                ) from error
            except SIGTERMException:
                pass  # Lightning's own reaction to the signal that `stop` has heard too
            except SystemExit as exit:  # Lightning's reaction to KeyboardInterrupt
                raise KeyboardInterrupt from exit
    first = metrics.first("val/") if metrics else {}
    return TrainingResult(run / "bundle", module.step, module.step < plan.steps, first, validation.latest, main)


def settle(plan: TrainingConfig, run: Path, device: torch.device) -> TrainingConfig:
    """The plan with no `auto` left in it: what the run in this folder has, else what the device is good for.

    Raises:
        UsageError: an unknown precision, or one that the device has no use for.
    """
    precision = plan.precision
    if precision == "auto":
        with suppress(OSError, ValueError, KeyError, TypeError):  # a damaged file is told of later
            precision = str(json.loads((run / CONFIG).read_bytes())["training"]["precision"])
    return replace(plan, precision=pick_precision(precision, device))


def begin_with(
    module: Trainable[Any], init: Path | None, role: bundle.Role, config: dict[str, Any], announce: Announce
) -> None:
    """Give the module the first weights of the bundle at `init`, where there is one; see `Trainable.begin_with`."""
    if not init:
        return
    module.begin_with(bundle.read(models.find(init)), role, config)
    known = {track["content"] for track in module.origin["tracks"] if track["split"] == "train"}
    seen = sum(track.split == "heldout" and track.content in known for track in module.tracks)
    if seen:
        announce(f"{init} was trained on {seen} of the tracks held out here, so the held-out figures will flatter.")


def rank_of(plan: TrainingConfig) -> int:
    """Which of the processes that train together this is; their launcher says so before they have met."""
    if plan.processes == 1:
        return 0
    if "RANK" in os.environ:  # torchrun
        return int(os.environ["RANK"])
    if "LOCAL_RANK" in os.environ or "NODE_RANK" in os.environ:  # Lightning's own
        return int(os.environ.get("NODE_RANK", 0)) * plan.devices + int(os.environ.get("LOCAL_RANK", 0))
    return int(os.environ.get("SLURM_PROCID", 0))


def crop_length(seconds: float, unit: int, rate: float) -> int:
    """The least multiple of `unit` that lasts `seconds` at `rate` a second."""
    return max(1, math.ceil(seconds * rate / unit - 1e-6)) * unit


def say_left_out(announce: Announce, left_out: int, used: int, seconds: float) -> None:
    """Say how many tracks are too short to train on."""
    if left_out:
        announce(
            f"{left_out} of {left_out + used} training tracks are shorter than a crop of {seconds:.2f} s: left out."
        )


def _sweep(run: Path) -> None:
    """Remove what a killed run left unfinished."""
    for folder in (run, run / FOLDER, run / "bundle"):
        for leftover in folder.glob(f"{durable.TEMPORARY}*"):
            if leftover.is_file():
                leftover.unlink(missing_ok=True)


def _remember(run: Path, config: dict[str, Any], upgrade: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path = run / CONFIG
    config = json.loads(json.dumps(config))  # as it will be read again
    begun = Checkpoints(run / FOLDER, ignore).exist()
    if not begun and (run / "bundle" / bundle.INDEX).exists():
        raise MismatchError(
            f"{run} has a trained model, but no checkpoint to go on from.",
            f"Choose another folder with -o; --init {run} begins with these weights.",
        )
    if path.exists() and begun:
        try:
            before = json.loads(json.dumps(upgrade(json.loads(path.read_bytes()))))
        except ValueError as error:
            raise DataError(f"{path} is damaged.", "Choose another folder with -o.") from error
        config["init"] = config["init"] or before.get("init", "")  # its weights are not needed again
        if changed := [key for key in differences(before, config) if key not in MAY_CHANGE]:
            raise MismatchError(
                f"{run} holds a run of another configuration: {', '.join(changed)} differ.",
                "Give the same options and data to resume it, or choose another folder with -o.",
            )
    durable.write_json(path, config)


def _digest(module: Trainable[Any]) -> str:
    """Of the music and its split: a run that went on with other data would have seen what it holds out."""
    lines = sorted(f"{track.content} {track.split}" for track in module.tracks)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class _Replicas(DDPStrategy):
    """A process with all the weights on each device. `Trainable` averages the gradients itself, once a step."""

    def configure_ddp(self) -> None:
        pass


def _devices(plan: TrainingConfig, device: torch.device) -> dict[str, Any]:
    """What the Trainer must know of them."""
    cuda = device.type == "cuda"
    if cuda and plan.devices > torch.cuda.device_count():
        raise UsageError(
            f"There are {torch.cuda.device_count()} GPUs here, not {plan.devices}.", "Lower --devices to what there is."
        )
    if plan.processes > 1 and device.type not in ("cpu", "cuda"):
        raise UsageError(f"Several {device.type} devices cannot train together.", "Leave --devices out.")
    if plan.devices > 1 and device.index is not None:
        raise UsageError(
            f"{device} is one device, not {plan.devices}.", "Leave the number out of --device, or --devices."
        )
    alone = plan.processes == 1
    return {
        "accelerator": "gpu" if cuda else device.type,
        "devices": [device.index or 0] if cuda and alone else plan.devices,
        "num_nodes": plan.nodes,
        "strategy": "auto" if alone else _Replicas(),
    }


def _loggers(run: Path, plan: TrainingConfig, metrics: CSVMetrics, done: int) -> list[Logger]:
    loggers: list[Logger] = [metrics, TensorBoardLogger(run, name=None, version="tensorboard")]
    if plan.wandb:
        if importlib.util.find_spec("wandb") is None:
            raise MissingProgramError("Weights & Biases is not installed.", "pip install wandb, or leave out --wandb.")
        identity = run / "wandb-id"  # by which a run that goes on is the same one there too
        if not (done and identity.exists()):
            durable.write_bytes(identity, secrets.token_hex(4).encode())
        loggers.append(
            WandbLogger(
                name=run.resolve().name, project=plan.wandb, save_dir=run, id=identity.read_text(), resume="allow"
            )
        )
    return loggers


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Lightning tells its other processes who they are by the environment, and forgets to clean up its own."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]


class _quiet_lightning(warnings.catch_warnings):
    """Lightning speaks to developers; what a user must know, this package says itself."""

    def __enter__(self) -> None:
        super().__enter__()
        self._loggers = [logging.getLogger(f"lightning.{half}") for half in ("pytorch", "fabric")]
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*num_workers.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")

    def __exit__(self, *exception: Any) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)
        super().__exit__(*exception)
