"""`musicldm bundle`: what is shipped of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from musicldm.cli.console import Console
from musicldm.cli.options import Json

app = typer.Typer(help="Work with bundles, the models that encode and sample take.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", help="A checkpoint in the folder of its run: last, previous or best.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle's folder.")],
    as_json: Json = False,
) -> None:
    """Make a bundle of a training's checkpoint, such as the best one."""
    from musicldm import bundle
    from musicldm.training.checkpoints import as_bundle

    exported = as_bundle(checkpoint)
    bundle.write(output, exported)
    part = "denoiser" if "denoiser" in exported.parts else "vae"
    Console(as_json=as_json).result({"bundle": str(output), "step": exported.facts[part]["step"]}, [str(output)])
