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
from musicldm.errors import DataError
from musicldm.generate import Generator, denoiser_part
from musicldm.latents.dataset import LatentBatch, LatentDataset
from musicldm.latents.encode import VAE_COPY
from musicldm.latents.examine import verify
from musicldm.latents.statistics import LatentStatistics
from musicldm.latents.store import LatentStore
from musicldm.progress import Progress, silent
from musicldm.seeding import derive
from musicldm.training.config import PlanConfig, TrainingConfig
from musicldm.training.module import Demo, TrackFacts, Trainable
from musicldm.training.run import (
    Announce,
    TrainingResult,
    begin_with,
    crop_length,
    fit,
    ignore,
    rank_of,
    say_left_out,
    settle,
)

DEMO_SECONDS = 10.0
DEMO_TAKES = 2
VALIDATION_LEVELS = 8  # noise levels at which each held-out crop is judged


@dataclass(frozen=True)
class DiffusionRunConfig:
    """A whole diffusion training, as a preset or a TOML file gives it."""

    network: UNetConfig = field(default_factory=UNetConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    plan: PlanConfig | None = None
    """What was asked for, where `training` is what a plan made of it."""


class DiffusionTraining(Trainable[Diffusion]):
    """The denoiser, its loss, and held-out crops [N, D, L] of normalised latents to judge it by."""

    def __init__(
        self,
        config: DiffusionRunConfig,
        statistics: LatentStatistics,
        heldout: Tensor | None,
        vae: Bundle,
        tracks: Sequence[TrackFacts],
    ) -> None:
        super().__init__(Diffusion(DiffusionConfig(config.network, config.noise)), config.training, tracks)
        self.config = config
        self.statistics = statistics
        self.heldout = heldout
        self.vae = vae

    def losses(self, batch: LatentBatch) -> dict[str, Tensor]:
        x0 = batch.latents
        t = (self.rand_like(x0[:, 0, 0]) * len(self.model.schedule)).long()
        return {"total": self.model.loss(x0, t, self.randn_like(x0)).mean()}

    def validate(self) -> dict[str, float]:
        """At fixed noise levels with fixed noise: `loss` over all of them, and one figure for each."""
        if self.heldout is None:
            return {}
        steps = len(self.model.schedule)
        levels = [int((i + 0.5) * steps / VALIDATION_LEVELS) for i in range(VALIDATION_LEVELS)]
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(self.heldout.shape, generator=generator)
        size = self.training_config.part_size
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
        generator = Generator(self.bundle("demo"), str(self.device), self.training_config.precision)
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
    store_path: Path | str,
    run: Path,
    config: DiffusionRunConfig,
    device: torch.device,
    progress: Progress = silent,
    announce: Announce = ignore,
    skip_broken: bool = False,
    init: Path | None = None,
) -> TrainingResult:
    """Train a denoiser on the latents of a store; see `fit`.

    A store in a folder is verified first, so that no damage comes to light days later; one that is far away would have
    to be fetched whole for that, and a chunk is verified when it is read.

    Args:
        skip_broken: leave out the tracks that are damaged.
        init: a bundle whose weights are the first ones.

    Raises:
        DataError: no store there, a damaged one, or every track is shorter than a crop.
        BundleError: the store's copy of its VAE is damaged.
        MismatchError: a bundle of another shape.
    """
    config = replace(config, training=settle(config.training, run, device))
    announce = announce if rank_of(config.training) == 0 else ignore
    training = config.training
    store = LatentStore.open(store_path, skip_broken)
    broken = _verified(store, skip_broken, progress, announce)
    with store.reading(VAE_COPY) as folder:
        vae = bundle.read(folder)
    config = replace(config, network=replace(config.network, latent_channels=store.header.channels))
    hop_seconds = store.header.hop / store.header.sample_rate
    crop = crop_length(training.seconds, config.network.multiple, 1 / hop_seconds)
    dataset = LatentDataset(store, crop, "train", derive(training.seed, "diffusion"), broken)
    say_left_out(announce, dataset.left_out, len(dataset.tracks), crop * hop_seconds)
    heldout = None
    columns = store.tracks.columns
    if (columns["heldout"] & (columns["frames"] >= crop)).any():
        heldout = LatentDataset(store, crop, "heldout", without=broken).fixed_batch(training.validation_crops)

    torch.manual_seed(derive(training.seed, "weights"))
    module = DiffusionTraining(config, dataset.statistics, heldout, vae, store.tracks)
    begin_with(module, init, "denoiser", {**to_dict(module.model.config), "vae": store.header.vae_hash}, announce)
    seconds_a_step = training.batch_size * crop * hop_seconds
    identity = {**to_dict(config), "vae": store.header.vae_hash}
    return fit(module, dataset, run, identity, seconds_a_step, device, progress, announce)


def _verified(store: LatentStore, skip_broken: bool, progress: Progress, announce: Announce) -> set[str]:
    """The keys of the damaged tracks, which are announced."""
    if store.is_remote:
        return set()
    faults = verify(store, progress)
    if faults and not skip_broken:
        more = f" And {len(faults) - 1} more." if len(faults) > 1 else ""
        raise DataError(
            f"The store is damaged. {faults[0].reason}{more}",
            "musicldm latents verify lists all; delete the parts that it names and encode again, or train without "
            "these tracks: --skip-broken.",
        )
    for fault in faults:
        announce(f"Left out: {fault.reason}")
    return {fault.key for fault in faults if fault.key}
