"""What VAE and denoiser share as Lightning modules: optimizer, averaged weights, and chance that can be resumed."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Generic, Protocol, Self, TypeVar

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import IterableDataset, get_worker_info

from musicldm.bundle import Bundle
from musicldm.config import to_dict
from musicldm.errors import MusicLDMError, TrainingError
from musicldm.seeding import derive
from musicldm.training.config import TrainingConfig

Model = TypeVar("Model", bound=nn.Module)


class TrackFacts(Protocol):
    """What is remembered of a track that was trained on, or held out."""

    @property
    def artist(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def content(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def provenance(self) -> dict[str, Any]: ...
    @property
    def seconds(self) -> float: ...


@dataclass(frozen=True)
class Demo:
    """Something to hear and see of a model in training."""

    name: str
    audio: dict[str, Tensor]
    """Title -> waveform [C, T]."""
    sample_rate: int


class Trainable(pl.LightningModule, ABC, Generic[Model]):
    """A model in training, beside the moving average of its weights that is validated, heard and shipped."""

    def __init__(self, model: Model, config: TrainingConfig, tracks: Sequence[TrackFacts]) -> None:
        super().__init__()
        self.model = model
        self.training_config = config
        self.tracks = tracks
        self.averaged = AveragedModel(model, multi_avg_fn=_moving_average(config.ema))

    @property
    def best(self) -> Model:
        """The averaged model."""
        return self.averaged.module  # type: ignore[return-value]

    @abstractmethod
    def losses(self, batch: Any) -> dict[str, Tensor]:
        """The terms of the loss of a training batch; `total` is what is minimised."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """The losses of the averaged model on fixed crops of held-out tracks; empty where there are none."""

    @abstractmethod
    def demos(self) -> list[Demo]:
        """What the averaged model sounds like now."""

    @abstractmethod
    def bundle(self, name: str) -> Bundle:
        """What to ship."""

    def facts(self, config: Any) -> dict[str, Any]:
        """What a bundle tells of this training: its configuration, and every track with its split and its rights."""
        step = int(self.averaged.n_averaged)
        keys = ("artist", "title", "content", "split", "provenance")
        tracks = [
            {**{key: getattr(track, key) for key in keys}, "seconds": round(track.seconds, 3)} for track in self.tracks
        ]
        return {"training": to_dict(config), "step": step, "tracks": tracks}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if isinstance(batch, MusicLDMError):  # a worker process met it, see `Batches`
            raise batch
        # Every step has its own seed, so that a resumed run draws what the undisturbed one would have drawn.
        torch.manual_seed(derive(self.training_config.seed, "step", self.global_step, self.global_rank))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = self.losses(batch)
        total = losses["total"]
        if not torch.isfinite(total):
            raise TrainingError(
                f"The loss is no longer a number at step {self.global_step}.",
                "The last checkpoint is good: lower --learning-rate and start again in a new folder.",
            )
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()})
        return total

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.averaged.update_parameters(self.model)

    def configure_optimizers(self) -> Any:
        config = self.training_config
        beta1, beta2 = config.betas
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, betas=(beta1, beta2), weight_decay=config.weight_decay
        )

        def rate(step: int) -> float:
            falling = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / config.steps))
            return min(1.0, (step + 1) / max(1, config.warmup)) * (0.05 + 0.95 * falling)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class BatchSource(Protocol):
    """A dataset whose batches, tensors or tuples of them, are a pure function of the step."""

    def batch(self, step: int, batch_size: int, /) -> Any: ...


class Batches(IterableDataset[Any]):
    """The batches of all steps from `start` on, for a DataLoader with any number of workers.

    An error is handed on like a batch: raised in a worker process, torch would bury its sentence in a traceback.
    """

    def __init__(self, source: BatchSource, batch_size: int, start: int) -> None:
        self.source = source
        self.batch_size = batch_size
        self.start = start

    def __iter__(self) -> Iterator[Any]:
        # A DataLoader takes from its workers in turn: worker w of n makes every n-th batch.
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        step = self.start + first
        while True:
            try:
                yield self.source.batch(step, self.batch_size)
            except MusicLDMError as error:
                yield error
            step += stride


class Workers:
    """The worker processes of a DataLoader: they end when the main process says so, or with it.

    Signals to the whole group, such as Ctrl-C, must not take them away from a training that is about to save itself.
    Nor can it be left to multiprocessing to end them, which would wait for ever for what ignores SIGTERM.
    """

    def __init__(self) -> None:
        self._told, self._tell = multiprocessing.Pipe(duplex=False)  # its end is the word

    def begin(self, worker: int) -> None:
        """The DataLoader's `worker_init_fn`."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._tell.close()  # our copy; the last one to be open is the main process's

        def watch() -> None:
            wait([self._told])
            os._exit(0)

        threading.Thread(target=watch, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._tell.close()
        self._told.close()


def _moving_average(decay: float) -> Any:
    def update(averages: list[Tensor], weights: list[Tensor], count: Tensor | int) -> None:
        # A young average forgets faster, or it would remember the untrained weights for long.
        memory = min(decay, (1 + float(count)) / (10 + float(count)))
        torch._foreach_lerp_(averages, weights, 1 - memory)

    return update
