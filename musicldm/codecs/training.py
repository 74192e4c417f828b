"""What the trainings of all codecs share: crops of prepared music, held-out ones, demos, and the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor

from musicldm.codecs.base import RunConfig
from musicldm.codecs.module import CodecModule
from musicldm.codecs.windows import reconstruct
from musicldm.core.bundle import Bundle
from musicldm.core.config import to_dict
from musicldm.core.padded import Padded, groups, split
from musicldm.core.progress import Progress, silent
from musicldm.core.seeding import derive
from musicldm.media.audio import resampled
from musicldm.media.audio.forms import converted
from musicldm.media.dataset import CropDataset, open_splits
from musicldm.media.manifest import PreparedTrack
from musicldm.training.announce import Announce, announce_short, ignore
from musicldm.training.config import TrainingConfig, crop_length
from musicldm.training.init_weights import init_weights
from musicldm.training.loop import TrainingResult, fit
from musicldm.training.processes import rank_of
from musicldm.training.rehearsal import Rehearsal
from musicldm.training.run_folder import defaults_filled, resolve_precision
from musicldm.training.trainable import Demo, Trainable

Model = TypeVar("Model", bound=CodecModule)

DEMO_TRACKS = 2
DEMO_SECONDS = 8
"""Of audio; of notes, so many times four beats."""


@dataclass(frozen=True)
class Material:
    """What a training has to judge itself by, beside its crops."""

    heldout: Tensor | Padded | None = None
    """Crops [N, C, T] of held-out tracks; None: there are none."""
    excerpts: Sequence[Tensor] = ()
    """A few seconds of held-out tracks to listen to, [C, T] each."""
    tracks: Sequence[PreparedTrack] = ()
    """All that is trained on or held out."""


class CodecTraining(Trainable[Model]):
    """A codec in training. A subclass names its model, and says what its losses are.

    Args:
        config: of the run; an instance of the family's `run_config`.
        material: what to judge it by.
    """

    model_class: ClassVar[type[CodecModule]]

    def __init__(self, config: Any, material: Material) -> None:
        model = cast("Model", self.model_class(config.model))
        super().__init__(model, config.training, material.tracks)
        self.config = config
        self.heldout = material.heldout
        self.excerpts = material.excerpts

    def losses_of(self, codec: Model, crops: Tensor) -> dict[str, Tensor]:
        """The losses of a codec on crops [N, C, T], averaged over them; `total` is the one that counts.

        A subclass has this one, or both `losses` and `heldout_losses`.
        """
        raise NotImplementedError

    def losses(self, batch: Tensor) -> dict[str, Tensor]:
        return self.losses_of(self.model, batch)

    def heldout_losses(self, crops: Tensor) -> dict[str, Tensor]:
        """The losses of `ema` on held-out crops [N, C, T]; see `losses_of`."""
        return self.losses_of(self.ema, crops)

    def validate(self) -> dict[str, float]:
        """The mean of `heldout_losses` over all held-out crops."""
        if self.heldout is None:
            return {}
        totals: dict[str, float] = {}
        count = 0
        for part, size in split(self.heldout, self.training_config.micro_batch_size):
            count += size
            for group in groups(part, self.cut):
                for name, value in self.heldout_losses(group.batch.to(self.device)).items():
                    # Weighted by its crops, since the last part may have fewer.
                    totals[name] = totals.get(name, 0.0) + value.item() * size * group.weight
        totals = {name: total / count for name, total in totals.items()}
        return {"loss": totals.pop("total"), **totals}

    def demos(self) -> list[Demo]:
        """Held-out music beside its reconstruction."""
        return [
            Demo(
                name=str(number),
                audio={"original": original, "reconstruction": reconstruct(self.ema, original)},
                sample_rate=self.ema.spec.rate,
            )
            for number, original in enumerate(self.excerpts, 1)
        ]

    def bundle(self, name: str) -> Bundle:
        return Bundle(name, {"codec": self.ema.component()}, {"codec": self.facts(self.config)})


def train_codec(
    make: type[CodecTraining[Any]],
    data: Path,
    run: Path,
    config: Any,
    device: torch.device,
    progress: Progress = silent,
    announce: Announce = ignore,
    init: Path | None = None,
    resample: bool = False,
    dry_run: bool = False,
) -> TrainingResult:
    """Train a codec on the prepared waveforms in `data`; see `fit`, and `codecs.base.Train` for the arguments.

    Args:
        make: the class of the training.
        config: a `codecs.base.RunConfig`.

    Raises:
        DataError: nothing prepared there, or nothing to train on.
        MismatchError: tracks of another rate or other channels than the model's, or a bundle of another shape.
    """
    # Before anything else: a run must be resumed in the precision that it had, which `auto` does not say.
    config = replace(config, training=resolve_precision(config.training, run, device))
    announce = announce if rank_of(config.training) == 0 else ignore
    spec, training, (samples, grid) = config.model.spec, config.training, _crop(config)
    splits = open_splits(data, spec.rate, spec.media_channels, resample, spec.medium)
    forms = resampled.converted(track for tracks in splits.values() for track in tracks)
    if sentence := converted(forms, "track", spec.rate, spec.media_channels):
        announce(sentence)
    # The seed of the crops has the codec in its address, so that another training with this seed draws other places.
    crops = CropDataset(splits["train"], samples, grid, derive(training.seed, spec.codec))
    announce_short(announce, crops.short, len(crops.tracks), samples / spec.rate, spec.unit)
    heldout = None
    if splits["heldout"]:
        heldout = CropDataset(splits["heldout"], samples, grid).fixed_batch(training.validation_crops)
    excerpts = [_excerpt(track) for track in splits["heldout"][:DEMO_TRACKS]]

    # Right before the weights are drawn: nothing that came earlier may decide them. Processes that train together must
    # all draw the same, since only gradients are exchanged later.
    torch.manual_seed(derive(training.seed, "weights"))
    module = make(config, Material(heldout, excerpts, [*splits["train"], *splits["heldout"]]))
    init_weights(module, init, "codec", to_dict(config.model), announce)

    def upgraded(before: dict[str, Any]) -> dict[str, Any]:
        """A run's config.json as this release writes it: release 0.1 named no codec."""
        return defaults_filled({"codec": spec.codec, **before}, type(config))

    identity = {"codec": spec.codec, **to_dict(config)}
    seconds_per_step = training.batch_size * samples / spec.rate
    return fit(module, crops, run, identity, seconds_per_step, device, progress, announce, upgraded, dry_run)


def rehearsal_of(make: type[CodecTraining[Any]], config: Any) -> Rehearsal:
    """A step of a codec's training on crops of silence, to find out how much memory it needs."""

    def step(training: TrainingConfig, crops: int) -> tuple[Trainable[Any], Tensor]:
        run = replace(config, training=training)
        return make(run, Material()), torch.zeros(crops, spec.media_channels, _crop(run)[0])

    spec, (_, grid) = config.model.spec, _crop(config)
    return Rehearsal(step, grid / spec.rate)


def _crop(config: RunConfig) -> tuple[int, int]:
    """The samples of a training crop, and those of which its start is a multiple."""
    spec = config.model.spec
    grid = config.model.grid * spec.hop
    return crop_length(config.training.seconds, grid, spec.rate), grid


def _excerpt(track: PreparedTrack) -> Tensor:
    """A few seconds, or bars, from the middle of a track, [C, T]."""
    length = min(track.length, DEMO_SECONDS * track.rate * (1 if track.medium == "audio" else 4))
    start = (track.length - length) // 2
    return torch.from_numpy(track.read(start, start + length))
