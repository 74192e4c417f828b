"""`musicldm crawl`: artists' names -> audio files."""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from musicldm.cli.console import Console
from musicldm.cli.options import DryRun, Json, Overwrite, Quiet, Strict, check_complete, positive
from musicldm.core.errors import UsageError

if TYPE_CHECKING:
    from musicldm.crawl.catalog import Track
    from musicldm.crawl.fetch import Outcome
    from musicldm.crawl.plan import Plan
    from musicldm.crawl.settings import CrawlSettings


class Retry(StrEnum):
    """Which songs that an earlier crawl gave up to try again."""

    failed = "failed"
    no_match = "no-match"
    refused = "refused"


class As(StrEnum):
    """What an artist is to a song."""

    performer = "performer"
    credited = "credited"
    composer = "composer"


class Licence(StrEnum):
    """Which songs to keep, by what the source says of their licence."""

    any = "any"
    cc = "cc"


def crawl(
    artists: Annotated[
        list[str],
        typer.Argument(
            help="Names or MusicBrainz ids, as separate arguments or separated by commas. @FILE reads a file, - reads "
            "stdin."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the songs and their catalog.")] = Path(
        "data/raw"
    ),
    limit: Annotated[
        int | None, typer.Option(min=1, help="Fetch at most this many songs per artist.", show_default="all")
    ] = None,
    include: Annotated[
        str,
        typer.Option(
            help="Also fetch these kinds, separated by commas: live, remix, compilation, demo, talk.",
            show_default="none",
        ),
    ] = "",
    role: Annotated[
        As,
        typer.Option(
            "--as",
            help="The role of the artists. performer: songs on their own releases, under whatever name; credited: "
            "also as guests on the releases of others; composer: their works, whoever performs them.",
        ),
    ] = As.performer,
    min_seconds: Annotated[float, typer.Option(min=0, help="Leave out shorter songs.")] = 0,
    max_seconds: Annotated[
        float | None, typer.Option(help="Leave out longer songs.", callback=positive, show_default="no limit")
    ] = None,
    licence: Annotated[
        Licence, typer.Option("--license", help="cc: only what the source marks as Creative Commons.")
    ] = Licence.any,
    retry: Annotated[
        Retry | None,
        typer.Option(
            help="Try songs again that an earlier crawl gave up on: no-match, refused (also for their licence), or "
            "failed for both. Songs lost to the network are always tried again.",
            show_default="none",
        ),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(metavar="RECORDING=URL", help="Use this video for that recording. Can be repeated."),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Songs to fetch at a time; the pauses between requests stay the same.")
    ] = 1,
    rate_limit: Annotated[
        str | None,
        typer.Option(help="Bytes per second for each download, such as 500K or 2M; 0 for no limit.", show_default="1M"),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds to wait for a server that does not respond.", callback=positive, show_default="20"),
    ] = None,
    tries: Annotated[
        int | None, typer.Option(min=1, help="How often to try a request before it counts as failed.", show_default="3")
    ] = None,
    cookies: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A file of browser cookies for YouTube, in Netscape format."),
    ] = None,
    contact: Annotated[
        str,
        typer.Option(
            envvar="MUSICLDM_CONTACT",
            help="Your e-mail address or web page for the User-Agent, as MusicBrainz requires.",
            show_default=False,
        ),
    ] = "",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    strict: Strict = False,
) -> None:
    """Fetch the songs of artists: MusicBrainz lists the recordings, YouTube has the audio.

    Each song is kept as the source sends it, under ARTIST/TITLE in the output folder; catalog.jsonl there says where
    it comes from, or why it could not be fetched. Run again, it fetches only what is missing.
    """
    names = artist_names(artists)
    included, overrides, rate = _included(include), _overrides(override or []), _rate(rate_limit)

    from musicldm.core.durable import locked, make_folder
    from musicldm.crawl import youtube
    from musicldm.crawl.catalog import Selection
    from musicldm.crawl.fetch import check_catalog, check_songs
    from musicldm.crawl.plan import plan_crawl
    from musicldm.crawl.settings import CrawlSettings

    limits = (min_seconds, max_seconds or float("inf"))
    selection = Selection(included, limit, *limits, _given_up(retry), overrides, licence == Licence.cc, role.value)
    console = Console(quiet, as_json)
    settings = CrawlSettings.from_environment(
        os.environ,
        contact,
        jobs=jobs,
        rate_limit=rate,
        timeout=timeout,
        tries=tries,
        cookies=str(cookies) if cookies else None,
    )
    if not (settings.contact or settings.musicbrainz):
        console.warn("MusicBrainz requires a contact address: give --contact, or set MUSICLDM_CONTACT once.")
    if warning := youtube.check(settings):
        console.warn(warning)
    if not dry_run:
        with locked(make_folder(output)):  # so that a folder that cannot be written is an error now, not in minutes
            check_catalog(output, overwrite)
    with console.progress("Querying MusicBrainz") as progress:
        plan = plan_crawl(names, output, settings, selection, progress)
    _warn_of(console, plan)
    check_songs(plan, overwrite)
    left_out = len(plan.unknown) + len(plan.songless)
    if dry_run:
        _show_plan(console, plan)
    else:
        left_out += _fetch(console, plan, settings, overwrite)
    check_complete(console, strict, left_out, len(plan.tracks))


