"""musicldm preprocess: audio files to waveforms."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from musicldm.cli.console import Console
from musicldm.cli.options import Jobs, Json, Quiet, Strict


def _bit_depth(value: int) -> int:
    if value not in (8, 16, 24):
        raise typer.BadParameter("choose 8, 16 or 24.")
    return value


def preprocess(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The folder with the audio files, nested or not.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder for the waveforms and their manifest.")],
    sample_rate: Annotated[int, typer.Option(min=1000, max=384000, help="Samples per second.")] = 16000,
    bit_depth: Annotated[
        int, typer.Option(metavar="8|16|24", callback=_bit_depth, help="Bits per sample; 8 and 16 are dithered.")
    ] = 16,
    channels: Annotated[int, typer.Option(min=1, max=2, help="1 takes the mean of all channels.")] = 1,
    jobs: Jobs = None,
    strict: Strict = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn audio files of any kind into waveforms: WAV files in a mirrored tree, with a manifest.

    What is done already is skipped. A file that cannot be used is named with its reason, and the rest goes on.
    """
    from musicldm.audio import prepare
    from musicldm.jobs import CORES

    console = Console(quiet, json)
    settings = prepare.PrepareSettings(sample_rate, bit_depth, channels)
    start = time.monotonic()
    with console.progress("Preprocessing") as progress:
        summary = prepare.preprocess(source, out, settings, jobs or CORES, progress)
    minutes = (time.monotonic() - start) / 60

    for name, reason in summary.failed.items():
        console.warn(f"Left out {name}: {reason}")
    for name, kept in summary.duplicates.items():
        console.note(f"Left out {name}: the same audio as {kept}.")
    console.note(
        f"{summary.files} files: {summary.prepared} prepared ({summary.prepared_hours:.2f} h in {minutes:.1f} min), "
        f"{summary.skipped} done before, {len(summary.duplicates)} duplicates, {len(summary.failed)} failed. "
        f"In all {summary.tracks} tracks, {summary.hours:.2f} h; {summary.heldout} held out from training."
    )
    console.result({"out": str(out), "minutes": round(minutes, 3)} | asdict(summary), [str(out)])
    if strict and summary.failed:
        raise typer.Exit(1)
