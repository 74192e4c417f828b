"""Option types that several commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def positive(value: float | None) -> float | None:
    """Refuse what is not above zero."""
    if value is not None and not value > 0:
        raise typer.BadParameter("must be more than 0.")
    return value


Store = Annotated[str, typer.Argument(metavar="STORE", help="A latent store: a folder, or s3://bucket/folder.")]
Seed = Annotated[int, typer.Option(help="Where all chance comes from: same seed, same result on a CPU.")]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Worker processes. Default: one for each core.", show_default=False)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No notes and no progress; results and errors only.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
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
    int | None, typer.Option("--seed", help="Where weights, crops and noise come from.", show_default="the preset's")
]
