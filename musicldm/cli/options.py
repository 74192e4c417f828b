"""Option types that several commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from musicldm.cli.console import Console

MIDI = "mid"
"""The format of notes."""


def is_midi_name(output: str | Path) -> bool:
    """Whether a file is named as MIDI files are."""
    return Path(output).suffix.lower() in (".mid", ".midi")


def positive(value: float | None) -> float | None:
    """Refuse what is not above zero."""
    if value is not None and not value > 0:
        raise typer.BadParameter("must be more than 0.")
    return value


def check_complete(console: Console, strict: bool, left_out: int, found: int) -> None:
    """What --strict adds to a command that has done what it could: 1 where something was left out, or all was.

    Args:
        left_out: how many things that were asked for could not be had or used.
        found: how many could, whether now or before.

    Raises:
        typer.Exit: with 1.
    """
    if strict and (left_out or not found):
        what = f"Left out: {left_out}" if left_out else "Nothing was found"
        console.warn(f"{what}. With --strict that counts as a failure.")
        raise typer.Exit(1)


Store = Annotated[str, typer.Argument(metavar="STORE", help="A latent store: a folder, or s3://bucket/folder.")]
Seed = Annotated[int, typer.Option(help="The random seed: same seed, same result on a CPU.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Worker processes. Default: one per core.", show_default=False)]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No notes and no progress; only results, warnings and errors.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write an HTML page with pictures and players."),
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 if anything was left out, or nothing was found.")]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Also replace files that musicldm did not write, or that were changed since."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
Transcriber = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Compare notes too, as transcribed by transkun (piano; extra 'transcribe') or basic-pitch (any "
        "instrument). On one core, transkun takes about as long as the music lasts.",
        show_default="none",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps …")]
Precision = Annotated[str, typer.Option(help="auto, 32, 16 or bf16. auto: bf16 or 16 on a GPU, 32 on a CPU.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="A TOML file that overrides the preset; options override both.")
]

# None means: as the preset says.
Steps = Annotated[int | None, typer.Option(min=1, help="Optimizer steps in total.", show_default="the preset's")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Crops in a step.", show_default="the preset's")]
Seconds = Annotated[
    float | None, typer.Option(help="Length of a crop in seconds.", callback=positive, show_default="the preset's")
]
LearningRate = Annotated[
    float | None, typer.Option(help="The peak learning rate of AdamW.", callback=positive, show_default="the preset's")
]
TrainSeed = Annotated[
    int | None, typer.Option("--seed", help="The random seed of weights, crops and noise.", show_default="the preset's")
]
TrainPrecision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        help="auto, 32, 16 or bf16. auto: bf16 or 16 on a GPU, 32 on a CPU.",
        show_default="the preset's",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Processes that read crops in parallel with training; 0: read between steps.",
        show_default="the preset's",
    ),
]
Devices = Annotated[
    int | None,
    typer.Option(min=1, help="GPUs, or processes on a CPU, that share the crops of a step.", show_default="1"),
]
Nodes = Annotated[
    int | None,
    typer.Option(
        min=1, help="Machines that share them: start the command on each, as torchrun or SLURM does.", show_default="1"
    ),
]
Strategy = Annotated[
    Literal["auto", "ddp"] | None, typer.Option(help="The strategy for several devices.", show_default="auto")
]
Wandb = Annotated[
    str | None, typer.Option(metavar="PROJECT", help="A Weights & Biases project to which the metrics are sent, too.")
]
Vram = Annotated[
    float | None,
    typer.Option(
        metavar="GB",
        help="GPU memory to fit into, by micro-batches and activation checkpointing.",
        callback=positive,
        show_default="what it has",
    ),
]
Resample = Annotated[
    bool, typer.Option("--resample", help="Also use tracks with other sample rates or channels, converted on the fly.")
]
InitFrom = Annotated[
    Path | None,
    typer.Option("--init-from", metavar="BUNDLE", help="Initialize the weights from this bundle, to fine-tune it."),
]
