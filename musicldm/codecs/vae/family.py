"""The waveform VAE as one codec among others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from musicldm.codecs.base import CodecFamily
from musicldm.codecs.vae.config import NAME, VAEConfig, VAERunConfig
from musicldm.codecs.vae.model import VAE
from musicldm.core.progress import Progress

if TYPE_CHECKING:
    from musicldm.training.loop import TrainingResult
    from musicldm.training.rehearsal import Rehearsal


def describe(model: VAEConfig) -> list[tuple[str, str]]:
    """A VAE's size, rates and receptive field, each with its name."""
    with torch.device("meta"):  # only to be counted
        parameters = sum(weight.numel() for weight in VAE(model).parameters())
    fewer = model.compression >= 1
    ratio = f"{model.compression if fewer else 1 / model.compression:.3g} times {'fewer' if fewer else 'more'}"
    return [
        ("parameters", f"{parameters / 1e6:.1f} M"),
        ("audio", f"{model.sample_rate} Hz {'mono' if model.audio_channels == 1 else 'stereo'}"),
        ("hop", f"{model.hop} samples, {model.frame_rate:.4g} frames a second"),
        ("latent", f"{model.latent_channels} channels, {ratio} numbers than the waveform"),
        ("receptive field", f"{model.seconds_of_context:.3g} s"),
    ]


def _train(
    data: Path,
    run: Path,
    config: VAERunConfig,
    device: torch.device,
    progress: Progress,
    announce: Callable[[str], None],
    init_from: Path | None,
    resample: bool,
) -> TrainingResult:
    from musicldm.codecs.vae.training import train_vae  # here: whoever only decodes needs no training engine

    return train_vae(data, run, config, device, progress, announce, init_from, resample)


def _rehearsal(config: VAERunConfig) -> Rehearsal:
    from musicldm.codecs.vae.rehearsal import rehearsal

    return rehearsal(config)


FAMILY = CodecFamily(
    name=NAME,
    package="musicldm.codecs.vae",
    from_bundle=VAE.from_bundle,
    run_config=VAERunConfig,
    train=_train,
    rehearsal=_rehearsal,
    describe=describe,
    figure="study",
)
