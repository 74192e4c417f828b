"""musicldm preprocess: audio files to waveforms, MIDI files to scores on a grid."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from musicldm.cli.console import Console
from musicldm.cli.options import Jobs, Json, Overwrite, Quiet, Strict, check_complete, positive

if TYPE_CHECKING:
    from musicldm.media.audio.prepare import PrepareSettings
    from musicldm.media.summary import Summary


REPAIRS = {
    "zero_length": "notes without length",
    "unended": "notes without an end",
    "doubled": "doubled notes",
    "overlapping": "overlapping notes",
    "stray_ends": "ends without a note",
    "text": "texts that are not UTF-8",
    "rounded": "events off the file's own ticks",
    "ignored": "events of other kinds left out",
}
"""What `media.notes.tracks.Repairs` counts, in words."""


def preprocess(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The folder with audio or MIDI files, nested or not.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder for what is prepared, and its manifest.")],
    sample_rate: Annotated[int, typer.Option(min=1000, max=384000, help="Samples per second.")] = 16000,
    bit_depth: Annotated[int, typer.Option(metavar="8|16|24", help="Bits per sample; 8 and 16 are dithered.")] = 16,
    channels: Annotated[int, typer.Option(min=1, max=2, help="1 is the mean of all channels.")] = 1,
    format: Annotated[str, typer.Option(metavar="wav|flac", help="The file format of the waveforms.")] = "wav",
    loudness: Annotated[
        float | None,
        typer.Option(
            metavar="LUFS", help="Bring every track to this loudness (EBU R128), such as -23.", show_default="as it is"
        ),
    ] = None,
    trim_silence: Annotated[
        bool, typer.Option("--trim-silence", help="Remove silence (below -60 dBFS) at both ends.")
    ] = False,
    min_seconds: Annotated[float, typer.Option(min=0, help="Leave out shorter files.")] = 0.1,
    max_seconds: Annotated[
        float | None, typer.Option(help="Leave out longer files.", callback=positive, show_default="any length")
    ] = None,
    keep_silent: Annotated[
        bool,
        typer.Option("--keep-silent", help="Keep files that are silent from end to end, which are left out otherwise."),
    ] = False,
    clip: Annotated[
        bool,
        typer.Option("--clip", help="Clip files that peak above full scale, instead of lowering them as a whole."),
    ] = False,
    artist_from: Annotated[
        str,
        typer.Option(
            metavar="tag|folder:N|NAME",
            help="Whose the files are: by their tags alone, by the N-th folder below IN (-1: the one in which a file "
            "lies), or this artist's.",
            show_default="the crawl's catalog, then tags, then folders",
        ),
    ] = "",
    include_takes: Annotated[
        bool,
        typer.Option("--include-takes", help="Also use takes made by musicldm sample, which are otherwise left out."),
    ] = False,
    jobs: Jobs = None,
    cluster: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="A Dask scheduler, such as tcp://host:8786, whose workers do the work."),
    ] = "",
    time_limit: Annotated[
        float, typer.Option(help="Give up on a file after this many seconds.", callback=positive, max=86400)
    ] = 600,
    overwrite: Overwrite = False,
    strict: Strict = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn audio files of any kind into waveforms, WAV or FLAC, in a mirrored tree with a manifest.

    MIDI files, which are told by their content, become clean ones with all notes on a grid of 24 steps a quarter.
    Files that are done already are skipped. A file that cannot be used is named with the reason, and the rest goes on.
    """
    from musicldm.core.jobs import CORES
    from musicldm.media.artists import ArtistRule
    from musicldm.media.audio.prepare import PrepareSettings
    from musicldm.media.notes.prepare import NoteSettings
    from musicldm.media.preprocess import preprocess as run

    console = Console(quiet, json)
    settings = PrepareSettings(
        sample_rate=sample_rate,
        bit_depth=bit_depth,
        channels=channels,
        format=format,
        loudness=loudness,
        trim_silence=trim_silence,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        keep_silent=keep_silent,
        clip=clip,
        include_takes=include_takes,
    )
    notes = NoteSettings(min_seconds, max_seconds, include_takes)
    rule = ArtistRule.parse(artist_from)
    start = time.monotonic()
    with console.progress("Preprocessing") as progress:
        summary = run(source, out, settings, jobs or CORES, progress, time_limit, cluster, overwrite, rule, notes)
    minutes = (time.monotonic() - start) / 60

    for name, reason in summary.failed.items():
        console.warn(f"Left out {name}: {reason}")
    for name, kept in summary.duplicates.items():
        console.note(f"Left out {name}: the same as {kept}.")
    if summary.quieter:
        console.note(f"{summary.quieter} tracks are quieter than the target loudness: their peaks would have clipped.")
    _say_what_changed(console, summary, settings)
    _show(console, summary, minutes)
    _say_whose(console, summary)
    console.result({"out": str(out), "minutes": round(minutes, 3)} | asdict(summary), [str(out)])
    check_complete(console, strict, len(summary.failed) + len(summary.takes), summary.tracks)


