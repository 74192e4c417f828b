"""A latent store -> a trained diffusion model, bundled with the codec that made the store."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from musicldm.core.bundle import Bundle
from musicldm.core.config import to_dict
from musicldm.core.errors import DataError
from musicldm.core.progress import Progress, silent
from musicldm.core.seeding import derive
from musicldm.generators.base import DemoRequest, Render
from musicldm.generators.diffusion import upgrade
from musicldm.generators.diffusion.config import DiffusionRunConfig
from musicldm.generators.diffusion.generate import DiffusionOptions
from musicldm.generators.diffusion.model import Diffusion
from musicldm.latents.codec import read_codec
from musicldm.latents.dataset import LatentBatch, LatentDataset
from musicldm.latents.examine import verify
from musicldm.latents.statistics import LatentStatistics
from musicldm.latents.store import LatentStore
from musicldm.training.announce import Announce, announce_left_out, ignore
from musicldm.training.config import crop_length
from musicldm.training.init_weights import init_weights
from musicldm.training.loop import TrainingResult, fit
from musicldm.training.processes import rank_of
from musicldm.training.run_folder import defaults_filled, resolve_precision
from musicldm.training.trainable import Demo, Trainable

DEMO_SECONDS = 10.0
DEMO_STEPS = 20
DEMO_TAKES = 2
DEMO_CHOICES = 3  # of each condition that goes by names, such as artists: a take for each
VALIDATION_LEVELS = 8  # noise levels at which each held-out crop is judged


class DiffusionTraining(Trainable[Diffusion]):
    """The model, its loss, and held-out crops [N, D, L] of normalised latents to judge it by.

    Args:
        codec: the bundle with the codec whose latents these are; its components and facts are shipped along.
        render: makes demos heard; None: there are none.
    """

    def __init__(
        self,
        config: DiffusionRunConfig,
        statistics: LatentStatistics,
        heldout: LatentBatch | None,
        codec: Bundle,
        tracks: Sequence[Any],
        render: Render | None = None,
    ) -> None:
        super().__init__(Diffusion(config.model), config.training, tracks)
        self.config = config
        self.statistics = statistics
        self.heldout = heldout
        self.codec = codec
        self.render = render

    def losses(self, batch: LatentBatch) -> dict[str, Tensor]:
        x0, config = batch.latents, self.config.model
        time = self.rand_like(x0[:, 0, 0])
        if config.noise.levels == "discrete":
            time = (time * len(self.model.schedule)).long()
        else:
            time = time * (len(self.model.schedule) - 1)
        conditions, chance = self.model.conditions, self.rand_like(x0[:, 0, 0])
        conditioning = conditions.dropped(conditions.of_batch(batch), chance, config.conditions.dropout)
        loss = self.model.loss(x0, time, self.randn_like(x0), conditioning)
        return {"total": (loss * self.model.weight(time, x0)).mean(), "mse": loss.mean()}

    def validate(self) -> dict[str, float]:
        """At fixed noise levels with fixed noise: `loss` over all of them and one figure for each, and as `raw` the
        same of the weights that are trained, before they are averaged."""
        if self.heldout is None:
            return {}
        averaged, raw = (self._heldout_losses(model, self.heldout) for model in (self.ema, self.model))
        return {
            "loss": sum(averaged.values()) / len(averaged),
            **{f"t{time}": value for time, value in averaged.items()},
            "raw": sum(raw.values()) / len(raw),
            **{f"raw-t{time}": value for time, value in raw.items()},
        }

    def _heldout_losses(self, model: Diffusion, heldout: LatentBatch) -> dict[int, float]:
        """The loss of a model at each of the fixed times."""
        steps, size = len(model.schedule), self.training_config.micro_batch_size
        noise = torch.randn(heldout.latents.shape, generator=torch.Generator().manual_seed(0))
        losses = {}
        for time in [int((i + 0.5) * steps / VALIDATION_LEVELS) for i in range(VALIDATION_LEVELS)]:
            total = 0.0
            for first in range(0, len(noise), size):
                chosen = slice(first, first + size)
                crops: LatentBatch = tree_map(lambda column, of=chosen: column[of].to(self.device), heldout)
                t = torch.full((len(crops.latents),), time, device=self.device)
                eps = noise[chosen].to(self.device)
                total += model.loss(crops.latents, t, eps, model.conditions.of_batch(crops)).sum().item()
            losses[time] = total / len(noise)
        return losses

    def demos(self) -> list[Demo]:
        """New music in a few steps, always from the same seeds; then the first take for some values of each condition
        that goes by names."""
        if self.render is None:
            return []
        options = DiffusionOptions(steps=min(DEMO_STEPS, len(self.model.schedule)))
        takes = [DemoRequest("sample", DEMO_SECONDS, take, options=options) for take in range(DEMO_TAKES)]
        takes += [
            DemoRequest(_file_name(value), DEMO_SECONDS, conditions={condition.name: value}, options=options)
            for condition in self.ema.conditions
            for value in condition.demos(self.tracks, DEMO_CHOICES)
        ]
        heard = self.render(self.bundle("demo"), takes, str(self.device), self.training_config.precision)
        return [
            Demo(str(number), {take.title: audio}, rate)
            for number, (take, (audio, rate)) in enumerate(zip(takes, heard, strict=True), 1)
        ]

    def bundle(self, name: str) -> Bundle:
        codec = self.codec.component("codec")
        generator = self.ema.component(self.statistics, codec.digest)
        facts = {**self.codec.facts, "generator": self.facts(self.config)}
        return Bundle(name, {"codec": codec, "generator": generator}, facts)


def train_diffusion(
    store_path: Path | str,
    run: Path,
    config: DiffusionRunConfig,
    device: torch.device,
    progress: Progress = silent,
    announce: Announce = ignore,
    skip_broken: bool = False,
    init_from: Path | None = None,
    render: Render | None = None,
) -> TrainingResult:
    """Train a diffusion model on the latents of a store; see `fit`.

    A store in a folder is verified first, so that no damage comes to light days later; one that is far away would have
    to be fetched whole for that, and a chunk is verified when it is read.

    Args:
        skip_broken: leave out the tracks that are damaged.
        init_from: a bundle whose weights are the first ones.
        render: makes demos heard; None: there are none.

    Raises:
        DataError: no store there, a damaged one, or every track is shorter than a crop.
        BundleError: the store's copy of its codec is damaged.
        MismatchError: a bundle of another shape.
    """
    config = replace(config, training=resolve_precision(config.training, run, device))
    announce = announce if rank_of(config.training) == 0 else ignore
    training = config.training
    store = LatentStore.open(store_path, skip_broken)
    broken = _verified(store, skip_broken, progress, announce)
    codec = read_codec(store)
    header = store.header
    crop = crop_length(training.seconds, config.model.multiple, header.frame_rate)
    dataset = LatentDataset(store, crop, "train", derive(training.seed, "diffusion"), broken)
    config = replace(config, model=config.model.with_channels(header.channels).conditioned_on(dataset))
    readers = config.model.conditions.readers()
    crop_seconds = crop / header.frame_rate
    announce_left_out(announce, dataset.left_out, len(dataset.tracks), crop_seconds)
    heldout = None
    columns = store.tracks.columns
    judges = store.tracks.chosen(columns["heldout"] & (columns["frames"] >= crop))
    if any(track.key not in broken for track in judges):
        of_heldout = LatentDataset(store, crop, "heldout", without=broken).with_conditions(readers)
        heldout = of_heldout.fixed_batch(training.validation_crops)

    torch.manual_seed(derive(training.seed, "weights"))
    module = DiffusionTraining(config, dataset.statistics, heldout, codec, store.tracks, render)
    wanted = {**to_dict(module.model.config), "codec": header.codec_hash}
    init_weights(module, init_from, "generator", wanted, announce, upgrade.component)
    identity = {**to_dict(config), "codec": header.codec_hash}
    crops, seconds = dataset.with_conditions(readers), training.batch_size * crop_seconds
    return fit(module, crops, run, identity, seconds, device, progress, announce, _upgraded)


def _upgraded(before: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run of an earlier release, as this one writes it."""
    return defaults_filled(upgrade.run_config(before), DiffusionRunConfig)


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
