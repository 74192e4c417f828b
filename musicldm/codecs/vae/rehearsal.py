"""A step of the VAE's training, tried on silence to find out how much memory it needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from musicldm.codecs.vae.config import VAERunConfig
from musicldm.codecs.vae.training import VAETraining
from musicldm.training.config import TrainingConfig
from musicldm.training.rehearsal import Rehearsal
from musicldm.training.trainable import Trainable


def rehearsal(config: VAERunConfig) -> Rehearsal:
    """Of a VAE's training, on crops of silence, which are one block of the attention at least."""

    def make(training: TrainingConfig, crops: int) -> tuple[Trainable[Any], Any]:
        run = replace(config, training=training)
        return VAETraining(run, None, [], []), torch.zeros(crops, run.model.audio_channels, run.crop_samples)

    return Rehearsal(make, config.model.attention_block / config.model.frame_rate)
