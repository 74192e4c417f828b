"""`musicldm models`: the models that have a name, and their cards."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from musicldm.cli.console import Console
from musicldm.cli.options import Json, Quiet

if TYPE_CHECKING:
    from musicldm.models import Model


def models(
    name: Annotated[
        str | None, typer.Argument(help="The model whose card to print.", show_default="list them all")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the models that --model takes by name, or print a model's card: data, licence, metrics, limitations.

    MUSICLDM_MODELS names further folders of models, each model a folder with its bundle and card.md.
    Models on the Hugging Face Hub are named by address: --model hf://owner/name.
    """
    from musicldm import models as library

    console = Console(quiet, as_json)
    if name is not None:
        model = library.named(name)
        if not model.card:
            console.note(f"{name} has no card. It is in {model.path}.")
        console.result({**_plain(model), "card": model.card}, [model.card.rstrip("\n")])
        return
    known = library.models()
    if not known:
        console.note("There are no named models. --model takes a run folder, a bundle, or hf://owner/name.")
    console.result({"models": [_plain(model) for model in known]}, _table(known))


def _plain(model: Model) -> dict[str, Any]:
    return {**asdict(model), "path": str(model.path)}


def _table(known: list[Model]) -> list[str]:
    rows = [(each.name, f"{each.bytes / 1e6:.1f} MB", each.license, each.what) for each in known]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    return [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:<{widths[2]}}  {d}".rstrip() for a, b, c, d in rows]
