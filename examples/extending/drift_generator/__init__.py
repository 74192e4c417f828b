"""A generator that drifts: each latent frame is a part of the one before it and noise (an autoregressive process)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from musicldm.conditions.base import ConditionConfig, Conditioning, ConditionSet, Source
from musicldm.core.progress import Progress
from musicldm.core.seeding import derive
from musicldm.generators.base import LatentGenerator, LatentRequest
from musicldm.generators.family import latent_generator
from musicldm.generators.module import GeneratorModule
from musicldm.generators.training import GeneratorTraining
from musicldm.latents.dataset import LatentBatch
from musicldm.training.config import PlanConfig, TrainingConfig


@dataclass(frozen=True)
class DriftConfig:
    channels: int = 64
    conditions: ConditionConfig = field(default_factory=lambda: ConditionConfig(names=("length",)))
    multiple = 1  # any length will do

    def fitted(self, channels: int, source: Source | None = None) -> DriftConfig:
        return DriftConfig(channels, self.conditions.fitted(source) if source else self.conditions)


class Drift(GeneratorModule):
    kind, config_class = "drift", DriftConfig

    def __init__(self, config: DriftConfig) -> None:
        super().__init__(config)
        self.logit = nn.Parameter(torch.zeros(config.channels))
        self.conditions = ConditionSet(config.conditions, config.channels)

    def kept(self, conditioning: Conditioning) -> Tensor:  # how much of a frame each channel keeps, [B, D, 1]
        vector = self.conditions(conditioning, 1).vector
        return torch.sigmoid(self.logit + (0.0 if vector is None else vector)).unsqueeze(-1)


class DriftTraining(GeneratorTraining[Drift]):
    model_class = Drift

    def losses_of(self, model: Drift, batch: LatentBatch) -> dict[str, Tensor]:
        z, kept = batch.latents, model.kept(model.conditions.of_batch(batch))
        return {"total": (z[..., 1:] - kept * z[..., :-1]).square().mean()}


class DriftGenerator(LatentGenerator):
    name, tasks, multiple = "drift", frozenset({"new"}), 1

    def __init__(self, component: Any, *_: Any) -> None:
        self.model, self.statistics, self.codec_hash = Drift.from_component(component)
        self.channels, self.conditions = self.model.config.channels, self.model.conditions

    def generate(self, request: LatentRequest, progress: Progress) -> Tensor:
        kept = self.model.kept(self.conditions.parse(request.conditions))
        rng = torch.Generator().manual_seed(derive(request.seed, "take", request.take, request.window))
        z = torch.randn(1, self.channels, request.frames, generator=rng)
        known = 0 if request.mask is None else int(request.mask.sum())  # a long piece goes on from its last window
        if request.known is not None:
            z[..., :known] = request.known[..., :known]
        for frame in range(max(1, known), request.frames):
            z[..., [frame]] = kept * z[..., [frame - 1]] + (1 - kept.square()).sqrt() * z[..., [frame]]
        return z


@dataclass(frozen=True)
class DriftRun:
    model: DriftConfig = field(default_factory=DriftConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    plan: PlanConfig | None = None


FAMILY = latent_generator(Drift, DriftGenerator, DriftRun, f"{__name__}:DriftTraining", __name__)
