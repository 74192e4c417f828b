"""Option types that several commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def positive(value: float | None) -> float | None:
    """Refuse what is not above zero."""
    if value is not None and not value > 0:
        raise typer.BadParameter("must be more than 0.")
    return value


def page(path: Path | None) -> Path | None:
    """Refuse a place where no page can be written."""
    if path is not None:
        from musicldm.evaluate.report import check_target

        check_target(path)
    return path


Store = Annotated[str, typer.Argument(metavar="STORE", help="A latent store: a folder, or s3://bucket/folder.")]
Seed = Annotated[int, typer.Option(help="Where all chance comes from: same seed, same result on a CPU.")]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Worker processes. Default: one for each core.", show_default=False)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No notes and no progress; results and errors only.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a page to look at and listen to.", callback=page)
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 where anything was left out.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps …")]
Precision = Annotated[str, typer.Option(help="auto, 32, 16 or bf16. auto: bf16 or 16 on a GPU, 32 on a CPU.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="A TOML file laid over the preset; options win over both.")
]

# None means: as the preset says.
Steps = Annotated[int | None, typer.Option(min=1, help="Optimizer steps in all.", show_default="the preset's")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Crops in a step.", show_default="the preset's")]
Seconds = Annotated[
    float | None, typer.Option(help="Length of a crop in seconds.", callback=positive, show_default="the preset's")
]
LearningRate = Annotated[
    float | None, typer.Option(help="Of AdamW, at its peak.", callback=positive, show_default="the preset's")
]
TrainSeed = Annotated[
    int | None, typer.Option("--seed", help="Of first weights, crops and noise.", show_default="the preset's")
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
    typer.Option(min=0, help="Processes that read crops ahead of the training; 0: none.", show_default="the preset's"),
]
Devices = Annotated[
    int | None,
    typer.Option(min=1, help="GPUs, or processes on a CPU, that share the crops of a step.", show_default="1"),
]
Nodes = Annotated[
    int | None,
    typer.Option(
        min=1, help="Machines that do so: start the command on each, as torchrun or SLURM does.", show_default="1"
    ),
]
Strategy = Annotated[
    Literal["auto", "ddp"] | None, typer.Option(help="How several devices train together.", show_default="auto")
]
Wandb = Annotated[
    str | None, typer.Option(metavar="PROJECT", help="A project of Weights & Biases to send the metrics to too.")
]
Vram = Annotated[
    float | None,
    typer.Option(
        metavar="GB",
        help="Memory of the GPU to fit into, by micro-batches and by activation checkpointing.",
        callback=positive,
        show_default="what it has",
    ),
]
Resample = Annotated[
    bool, typer.Option("--resample", help="Take tracks of other rates and channels too, and convert them on the fly.")
]
InitFrom = Annotated[
    Path | None,
    typer.Option("--init-from", metavar="BUNDLE", help="Begin with the weights of this bundle: to fine-tune it."),
]
