"""`musicldm evaluate memory`: is this a copy of my data?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from musicldm.cli.console import Console
from musicldm.cli.evaluate_tables import match_line
from musicldm.cli.options import Device, Html, Json, Overwrite, Quiet, Strict, check_complete


def memory(
    out: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Audio files, or folders of them.")],
    store: Annotated[
        str, typer.Option(metavar="STORE", help="The latents of the training music: a folder, or s3://bucket/folder.")
    ],
    codec: Annotated[
        str | None,
        typer.Option(
            "--codec",
            "--vae",
            metavar="BUNDLE",
            help="The codec of the store.",
            show_default="the copy that the store keeps",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where to keep the index of the store.", show_default="in the store"),
    ] = None,
    html: Html = None,
    overwrite: Overwrite = False,
    strict: Strict = False,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Detect memorization: find the training passage nearest to each sound, and say whether the sound is a copy of it.

    Copied: closer than nearly all held-out music ever comes. Close: closer than most of it. New: no closer than music
    usually is to other music. The first run decodes the whole store, and keeps an index of it for the next.
    """
    from musicldm.cli.evaluate_pages import check_page, memorization_page
    from musicldm.codecs.base import load_codec
    from musicldm.core.devices import pick_device
    from musicldm.evaluate.memorization import evaluate_memorization

    check_page(html, overwrite)
    console = Console(quiet, json)
    where = pick_device(device)
    named = load_codec(codec) if codec else None
    with console.progress("Searching") as progress:
        result = evaluate_memorization(out, store, named, cache=cache, device=where, progress=progress)
    for name, reason in result.left_out.items():
        console.warn(f"Left out {name}: {reason}")
    counts = ", ".join(f"{count} {verdict}" for verdict, count in result.counts.items())
    console.note(
        f"{counts}; searched {result.passages} passages of {result.hours:.2f} h of training music, calibrated with "
        f"{result.heldout_tracks} held-out tracks, whose passages have a median similarity of "
        f"{result.heldout_median:.2f}, at most {result.heldout_highest:.2f}."
    )
    console.result(result.to_dict(), [match_line(match) for match in result.matches])
    if html is not None:
        memorization_page(result, out, named, where).write(html, overwrite)
        console.note(f"Page with audio: {html}")
    check_complete(console, strict, len(result.left_out), len(result.matches))