def _given_up(retry: Retry | None) -> frozenset[str]:
    """The statuses of the catalog that --retry stands for."""
    from musicldm.crawl.catalog import NO_MATCH, REFUSED, UNLICENSED

    kinds: dict[Retry | None, set[str]] = {
        None: set(),
        Retry.failed: {NO_MATCH, REFUSED, UNLICENSED},
        Retry.no_match: {NO_MATCH},
        Retry.refused: {REFUSED, UNLICENSED},
    }
    return frozenset(kinds[retry])


def _warn_of(console: Console, plan: Plan) -> None:
    """Name what the plan lacks of what was requested."""
    for error in plan.unknown:
        console.warn(f"{error.message} {error.hint}")
    for artist in plan.songless:
        what = "knows no recording of a work by" if plan.selection.role == "composer" else "lists no recording of"
        console.warn(f"MusicBrainz {what} {artist.name}; see --as.")
    if plan.unlicensed:
        console.warn(
            f"Not marked as Creative Commons, but fetched before and kept in {plan.out}: {plan.unlicensed} songs."
        )


def _fetch(console: Console, plan: Plan, settings: CrawlSettings, overwrite: bool) -> int:
    """Fetch and show the result. Returns how many songs were left out.

    Raises:
        NetworkError: the network or YouTube ended the crawl before its end.
        typer.Exit: there is no song at all.
    """
    from musicldm.crawl.catalog import CATALOG
    from musicldm.crawl.fetch import fetch

    with console.progress("Fetching") as progress:
        outcome = fetch(plan, settings, progress, overwrite)
    _show_outcome(console, plan, outcome)
    if outcome.fruitless >= _SUSPICIOUS:
        console.warn(
            f"YouTube found nothing at all for {outcome.fruitless} songs in a row, which is odd: its pages may "
            "have changed. A newer yt-dlp may read them; then try those songs again with --retry no-match."
        )
    if outcome.stopped:
        raise outcome.stopped
    if plan.tracks and not outcome.fetched and not outcome.plan.present:
        console.warn(f"No song could be fetched; {plan.out / CATALOG} says why.")
        raise typer.Exit(1)
    return len(outcome.left_out) + len(outcome.kept)


def artist_names(arguments: Iterable[str]) -> list[str]:
    """The names in the arguments, split at commas outside quotes.

    "-" stands for the lines of stdin and "@FILE" for those of a file.

    Raises:
        UsageError: there is no name among them, or a file of names or stdin cannot be read.
    """
    lines: list[str] = []
    for argument in arguments:
        if argument == "-":
            lines += _lines("stdin", sys.stdin.buffer.read)
        elif argument.startswith("@"):
            lines += _lines(argument[1:], Path(argument[1:]).read_bytes)
        else:
            lines.append(argument)
    # An open quote must not swallow the next line.
    names = [name.strip() for line in lines for row in csv.reader([line], skipinitialspace=True) for name in row]
    if not any(names):
        raise UsageError("No artist is named.", 'For example: musicldm crawl "Artist A, Artist B".')
    return [name for name in names if name]


def _lines(source: str, read: Callable[[], bytes]) -> list[str]:
    try:
        # Windows editors may begin a file with a byte order mark, which must not become part of the first name.
        return read().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(
            f"The names in {source} cannot be read: {reason}.", "A name that itself begins with @ needs its own quotes."
        ) from error


def _included(text: str) -> frozenset[str]:
    from musicldm.crawl.catalog import INCLUDABLE

    kinds = frozenset(kind.strip().lower() for kind in text.split(",") if kind.strip())
    if not kinds <= INCLUDABLE:
        known = ", ".join(sorted(INCLUDABLE))
        raise UsageError(f"--include cannot be {', '.join(sorted(kinds - INCLUDABLE))}.", f"Choose from {known}.")
    return kinds


