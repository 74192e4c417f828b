"""Configuration -> Trainer -> run folder; started again, it goes on where it was."""

from __future__ import annotations

import json
import logging
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader

from musicldm import bundle, durable
from musicldm.devices import pick_precision
from musicldm.errors import DataError, MismatchError
from musicldm.progress import Progress, silent
from musicldm.training.callbacks import CHECKPOINT, CSVMetrics, Demos, Saving, StopSignal, Validation, Watching
from musicldm.training.module import Batches, BatchSource, Trainable

# A resumed run may train longer or look more often; anything else would make it another run.
MAY_CHANGE = {"steps", "validate_every", "demo_every", "workers"}


@dataclass(frozen=True)
class TrainingResult:
    """What a run left."""

    bundle: Path
    steps: int
    interrupted: bool
    first: dict[str, float] | None
    """The first held-out losses that this start saw; empty without held-out tracks, None where all was done before."""
    last: dict[str, float] | None
    """The last of them."""


def fit(
    module: Trainable[Any],
    source: BatchSource,
    run: Path,
    config: dict[str, Any],
    seconds_a_step: float,
    device: torch.device,
    precision: str = "auto",
    progress: Progress = silent,
) -> TrainingResult:
    """Train `module` on batches of `source` until its last step, saving in the folder `run`.

    Args:
        config: all that defines the run, as plain data; kept as `run/config.json`.
        seconds_a_step: seconds of audio in a batch, for the progress.

    Raises:
        OutputError: the folder cannot be written.
        MismatchError: the folder holds a run of another configuration.
        DataError: its checkpoint cannot be read.
        TrainingError: the loss is no longer a number.
    """
    plan = module.training_config
    durable.make_folder(run / CHECKPOINT.parent)
    _remember(run, config)
    done = _step_of(run / CHECKPOINT) if (run / CHECKPOINT).exists() else 0
    if done >= plan.steps and (run / "bundle" / bundle.INDEX).exists():
        return TrainingResult(run / "bundle", done, interrupted=False, first=None, last=None)

    stop = StopSignal()
    validation = Validation(plan.validate_every)
    with _quiet_lightning():
        trainer = pl.Trainer(
            accelerator=device.type if device.type != "cuda" else "gpu",
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision={"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}[pick_precision(precision, device)],  # type: ignore[arg-type]
            max_steps=plan.steps,
            max_epochs=-1,
            gradient_clip_val=plan.gradient_clip,
            log_every_n_steps=min(10, plan.steps),
            logger=[CSVMetrics(run / "metrics.csv"), TensorBoardLogger(run, name=None, version="tensorboard")],
            callbacks=[
                validation,
                Demos(run / "demos", plan.demo_every),
                Saving(run, run.resolve().name, plan.validate_every, stop),
                Watching(progress, seconds_a_step, validation),
            ],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=run,
        )
        loader = DataLoader(
            Batches(source, plan.batch_size, done),
            batch_size=None,
            num_workers=plan.workers,
            pin_memory=device.type == "cuda",
        )
        with stop.listening():
            try:
                trainer.fit(module, loader, ckpt_path=run / CHECKPOINT if done else None, weights_only=True)
            except SIGTERMException:
                pass  # Lightning's own reaction to the signal that `stop` has heard too
    interrupted = stop.asked and trainer.global_step < plan.steps
    return TrainingResult(run / "bundle", trainer.global_step, interrupted, validation.first, validation.latest)


def crop_length(seconds: float, unit: int, rate: float) -> int:
    """The least multiple of `unit` that lasts `seconds` at `rate` a second."""
    return max(1, math.ceil(seconds * rate / unit - 1e-6)) * unit


def _remember(run: Path, config: dict[str, Any]) -> None:
    path = run / "config.json"
    config = json.loads(json.dumps(config))  # as it will be read again
    if path.exists() and (run / CHECKPOINT).exists():
        try:
            before = json.loads(path.read_bytes())
        except ValueError as error:
            raise DataError(f"{path} is damaged.", "Choose another folder with -o.") from error
        if changed := [key for key in _differences(before, config) if key.rpartition(".")[2] not in MAY_CHANGE]:
            raise MismatchError(
                f"{run} holds a run of another configuration: {', '.join(changed)} differ.",
                "Give the same options to resume it, or choose another folder with -o.",
            )
    durable.write_json(path, config)


def _differences(a: Any, b: Any, where: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(a.keys() | b.keys())
        return [
            name for key in keys for name in _differences(a.get(key), b.get(key), f"{where}.{key}" if where else key)
        ]
    return [] if a == b else [where]


def _step_of(checkpoint: Path) -> int:
    try:
        return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except Exception as error:  # torch names no error of its own for a broken archive
        raise DataError(
            f"The checkpoint {checkpoint} cannot be read.", "Delete it to start anew, or choose another folder with -o."
        ) from error


class _quiet_lightning(warnings.catch_warnings):
    """Lightning speaks to developers; what a user must know, this package says itself."""

    def __enter__(self) -> None:
        super().__enter__()
        self._level = logging.getLogger("lightning.pytorch").level
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*num_workers.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")

    def __exit__(self, *exception: Any) -> None:
        logging.getLogger("lightning.pytorch").setLevel(self._level)
        super().__exit__(*exception)
