"""`musicldm crawl`: artists' names -> audio files."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from musicldm.cli.console import Console
from musicldm.cli.options import DryRun, Json, Quiet, Strict
from musicldm.errors import UsageError

if TYPE_CHECKING:
    from musicldm.crawl.run import Outcome, Plan


def crawl(
    artists: Annotated[
        list[str], typer.Argument(help="Artists' names: several, or one list with commas; - reads them from stdin.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the songs and their catalog.")] = Path(
        "data/raw"
    ),
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many songs of each artist.", show_default="all")
    ] = None,
    contact: Annotated[
        str,
        typer.Option(
            envvar="MUSICLDM_CONTACT",
            help="Your e-mail address or web page, for the User-Agent that MusicBrainz asks for.",
            show_default=False,
        ),
    ] = "",
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    strict: Strict = False,
) -> None:
    """Fetch the songs of artists: MusicBrainz names the recordings, YouTube has the sound.

    Each song is kept as the source sends it, under ARTIST/TITLE in the output folder; catalog.jsonl there says where
    it comes from, or why it could not be had. Run again, it fetches only what is missing.
    """
    from musicldm.crawl import run
    from musicldm.crawl.settings import CrawlSettings
    from musicldm.durable import make_folder

    console = Console(quiet, as_json)
    settings = CrawlSettings.from_environment(os.environ, contact)
    names = artist_names(artists)
    if not (contact or settings.musicbrainz):
        console.warn("MusicBrainz asks for a way to reach who asks: give --contact, or set MUSICLDM_CONTACT once.")
    if not dry_run:
        make_folder(output)  # a folder that cannot be written is known before minutes of questions
    with console.progress("Asking MusicBrainz") as progress:
        plan = run.plan(names, output, settings, limit, progress)
    for error in plan.unknown:
        console.warn(f"{error.message} {error.hint}")
    if dry_run:
        _show_plan(console, plan)
        left_out = len(plan.unknown)
    else:
        with console.progress("Fetching") as progress:
            outcome = run.fetch(plan, settings, progress)
        _show_outcome(console, plan, outcome)
        left_out = len(plan.unknown) + len(outcome.left_out)
        if outcome.left_out and not outcome.fetched and not plan.present:
            raise typer.Exit(1)
    if strict and left_out:
        raise typer.Exit(1)


def artist_names(arguments: Iterable[str]) -> list[str]:
    """The names in the arguments, split at commas outside quotes; "-" stands for the lines of stdin.

    Raises:
        UsageError: there is no name among them.
    """
    lines: list[str] = []
    for argument in arguments:
        lines += sys.stdin if argument == "-" else [argument]
    names = [name.strip() for row in csv.reader(lines, skipinitialspace=True) for name in row]
    if not any(names):
        raise UsageError("No artist is named.", 'Write for example: musicldm crawl "Artist A, Artist B".')
    return [name for name in names if name]


def _show_plan(console: Console, plan: Plan) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("Artist", "Title", "Length", "First release", "State")
    for track in plan.tracks:
        release = f"{track.release} ({track.year or '?'})"
        state = "fetched" if track.recording in plan.present else "missing"
        table.add_row(*map(escape, (track.artist.name, track.title, _clock(track.seconds), release, state)))
    if not console.as_json:
        console.err.print(table)
        console.note(f"Songs: {len(plan.tracks)}, of them to fetch into {plan.out}: {len(plan.missing)}.")
    tracks = [
        {
            "recording": track.recording,
            "artist": track.artist.name,
            "title": track.title,
            "seconds": track.seconds,
            "release": track.release,
            "year": track.year,
            "fetched": track.recording in plan.present,
        }
        for track in plan.tracks
    ]
    console.result(_head(plan) | {"dry_run": True, "tracks": tracks}, [])


def _show_outcome(console: Console, plan: Plan, outcome: Outcome) -> None:
    for record in outcome.left_out:
        console.note(f"Left out: {record['artist']} – {record['title']}: {record['reason']}")
    console.note(
        f"Songs in {plan.out}: {len(outcome.fetched)} fetched, {len(plan.present)} there already, "
        f"{len(outcome.left_out)} left out."
    )
    fetched = [str(plan.out / record["path"]) for record in outcome.fetched]
    left_out = [
        {key: record[key] for key in ("recording", "artist", "title", "status", "reason")}
        for record in outcome.left_out
    ]
    console.result(_head(plan) | {"dry_run": False, "fetched": fetched, "left_out": left_out}, fetched)


def _head(plan: Plan) -> dict[str, object]:
    return {
        "output": str(plan.out),
        "artists": [{"id": artist.id, "name": artist.name, "note": artist.note} for artist in plan.artists],
        "unknown": [error.message for error in plan.unknown],
        "songs": len(plan.tracks),
        "present": len(plan.present),
    }


def _clock(seconds: float | None) -> str:
    return "?" if seconds is None else f"{round(seconds) // 60}:{round(seconds) % 60:02}"
