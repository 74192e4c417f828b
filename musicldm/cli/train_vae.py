"""`musicldm train-vae`: waveforms to a VAE."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from musicldm.cli.console import Console
from musicldm.cli.memory_plan import fitted, foreseen, sentence
from musicldm.cli.options import (
    BatchSize,
    ConfigFile,
    Device,
    Devices,
    DryRun,
    Init,
    Json,
    LearningRate,
    Nodes,
    Quiet,
    Resample,
    Seconds,
    Steps,
    Strategy,
    TrainPrecision,
    TrainSeed,
    Vram,
    Wandb,
    Workers,
)
from musicldm.cli.training import load_config, render, show, speaking_once

if TYPE_CHECKING:
    from musicldm.codecs.vae.model import VAEConfig


def train_vae(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="The waveforms that preprocess made.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The run's folder; one that exists is resumed.")
    ] = Path("runs/vae"),
    preset: Annotated[
        str,
        typer.Option(
            help="tiny: minutes on a CPU; small: 16 kHz mono; base: 44.1 kHz stereo, for a GPU; paper: the study's."
        ),
    ] = "small",
    config: ConfigFile = None,
    init: Init = None,
    resample: Resample = False,
    steps: Steps = None,
    batch_size: BatchSize = None,
    seconds: Seconds = None,
    learning_rate: LearningRate = None,
    seed: TrainSeed = None,
    device: Device = "auto",
    precision: TrainPrecision = None,
    vram: Vram = None,
    workers: Workers = None,
    devices: Devices = None,
    nodes: Nodes = None,
    strategy: Strategy = None,
    wandb: Wandb = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the VAE that turns waveforms into latents and back.

    Ctrl-C saves and stops; the same command goes on. The folder keeps config.json, metrics.csv, TensorBoard events,
    demos to listen to, checkpoints, and the bundle that encode and sample take.
    """
    from musicldm.codecs.vae.training import VAERunConfig, train_vae
    from musicldm.core.devices import pick_device
    from musicldm.training.memory import vae_rehearsal
    from musicldm.training.run import rank_of

    given = {
        "steps": steps,
        "batch_size": batch_size,
        "seconds": seconds,
        "learning_rate": learning_rate,
        "seed": seed,
        "precision": precision,
        "workers": workers,
        "devices": devices,
        "nodes": nodes,
        "strategy": strategy,
        "wandb": wandb,
    }
    plan = load_config(VAERunConfig, "musicldm.codecs.vae", preset, config, {"training": given})
    console = Console(quiet or rank_of(plan.training) > 0, as_json)
    where, rehearsal = pick_device(device), vae_rehearsal(plan)
    plan, fit = fitted(plan, rehearsal, output, where, vram)
    if dry_run:
        show(console, plan, fit or foreseen(plan, rehearsal, where), describe(plan.model))
        return
    console.note("A VAE. " + "; ".join(f"{name}: {fact}" for name, fact in describe(plan.model)) + ".")
    if fit:
        console.note(sentence(fit))
    with console.progress("Training the VAE") as progress, speaking_once(plan.training):
        result = train_vae(data, output, plan, where, progress, console.warn, init, resample)
    render(console, result, plan.training.steps, "study")


def describe(model: VAEConfig) -> list[tuple[str, str]]:
    """A VAE's size, rates and reach, each with its name."""
    import torch

    from musicldm.codecs.vae.model import VAE

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
