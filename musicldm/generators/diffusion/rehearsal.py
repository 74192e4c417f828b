"""A step of a diffusion training, tried on empty latents to find out how much memory it needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from musicldm.core.bundle import Bundle
from musicldm.generators.diffusion.training import DiffusionRunConfig, DiffusionTraining
from musicldm.latents.dataset import LatentBatch
from musicldm.latents.schema import StoreHeader
from musicldm.latents.statistics import LatentStatistics
from musicldm.training.config import TrainingConfig
from musicldm.training.data import crop_length
from musicldm.training.rehearsal import Rehearsal
from musicldm.training.trainable import Trainable


def rehearsal(config: DiffusionRunConfig, header: StoreHeader) -> Rehearsal:
    """Of a diffusion training, on latents that are all zero, as a store with this header would have them."""
    channels = header.channels
    statistics = LatentStatistics(1, (0.0,) * channels, (1.0,) * channels)
    model = replace(
        config.model,
        unet=replace(config.model.unet, latent_channels=channels),
        transformer=replace(config.model.transformer, latent_channels=channels),
    )

    def make(training: TrainingConfig, crops: int) -> tuple[Trainable[Any], Any]:
        run = replace(config, model=model, training=training)
        frames = crop_length(training.seconds, model.network.multiple, header.frame_rate)
        zeros = torch.zeros(crops)
        batch = LatentBatch(torch.zeros(crops, channels, frames), zeros.long(), zeros, zeros)
        return DiffusionTraining(run, statistics, None, Bundle("", {}, {}), []), batch

    return Rehearsal(make, model.network.multiple / header.frame_rate)
