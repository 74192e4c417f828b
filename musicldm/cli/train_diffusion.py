"""`musicldm train-diffusion`: latents to a generator of latents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
from musicldm.cli.training import carry_out, load_config

if TYPE_CHECKING:
    from musicldm.core.progress import Progress
    from musicldm.latents.store import LatentStore
    from musicldm.training.loop import TrainingResult


def train_diffusion(
    store: Store,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The run's folder; one that exists is resumed.")
    ] = Path("runs/ldm"),
    preset: Annotated[
        str, typer.Option(help="tiny: minutes on a CPU; small: for a GPU; paper: the study's.")
    ] = "small",
    config: ConfigFile = None,
    generator: Annotated[str, typer.Option(metavar="NAME", help="The kind of generator.")] = "diffusion",
    objective: Annotated[
        Literal["eps", "x0", "v", "flow"] | None,
        typer.Option(help="What the network predicts.", show_default="the preset's"),
    ] = None,
    schedule: Annotated[
        Literal["linear", "cosine", "flow"] | None,
        typer.Option(help="How the noise grows.", show_default="the preset's"),
    ] = None,
    network: Annotated[
        Literal["unet", "transformer"] | None, typer.Option(help="Which network.", show_default="the preset's")
    ] = None,
    init_from: InitFrom = None,
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
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the diffusion model that makes latents out of noise. Ctrl-C saves and stops; the same command resumes.

    The bundle that it leaves includes the codec: sample needs nothing else.
    """
    from musicldm.core.devices import pick_device
    from musicldm.generators.base import GENERATORS, GeneratorFamily
    from musicldm.latents.store import LatentStore
    from musicldm.sampling.demos import render as render_demos
    from musicldm.training.processes import rank_of
    from musicldm.training.run_folder import check

    check(output, overwrite)
    training = {
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
    family: GeneratorFamily = GENERATORS.load(generator)
    over = {
        "training": training,
        "model": {"network": network, "noise": {"objective": objective, "schedule": schedule}},
    }
    plan = load_config(family.run_config, family.package, preset, config, over, family.upgrade)
    console = Console(quiet or rank_of(plan.training) > 0, as_json)
    where, opened = pick_device(device), LatentStore.open(store, skip_broken)

    def train(fitted: Any, progress: Progress) -> TrainingResult:
        options = skip_broken, init_from, render_demos, dry_run
        return family.train(store, output, fitted, where, progress, console.warn, *options)

    rehearsal, about = family.rehearsal(plan, opened.header), family.describe(plan.model)
    if rank_of(plan.training) == 0:
        about = [("artists", _artists(opened)), *about]
        about += _predictability(opened, console)
    carry_out(
        console, f"generator {family.name}", plan, rehearsal, about, output, where, vram, dry_run, overwrite, train
    )


def _artists(store: LatentStore) -> str:
    """Whose music there is to train on, for a person to check before it is learned."""
    from musicldm.core.names import counted, listed

    tracks = store.tracks
    return listed(counted(tracks.chosen(~tracks.columns["heldout"]).artist_of_each()))


def _predictability(store: LatentStore, console: Console) -> list[tuple[str, str]]:
    """How predictable the latents are, for `carry_out` to show; a warning where no generator could learn them."""
    from musicldm.core.errors import DataError
    from musicldm.latents.predictability import SMOOTHER, predictability

    try:
        found = predictability(store)
    except DataError:
        return []  # the training verifies the whole store, and says more of what is damaged
    if found is None:
        return []
    if found.warning:
        console.warn(f"{found.warning} {SMOOTHER}")
    return [("latents", str(found.mean))]
