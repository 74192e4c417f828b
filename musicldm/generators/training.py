"""What the trainings of all generators share: crops of a store, held-out ones, demos, and the bundle."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from musicldm.core.bundle import Bundle, Component
from musicldm.core.config import to_dict
from musicldm.core.errors import DataError
from musicldm.core.names import folded
from musicldm.core.padded import Padded, groups
from musicldm.core.progress import Progress, silent
from musicldm.core.reading import read_json
from musicldm.core.seeding import derive
from musicldm.generators.base import DemoRequest, Render
from musicldm.generators.module import GeneratorModule
from musicldm.latents.codec import read_codec
from musicldm.latents.dataset import Crops, LatentBatch, LatentDataset
from musicldm.latents.examine import verify
from musicldm.latents.schema import StoreHeader
from musicldm.latents.statistics import LatentStatistics
from musicldm.latents.store import LatentStore
from musicldm.latents.table import TrackTable
from musicldm.training.announce import Announce, announce_short, ignore
from musicldm.training.config import TrainingConfig, crop_length
from musicldm.training.init_weights import init_weights
from musicldm.training.loop import TrainingResult, fit
from musicldm.training.processes import rank_of
from musicldm.training.rehearsal import Rehearsal
from musicldm.training.run_folder import CONFIG, Upgrade, defaults_filled, resolve_precision, unchanged
from musicldm.training.trainable import Demo, Trainable

Model = TypeVar("Model", bound=GeneratorModule)

DEMO_SECONDS = 10.0
DEMO_TAKES = 2
DEMO_CHOICES = 3  # of each condition that goes by names, such as artists: a take for each


@dataclass(frozen=True)
class Material:
    """What a training is made for and judged by, beside its crops."""

    statistics: LatentStatistics
    """Of the latents to train on."""
    heldout: LatentBatch | Padded | None = None
    """Crops of held-out tracks; None: there are none."""
    codec: Bundle | None = None
    """The codec whose latents these are: its component and facts are shipped along."""
    codec_hash: str = ""
    """Its hash, as the store has it."""
    tracks: Sequence[Any] = ()
    """All that is trained on or held out."""
    render: Render | None = None
    """Makes demos heard; None: there are none."""


class GeneratorTraining(Trainable[Model]):
    """A generator in training. A subclass names its model, and says what its losses are.

    Args:
        config: of the run; an instance of the family's `run_config`.
        material: what it is made for and judged by.
    """

    model_class: ClassVar[type[GeneratorModule]]

    def __init__(self, config: Any, material: Material) -> None:
        model = cast("Model", self.model_class(config.model))
        super().__init__(model, config.training, material.tracks)
        self.config = config
        self.material = material
        self.heldout = material.heldout

    def losses_of(self, model: Model, batch: LatentBatch) -> dict[str, Tensor]:
        """The losses of a model on crops, averaged over them; `total` is the one that counts.

        A subclass has this one, or both `losses` and `validate`.
        """
        raise NotImplementedError

    def cut(self, batch: LatentBatch, missing: int) -> LatentBatch:
        built, left = self.config.model.conditions.built(), batch.latents.shape[-1] - missing
        framewise = {name for name, condition in built.items() if condition.kind == "frames"}
        values = {name: value[..., :left] if name in framewise else value for name, value in batch.conditions.items()}
        return LatentBatch(batch.latents[..., :left], values)

    def losses(self, batch: LatentBatch) -> dict[str, Tensor]:
        return self.losses_of(self.model, batch)

    def validate(self) -> dict[str, float]:
        """The losses of `ema` on all held-out crops at once."""
        if self.heldout is None:
            return {}
        losses: dict[str, float] = {}
        for group in groups(self.heldout, self.cut):
            crops: LatentBatch = tree_map(lambda column: column.to(self.device), group.batch)
            for name, value in self.losses_of(self.ema, crops).items():
                losses[name] = losses.get(name, 0.0) + group.weight * value.item()
        return {"loss": losses.pop("total"), **losses}

    def demo_requests(self) -> list[DemoRequest]:
        """What to hear of `ema` now; a subclass may ask for other things."""
        return [DemoRequest("sample", DEMO_SECONDS, take) for take in range(DEMO_TAKES)]

    def demos(self) -> list[Demo]:
        """New music, always from the same seeds."""
        requests = self.demo_requests()
        if self.material.render is None or not requests:
            return []
        takes = self.material.render(self.bundle("demo"), requests, str(self.device), self.training_config.precision)
        return [
            Demo(str(number), {_file_name(request.title): audio}, rate)
            for number, (request, (audio, rate)) in enumerate(zip(requests, takes, strict=True), 1)
        ]

    def bundle(self, name: str) -> Bundle:
        """The generator, and the codec of its latents.

        Raises:
            DataError: there is no such codec.
        """
        source = self.material.codec
        if source is None:
            raise DataError("A generator cannot be shipped without the codec of its latents.")
        codec = source.component("codec")
        generator = self.ema.component(self.material.statistics, self.material.codec_hash)
        facts = {**source.facts, "generator": self.facts(self.config)}
        return Bundle(name, {"codec": codec, "generator": generator}, facts)


def train_generator(
    make: type[GeneratorTraining[Any]],
    store_path: Path | str,
    run: Path,
    config: Any,
    device: torch.device,
    progress: Progress = silent,
    announce: Announce = ignore,
    skip_broken: bool = False,
    init: Path | None = None,
    render: Render | None = None,
    dry_run: bool = False,
    upgrade: Upgrade = unchanged,
    upgrade_component: Callable[[Component], Component] = lambda component: component,
) -> TrainingResult:
    """Train a generator on the latents of a store; see `fit`, and `generators.base.Train` for the arguments.

    A store in a folder is verified first, so that no damage comes to light days later; one that is far away would have
    to be fetched whole for that, and a chunk is verified when it is read.

    Args:
        make: the class of the training.
        config: a `generators.base.RunConfig`.
        upgrade: a run's configuration as an earlier release wrote it -> as `config` is.
        upgrade_component: the same for a component of a bundle to start from.

    Raises:
        DataError: no store there, a damaged one, or one without tracks to train on.
        BundleError: the store's copy of its codec is damaged.
        MismatchError: a bundle of another shape.
    """
    # Before anything else: a run must be resumed in the precision that it had, which `auto` does not say.
    config = replace(config, training=resolve_precision(config.training, run, device))
    announce = announce if rank_of(config.training) == 0 else ignore
    training = config.training
    store = LatentStore.open(store_path, skip_broken)
    broken = _verified(store, skip_broken, progress, announce)
    codec, header = read_codec(store), store.header
    crop = crop_length(training.seconds, config.model.multiple, header.frame_rate)
    dataset = LatentDataset(store, crop, "train", derive(training.seed, make.model_class.kind), broken)
    dataset.artists = artists_of_run(run, dataset.artists, upgrade)
    # Only now is the model's shape known: its channels, and its artists, come from the store.
    config = replace(config, model=config.model.fitted(header.channels, dataset))
    readers = config.model.conditions.readers()
    announce_short(announce, dataset.short, len(dataset.tracks), crop / header.frame_rate, header.unit)
    heldout = None
    columns = store.tracks.columns
    judges = store.tracks.chosen(columns["heldout"])
    # Asked first, since a dataset without a single track is an error.
    if any(track.key not in broken for track in judges):
        of_heldout = LatentDataset(store, crop, "heldout", without=broken).with_conditions(readers)
        heldout = of_heldout.fixed_batch(training.validation_crops)

    # Right before the weights are drawn: nothing that came earlier may decide them. Processes that train together must
    # all draw the same, since only gradients are exchanged later.
    torch.manual_seed(derive(training.seed, "weights"))
    module = make(config, Material(dataset.statistics, heldout, codec, header.codec_hash, store.tracks, render))
    whose = {"codec": header.codec_hash}
    init_weights(module, init, "generator", {**to_dict(config.model), **whose}, announce, upgrade_component)

    def upgraded(before: dict[str, Any]) -> dict[str, Any]:
        """A run's config.json as this release writes it."""
        return defaults_filled(upgrade(before), type(config))

    crops, seconds = dataset.with_conditions(readers), training.batch_size * crop / header.frame_rate
    identity = {**to_dict(config), **whose}
    return fit(module, crops, run, identity, seconds, device, progress, announce, upgraded, dry_run)


