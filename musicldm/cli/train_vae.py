"""`musicldm train-vae`: prepared music to a codec, by default the waveform VAE."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from musicldm.cli.console import Console
from musicldm.cli.memory_plan import fitted, foreseen, sentence
from musicldm.cli.options import (
    BatchSize,
    ConfigFile,
    Device,
    Devices,
    DryRun,
    InitFrom,
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


def train_vae(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="The waveforms that preprocess made.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The run's folder; one that exists is resumed.")
    ] = Path("runs/vae"),
    codec: Annotated[str, typer.Option(metavar="NAME", help="The kind of codec.")] = "vae",
    preset: Annotated[
        str,
        typer.Option(
            help="Of that codec. tiny: minutes on a CPU. Of vae also small: 16 kHz mono; base: 44.1 kHz stereo, for a "
            "GPU; paper: the network of the 2023 study, corrected."
        ),
    ] = "small",
    config: ConfigFile = None,
    init_from: InitFrom = None,
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
    """Train the codec that turns music into latents and back: by default a VAE of waveforms.

    Ctrl-C saves and stops; the same command goes on. The folder keeps config.json, metrics.csv, TensorBoard events,
    demos to listen to, checkpoints, and the bundle that encode and sample take.
    """
    from musicldm.codecs.base import CODECS, CodecFamily
    from musicldm.core.devices import pick_device
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
    family: CodecFamily = CODECS.load(codec)
    plan = load_config(family.run_config, family.package, preset, config, {"training": given})
    console = Console(quiet or rank_of(plan.training) > 0, as_json)
    where, rehearsal = pick_device(device), family.rehearsal(plan)
    plan, fit = fitted(plan, rehearsal, output, where, vram)
    about = family.describe(plan.model)
    if dry_run:
        show(console, plan, fit or foreseen(plan, rehearsal, where), about)
        return
    console.note(f"Codec {family.name}. " + "; ".join(f"{name}: {fact}" for name, fact in about) + ".")
    if fit:
        console.note(sentence(fit))
    with console.progress("Training the codec") as progress, speaking_once(plan.training):
        result = family.train(data, output, plan, where, progress, console.warn, init_from, resample)
    render(console, result, plan.training.steps, family.figure)
