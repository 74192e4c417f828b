"""A latent store -> a trained denoiser, bundled with the VAE that made the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from musicldm import bundle
from musicldm.bundle import Bundle
from musicldm.config import to_dict
from musicldm.diffusion.model import Diffusion, DiffusionConfig
from musicldm.diffusion.schedule import NoiseConfig
from musicldm.diffusion.unet import UNetConfig
from musicldm.generate import Generator, denoiser_part
from musicldm.latents.dataset import LatentDataset
from musicldm.latents.encode import VAE_COPY
from musicldm.latents.statistics import LatentStatistics
from musicldm.latents.store import LatentStore
from musicldm.progress import Progress, silent
from musicldm.seeding import derive
from musicldm.training.config import TrainingConfig
from musicldm.training.module import Demo, TrackFacts, Trainable
from musicldm.training.run import Announce, TrainingResult, crop_length, fit, ignore, say_left_out

DEMO_SECONDS = 10.0
DEMO_TAKES = 2
VALIDATION_LEVELS = 8  # noise levels at which each held-out crop is judged


@dataclass(frozen=True)
class DiffusionRunConfig:
    """A whole diffusion training, as a preset or a TOML file gives it."""

    network: UNetConfig = field(default_factory=UNetConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


class DiffusionTraining(Trainable[Diffusion]):
    """The denoiser, its loss, and held-out crops [N, D, L] of normalised latents to judge it by."""

    def __init__(
        self,
        config: DiffusionRunConfig,
        statistics: LatentStatistics,
        heldout: Tensor | None,
        vae: Bundle,
        tracks: Sequence[TrackFacts],
        precision: str = "auto",
    ) -> None:
        super().__init__(Diffusion(DiffusionConfig(config.network, config.noise)), config.training, tracks)
        self.config = config
        self.statistics = statistics
        self.heldout = heldout
        self.vae = vae
        self.precision = precision

    def losses(self, batch: Tensor) -> dict[str, Tensor]:
        t = torch.randint(len(self.model.schedule), (len(batch),), device=batch.device)
        return {"total": self.model.loss(batch, t, torch.randn_like(batch)).mean()}

    def validate(self) -> dict[str, float]:
        """At fixed noise levels with fixed noise: `loss` over all of them, and one figure for each."""
        if self.heldout is None:
            return {}
        steps = len(self.model.schedule)
        levels = [int((i + 0.5) * steps / VALIDATION_LEVELS) for i in range(VALIDATION_LEVELS)]
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(self.heldout.shape, generator=generator)
        size = self.training_config.batch_size
        losses = {}
        for level in levels:
            total = 0.0
            for x0, eps in zip(*(torch.split(whole, size) for whole in (self.heldout, noise)), strict=True):
                t = torch.full((len(x0),), level, device=self.device)
                total += self.best.loss(x0.to(self.device), t, eps.to(self.device)).sum().item()
            losses[f"t{level}"] = total / len(self.heldout)
        return {"loss": sum(losses.values()) / len(losses), **losses}

    def demos(self) -> list[Demo]:
        """New music by DDIM in 20 steps, always from the same seeds."""
        generator = Generator(self.bundle("demo"), str(self.device), self.precision)
        steps = min(20, len(self.model.schedule))
        return [
            Demo(
                str(take + 1), {"sample": generator.sample(DEMO_SECONDS, take=take, steps=steps)}, generator.sample_rate
            )
            for take in range(DEMO_TAKES)
        ]

    def bundle(self, name: str) -> Bundle:
        vae = self.vae.part("vae")
        parts = {"vae": vae, "denoiser": denoiser_part(self.best, self.statistics, vae.digest)}
        return Bundle(name, parts, {**self.vae.facts, "denoiser": self.facts(self.config)})


def train_diffusion(
    store_path: Path,
    run: Path,
    config: DiffusionRunConfig,
    device: torch.device,
    precision: str = "auto",
    progress: Progress = silent,
    announce: Announce = ignore,
) -> TrainingResult:
    """Train a denoiser on the latents of a store; see `fit`.

    Raises:
        DataError: no store there, a damaged one, or every track is shorter than a crop.
        BundleError: the store's copy of its VAE is damaged.
    """
    training = config.training
    store = LatentStore.open(store_path)
    vae = bundle.read(store.path / VAE_COPY)
    config = replace(config, network=replace(config.network, latent_channels=store.header.channels))
    hop_seconds = store.header.hop / store.header.sample_rate
    crop = crop_length(training.seconds, config.network.multiple, 1 / hop_seconds)
    dataset = LatentDataset(store, crop, "train", derive(training.seed, "diffusion"))
    say_left_out(announce, dataset.left_out, len(dataset.tracks), crop * hop_seconds)
    heldout = None
    if any(entry.split == "heldout" and entry.frames >= crop for entry in store.tracks):
        heldout = LatentDataset(store, crop, "heldout").fixed_batch(training.validation_crops)

    torch.manual_seed(derive(training.seed, "weights"))
    module = DiffusionTraining(config, dataset.statistics, heldout, vae, store.tracks, precision)
    seconds_a_step = training.batch_size * crop * hop_seconds
    identity = {**to_dict(config), "vae": store.header.vae_hash}
    return fit(module, dataset, run, identity, seconds_a_step, device, precision, progress, announce)