def artists_of_run(run: Path, artists: list[str], upgrade: Upgrade = unchanged) -> list[str]:
    """The artists as a run that may be there already has them, where these are the same but for their spelling.

    An earlier release counted each spelling of a name as an artist: such a run goes on with the model that it has.
    """
    try:
        before = upgrade(dict(read_json(run / CONFIG)))
        names = list(map(str, before["model"]["conditions"]["settings"]["artist"]["names"]))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return artists  # no run, or a damaged one, which is reported later
    return names if set(map(folded, names)) == set(map(folded, artists)) else artists


def rehearsal_of(make: type[GeneratorTraining[Any]], config: Any, header: StoreHeader) -> Rehearsal:
    """A step of a generator's training on latents that are all zero, to find out how much memory it needs."""
    channels = header.channels
    # Mean 0 and deviation 1: memory does not depend on the values.
    material = Material(LatentStatistics(1, (0.0,) * channels, (1.0,) * channels))
    model = config.model.fitted(channels)

    def step(training: TrainingConfig, crops: int) -> tuple[Trainable[Any], LatentBatch]:
        frames = crop_length(training.seconds, model.multiple, header.frame_rate)
        zeros, nothing = torch.zeros(crops), np.zeros(crops, np.int64)
        where = Crops([""] * crops, zeros, zeros, frames, TrackTable.of([]), nothing, nothing)
        values = {name: read(where) for name, read in model.conditions.readers().items()}
        batch = LatentBatch(torch.zeros(crops, channels, frames), values)
        return make(replace(config, model=model, training=training), material), batch

    return Rehearsal(step, model.multiple / header.frame_rate)


def _file_name(title: str) -> str:
    """What can be part of the name of a file on any system."""
    return re.sub(r"[^\w -]", "_", title)[:40]


def _verified(store: LatentStore, skip_broken: bool, progress: Progress, announce: Announce) -> set[str]:
    """The keys of the damaged tracks, which are announced."""
    if store.is_remote:
        return set()
    faults = verify(store, progress)
    if faults and not skip_broken:
        more = f" And {len(faults) - 1} more." if len(faults) > 1 else ""
        raise DataError(
            f"The store is damaged. {faults[0].reason}{more}",
            "musicldm latents verify lists all; delete the segments that it names and encode again, or train without "
            "these tracks: --skip-broken.",
        )
    for fault in faults:
        announce(f"Left out: {fault.reason}")
    return {fault.key for fault in faults if fault.key}
