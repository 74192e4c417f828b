"""What it takes to try a step of a diffusion training, to see how much memory it needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from musicldm.core.bundle import Bundle
from musicldm.generators.diffusion.config import DiffusionRunConfig
from musicldm.generators.diffusion.training import DiffusionTraining
from musicldm.latents.dataset import Crops, LatentBatch
from musicldm.latents.schema import StoreHeader
from musicldm.latents.statistics import LatentStatistics
from musicldm.latents.table import TrackTable
from musicldm.training.config import TrainingConfig, crop_length
from musicldm.training.rehearsal import Rehearsal
from musicldm.training.trainable import Trainable


def rehearsal(config: DiffusionRunConfig, header: StoreHeader) -> Rehearsal:
    """Of a diffusion training, on latents that are all zero, as a store with this header would have them."""
    channels = header.channels
    statistics = LatentStatistics(1, (0.0,) * channels, (1.0,) * channels)
    model = config.model.with_channels(channels)

    def make(training: TrainingConfig, crops: int) -> tuple[Trainable[Any], Any]:
        frames = crop_length(training.seconds, model.multiple, header.frame_rate)
        zeros, nothing = torch.zeros(crops), np.zeros(crops, np.int64)
        where = Crops([""] * crops, zeros, zeros, frames, TrackTable.of([]), nothing, nothing)
        values = {name: read(where) for name, read in model.conditions.readers().items()}
        batch = LatentBatch(torch.zeros(crops, channels, frames), values)
        run = replace(config, model=model, training=training)
        return DiffusionTraining(run, statistics, None, Bundle("", {}, {}), []), batch

    return Rehearsal(make, model.multiple / header.frame_rate)