def _say_what_changed(console: Console, summary: Summary, settings: PrepareSettings) -> None:
    """What became of the material, one line for each kind; the manifest has it file by file."""
    from musicldm.media.audio.forms import converted

    if sentence := converted(summary.converted, "file", settings.sample_rate, settings.channels):
        console.warn(sentence)
    if summary.lowered:
        most = max(summary.lowered, key=lambda name: summary.lowered[name])
        console.warn(
            f"{_files(len(summary.lowered))} lowered as a whole, by up to {summary.lowered[most]:.2f} dB ({most}): "
            "their peaks exceed full scale. --clip keeps the level instead."
        )
    if summary.cancelled:
        console.warn(
            f"{_files(len(summary.cancelled))} taken from one channel, since the channels cancel each other: "
            f"{_some(summary.cancelled)}."
        )
    if summary.beyond_header:
        console.warn(
            f"{_files(len(summary.beyond_header))} taken whole, though the header states less sound than there is: "
            f"{_some(summary.beyond_header)}."
        )
    if summary.takes:
        console.warn(
            f"{_files(len(summary.takes))} left out as takes that musicldm sample made: {_some(summary.takes)}. "
            "--include-takes uses them, too."
        )
    if summary.repairs:
        kinds = ", ".join(f"{count:,} {REPAIRS[kind]}" for kind, count in summary.repairs.items())
        console.warn(f"Put right in MIDI files: {kinds}. The manifest has it file by file.")
    if summary.onsets_exact is not None:
        lost = f"; {summary.merged:,} notes were merged with another of their pitch" if summary.merged else ""
        console.note(f"{summary.onsets_exact:.1%} of the notes began on the grid already{lost}.")
    if summary.off_keys:
        console.warn(
            f"{summary.off_keys:,} notes are drums or lie beyond a piano's keys: they are kept, but a codec of piano "
            "rolls does not see them."
        )
    if summary.trimmed_seconds:
        console.note(f"Silence trimmed: {summary.trimmed_seconds:.1f} s in all.")


def _say_whose(console: Console, summary: Summary) -> None:
    from musicldm.core.names import listed

    console.note(f"Artists: {listed(summary.artists)}.")
    guessed, nobody = (summary.artists_from.get(origin, 0) for origin in ("folder", "nobody"))
    if guessed or nobody:
        console.warn(
            f"Artists guessed from folder names: {guessed} of {summary.tracks} tracks; without an artist: "
            f"{nobody}. Use --artist-from to say whose they are."
        )
    if summary.relabelled:
        console.warn(
            f"Tracks of earlier runs that have another artist now: {summary.relabelled}. A latent store keeps the one "
            "with which it was made."
        )


def _files(count: int) -> str:
    return "1 file was" if count == 1 else f"{count} files were"


def _some(names: Collection[str]) -> str:
    return ", ".join(list(names)[:3]) + (", …" if len(names) > 3 else "")


def _show(console: Console, summary: Summary, minutes: float) -> None:
    from rich.table import Table

    table = Table("", box=None)
    table.add_column("files", justify="right")
    table.add_column("hours", justify="right")
    table.add_column("")
    speed = f"{summary.prepared_hours / minutes:.1f} hours a minute" if summary.prepared else ""
    table.add_row("prepared", str(summary.prepared), f"{summary.prepared_hours:.2f}", speed)
    table.add_row("done before", str(summary.skipped))
    table.add_row("duplicates", str(len(summary.duplicates)))
    if summary.takes:
        table.add_row("takes", str(len(summary.takes)))
    table.add_row("failed", str(len(summary.failed)))
    held_out = f"{summary.heldout} held out from training"
    if summary.scores:
        table.add_row("of these, MIDI", str(summary.scores), "", f"{summary.notes:,} notes")
    table.add_row("usable in all", str(summary.tracks), f"{summary.hours:.2f}", held_out)
    console.show(table)
