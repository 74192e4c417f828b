"""What VAE and denoiser share in training: the step, averaged weights, and chance that can be resumed."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import multiprocessing
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.utils._pytree import tree_map
from torch.utils.data import IterableDataset, get_worker_info

from musicldm.core.bundle import Bundle, Role, TrainingFacts
from musicldm.core.config import to_dict
from musicldm.core.devices import autocast
from musicldm.core.errors import MismatchError, MusicLDMError
from musicldm.core.seeding import derive
from musicldm.training.config import TrainingConfig

Model = TypeVar("Model", bound=nn.Module)

SETTLING = 50  # steps before a loss can be told from a jump
JUMP = (8.0, math.log(4.0))  # in spreads of the logarithm of the loss, and at least
MEMORY = 100  # steps by which the loss is judged
OVERFLOWS = 20  # steps in a row whose gradients a scaled loss may drive out of 16 bits


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


@dataclass
class Course:
    """How far a training is and how it went: with the tensors, all that a checkpoint must hold."""

    step: int = 0
    """Optimizer steps that count."""
    position: int = 0
    """Batches drawn so far, also those whose step does not count: what data and chance go by."""
    rate_scale: float = 1.0
    """Of the learning rate; halved at every return to a checkpoint."""
    returns: int = 0
    """To the last good checkpoint."""
    returned: int = -1
    """The step that the latest return led to."""
    overflows: int = 0
    """Steps in a row that did not count because their gradients left the range of 16 bits."""
    loss_mean: float = 0.0
    """Of the loss's logarithm, over recent steps."""
    loss_variance: float = 0.0
    best: float = math.inf
    """The lowest held-out loss."""


@dataclass(frozen=True)
class Outcome:
    """What became of a batch."""

    counts: bool
    """Whether the step was made."""
    terms: dict[str, float] = field(default_factory=dict)
    """The terms of the loss over the whole batch, the gradient's norm and the learning rate."""
    fault: str = ""
    """Why the training must return to its last checkpoint; the rest of a sentence that begins with the loss."""
    parts: tuple[int, ...] = ()
    """Where the fault lies, of the parts of the batch; empty: anywhere."""


