"""`musicldm train-vae`: prepared music to a codec, by default that of spectra."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from musicldm.cli.console import Console
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
    Overwrite,
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
from musicldm.cli.training import carry_out, chosen_codec, load_config

if TYPE_CHECKING:
    from musicldm.core.progress import Progress
    from musicldm.training.loop import TrainingResult


def train_vae(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="The waveforms that preprocess made.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The run's folder; one that exists is resumed.")
    ] = Path("runs/vae"),
    codec: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The kind of codec. spectrum: latents of magnitudes, smooth in time, which a generator can learn; "
            "vae: of waveforms, phases included.",
            show_default="that of --config, of the run or of --init-from, else spectrum",
        ),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="A preset of that codec. tiny: minutes on a CPU; small: 16 kHz mono; base: 44.1 kHz stereo, for a "
            "GPU. spectrum also has griffinlim: like small, without the adversarial decoder; vae also has paper: "
            "the network of the 2023 study, corrected."
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
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the codec that turns music into latents and back.

    Ctrl-C saves and stops; the same command resumes. The folder keeps config.json, metrics.csv, TensorBoard events,
    demos to listen to, checkpoints, and the bundle that encode and sample take.
    """
    from musicldm.codecs.base import CODECS, CodecFamily
    from musicldm.core.devices import pick_device
    from musicldm.training.processes import rank_of
    from musicldm.training.run_folder import check

    check(output, overwrite)
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
    family: CodecFamily = CODECS.load(chosen_codec(codec, config, output, init_from))
    plan = load_config(family.run_config, family.package, preset, config, {"training": given})
    console = Console(quiet or rank_of(plan.training) > 0, as_json)
    where, rehearsal, about = pick_device(device), family.rehearsal(plan), family.describe(plan.model)

    def train(fitted: Any, progress: Progress) -> TrainingResult:
        return family.train(data, output, fitted, where, progress, console.warn, init_from, resample, dry_run)

    what = f"codec {family.name}"
    carry_out(console, what, plan, rehearsal, about, output, where, vram, dry_run, overwrite, train, family.figure)
