"""Configuration -> Trainer -> run folder; started again, it goes on where it was."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import warnings
from collections.abc import Callable
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
from musicldm.jobs import CORES
from musicldm.progress import Progress, silent
from musicldm.training.callbacks import CHECKPOINT, CSVMetrics, Demos, Saving, StopSignal, Validation, Watching
from musicldm.training.module import Batches, BatchSource, Trainable, Workers

# A resumed run may train longer or look more often; anything else would make it another run.
MAY_CHANGE = {f"training.{key}" for key in ("steps", "validate_every", "demo_every", "workers")}


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


def fit(
    module: Trainable[Any],
    source: BatchSource,
    run: Path,
    config: dict[str, Any],
    seconds_a_step: float,
    device: torch.device,
    precision: str = "auto",
    progress: Progress = silent,
    announce: Announce = ignore,
) -> TrainingResult:
    """Train `module` on batches of `source` until its last step, saving in the folder `run`.

    Args:
        config: all that defines the run, as plain data; kept as `run/config.json`.
        seconds_a_step: seconds of audio in a batch, for the progress.
        announce: told what the user should know at once.

    Raises:
        OutputError: the folder cannot be written.
        MismatchError: the folder holds a run of another configuration, or on other data.
        DataError: its checkpoint cannot be read.
        TrainingError: the loss is no longer a number.
    """
    plan = module.training_config
    precision = pick_precision(precision, device)
    durable.make_folder(run / CHECKPOINT.parent)
    for folder in (run, run / CHECKPOINT.parent, run / "bundle"):
        for leftover in folder.glob(f"{durable.TEMPORARY}*"):  # of a killed run
            if leftover.is_file():
                leftover.unlink(missing_ok=True)
    _remember(run, {**config, "data": _digest(module)})
    checkpoint = _read_checkpoint(run / CHECKPOINT)
    done = int(checkpoint["global_step"]) if checkpoint else 0
    metrics = CSVMetrics(run / "metrics.csv", done)
    name = run.resolve().name
    if checkpoint and done >= plan.steps:
        module.load_state_dict(checkpoint["state_dict"])
        bundle.write(run / "bundle", module.bundle(name))  # a kill may have come between the checkpoint and this
        return TrainingResult(run / "bundle", done, interrupted=False, first=metrics.first("val/"), last={})

    stop = StopSignal(announce)
    validation = Validation(plan.validate_every)
    with _quiet_lightning():
        trainer = pl.Trainer(
            accelerator=device.type if device.type != "cuda" else "gpu",
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision={"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}[precision],  # type: ignore[arg-type]
            max_steps=plan.steps,
            max_epochs=-1,
            gradient_clip_val=plan.gradient_clip,
            log_every_n_steps=min(10, plan.steps),
            logger=[metrics, TensorBoardLogger(run, name=None, version="tensorboard")],
            callbacks=[
                validation,
                Demos(run / "demos", plan.demo_every),
                Saving(run, name, plan.validate_every, stop),
                Watching(progress, seconds_a_step, validation),
            ],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=run,
        )
        with stop.listening(), Workers() as workers:
            loader = DataLoader(
                Batches(source, plan.batch_size, done),
                batch_size=None,
                num_workers=min(plan.workers, CORES),
                worker_init_fn=workers.begin,
                pin_memory=device.type == "cuda",
            )
            try:
                trainer.fit(module, loader, ckpt_path=run / CHECKPOINT if done else None, weights_only=True)
            except SIGTERMException:
                pass  # Lightning's own reaction to the signal that `stop` has heard too
            except SystemExit as exit:  # Lightning's reaction to KeyboardInterrupt
                raise KeyboardInterrupt from exit
    interrupted = stop.asked and trainer.global_step < plan.steps
    return TrainingResult(run / "bundle", trainer.global_step, interrupted, metrics.first("val/"), validation.latest)


def crop_length(seconds: float, unit: int, rate: float) -> int:
    """The least multiple of `unit` that lasts `seconds` at `rate` a second."""
    return max(1, math.ceil(seconds * rate / unit - 1e-6)) * unit


def say_left_out(announce: Announce, left_out: int, used: int, seconds: float) -> None:
    """Say how many tracks are too short to train on."""
    if left_out:
        announce(
            f"{left_out} of {left_out + used} training tracks are shorter than a crop of {seconds:.2f} s: left out."
        )


def _remember(run: Path, config: dict[str, Any]) -> None:
    path = run / "config.json"
    config = json.loads(json.dumps(config))  # as it will be read again
    if path.exists() and (run / CHECKPOINT).exists():
        try:
            before = json.loads(path.read_bytes())
        except ValueError as error:
            raise DataError(f"{path} is damaged.", "Choose another folder with -o.") from error
        if changed := [key for key in _differences(before, config) if key not in MAY_CHANGE]:
            raise MismatchError(
                f"{run} holds a run of another configuration: {', '.join(changed)} differ.",
                "Give the same options and data to resume it, or choose another folder with -o.",
            )
    durable.write_json(path, config)


def _differences(a: Any, b: Any, where: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(a.keys() | b.keys())
        return [
            name for key in keys for name in _differences(a.get(key), b.get(key), f"{where}.{key}" if where else key)
        ]
    return [] if a == b else [where]


def _digest(module: Trainable[Any]) -> str:
    """Of the music and its split: a run that went on with other data would have seen what it holds out."""
    lines = sorted(f"{track.content} {track.split}" for track in module.tracks)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint to resume from; empty where there is none yet."""
    if not path.exists():
        return {}
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    except Exception as error:  # torch names no error of its own for a broken archive
        raise DataError(
            f"The checkpoint {path} cannot be read.", "Delete it to start anew, or choose another folder with -o."
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