class Trainable(pl.LightningModule, ABC, Generic[Model]):
    """A model in training, beside the moving average of its weights that is validated, heard and shipped.

    A step's crops go through the network in parts, on one device or several, and what comes of it is the same: each
    part is a slice of the step's draw, its gradients are averaged with the others', and chance belongs to the crops.
    """

    def __init__(self, model: Model, config: TrainingConfig, tracks: Sequence[TrackFacts]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.averaged = copy.deepcopy(model).eval().requires_grad_(False)
        self.training_config = config
        self.tracks = tracks
        self.course = Course()
        self.origin: dict[str, Any] = {}
        """Of the bundle whose weights were the first: its `name`, the part's `digest`, and its `tracks`; or empty."""
        self.outcome = Outcome(counts=False)
        self.scaler = GradScaler(enabled=False)
        self._chance: torch.Generator | None = None
        self._first = 0  # of the crops that are going through the network
        if hasattr(model, "checkpointing"):
            model.checkpointing = config.checkpointing  # type: ignore[assignment]

    @property
    def best(self) -> Model:
        """The averaged model."""
        return self.averaged

    @property
    def step(self) -> int:
        """Optimizer steps made so far."""
        return self.course.step

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

    def pictures(self, folder: Path) -> list[Path]:
        """Draw what else there is to see of the averaged model as PNG files in `folder`."""
        return []

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained: groups with a gradient norm each, and a `name`, `lr` or `betas` of their own if need be."""
        return [{"params": list(self.model.parameters())}]

    def learn(self, batch: Any) -> dict[str, Tensor]:
        """Add the gradients of a part of the batch to the parameters.

        Returns:
            The terms of its loss, detached. By `total` a training gone wrong is known.
        """
        with autocast(self.training_config.precision, self.device):
            losses = self.losses(batch)
        self.backward(losses["total"])
        return {name: value.detach() for name, value in losses.items()}

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Add the gradients of a part's loss, weighed as a part and scaled as the precision needs it."""
        torch.autograd.backward(self.scaler.scale(loss / self.training_config.accumulate))

    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal numbers for crops [B, …], which are each crop's own, whatever part it comes in."""
        return self._own(x, lambda *shape: torch.randn(*shape, device=x.device, dtype=x.dtype, generator=self._chance))

    def rand_like(self, x: Tensor) -> Tensor:
        """Numbers in [0, 1) for crops [B, …], likewise."""
        return self._own(x, lambda *shape: torch.rand(*shape, device=x.device, dtype=x.dtype, generator=self._chance))

    def _own(self, x: Tensor, draw: Any) -> Tensor:
        # Noise for the crops of all parts, of which these keep theirs: that costs next to nothing.
        whole: Tensor = draw(max(self.training_config.batch_size, len(x)), *x.shape[1:])
        return whole[self._first : self._first + len(x)]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """A whole optimizer step on this device's share of a batch; `outcome` says what became of it."""
        if isinstance(batch, MusicLDMError):  # a worker process met it, see `Batches`
            raise batch
        optimizer = self._optimizer()
        names, table = self._learn_in_parts(batch)
        self._average_gradients()
        self.scaler.unscale_(optimizer)
        norms = self._clip(optimizer)
        # The one moment at which the processor waits for the device.
        numbers = torch.cat([table.flatten(), torch.stack(list(norms.values()))]).tolist()
        parts = [dict(zip(names, numbers[i * len(names) :], strict=False)) for i in range(len(table))]
        terms = {name: sum(part[name] for part in parts) / len(parts) for name in names}
        gradients = dict(zip(norms, numbers[-len(norms) :], strict=True))
        self.outcome = self._judged([part["total"] for part in parts], terms["total"], gradients)
        if self.outcome.counts:
            rate = self._set_rate(optimizer)
            self.scaler.step(optimizer)
            self.average()
            self.course.step += 1
            self.outcome = Outcome(True, {**terms, **gradients, "rate": rate})
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def average(self) -> None:
        """Draw the averaged weights towards the trained ones; a young average forgets faster."""
        step = self.course.step
        memory = min(self.training_config.ema, (1 + step) / (10 + step)) if step else 0.0
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.model.parameters()), 1 - memory)
            for average, buffer in zip(self.averaged.buffers(), self.model.buffers(), strict=True):
                average.copy_(buffer)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        config = self.training_config
        beta1, beta2 = config.betas
        optimizer = torch.optim.AdamW(
            self.parameter_groups(), lr=config.learning_rate, betas=(beta1, beta2), weight_decay=config.weight_decay
        )
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
        return optimizer

    def on_fit_start(self) -> None:
        self.scaler = GradScaler(self.device.type, enabled=self.training_config.precision == "16")
        self._chance = torch.Generator(self.device)

    def state(self) -> dict[str, Any]:
        """All that the training needs to go on exactly so: tensors and plain data, between two steps."""
        return {
            "course": dataclasses.asdict(self.course),
            "origin": self.origin,
            "state_dict": self.state_dict(),
            "optimizer": self._optimizer().state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def recall(self, state: dict[str, Any]) -> None:
        """Have the weights of that moment, to look at and to ship."""
        self.course = Course(**state["course"])
        self.origin = state["origin"]
        self.load_state_dict(state["state_dict"])

    def restore(self, state: dict[str, Any]) -> None:
        """Be in all as when `state` was taken."""
        self.recall(state)
        self._optimizer().load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])

    def begin_with(self, source: Bundle, role: Role, config: dict[str, Any]) -> None:
        """Take the first weights from a component of a bundle; `config` is what this model is built by.

        Raises:
            BundleError: it has no such component.
            MismatchError: it is another network, or for other data, though its weights may have the same shapes.
        """
        given = source.component(role)
        wanted = json.loads(json.dumps(config))  # as a bundle tells it
        changed = differences({key: given.config.get(key, value) for key, value in wanted.items()}, wanted)
        shapes = {name: tensor.shape for name, tensor in self.model.state_dict().items()}
        if changed or shapes != {name: tensor.shape for name, tensor in given.tensors.items()}:
            raise MismatchError(
                f"The {role} of {source.name} is another network: {', '.join(changed) or 'architecture'} differ.",
                "Choose the preset or --config that it was trained with, or leave out --init.",
            )
        self.model.load_state_dict(dict(given.tensors))
        self.averaged.load_state_dict(dict(given.tensors))
        self.origin = {
            "name": source.name,
            "digest": given.digest,
            "tracks": [dataclasses.asdict(track) for track in source.training(role).tracks],
        }

    def facts(self, config: Any) -> TrainingFacts:
        """What a bundle tells of this training: its configuration, and every track with its split and its rights.

        So it does of the training that this one began with: what was trained on there stays so.
        """
        keys = ("artist", "title", "content", "split", "provenance")
        tracks = {
            track.content: {**{key: getattr(track, key) for key in keys}, "seconds": round(track.seconds, 3)}
            for track in self.tracks
        }
        for track in self.origin.get("tracks", []):
            if track["content"] not in tracks or track["split"] == "train":
                tracks[track["content"]] = track
        init = {key: self.origin[key] for key in ("name", "digest")} if self.origin else {}
        about = {"training": to_dict(config), "step": self.step, "tracks": list(tracks.values()), "init": init}
        return TrainingFacts.from_dict(json.loads(json.dumps(about)))

    def _optimizer(self) -> torch.optim.Optimizer:
        optimizer = self.optimizers(use_pl_optimizer=False)
        return optimizer  # type: ignore[return-value]

    def _seed(self, part: int) -> None:
        """Every part of every batch has its own seed, so that a resumed run draws what an undisturbed one would."""
        seed, position = self.training_config.seed, self.course.position
        torch.manual_seed(derive(seed, "step", position, part))
        self._first = part * self.training_config.part_size
        if self._chance is not None:
            self._chance.manual_seed(derive(seed, "crops", position))

    def _learn_in_parts(self, batch: Any) -> tuple[list[str], Tensor]:
        """Gradients of this device's share; the names of the loss's terms, and these for all parts of all devices."""
        accumulate, size = self.training_config.accumulate, self.training_config.part_size
        parts = []
        for number in range(accumulate):
            self._seed(self.global_rank * accumulate + number)
            parts.append(self.learn(_cut(batch, slice(number * size, (number + 1) * size))))
        self.course.position += 1
        names = list(parts[0])
        return names, self._gathered(
            torch.stack([torch.stack([part[name].float() for name in names]) for part in parts])
        )

    def _gathered(self, own: Tensor) -> Tensor:
        """The rows [parts, terms] of all devices."""
        if not _together():
            return own
        table = own.new_zeros(dist.get_world_size(), *own.shape)
        table[dist.get_rank()] = own
        dist.all_reduce(table)
        return table.flatten(0, 1)

    def _average_gradients(self) -> None:
        """Once in a step, over all devices, in a few large pieces."""
        if not _together():
            return
        gradients = [weight.grad for weight in self.parameters() if weight.grad is not None]
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            flat /= dist.get_world_size()
            for gradient, mean in zip(bucket, torch.split(flat, [item.numel() for item in bucket]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def _clip(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """Shorten the gradients of each group that are too long; their norms before that."""
        norms = {}
        for group in optimizer.param_groups:
            name = f"gradient-{group['name']}" if "name" in group else "gradient"
            norms[name] = nn.utils.clip_grad_norm_(group["params"], self.training_config.gradient_clip)
        return {name: norm.to(self.device) for name, norm in norms.items()}

    def _judged(self, totals: list[float], loss: float, gradients: dict[str, float]) -> Outcome:
        """Whether a step may be made with this."""
        course = self.course
        if bad := tuple(number for number, total in enumerate(totals) if not math.isfinite(total)):
            return Outcome(False, fault="was no longer a number", parts=bad)
        if not all(map(math.isfinite, gradients.values())):
            course.overflows += 1
            if self.scaler.is_enabled() and course.overflows < OVERFLOWS:
                return Outcome(False)  # as usual: the scaler found too large a scale, and will lower it
            return Outcome(False, fault="had a gradient that is no number")
        course.overflows = 0
        if loss > 0:
            rise = math.log(loss) - course.loss_mean
            spreads, least = JUMP
            if course.step >= SETTLING and rise > max(spreads * math.sqrt(course.loss_variance), least):
                return Outcome(False, fault=f"jumped from about {math.exp(course.loss_mean):.3g} to {loss:.3g}")
            share = 1 / min(course.step + 1, MEMORY)
            course.loss_mean += share * rise
            course.loss_variance = (1 - share) * (course.loss_variance + share * rise * rise)
        return Outcome(True)

    def _set_rate(self, optimizer: torch.optim.Optimizer) -> float:
        factor = self.course.rate_scale * rate(self.course.step, self.training_config)
        for group in optimizer.param_groups:
            group["lr"] = factor * group["peak"]
        return float(optimizer.param_groups[0]["lr"])


def rate(step: int, config: TrainingConfig) -> float:
    """Which part of its peak the learning rate has: a climb from zero, then a cosine that falls to a twentieth."""
    falling = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / config.steps))
    return min(1.0, (step + 1) / max(1, config.warmup)) * (0.05 + 0.95 * falling)


class BatchSource(Protocol):
    """A dataset whose batches, tensors or named tuples of them, are a pure function of the position in the training."""

    def batch(self, position: int, batch_size: int, part: slice, /) -> Any:
        """The crops in `part` of the `batch_size` crops that are drawn there."""

    def describe(self, position: int, batch_size: int, /) -> list[str]:
        """What each of those crops is, for a person."""


class Batches(IterableDataset[Any]):
    """The batches of all positions from `start` on, for a DataLoader with any number of workers.

    An error is handed on like a batch: raised in a worker process, torch would bury its sentence in a traceback.
    """

    def __init__(self, source: BatchSource, batch_size: int, start: int, part: slice = slice(None)) -> None:
        self.source = source
        self.batch_size = batch_size
        self.start = start
        self.part = part

    def __iter__(self) -> Iterator[Any]:
        # A DataLoader takes from its workers in turn: worker w of n makes every n-th batch.
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        position = self.start + first
        while True:
            try:
                yield self.source.batch(position, self.batch_size, self.part)
            except MusicLDMError as error:
                yield error
            position += stride


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


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """The keys, such as training.steps, at which two trees of plain data differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            name
            for key in sorted(a.keys() | b.keys())
            for name in differences(a.get(key), b.get(key), f"{where}.{key}" if where else key)
        ]
    return [] if a == b else [where]


def _together() -> bool:
    """Whether other processes train with this one."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _cut(batch: Any, part: slice) -> Any:
    """Some crops of a batch, a tree of tensors whose first axis is that of the crops."""
    return tree_map(lambda column: column[part], batch)


def _buckets(tensors: list[Tensor], numbers: int = 2**24) -> Iterator[list[Tensor]]:
    """The tensors in their order, in pieces of about so many numbers."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(item.numel() for item in bucket) >= numbers:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
