"""What happens beside the training steps: looking, listening, saving, stopping."""

from __future__ import annotations

import csv
import math
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
from matplotlib.image import imread

from musicldm.core import bundle, durable
from musicldm.core.errors import DataError, TrainingError
from musicldm.core.progress import Progress
from musicldm.media.audio import files, spectrogram
from musicldm.training.checkpoints import Checkpoints
from musicldm.training.loop import BatchSource, Outcome, Trainable

NAMED = 3  # crops of a bad batch that a sentence names


class CSVMetrics(Logger):
    """The metrics in one tidy table, `step,name,value`, which a run resumed from step `done` goes on writing."""

    def __init__(self, path: Path, done: int) -> None:
        super().__init__()
        self.path = path
        if not done:
            path.unlink(missing_ok=True)
        self.forget(done)

    def forget(self, done: int) -> None:
        """Drop what was measured after step `done`: it will be measured again."""
        rows = list(csv.reader(self.path.read_text().splitlines()))[1:] if self.path.exists() else []
        kept = [row for row in rows if len(row) == 3 and row[0].isdigit() and int(row[0]) <= done]
        lines = (",".join(row) + "\n" for row in (["step", "name", "value"], *kept))
        durable.write_bytes(self.path, "".join(lines).encode())

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


class AfterStep(pl.Callback):
    """What the main process does after each step that counts."""

    def on_train_batch_end(self, trainer: pl.Trainer, module: Trainable[Any], *_: Any) -> None:  # type: ignore[override]
        if module.outcome.counts and trainer.is_global_zero:
            self.after_step(trainer, module)

    def after_step(self, trainer: pl.Trainer, module: Trainable[Any]) -> None:
        raise NotImplementedError


class Metrics(AfterStep):
    """The terms of the loss, the gradient and the rate of every so many steps."""

    def __init__(self, every: int) -> None:
        self.every = every

    def after_step(self, trainer: pl.Trainer, module: Trainable[Any]) -> None:
        if module.step % self.every == 0:
            for logger in trainer.loggers:
                logger.log_metrics(
                    {f"train/{name}": value for name, value in module.outcome.terms.items()}, module.step
                )


class Validation(AfterStep):
    """Held-out losses before the first step, every so often, and after the last."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.latest: dict[str, float] = {}
        self.looked = -1
        """The step of the latest look."""

    def on_train_start(self, trainer: pl.Trainer, module: Trainable[Any]) -> None:  # type: ignore[override]
        if trainer.is_global_zero:
            self._look(trainer, module, log=module.step == 0)

    def after_step(self, trainer: pl.Trainer, module: Trainable[Any]) -> None:
        if module.step % self.every == 0 or module.step == module.training_config.steps:
            self._look(trainer, module, log=True)

    def _look(self, trainer: pl.Trainer, module: Trainable[Any], log: bool) -> None:
        with torch.inference_mode():
            self.latest = module.validate()
        self.looked = module.step
        if log:
            for logger in trainer.loggers:
                logger.log_metrics({f"val/{name}": value for name, value in self.latest.items()}, module.step)


class Demos(AfterStep):
    """Something to listen to and to look at: `demos/step-N/*.wav|png` and TensorBoard."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder = folder
        self.every = every

    def after_step(self, trainer: pl.Trainer, module: Trainable[Any]) -> None:
        step = module.step
        if step % self.every and step != module.training_config.steps:
            return
        boards = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        folder = durable.make_folder(self.folder / f"step-{step}")
        with torch.inference_mode():
            demos, pictures = module.demos(), module.pictures(folder)
        for demo in demos:
            audio = {title: waveform.float().cpu().clamp(-1, 1).numpy() for title, waveform in demo.audio.items()}
            for title, waveform in audio.items():
                files.write(folder / f"{demo.name}-{title}.wav", waveform, demo.sample_rate)
                for board in boards:
                    board.add_audio(f"{demo.name}/{title}", waveform.mean(axis=0), step, demo.sample_rate)
            pictures.append(folder / f"{demo.name}.png")
            spectrogram.picture(pictures[-1], audio, demo.sample_rate)
        for picture in pictures:
            for board in boards:
                board.add_image(picture.stem, imread(picture), step, dataformats="HWC")


class Saving(pl.Callback):
    """The state to go on from, and the bundle to use: at first, every so often, at the end, and when asked to stop."""

    def __init__(
        self, run: Path, name: str, every: int, checkpoints: Checkpoints, validation: Validation, stop: StopSignal
    ) -> None:
        self.run = run
        self.name = name
        self.every = every
        self.checkpoints = checkpoints
        self.validation = validation
        self.stop = stop
        self.saved = -1

    def on_train_start(self, trainer: pl.Trainer, module: Trainable[Any]) -> None:  # type: ignore[override]
        self.stop.listen()  # Lightning has put its own handler first, which would leave in the middle of things
        if not self.checkpoints.exist():
            self.save(trainer, module)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Trainable[Any], *_: Any) -> None:  # type: ignore[override]
        step = module.step
        stopping = trainer.strategy.reduce_boolean_decision(self.stop.asked, all=False)
        finished = step == module.training_config.steps
        if stopping or (module.outcome.counts and (finished or step % self.every == 0)):
            self.save(trainer, module)
        if stopping or finished:
            trainer.should_stop = True

    def save(self, trainer: pl.Trainer, module: Trainable[Any]) -> None:
        """Save now, between two steps."""
        course = module.course
        if not trainer.is_global_zero or course.position == self.saved:
            return
        loss = self.validation.latest.get("loss", math.inf) if self.validation.looked == course.step else math.inf
        best = loss < course.best  # never where it is no number
        if best:
            course.best = loss
        self.checkpoints.write(module.state(), best)
        bundle.write(self.run / "bundle", module.bundle(self.name))
        self.saved = course.position


