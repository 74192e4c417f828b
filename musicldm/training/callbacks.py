"""What happens beside the training steps: looking, listening, saving, stopping."""

from __future__ import annotations

import csv
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from matplotlib.image import imread

from musicldm import bundle, durable
from musicldm.audio import files, spectrogram
from musicldm.progress import Progress
from musicldm.training.module import Trainable

CHECKPOINT = Path("checkpoints/last.ckpt")


class CSVMetrics(Logger):
    """The metrics in one tidy table, `step,name,value`, which a run resumed from step `done` goes on writing."""

    def __init__(self, path: Path, done: int) -> None:
        super().__init__()
        self.path = path
        rows = list(csv.reader(path.read_text().splitlines()))[1:] if path.exists() and done else []
        # What was measured after the checkpoint will be measured again.
        kept = [row for row in rows if len(row) == 3 and row[0].isdigit() and int(row[0]) <= done]
        durable.write_bytes(path, "".join(",".join(row) + "\n" for row in (["step", "name", "value"], *kept)).encode())

    def first(self, prefix: str) -> dict[str, float]:
        """The earliest value of every metric whose name starts so, under the rest of its name."""
        found: dict[str, float] = {}
        for _, name, value in list(csv.reader(self.path.read_text().splitlines()))[1:]:
            if name.startswith(prefix):
                found.setdefault(name.removeprefix(prefix), float(value))
        return found

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The run's config.json has them."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows(
                (step, name, f"{value:.6g}") for name, value in metrics.items() if name != "epoch"
            )


class Validation(pl.Callback):
    """Held-out losses before the first step, every so often, and after the last."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.latest: dict[str, float] = {}

    def on_train_start(self, trainer: pl.Trainer, module: Trainable[Any]) -> None:  # type: ignore[override]
        self._look(trainer, module, log=trainer.global_step == 0)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Trainable[Any], *_: Any) -> None:  # type: ignore[override]
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            self._look(trainer, module, log=True)

    def _look(self, trainer: pl.Trainer, module: Trainable[Any], log: bool) -> None:
        with torch.inference_mode():
            self.latest = module.validate()
        if log:
            for logger in trainer.loggers:
                logger.log_metrics({f"val/{name}": value for name, value in self.latest.items()}, trainer.global_step)


class Demos(pl.Callback):
    """Something to listen to, and its mel spectrograms in one picture: `demos/step-N/*.wav|png` and TensorBoard."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder = folder
        self.every = every

    def on_train_batch_end(self, trainer: pl.Trainer, module: Trainable[Any], *_: Any) -> None:  # type: ignore[override]
        step = trainer.global_step
        if step % self.every and step != trainer.max_steps:
            return
        folder = durable.make_folder(self.folder / f"step-{step}")
        with torch.inference_mode():
            demos = module.demos()
        for demo in demos:
            audio = {title: waveform.float().cpu().clamp(-1, 1).numpy() for title, waveform in demo.audio.items()}
            for title, waveform in audio.items():
                files.write(folder / f"{demo.name}-{title}.wav", waveform, demo.sample_rate)
            spectrogram.picture(folder / f"{demo.name}.png", audio, demo.sample_rate)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    board = logger.experiment
                    for title, waveform in audio.items():
                        board.add_audio(f"{demo.name}/{title}", waveform.mean(axis=0), step, demo.sample_rate)
                    board.add_image(demo.name, imread(folder / f"{demo.name}.png"), step, dataformats="HWC")


class Saving(pl.Callback):
    """The state to resume from, and the bundle to use, every so often, at the end, and when asked to stop."""

    def __init__(self, run: Path, name: str, every: int, stop: StopSignal) -> None:
        self.run = run
        self.name = name
        self.every = every
        self.stop = stop
        self.saved = -1

    def on_train_batch_end(self, trainer: pl.Trainer, module: Trainable[Any], *_: Any) -> None:  # type: ignore[override]
        step = trainer.global_step
        if step % self.every == 0 or step == trainer.max_steps or self.stop.asked:
            self._save(trainer, module)
        if self.stop.asked:
            trainer.should_stop = True

    def on_exception(self, trainer: pl.Trainer, module: Trainable[Any], exception: BaseException) -> None:  # type: ignore[override]
        # Lightning leaves by this way when SIGTERM comes between two batches.
        if self.stop.asked and isinstance(exception, SIGTERMException):
            self._save(trainer, module)

    def _save(self, trainer: pl.Trainer, module: Trainable[Any]) -> None:
        if trainer.global_step == self.saved:
            return
        with durable.replacing(self.run / CHECKPOINT) as temporary:
            trainer.save_checkpoint(temporary)
        bundle.write(self.run / "bundle", module.bundle(self.name))
        self.saved = trainer.global_step


class Watching(pl.Callback):
    """Tells the caller's progress how far the training is and how fast."""

    def __init__(self, progress: Progress, seconds_a_step: float, validation: Validation) -> None:
        self.progress = progress
        self.seconds_a_step = seconds_a_step
        self.validation = validation
        self.began = (0, 0.0)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.began = (trainer.global_step, time.monotonic())

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        step, (first, then) = trainer.global_step, self.began
        rate = (step - first) / max(1e-9, time.monotonic() - then)
        loss = trainer.callback_metrics.get("train/total")
        words = [f"step {step}", f"{rate:.2f} it/s", f"{rate * self.seconds_a_step:.0f} s of audio a second"]
        words += [f"loss {float(loss):.4f}"] if loss is not None else []
        words += [f"held-out {value:.4f}" for name, value in self.validation.latest.items() if name == "loss"]
        self.progress(step, trainer.max_steps, ", ".join(words))


class StopSignal:
    """Ctrl-C and SIGTERM ask the training to save and stop; a second Ctrl-C stops it at once.

    Args:
        announce: told that the first one was heard.
    """

    def __init__(self, announce: Callable[[str], None]) -> None:
        self.asked = False
        self.announce = announce

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear the signals while this lasts."""
        if threading.current_thread() is not threading.main_thread():  # only the main thread may take signals
            yield
            return
        previous = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.asked = True
        self.announce("Saving after this step; Ctrl-C again stops at once.")