def _overrides(pairs: list[str]) -> dict[str, str]:
    from musicldm.crawl.matching import video_id

    videos = {}
    for pair in pairs:
        recording, _, url = pair.partition("=")
        video = video_id(url)
        if not recording.strip() or video is None:
            raise UsageError(
                f"--override {pair!r} is not RECORDING=URL.",
                "RECORDING is an id from catalog.jsonl, and URL the address of a video on YouTube.",
            )
        videos[recording.strip()] = video
    return videos


def _rate(text: str | None) -> float | None:
    """Bytes a second from 500K or 2M."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmKM]?)", text.strip())
    if not found:
        raise UsageError(f"--rate-limit {text!r} is not a number of bytes.", "For example 500K or 2M, or 0.")
    return float(found[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20}[found[2].lower()]


_SUSPICIOUS = 5  # searches in a row that find nothing; on YouTube nearly every search finds something

_STATES = {
    "missing": "to fetch",
    "fetched": "fetched",
    "no-match": "no match before",
    "refused": "refused before",
    "unlicensed": "not CC before",
}


def _show_plan(console: Console, plan: Plan) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("Artist", "Title", "Length", "First release", "State")
    for track in plan.tracks:
        release = f"{track.release} ({track.year or '?'})"
        state = _STATES[plan.states[track.recording]]
        table.add_row(*map(escape, (track.artist.name, track.title, _clock(track.seconds), release, state)))
    if not console.as_json:
        console.err.print(table)
        console.note(
            f"Songs: {len(plan.tracks)}, already fetched: {len(plan.present)}, "
            f"to fetch into {plan.out}: {len(plan.missing)}."
        )
        _note_others(console, plan)
    console.result(_head(plan) | {"dry_run": True, "tracks": [_row(plan, track) for track in plan.tracks]}, [])


def _row(plan: Plan, track: Track) -> dict[str, object]:
    state = plan.states[track.recording]
    return {
        "recording": track.recording,
        "artist": track.artist.name,
        "title": track.title,
        "seconds": track.seconds,
        "release": track.release,
        "year": track.year,
        "state": state,
        "fetched": state == "fetched",
    }


def _show_outcome(console: Console, plan: Plan, outcome: Outcome) -> None:
    for record in outcome.left_out:
        song = f"{record['artist']} – {record['title']} [{record['recording']}]"  # the id, for --override
        console.note(f"Left out: {song}: {record['reason']}")
    counts = outcome.counts()
    if not console.as_json and not console.quiet:
        _print_counts(console, counts)
    _note_others(console, plan)
    if outcome.kept:
        console.note(f"Given up on by an earlier crawl and not tried again: {len(outcome.kept)}; see --retry failed.")
    present = len(outcome.plan.present)
    console.note(
        f"Songs in {plan.out}: {len(outcome.fetched)} fetched, {present} there already, "
        f"{len(outcome.left_out) + len(outcome.kept)} left out."
    )
    fetched = [str(plan.out / record["path"]) for record in outcome.fetched]
    keys = ("recording", "artist", "title", "status", "reason")
    result = {
        "dry_run": False,
        "fetched": fetched,
        "left_out": [{key: record[key] for key in keys} for record in outcome.left_out],
        "kept": [{key: record[key] for key in keys} for record in outcome.kept],
        "counts": counts,
        "stopped": outcome.stopped.message if outcome.stopped else None,
    }
    console.result(_head(plan) | {"present": present} | result, fetched)


_COLUMNS = {
    "songs": "Songs",
    "fetched": "Fetched",
    "present": "There already",
    "no-match": "No match",
    "refused": "Refused",
    "unlicensed": "Not CC",
    "failed": "For next time",
    "missing": "Not tried",
}


def _print_counts(console: Console, counts: list[dict[str, int | str]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    shown = [key for key in _COLUMNS if key in ("songs", "fetched", "present") or any(row[key] for row in counts)]
    table = Table("Artist")
    for key in shown:
        table.add_column(_COLUMNS[key], justify="right")
    for row in counts:
        table.add_row(escape(str(row["artist"])), *(str(row[key]) for key in shown))
    console.err.print(table)


def _note_others(console: Console, plan: Plan) -> None:
    if plan.others:
        console.note("Not selected: " + ", ".join(f"{count} {kind}" for kind, count in plan.others.items()) + ".")


def _head(plan: Plan) -> dict[str, object]:
    return {
        "output": str(plan.out),
        "artists": [{"id": artist.id, "name": artist.name, "note": artist.note} for artist in plan.artists],
        "unknown": [{"message": error.message, "hint": error.hint} for error in plan.unknown],
        "songs": len(plan.tracks),
        "present": len(plan.present),
        "not_selected": dict(plan.others),
    }


def _clock(seconds: float | None) -> str:
    return "?" if seconds is None else f"{round(seconds) // 60}:{round(seconds) % 60:02}"
