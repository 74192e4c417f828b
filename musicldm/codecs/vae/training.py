"""Prepared waveforms -> a trained VAE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from musicldm.codecs.vae.config import NAME, VAERunConfig
from musicldm.codecs.vae.discriminator import (
    Discriminator,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)
from musicldm.codecs.vae.losses import vae_loss
from musicldm.codecs.vae.model import VAE
from musicldm.codecs.windows import reconstruct
from musicldm.core.bundle import Bundle
from musicldm.core.config import to_dict
from musicldm.core.devices import autocast
from musicldm.core.progress import Progress, silent
from musicldm.core.seeding import derive
from musicldm.media.audio.dataset import CropDataset, open_splits
from musicldm.media.audio.l1 import waveform_spectrogram_l1
from musicldm.media.audio.manifest import PreparedTrack
from musicldm.media.audio.spectrogram import bars
from musicldm.training.announce import Announce, announce_left_out, ignore
from musicldm.training.init_weights import init_weights
from musicldm.training.loop import TrainingResult, fit
from musicldm.training.processes import rank_of
from musicldm.training.run_folder import defaults_filled, resolve_precision
from musicldm.training.trainable import Demo, Trainable

DEMO_TRACKS = 2
DEMO_SECONDS = 8


class VAETraining(Trainable[VAE]):
    """A VAE in training, with held-out crops [N, C, T] to validate on and excerpts [C, T] to listen to."""

    def __init__(
        self, config: VAERunConfig, heldout: Tensor | None, excerpts: Sequence[Tensor], tracks: Sequence[PreparedTrack]
    ) -> None:
        super().__init__(VAE(config.model), config.training, tracks)
        self.config = config
        self.discriminator: Discriminator | None = None
        if config.loss.adversarial or config.loss.features:
            self.discriminator = Discriminator(config.discriminator, config.model.audio_channels)
        self.heldout = heldout
        self.excerpts = excerpts

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
            at_output = output.detach().requires_grad_()
            real, fake = self.discriminator(batch), self.discriminator(at_output)
        terms["discriminator"] = discriminator_loss(real, fake)
        terms["adversarial"] = adversarial_loss(fake)
        terms["features"] = feature_loss(real, fake)
        weight = self.scaler.scale(torch.ones((), device=self.device)) / self.training_config.accumulate
        gradient = torch.autograd.grad(terms["reconstruction"], output)[0]
        norm = gradient.norm()
        for name, fraction in (("adversarial", loss.adversarial), ("features", loss.features)):
            other = torch.autograd.grad(self.scaler.scale(terms[name]), at_output, retain_graph=True)[0]
            gradient = gradient + other * (fraction * norm / other.norm().clamp_min(1e-20))
        torch.autograd.backward(weight * terms["discriminator"], inputs=list(self.discriminator.parameters()))
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

    def validate(self) -> dict[str, float]:
        """The losses of held-out crops, decoded from the posterior's mode.

        `study` is the loss of the 2023 study, and `silence` what silence in place of the output would have cost.
        """
        if self.heldout is None:
            return {}
        totals: dict[str, float] = {}
        for crop in torch.split(self.heldout, self.training_config.micro_batch_size):
            waveform = crop.to(self.device)
            posterior = self.ema.encode(waveform)
            output = self.ema.decode(posterior.mode())
            losses = vae_loss(waveform, output, posterior, self.config.loss, self.config.model.sample_rate)
            losses["study"] = waveform_spectrogram_l1(waveform, output)
            losses["silence"] = waveform_spectrogram_l1(waveform, torch.zeros_like(waveform))
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + value.item() * len(crop) / len(self.heldout)
        return {"loss": totals.pop("total"), **totals}

    def demos(self) -> list[Demo]:
        """Held-out music beside its reconstruction."""
        return [
            Demo(
                name=str(i + 1),
                audio={"original": original, "reconstruction": reconstruct(self.ema, original)},
                sample_rate=self.config.model.sample_rate,
            )
            for i, original in enumerate(self.excerpts)
        ]

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

    def bundle(self, name: str) -> Bundle:
        return Bundle(name, {"codec": self.ema.component()}, {"codec": self.facts(self.config)})


def train_vae(
    data: Path,
    run: Path,
    config: VAERunConfig,
    device: torch.device,
    progress: Progress = silent,
    announce: Announce = ignore,
    init_from: Path | None = None,
    resample: bool = False,
) -> TrainingResult:
    """Train a VAE on the prepared waveforms in `data`; see `fit`, and `codecs.base.Train` for the arguments.

    Raises:
        DataError: nothing prepared there, or every track is shorter than a crop.
        MismatchError: tracks of another rate or other channels than the model's, or a bundle of another shape.
    """
    config = replace(config, training=resolve_precision(config.training, run, device))
    announce = announce if rank_of(config.training) == 0 else ignore
    model, training = config.model, config.training
    splits = open_splits(data, model.sample_rate, model.audio_channels, resample)
    grid = model.attention_block * model.hop
    crops = CropDataset(splits["train"], config.crop_samples, grid, derive(training.seed, "vae"))
    announce_left_out(announce, crops.left_out, len(crops.tracks), config.crop_samples / model.sample_rate)
    heldout = None
    if any(track.samples >= config.crop_samples for track in splits["heldout"]):
        heldout = CropDataset(splits["heldout"], config.crop_samples, grid).fixed_batch(training.validation_crops)

    torch.manual_seed(derive(training.seed, "weights"))
    excerpts = [_excerpt(track) for track in splits["heldout"][:DEMO_TRACKS]]
    module = VAETraining(config, heldout, excerpts, [*splits["train"], *splits["heldout"]])
    init_weights(module, init_from, "codec", to_dict(config.model), announce)
    seconds_per_step = training.batch_size * config.crop_samples / model.sample_rate
    identity = {"codec": NAME, **to_dict(config)}
    return fit(module, crops, run, identity, seconds_per_step, device, progress, announce, _upgraded)


def _upgraded(before: dict[str, Any]) -> dict[str, Any]:
    """A run's config.json as this release would have written it: release 0.1 knew no other codec."""
    return defaults_filled({"codec": NAME, **before}, VAERunConfig)


def _excerpt(track: PreparedTrack) -> Tensor:
    """A few seconds from the middle of a track, [C, T]."""
    length = min(track.samples, DEMO_SECONDS * track.sample_rate)
    start = (track.samples - length) // 2
    return torch.from_numpy(track.read(start, start + length))