class Returning(pl.Callback):
    """Where the training begins, and where it goes back to when it goes wrong: the last good checkpoint.

    A return halves the learning rate and leaves out the batch that was met; after too many of them it is an error.

    Args:
        start: the checkpoint to go on from; empty for a new run.
        journal: the file that keeps every return.
    """

    def __init__(
        self,
        start: dict[str, Any],
        source: BatchSource,
        saving: Saving,
        journal: Path,
        metrics: CSVMetrics | None,
        announce: Callable[[str], None],
    ) -> None:
        self.start = start
        self.source = source
        self.saving = saving
        self.journal = journal
        self.metrics = metrics
        self.announce = announce

    def on_train_start(self, trainer: pl.Trainer, module: Trainable[Any]) -> None:  # type: ignore[override]
        if self.start:
            module.restore(self.start)
        self.start = {}
        if trainer.strategy.broadcast(module.course.position) != module.course.position:
            raise DataError(
                "The machines do not find the same checkpoint.", "Name a folder with -o on a disk that they share."
            )

    def on_train_batch_end(self, trainer: pl.Trainer, module: Trainable[Any], *_: Any) -> None:  # type: ignore[override]
        if module.outcome.fault:
            self._return(trainer, module)

    def _return(self, trainer: pl.Trainer, module: Trainable[Any]) -> None:
        config, failed = module.training_config, module.course
        crops = self._crops(module, module.outcome)
        where = f"At step {failed.step} the loss {module.outcome.fault} on {_some(crops)}"
        if failed.returns == config.patience:
            raise TrainingError(
                f"{where}, and the training has gone back {failed.returns} times already.",
                "The last checkpoint is good. Listen to these places, or begin in another folder with a lower "
                "--learning-rate.",
            )
        # A checkpoint from which not one step could be made was bad itself.
        module.restore(self.saving.checkpoints.read(before=failed.step == failed.returned))
        course = module.course
        course.position = failed.position  # past this batch
        course.rate_scale, course.returns, course.returned = failed.rate_scale / 2, failed.returns + 1, course.step
        if not trainer.is_global_zero:
            return
        rate = config.learning_rate * course.rate_scale
        self.announce(f"{where}: back to step {course.step}, with a learning rate of {rate:.3g} from now on.")
        durable.Journal(self.journal, "return").append(
            {
                "return": course.returns,
                "step": failed.step,
                "loss": module.outcome.fault,
                "crops": crops,
                "back_to": course.step,
                "learning_rate": rate,
            }
        )
        if self.metrics:
            self.metrics.forget(module.step)
        self.saving.checkpoints.mend()
        self.saving.save(trainer, module)  # or a run resumed from here would meet the batch again

    def _crops(self, module: Trainable[Any], outcome: Outcome) -> list[str]:
        """The crops that were at fault, as far as is known."""
        config = module.training_config
        crops = self.source.describe(module.course.position - 1, config.batch_size)
        if not outcome.parts:
            return crops
        size = config.part_size
        return [crop for part in outcome.parts for crop in crops[part * size : (part + 1) * size]]


def _some(crops: list[str]) -> str:
    more = len(crops) - NAMED
    return ", ".join(crops[:NAMED]) + (f" and {more} more" if more > 0 else "")


class Watching(AfterStep):
    """Tells the caller's progress how far the training is and how fast."""

    def __init__(self, progress: Progress, seconds_a_step: float, validation: Validation) -> None:
        self.progress = progress
        self.seconds_a_step = seconds_a_step
        self.validation = validation
        self.steps = 0
        self.began = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.began = time.monotonic()

    def after_step(self, trainer: pl.Trainer, module: Trainable[Any]) -> None:
        self.steps += 1
        rate = self.steps / max(1e-9, time.monotonic() - self.began)
        terms = module.outcome.terms
        others = [f"{name} {value:.3g}" for name, value in terms.items() if name not in ("total", "rate")]
        words = [f"step {module.step}", f"{rate:.2f} it/s", f"{rate * self.seconds_a_step:.0f} s of audio a second"]
        words += [f"loss {terms['total']:.4f} ({', '.join(others)})"]
        words += [f"held-out {value:.4f}" for name, value in self.validation.latest.items() if name == "loss"]
        self.progress(module.step, module.training_config.steps, ", ".join(words))


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
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.listen()
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def listen(self) -> None:
        """Be the one who hears the signals, in place of who did."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._take)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.asked = True
        self.announce("Saving after this step; Ctrl-C again stops at once.")
