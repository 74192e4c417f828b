"""Prepared waveforms -> a trained VAE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from musicldm.audio.dataset import CropDataset, open_splits
from musicldm.audio.manifest import PreparedTrack
from musicldm.bundle import Bundle
from musicldm.config import to_dict
from musicldm.progress import Progress, silent
from musicldm.seeding import derive
from musicldm.training.config import TrainingConfig
from musicldm.training.module import Demo, TrackFacts, Trainable
from musicldm.training.run import Announce, TrainingResult, crop_length, fit, ignore, say_left_out
from musicldm.vae.losses import LossConfig, study_loss, vae_loss
from musicldm.vae.model import VAE, VAEConfig
from musicldm.vae.windows import reconstruct

DEMO_TRACKS = 2
DEMO_SECONDS = 8


@dataclass(frozen=True)
class VAERunConfig:
    """A whole VAE training, as a preset or a TOML file gives it."""

    model: VAEConfig = field(default_factory=VAEConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    @property
    def crop_samples(self) -> int:
        """Crops are whole blocks of the attention, so that training sees what a whole track will."""
        block = self.model.attention_block * self.model.hop
        return crop_length(self.training.seconds, block, self.model.sample_rate)


class VAETraining(Trainable[VAE]):
    """The VAE, its loss, held-out crops [N, C, T] to judge it by, and excerpts [C, T] to listen to."""

    def __init__(
        self, config: VAERunConfig, heldout: Tensor | None, excerpts: Sequence[Tensor], tracks: Sequence[TrackFacts]
    ) -> None:
        super().__init__(VAE(config.model), config.training, tracks)
        self.config = config
        self.heldout = heldout
        self.excerpts = excerpts

    def losses(self, batch: Tensor) -> dict[str, Tensor]:
        reconstruction, posterior = self.model(batch)
        return vae_loss(batch, reconstruction, posterior, self.config.loss)

    def validate(self) -> dict[str, float]:
        """By the posterior's mode. `study` and `silence` are the 2023 study's loss of the output and of silence."""
        if self.heldout is None:
            return {}
        totals: dict[str, float] = {}
        for crop in torch.split(self.heldout, self.training_config.batch_size):
            waveform = crop.to(self.device)
            posterior = self.best.encode(waveform)
            output = self.best.decode(posterior.mode())
            losses = vae_loss(waveform, output, posterior, self.config.loss)
            losses["study"] = study_loss(waveform, output)
            losses["silence"] = study_loss(waveform, torch.zeros_like(waveform))
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + value.item() * len(crop) / len(self.heldout)
        return {"loss": totals.pop("total"), **totals}

    def demos(self) -> list[Demo]:
        """Held-out music beside what the VAE makes of it."""
        return [
            Demo(
                name=str(i + 1),
                audio={"original": original, "reconstruction": reconstruct(self.best, original)},
                sample_rate=self.config.model.sample_rate,
            )
            for i, original in enumerate(self.excerpts)
        ]

    def bundle(self, name: str) -> Bundle:
        return Bundle(name, {"vae": self.best.part()}, {"vae": self.facts(self.config)})


def train_vae(
    data: Path,
    run: Path,
    config: VAERunConfig,
    device: torch.device,
    precision: str = "auto",
    progress: Progress = silent,
    announce: Announce = ignore,
) -> TrainingResult:
    """Train a VAE on the prepared waveforms in `data`; see `fit`.

    Raises:
        DataError: nothing prepared there, or every track is shorter than a crop.
        MismatchError: tracks of another rate or other channels than the model's.
    """
    model, training = config.model, config.training
    splits = open_splits(data, model.sample_rate, model.audio_channels)
    grid = model.attention_block * model.hop
    crops = CropDataset(splits["train"], config.crop_samples, grid, derive(training.seed, "vae"))
    say_left_out(announce, crops.left_out, len(crops.tracks), config.crop_samples / model.sample_rate)
    heldout = None
    if any(track.samples >= config.crop_samples for track in splits["heldout"]):
        heldout = CropDataset(splits["heldout"], config.crop_samples, grid).fixed_batch(training.validation_crops)

    torch.manual_seed(derive(training.seed, "weights"))
    excerpts = [_excerpt(track) for track in splits["heldout"][:DEMO_TRACKS]]
    module = VAETraining(config, heldout, excerpts, [*splits["train"], *splits["heldout"]])
    seconds_a_step = training.batch_size * config.crop_samples / model.sample_rate
    return fit(module, crops, run, to_dict(config), seconds_a_step, device, precision, progress, announce)


def _excerpt(track: PreparedTrack) -> Tensor:
    """A few seconds from the middle of a track, [C, T]."""
    length = min(track.samples, DEMO_SECONDS * track.sample_rate)
    start = (track.samples - length) // 2
    return torch.from_numpy(track.read(start, start + length))
