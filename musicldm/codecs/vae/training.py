"""Prepared waveforms -> a trained VAE."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from musicldm.codecs.training import CodecTraining, Material, train_codec
from musicldm.codecs.vae.config import VAERunConfig
from musicldm.codecs.vae.discriminator import (
    Discriminator,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)
from musicldm.codecs.vae.losses import vae_loss
from musicldm.codecs.vae.model import VAE
from musicldm.core.devices import autocast
from musicldm.media.audio.l1 import waveform_spectrogram_l1
from musicldm.media.audio.spectrogram import bars


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
        """Add the gradients of a micro-batch, and those of the discriminator from its first step on.

        The adversarial terms are weighed by their gradients at the waveform, not by their values: each gets a fraction
        of the norm that the reconstruction's gradient has there, whatever the discriminator's own strength (Défossez et
        al. 2022, section 3.4). So the decoder needs one backward pass for all of them.
        """
        loss = self.config.loss
        if self.discriminator is None or self.step < loss.adversarial_start:
            return super().forward_backward(batch)
        with autocast(self.training_config.precision, self.device):
            output, terms = self._reconstructed(batch)
            # A leaf: what comes back through the discriminator stops here, to be weighed before it goes on to the
            # decoder.
            at_output = output.detach().requires_grad_()
            real, fake = self.discriminator(batch), self.discriminator(at_output)
        terms["discriminator"] = discriminator_loss(real, fake)
        terms["adversarial"] = adversarial_loss(fake)
        terms["features"] = feature_loss(real, fake)
        weight = self.scaler.scale(torch.ones((), device=self.device)) / self.training_config.accumulate
        # As far as the waveform only. This frees the graph of the losses; that of the network is still needed.
        gradient = torch.autograd.grad(terms["reconstruction"], output)[0]
        norm = gradient.norm()
        for name, fraction in (("adversarial", loss.adversarial), ("features", loss.features)):
            # Scaled lest it vanish in 16 bits; the scale goes out again with the norm. The graph is kept for the other
            # term and for the discriminator's own loss.
            other = torch.autograd.grad(self.scaler.scale(terms[name]), at_output, retain_graph=True)[0]
            gradient = gradient + other * (fraction * norm / other.norm().clamp_min(1e-20))
        # Without `inputs`, a gradient for the waveform would be computed here as well, which nobody wants.
        torch.autograd.backward(weight * terms["discriminator"], inputs=list(self.discriminator.parameters()))
        # A product whose gradient at the waveform is the one put together above: one pass through the network for all.
        torch.autograd.backward((gradient.detach() * output).sum() * weight + weight * terms["prior"])
        return {name: value.detach() for name, value in terms.items()}

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
        output = self.ema.decode(posterior.mode())
        losses = vae_loss(crops, output, posterior, self.config.loss, self.config.model.sample_rate)
        losses["study"] = waveform_spectrogram_l1(crops, output)
        losses["silence"] = waveform_spectrogram_l1(crops, torch.zeros_like(crops))
        return losses

    def pictures(self, folder: Path) -> list[Path]:
        """The bits that each latent channel carries: dead ones carry none, and cost a generator as much as the rest."""
        if self.heldout is None or self.config.model.bottleneck != "gaussian":
            return []
        parts = torch.split(self.heldout, self.training_config.micro_batch_size)
        nats = torch.cat([self.ema.encode(crops.to(self.device)).kl_per_element().cpu() for crops in parts])
        path = folder / "kl-per-channel.png"
        bits = (nats.mean(dim=(0, 2)) / math.log(2)).sort(descending=True).values.tolist()
        bars(path, bits, "latent channel of held-out tracks, in order", "bits a frame (KL)")
        return [path]


train_vae = partial(train_codec, VAETraining)
"""(data, run, config, device, …) -> the result; see `train_codec`."""
