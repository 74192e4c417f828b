"""`musicldm bundle`: bundles from checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from musicldm.cli.console import Console
from musicldm.cli.options import Json, Overwrite
from musicldm.core.errors import UsageError

app = typer.Typer(help="Work with bundles, the models that encode and sample take.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", help="A checkpoint in the folder of its run: last, previous or best.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the bundle.")],
    half: Annotated[bool, typer.Option("--half", help="Store weights in half precision, for half the size.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a bundle of a checkpoint, such as the best one, under the name of its folder."""
    from musicldm.codecs.base import codec_of
    from musicldm.core import bundle
    from musicldm.training.checkpoints import FOLDER, as_bundle

    if (output / FOLDER).is_dir():
        raise UsageError(f"{output} is a run folder, whose own bundle this would hide.", "Choose another one.")
    bundle.check_folder(output, overwrite)
    exported = replace(as_bundle(checkpoint), name=output.resolve().name)
    if half:
        exported = bundle.halved(exported, lambda half: codec_of(half).spec.codec_hash)
    bundle.write(output, exported)
    role: bundle.Role = "generator" if "generator" in exported.components else "codec"
    Console(as_json=as_json).result({"bundle": str(output), "step": exported.facts[role].step}, [str(output)])
