"""`musicldm train-diffusion`: latents to a denoiser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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
    Store,
    TrainSeed,
)
from musicldm.cli.training import load_config, render, show


def train_diffusion(
    store: Store,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The run's folder; one that exists is resumed.")
    ] = Path("runs/ldm"),
    preset: Annotated[
        str, typer.Option(help="tiny: minutes on a CPU; small: for a GPU; paper: the study's.")
    ] = "small",
    config: ConfigFile = None,
    objective: Annotated[
        Literal["eps", "v"] | None, typer.Option(help="What the network predicts.", show_default="the preset's")
    ] = None,
    schedule: Annotated[
        Literal["linear", "cosine"] | None, typer.Option(help="How the noise grows.", show_default="the preset's")
    ] = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    seconds: Seconds = None,
    learning_rate: LearningRate = None,
    seed: TrainSeed = None,
    device: Device = "auto",
    precision: Precision = "auto",
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Train without the tracks whose latents are damaged.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the denoiser that makes latents out of noise.

    Ctrl-C saves and stops; the same command goes on. The bundle it leaves holds the VAE too: sample needs nothing else.
    """
    from musicldm.devices import pick_device
    from musicldm.training.diffusion import DiffusionRunConfig, train_diffusion

    console = Console(quiet, as_json)
    given = {"steps": steps, "batch_size": batch_size, "seconds": seconds, "learning_rate": learning_rate, "seed": seed}
    over = {"training": given, "noise": {"objective": objective, "schedule": schedule}}
    plan = load_config(DiffusionRunConfig, "ldm", preset, config, over)
    if dry_run:
        show(console, plan)
        return
    with console.progress("Training the denoiser") as progress:
        result = train_diffusion(
            store, output, plan, pick_device(device), precision, progress, console.warn, skip_broken
        )
    render(console, result, plan.training.steps, "loss")
