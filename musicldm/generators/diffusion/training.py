"""A latent store -> a trained denoiser, bundled with the VAE that made the store."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from musicldm.conditions.base import Conditions
from musicldm.core.bundle import Bundle
from musicldm.core.config import to_dict
from musicldm.core.errors import DataError
from musicldm.core.progress import Progress, silent
from musicldm.core.seeding import derive
from musicldm.generators.diffusion.model import Diffusion, DiffusionConfig
from musicldm.latents.codec import read_codec
from musicldm.latents.dataset import LatentBatch, LatentDataset
from musicldm.latents.examine import verify
from musicldm.latents.statistics import LatentStatistics
from musicldm.latents.store import LatentStore
from musicldm.sampling import Generator, generator_component
from musicldm.training.announce import Announce, announce_left_out, ignore
from musicldm.training.config import PlanConfig, TrainingConfig
from musicldm.training.data import crop_length
from musicldm.training.init_from import init_from
from musicldm.training.loop import TrainingResult, fit
from musicldm.training.processes import rank_of
from musicldm.training.run_folder import defaults_filled, resolve_precision
from musicldm.training.trainable import Demo, Trainable

DEMO_SECONDS = 10.0
DEMO_TAKES = 2
DEMO_ARTISTS = 3  # who get a take each, where the network is told the artist
VALIDATION_LEVELS = 8  # noise levels at which each held-out crop is judged


@dataclass(frozen=True)
class DiffusionRunConfig:
    """A whole diffusion training, as a preset or a TOML file gives it."""

    model: DiffusionConfig = field(default_factory=DiffusionConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    plan: PlanConfig | None = None
    """What was asked for, where `training` is what a plan made of it."""


class DiffusionTraining(Trainable[Diffusion]):
    """The denoiser, its loss, and held-out crops [N, D, L] of normalised latents to judge it by."""

    def __init__(
        self,
        config: DiffusionRunConfig,
        statistics: LatentStatistics,
        heldout: LatentBatch | None,
        vae: Bundle,
        tracks: Sequence[Any],
    ) -> None:
        super().__init__(Diffusion(config.model), config.training, tracks)
        self.config = config
        self.statistics = statistics
        self.heldout = heldout
        self.vae = vae

    def losses(self, batch: LatentBatch) -> dict[str, Tensor]:
        x0, config = batch.latents, self.config.model
        time = self.rand_like(x0[:, 0, 0])
        if config.noise.levels == "discrete":
            time = (time * len(self.model.schedule)).long()
        else:
            time = time * (len(self.model.schedule) - 1)
        chance, share = self.rand_like(x0[:, 0, 0]), config.conditions.dropout
        # Half of those that are not told the one are not told the other: most often a sample is told nothing at all.
        untold = chance < share, (chance + share / 2) % 1 < share
        loss = self.model.loss(x0, time, self.randn_like(x0), self._conditions(batch).dropped(*untold))
        return {"total": (loss * self.model.weight(time, x0)).mean(), "mse": loss.mean()}

    def _conditions(self, batch: LatentBatch) -> Conditions:
        """What the network is told of these crops."""
        names = self.config.model.conditions.artists
        if not names:
            shares = batch.start.new_zeros(len(batch.start), 0)
        else:  # whose place is -1 is none of them, and is told as nobody
            shares = F.one_hot(batch.artist + 1, len(names) + 1)[:, 1:].float()
        return Conditions(shares, batch.start / batch.total.clamp_min(1e-6))

    def validate(self) -> dict[str, float]:
        """At fixed noise levels with fixed noise: `loss` over all of them and one figure for each, and as `raw` the
        same of the weights that are trained, before they are averaged."""
        if self.heldout is None:
            return {}
        averaged, raw = (self._heldout_losses(model) for model in (self.ema, self.model))
        return {
            "loss": sum(averaged.values()) / len(averaged),
            **{f"t{time}": value for time, value in averaged.items()},
            "raw": sum(raw.values()) / len(raw),
            **{f"raw-t{time}": value for time, value in raw.items()},
        }

    def _heldout_losses(self, model: Diffusion) -> dict[int, float]:
        """The loss of a model at each of the fixed times."""
        if self.heldout is None:
            return {}
        steps, size = len(model.schedule), self.training_config.micro_batch_size
        noise = torch.randn(self.heldout.latents.shape, generator=torch.Generator().manual_seed(0))
        losses = {}
        for time in [int((i + 0.5) * steps / VALIDATION_LEVELS) for i in range(VALIDATION_LEVELS)]:
            total = 0.0
            for first in range(0, len(noise), size):
                crops = LatentBatch(*(column[first : first + size].to(self.device) for column in self.heldout))
                t = torch.full((len(crops.latents),), time, device=self.device)
                eps = noise[first : first + size].to(self.device)
                total += model.loss(crops.latents, t, eps, self._conditions(crops)).sum().item()
            losses[time] = total / len(noise)
        return losses

    def demos(self) -> list[Demo]:
        """New music in 20 steps, always from the same seeds; then the first take for each of some artists."""
        generator = Generator(self.bundle("demo"), str(self.device), self.training_config.precision)
        steps = min(20, len(self.model.schedule))
        asked: list[tuple[str, dict[str, Any]]] = [("sample", {"take": take}) for take in range(DEMO_TAKES)]
        asked += [(_file_name(artist), {"artist": artist}) for artist in self._foremost()]
        return [
            Demo(str(n), {title: generator.sample(DEMO_SECONDS, steps=steps, **options)}, generator.sample_rate)
            for n, (title, options) in enumerate(asked, 1)
        ]

    def _foremost(self) -> list[str]:
        """The artists with the most music among those who can be told."""
        seconds: dict[str, float] = defaultdict(float)
        for track in self.tracks:
            if track.split == "train" and track.artist in self.config.model.conditions.artists:
                seconds[track.artist] += track.seconds
        return sorted(seconds, key=lambda artist: (-seconds[artist], artist))[:DEMO_ARTISTS]

    def bundle(self, name: str) -> Bundle:
        codec = self.vae.component("codec")
        generator = generator_component(self.ema, self.statistics, codec.digest)
        facts = {**self.vae.facts, "generator": self.facts(self.config)}
        return Bundle(name, {"codec": codec, "generator": generator}, facts)


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
    config = replace(config, training=resolve_precision(config.training, run, device))
    announce = announce if rank_of(config.training) == 0 else ignore
    training = config.training
    store = LatentStore.open(store_path, skip_broken)
    broken = _verified(store, skip_broken, progress, announce)
    vae = read_codec(store)
    hop_seconds = 1 / store.header.frame_rate
    crop = crop_length(training.seconds, config.model.network.multiple, 1 / hop_seconds)
    dataset = LatentDataset(store, crop, "train", derive(training.seed, "diffusion"), broken)
    config = replace(config, model=_fitting(config.model, store.header.channels, dataset.artists))
    announce_left_out(announce, dataset.left_out, len(dataset.tracks), crop * hop_seconds)
    heldout = None
    columns = store.tracks.columns
    judges = store.tracks.chosen(columns["heldout"] & (columns["frames"] >= crop))
    if any(track.key not in broken for track in judges):
        heldout = LatentDataset(store, crop, "heldout", without=broken).fixed_batch(training.validation_crops)

    torch.manual_seed(derive(training.seed, "weights"))
    module = DiffusionTraining(config, dataset.statistics, heldout, vae, store.tracks)
    init_from(module, init, "generator", {**to_dict(module.model.config), "vae": store.header.codec_hash}, announce)
    seconds_per_step = training.batch_size * crop * hop_seconds
    identity = {**to_dict(config), "vae": store.header.codec_hash}
    upgrade = partial(defaults_filled, cls=DiffusionRunConfig)
    return fit(module, dataset, run, identity, seconds_per_step, device, progress, announce, upgrade)


def _fitting(model: DiffusionConfig, channels: int, artists: Sequence[str]) -> DiffusionConfig:
    """The model for a store with these channels and artists."""
    return replace(
        model,
        unet=replace(model.unet, latent_channels=channels),
        transformer=replace(model.transformer, latent_channels=channels),
        conditions=replace(model.conditions, artists=tuple(artists) if model.conditions.by_artist else ()),
    )


def _file_name(artist: str) -> str:
    """What can be part of the name of a file on any system."""
    return re.sub(r"[^\w -]", "_", artist)[:40]


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
