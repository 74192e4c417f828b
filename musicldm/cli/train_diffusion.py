"""`musicldm train-diffusion`: latents to a denoiser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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
    Seconds,
    Steps,
    Store,
    Strategy,
    TrainPrecision,
    TrainSeed,
    Vram,
    Wandb,
    Workers,
)
from musicldm.cli.training import load_config, render, show, speaking_once


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
        Literal["eps", "x0", "v", "flow"] | None,
        typer.Option(help="What the network predicts.", show_default="the preset's"),
    ] = None,
    schedule: Annotated[
        Literal["linear", "cosine", "flow"] | None,
        typer.Option(help="How the noise grows.", show_default="the preset's"),
    ] = None,
    denoiser: Annotated[
        Literal["unet", "transformer"] | None, typer.Option(help="Which network.", show_default="the preset's")
    ] = None,
    init: Init = None,
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
    from musicldm.core.devices import pick_device
    from musicldm.generators.diffusion.rehearsal import rehearsal
    from musicldm.generators.diffusion.training import DiffusionRunConfig, train_diffusion
    from musicldm.latents.store import LatentStore
    from musicldm.training.processes import rank_of

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
    noise = {"objective": objective, "schedule": schedule}
    over = {"training": given, "model": {"denoiser": denoiser, "noise": noise}}
    plan = load_config(DiffusionRunConfig, "musicldm.generators.diffusion", preset, config, over)
    console = Console(quiet or rank_of(plan.training) > 0, as_json)
    where, rehearsed = pick_device(device), rehearsal(plan, LatentStore.open(store, skip_broken).header)
    plan, fit = fitted(plan, rehearsed, output, where, vram)
    if dry_run:
        show(console, plan, fit or foreseen(plan, rehearsed, where), [])
        return
    if fit:
        console.note(sentence(fit))
    with console.progress("Training the denoiser") as progress, speaking_once(plan.training):
        result = train_diffusion(store, output, plan, where, progress, console.warn, skip_broken, init)
    render(console, result, plan.training.steps, "loss")
