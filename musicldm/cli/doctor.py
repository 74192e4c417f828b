"""`musicldm doctor`: a look at everything before hours of work."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Annotated

import typer

from musicldm.cli.console import Console
from musicldm.cli.options import Device, Json, Quiet

_SIGNS = {"ok": "ok", "warning": "warning", "wrong": "WRONG"}


def doctor(
    things: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATA|STORE|BUNDLE]...",
            help="Folders of audio, latent stores, bundles or models: each is looked at, and how they fit together.",
            show_default="the machine alone",
        ),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """See in under a minute whether all is well: machine, music, latents, models; exit with 1 where something is wrong.

    Name what a training is about to use. What makes a loss fall and the output stay noise is looked for above all: a
    VAE that is untrained or another one, latents that are not scaled, dead channels, clips that are too short.
    """
    from musicldm.doctor.checks import examine

    console = Console(quiet, as_json)
    with console.progress("Looking") as progress:
        findings = list(examine(things or [], device, progress))
    width = max(len(each.about) for each in findings)
    lines, before = list[str](), ""
    for each in findings:
        about = "" if each.about == before else each.about
        lines.append(f"{_SIGNS[each.verdict]:<8} {about:<{width}}  {each.text}")
        before = each.about
        if each.advice:
            lines.append(f"{'':<8} {'':<{width}}  → {each.advice}")
    counts = Counter(each.verdict for each in findings)
    console.result(
        {"wrong": counts["wrong"], "warnings": counts["warning"], "findings": [asdict(each) for each in findings]},
        lines,
    )
    console.note(f"{counts['ok']} ok, {counts['warning']} to think about, {counts['wrong']} wrong.")
    if counts["wrong"]:
        raise typer.Exit(1)
