"""`musicldm doctor`: examine everything before hours of work."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Annotated

import typer

from musicldm.cli.console import Console
from musicldm.cli.options import Device, Json, Quiet

_LABELS = {"ok": "ok", "warning": "warning", "wrong": "WRONG"}


def doctor(
    things: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATA|STORE|BUNDLE]...",
            help="Folders of audio, latent stores, bundles or models: each is examined, and how they fit together.",
            show_default="only the machine",
        ),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check machine, music, latents and models in under a minute; exit with 1 where something is wrong.

    Give it what a training run is about to use. Above all, doctor looks for what lets a loss fall while the output
    stays noise: an untrained or wrong codec, latents that are not scaled, dead channels, clips that are too short.
    """
    from musicldm.doctor.examine import examine

    console = Console(quiet, as_json)
    with console.progress("Examining") as progress:
        findings = list(examine(things or [], device, progress))
    width = max(len(each.about) for each in findings)
    lines, previous = list[str](), ""
    for each in findings:
        about = "" if each.about == previous else each.about
        lines.append(f"{_LABELS[each.verdict]:<8} {about:<{width}}  {each.text}")
        previous = each.about
        if each.advice:
            lines.append(f"{'':<8} {'':<{width}}  → {each.advice}")
    counts = Counter(each.verdict for each in findings)
    console.result(
        {"wrong": counts["wrong"], "warnings": counts["warning"], "findings": [asdict(each) for each in findings]},
        lines,
    )
    warnings = f"{counts['warning']} warning{'s' * (counts['warning'] != 1)}"
    console.note(f"{counts['ok']} ok, {warnings}, {counts['wrong']} wrong.")
    if counts["wrong"]:
        raise typer.Exit(1)
