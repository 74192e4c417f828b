"""`musicldm bundle`: bundles from checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from musicldm.cli.console import Console
from musicldm.cli.options import Json, Overwrite
from musicldm.core.errors import MismatchError, UsageError

if TYPE_CHECKING:
    from musicldm.core.bundle import Bundle

app = typer.Typer(help="Work with bundles, the models that encode and sample take.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", help="A checkpoint in its run folder: last, previous or best.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the bundle.")],
    half: Annotated[bool, typer.Option("--half", help="Store weights in half precision, for half the size.")] = False,
    codec: Annotated[
        str | None,
        typer.Option(
            metavar="BUNDLE",
            help="Put this codec into the bundle of a generator: one whose latents are the same, but whose decoder was "
            "trained further.",
            show_default="the one it was trained with",
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a bundle from a checkpoint, such as the best one; it is named after its folder."""
    from musicldm import models
    from musicldm.codecs.base import codec_of
    from musicldm.core import bundle
    from musicldm.training.checkpoints import FOLDER, as_bundle

    if (output / FOLDER).is_dir():
        raise UsageError(f"{output} is a run folder, and this bundle would hide its own.", "Choose another one.")
    bundle.check_folder(output, overwrite)
    exported = replace(as_bundle(checkpoint), name=output.resolve().name)
    if codec is not None:
        exported = _with_codec(exported, bundle.read(models.find(codec)))
    if half:
        exported = bundle.halved(exported, lambda half: codec_of(half).spec.codec_hash)
    bundle.write(output, exported)
    role: bundle.Role = "generator" if "generator" in exported.components else "codec"
    Console(as_json=as_json).result({"bundle": str(output), "step": exported.facts[role].step}, [str(output)])


def _with_codec(exported: Bundle, other: Bundle) -> Bundle:
    """The bundle of a generator with the codec of another bundle.

    Raises:
        MismatchError: its latents are not those that the generator was trained on.
        BundleError: there is no generator, or no codec.
    """
    from musicldm.codecs.base import codec_of

    exported.component("generator")
    if codec_of(exported).spec.codec_hash != codec_of(other).spec.codec_hash:
        raise MismatchError(
            f"The generator was not trained on the latents of {other.name}.",
            "Only the decoder may have been trained further; with a different encoder, encode and train again.",
        )
    components = exported.components | {"codec": other.component("codec")}
    return replace(exported, components=components, facts=exported.facts | {"codec": other.training("codec")})
