"""A codec's family out of its parts: what the commands need to build, train, plan and describe it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from musicldm.codecs.base import CodecFamily
from musicldm.codecs.module import CodecModule
from musicldm.core.registry import resolve

if TYPE_CHECKING:
    from musicldm.training.loop import TrainingResult
    from musicldm.training.rehearsal import Rehearsal


def codec_family(
    model: type[CodecModule], run_config: type[Any], training: str, package: str, figure: str = "loss"
) -> CodecFamily:
    """The family of a codec.

    Args:
        model: the codec.
        run_config: the dataclass of a whole training; see `codecs.base.RunConfig`.
        training: where its `CodecTraining` is, as `package.module:Class`; it is built with the run's configuration and
            its `Material`. A name, since whoever only decodes needs no training engine.
        package: the package whose `presets/` folder has its presets.
        figure: the one of its held-out figures that is reported in the end.
    """

    def train(*arguments: Any) -> TrainingResult:
        # In here and not above, as is what `rehearsal` needs: whoever only decodes never gets this far.
        from musicldm.codecs.training import train_codec

        return train_codec(resolve(training), *arguments)

    def rehearsal(config: Any) -> Rehearsal:
        from musicldm.codecs.training import rehearsal_of

        return rehearsal_of(resolve(training), config)

    return CodecFamily(
        name=run_config().model.spec.codec,
        package=package,
        from_bundle=model.from_bundle,
        run_config=run_config,
        train=train,
        rehearsal=rehearsal,
        describe=partial(description, model),
        figure=figure,
    )


def description(model: type[CodecModule], config: Any) -> list[tuple[str, str]]:
    """A codec's size, rates and receptive field, each with its name."""
    with torch.device("meta"):  # only to be counted
        codec = model(config)
    spec = codec.spec
    parameters = f"{sum(weight.numel() for weight in codec.parameters()) / 1e6:.1f} M"
    field = (2 * codec.context + 1) * spec.hop / spec.rate
    if spec.medium == "notes":
        beats = spec.hop / spec.rate
        return [
            ("parameters", parameters),
            ("notes", f"a piano roll of {spec.rate} steps a beat"),
            ("latent", f"{spec.channels} channels, a frame for {beats:g} beat{'s' * (beats != 1)}"),
            ("receptive field", f"{field:g} beats"),
        ]
    fewer = spec.compression >= 1
    ratio = f"{spec.compression if fewer else 1 / spec.compression:.3g} times {'fewer' if fewer else 'more'}"
    return [
        ("parameters", parameters),
        ("audio", f"{spec.rate} Hz {'mono' if spec.media_channels == 1 else 'stereo'}"),
        ("hop", f"{spec.hop} samples, {spec.frame_rate:.4g} frames a second"),
        ("latent", f"{spec.channels} channels, {ratio} numbers than the waveform"),
        ("receptive field", f"{field:.3g} s"),
    ]
