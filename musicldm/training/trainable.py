"""What a model must say about itself to be trained: its loss, its validation, its demos, its bundle."""

from __future__ import annotations

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from musicldm.core.bundle import Bundle, TrackFacts, TrainingFacts
from musicldm.core.config import to_dict
from musicldm.core.devices import autocast
from musicldm.training.config import TrainingConfig
from musicldm.training.rng import CropGenerator
from musicldm.training.state import Origin, TrainState

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Demo:
    """Something to hear and see of a model in training."""

    name: str
    audio: dict[str, Tensor]
    """Title -> waveform [C, T]."""
    sample_rate: int


class Trainable(nn.Module, ABC, Generic[Model]):
    """A model in training, beside the moving average of its weights, `ema`, that is validated, heard and shipped.

    A step's crops go through the network in micro-batches, on one device or several, with the same result: each
    micro-batch is a slice of the step's crops, gradients are averaged over all of them, and random numbers belong to
    the crops.

    Args:
        model: what is trained.
        config: how.
        tracks: what it is trained on, and what is held out; anything with the fields of `TrackFacts`.
    """

    def __init__(self, model: Model, config: TrainingConfig, tracks: Sequence[Any]) -> None:
        super().__init__()
        self.model = model
        self.ema = copy.deepcopy(model).eval().requires_grad_(False)
        self.training_config = config
        self.tracks = [facts_of(track) for track in tracks]
        self.state = TrainState()
        self.origin: Origin | None = None
        """The bundle whose weights were the first ones, if there was one."""
        self.rng = CropGenerator(config.batch_size)
        self.scaler = GradScaler(enabled=False)
        self.weight_of_group = 1.0
        """The share in its micro-batch of the crops that are being trained on; see `core.padded`."""
        if hasattr(model, "checkpointing"):
            model.checkpointing = config.checkpointing  # type: ignore[assignment]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def step(self) -> int:
        """Optimizer steps made so far."""
        return self.state.step

    @property
    def stage(self) -> range:
        """The steps over which the learning rate climbs and falls: all of them, unless parts are trained in turn."""
        return range(self.training_config.steps)

    @abstractmethod
    def losses(self, batch: Any) -> dict[str, Tensor]:
        """The terms of the loss of a micro-batch; `total` is what is minimised."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """The losses of `ema` on fixed crops of held-out tracks, `loss` among them; empty where there are none."""

    @abstractmethod
    def demos(self) -> list[Demo]:
        """What `ema` sounds like now."""

    @abstractmethod
    def bundle(self, name: str) -> Bundle:
        """What to ship."""

    def pictures(self, folder: Path) -> list[Path]:
        """Draw what else there is to see of `ema` as PNG files in `folder`."""
        return []

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained: groups with a gradient norm each, and a `name`, `lr` or `betas` of their own if need be."""
        return [{"params": list(self.model.parameters())}]

    def make_optimizer(self) -> torch.optim.Optimizer:
        """AdamW over the parameter groups, each of which remembers its peak learning rate as `peak`."""
        config = self.training_config
        beta1, beta2 = config.betas
        optimizer = torch.optim.AdamW(
            self.parameter_groups(), lr=config.learning_rate, betas=(beta1, beta2), weight_decay=config.weight_decay
        )
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
        return optimizer

    def forward_backward(self, batch: Any) -> dict[str, Tensor]:
        """Add the gradients of a micro-batch to the parameters.

        Returns:
            The terms of its loss, detached. `total` tells whether the training has gone wrong.
        """
        with autocast(self.training_config.precision, self.device):
            losses = self.losses(batch)
        # Outside of autocast: in backward each operator takes the types that it had in forward.
        self.backward(losses["total"])
        return {name: value.detach() for name, value in losses.items()}

    def cut(self, batch: Any, missing: int) -> Any:
        """The crops of a batch without what is `missing` at their ends; the last axis is time."""
        return batch[..., : batch.shape[-1] - missing]

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-batch's loss, with its weight in the step, scaled as the precision needs it."""
        # Gradients of micro-batches, and of groups in them, add up, so each has its share of the mean.
        torch.autograd.backward(self.scaler.scale(loss * self.weight_of_group / self.training_config.accumulate))

    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal numbers for crops [B, …], which are each crop's own, whatever micro-batch it comes in."""
        return self.rng.randn_like(x)

    def rand_like(self, x: Tensor) -> Tensor:
        """Uniform numbers in [0, 1) for crops [B, …], likewise."""
        return self.rng.rand_like(x)

    def update_ema(self) -> None:
        """Draw the averaged weights towards the trained ones; a young average forgets faster."""
        step = self.state.step
        # (1 + n) / (10 + n): after n steps the average reaches back over about n / 9 of them, so random first weights
        # are soon forgotten.
        decay = min(self.training_config.ema, (1 + step) / (10 + step)) if step else 0.0
        with torch.no_grad():
            # All in a few kernels: one for each of hundreds of small tensors would cost more than the sums.
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)
            for average, buffer in zip(self.ema.buffers(), self.model.buffers(), strict=True):
                # Buffers are no weights: an average of them means nothing.
                average.copy_(buffer)

    def facts(self, config: Any) -> TrainingFacts:
        """What a bundle tells of this training: its configuration, and every track with its split and its rights.

        The tracks of the training that it began with are among them: what was trained on there stays so.
        """
        tracks = {track.content: replace(track, seconds=round(track.seconds, 3)) for track in self.tracks}
        for track in self.origin.tracks if self.origin else ():
            if track.content not in tracks or track.split == "train":
                tracks[track.content] = track
        init = {"name": self.origin.name, "digest": self.origin.digest} if self.origin else {}
        plain = json.loads(json.dumps(to_dict(config)))  # as it will be read again
        return TrainingFacts(plain, self.step, tuple(tracks.values()), init)


def facts_of(track: Any) -> TrackFacts:
    """What a bundle remembers of a track, from anything that has its fields."""
    return TrackFacts(
        artist=track.artist,
        title=track.title,
        content=track.content,
        split=track.split,
        provenance=track.provenance,
        seconds=track.seconds,
    )
