"""Prepared waveforms -> a trained VAE."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from musicldm.codecs.adversarial import adversarial_backward
from musicldm.codecs.training import CodecTraining, Material, train_codec
from musicldm.codecs.vae.config import VAERunConfig
from musicldm.codecs.vae.losses import vae_loss
from musicldm.codecs.vae.model import VAE
from musicldm.core.devices import autocast
from musicldm.core.padded import groups, split
from musicldm.media.audio.l1 import waveform_spectrogram_l1
from musicldm.media.audio.spectrogram import bars
from musicldm.nn.discriminator import Discriminator


class VAETraining(CodecTraining[VAE]):
    """A VAE in training, with a discriminator where its losses ask for one."""

    config: VAERunConfig
    model_class = VAE

    def __init__(self, config: VAERunConfig, material: Material) -> None:
        super().__init__(config, material)
        self.discriminator: Discriminator | None = None
        if config.loss.adversarial or config.loss.features:
            self.discriminator = Discriminator(config.discriminator, config.model.audio_channels)

    def losses(self, batch: Tensor) -> dict[str, Tensor]:
        return self._reconstructed(batch)[1]

    def forward_backward(self, batch: Tensor) -> dict[str, Tensor]:
        """Add the gradients of a micro-batch, and those of the discriminator from its first step on."""
        loss = self.config.loss
        if self.discriminator is None or self.step < loss.adversarial_start:
            return super().forward_backward(batch)
        with autocast(self.training_config.precision, self.device):
            output, terms = self._reconstructed(batch)
        return adversarial_backward(self, self.discriminator, batch, output, terms, loss.adversarial, loss.features)

    def _reconstructed(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The reconstruction of waveforms [B, C, T], and the terms of its loss."""
        posterior = self.model.encode(batch)
        output = self.model.decode(posterior.at(self.randn_like(posterior.mean)))[..., : batch.shape[-1]]
        terms = vae_loss(batch, output, posterior, self.config.loss, self.config.model.sample_rate, self.step)
        return output, terms

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups = super().parameter_groups()
        if self.discriminator is not None:
            weights = list(self.discriminator.parameters())
            groups.append({"params": weights, "name": "discriminator", "lr": self.config.discriminator.learning_rate})
        return groups

    def heldout_losses(self, crops: Tensor) -> dict[str, Tensor]:
        """The losses of crops decoded from the posterior's mode.

        `study` is the loss of the 2023 study, and `silence` what silence in place of the output would have cost.
        """
        posterior = self.ema.encode(crops)
        output = self.ema.decode(posterior.mode())[..., : crops.shape[-1]]
        losses = vae_loss(crops, output, posterior, self.config.loss, self.config.model.sample_rate)
        losses["study"] = waveform_spectrogram_l1(crops, output)
        losses["silence"] = waveform_spectrogram_l1(crops, torch.zeros_like(crops))
        return losses

    def pictures(self, folder: Path) -> list[Path]:
        """The bits that each latent channel carries: dead ones carry none, and cost a generator as much as the rest."""
        if self.heldout is None or self.config.model.bottleneck != "gaussian":
            return []
        parts = [
            group.batch
            for part, _ in split(self.heldout, self.training_config.micro_batch_size)
            for group in groups(part, self.cut)
        ]
        nats = [self.ema.encode(crops.to(self.device)).kl_per_element().cpu() for crops in parts]
        path = folder / "kl-per-channel.png"
        # [B, D, L] of each -> [D, frames of all]
        frames = torch.cat([each.movedim(1, 0).flatten(1) for each in nats], dim=1)
        bits = (frames.mean(dim=1) / math.log(2)).sort(descending=True).values.tolist()
        bars(path, bits, "latent channel of held-out tracks, in order", "bits a frame (KL)")
        return [path]


train_vae = partial(train_codec, VAETraining)
"""(data, run, config, device, …) -> the result; see `train_codec`."""
