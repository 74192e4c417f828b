"""`musicldm evaluate memory`: is this a copy of my data?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from musicldm.cli.console import Console
from musicldm.cli.evaluate_tables import match_line
from musicldm.cli.options import Device, Html, Json, Quiet, Strict


def memory(
    out: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Audio files, or folders of them.")],
    store: Annotated[
        str, typer.Option(metavar="STORE", help="The latents of the training music: a folder, or s3://bucket/folder.")
    ],
    vae: Annotated[
        str | None,
        typer.Option(metavar="BUNDLE", help="The VAE of the store.", show_default="the copy that the store keeps"),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where to keep what is found out about the store.", show_default="in the store"
        ),
    ] = None,
    html: Html = None,
    strict: Strict = False,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the training passage that each sound is nearest to, and say whether the sound is a copy of it.

    Copied: nearer than nearly all held-out music ever comes. Close: nearer than most of it does. New: as near as music
    is to other music. The first time all of the store is decoded, which is kept for later.
    """
    from musicldm.cli.evaluate_pages import memory_page
    from musicldm.codecs.vae.model import VAE
    from musicldm.core.devices import pick_device
    from musicldm.evaluate.memorization import evaluate_memory

    console = Console(quiet, json)
    where = pick_device(device)
    model = VAE.load(vae) if vae else None
    with console.progress("Searching") as progress:
        result = evaluate_memory(out, store, model, cache=cache, device=where, progress=progress)
    for name, reason in result.left_out.items():
        console.warn(f"Left out {name}: {reason}")
    counts = ", ".join(f"{count} {verdict}" for verdict, count in result.counts.items())
    console.note(
        f"{counts}; by {result.passages} passages of {result.hours:.2f} h of training music, and "
        f"{result.heldout_tracks} held-out tracks, whose passages have a similarity of {result.heldout_median:.2f} in "
        f"the median and {result.heldout_highest:.2f} at most."
    )
    console.result(result.to_dict(), [match_line(match) for match in result.matches])
    if html is not None:
        memory_page(result, out, model, where).write(html)
        console.note(f"A page to listen to: {html}")
    if strict and result.left_out:
        raise typer.Exit(1)
