"""`musicldm train-vae`: waveforms to a VAE."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from musicldm.cli.console import Console
from musicldm.cli.options import (
    BatchSize,
    ConfigFile,
    Device,
    DryRun,
    Json,
    LearningRate,
    Precision,
    Quiet,
    Seconds,
    Steps,
    TrainSeed,
)
from musicldm.cli.training import load_config, render, show


def train_vae(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="The waveforms that preprocess made.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The run's folder; one that exists is resumed.")
    ] = Path("runs/vae"),
    preset: Annotated[
        str, typer.Option(help="tiny: minutes on a CPU; small: 16 kHz mono, for a GPU; paper: the study's.")
    ] = "small",
    config: ConfigFile = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    seconds: Seconds = None,
    learning_rate: LearningRate = None,
    seed: TrainSeed = None,
    device: Device = "auto",
    precision: Precision = "auto",
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the VAE that turns waveforms into latents and back.

    Ctrl-C saves and stops; the same command goes on. The folder keeps config.json, metrics.csv, TensorBoard events,
    demos to listen to, checkpoints, and the bundle that encode and sample take.
    """
    import torch

    from musicldm.devices import pick_device
    from musicldm.training.vae import VAERunConfig, train_vae
    from musicldm.vae.model import VAE

    console = Console(quiet, as_json)
    given = {"steps": steps, "batch_size": batch_size, "seconds": seconds, "learning_rate": learning_rate, "seed": seed}
    plan = load_config(VAERunConfig, "vae", preset, config, {"training": given})
    model = plan.model
    with torch.device("meta"):  # only to be counted
        parameters = sum(weight.numel() for weight in VAE(model).parameters())
    console.note(
        f"A VAE of {parameters / 1e6:.1f} M parameters, {model.sample_rate} Hz, hop {model.hop} "
        f"({model.frame_rate:.1f} frames a second), {model.latent_channels} latent channels, "
        f"{model.compression:.3g} times fewer numbers than the waveform."
    )
    if dry_run:
        show(console, plan)
        return
    with console.progress("Training the VAE") as progress:
        result = train_vae(data, output, plan, pick_device(device), precision, progress, console.warn)
    render(console, result, plan.training.steps, "study")
