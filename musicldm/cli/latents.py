"""musicldm latents: look into a latent store."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import typer

from musicldm.cli.console import Console
from musicldm.cli.options import Json, Quiet, Store

if TYPE_CHECKING:
    from musicldm.latents.examine import ChannelStatistics
    from musicldm.latents.predictability import Predictability, StorePredictability

app = typer.Typer(
    no_args_is_help=True, help="Inspect a latent store: its contents, whether it is intact, its channels."
)


@app.command()
def info(store: Store, json: Json = False, quiet: Quiet = False) -> None:
    """Say what is in a store: tracks, hours, size, the codec it was made with, licences."""
    from musicldm.latents import examine
    from musicldm.latents.store import LatentStore
    from musicldm.media.medium import in_words

    found = examine.info(LatentStore.open(store))
    channels = {1: "mono", 2: "stereo"}.get(found.media_channels, f"{found.media_channels} channels")
    form = f"{found.rate} Hz {channels}, {found.hop} samples a frame"
    if found.medium != "audio":
        form = f"{found.rate} ticks a beat, {found.hop} a frame"
    period = "second" if found.medium == "audio" else "beat"
    amount = in_words(found.hours, found.beats)
    lines = {
        "tracks": f"{found.tracks}, {amount}, {found.heldout} held out, by {found.artists} artists",
        "latents": f"{found.channels} channels, {found.frames_a_second:.4g} frames a {period}, float16",
        found.medium: form,
        "codec": f"{found.codec_name} ({found.codec}, {found.codec_hash[:8]})",
        "size": f"{found.bytes / 1e6:.1f} MB in {found.segments} segments",
    }
    if found.keep_bits is not None:
        loss = "" if found.loss_db is None else f", rounding at {found.loss_db:.0f} dB"
        lines["compressed"] = f"{found.keep_bits} of 10 bits kept, {found.saved:.0%} saved{loss}"
    if found.replaced:
        lines["replaced"] = f"{found.replaced} tracks have a later version; encode --prune drops them"
    lines["licences"] = ", ".join(f"{name} ({count})" for name, count in found.licences.items()) or "none"
    Console(quiet, json).result(asdict(found), [f"{name:<11}{text}" for name, text in lines.items()])


@app.command()
def verify(store: Store, json: Json = False, quiet: Quiet = False) -> None:
    """Check all of a store against the checksums that it was written with; exit with 1 if any differs."""
    from musicldm.latents import examine
    from musicldm.latents.store import LatentStore

    console = Console(quiet, json)
    opened = LatentStore.open(store, skip_broken=True)
    with console.progress("Verifying") as progress:
        faults = examine.verify(opened, progress)
    console.result(
        {"tracks": len(opened.tracks), "faults": [asdict(fault) for fault in faults]},
        [fault.reason for fault in faults],
    )
    if faults:
        console.warn(f"{store} is damaged. Restore it from a copy, or delete the segments named and encode again.")
        raise typer.Exit(1)
    console.note(f"All {len(opened.tracks)} tracks are intact.")


@app.command()
def stats(store: Store, json: Json = False, quiet: Quiet = False) -> None:
    """Show every channel's mean and standard deviation, and how predictable it is from frame to frame.

    Warns of what no generator can learn from. change: from frame to frame, as a fraction of white noise's. R²: of a
    frame from the 4 before it; 0 is white noise. Then the fraction of the variance in each band of modulation
    frequency.
    """
    from musicldm.latents import examine
    from musicldm.latents.predictability import SMOOTHER, predictability
    from musicldm.latents.store import LatentStore

    console = Console(quiet, json)
    opened = LatentStore.open(store)
    with console.progress("Measuring") as progress:
        channels = examine.channel_statistics(opened, progress)
    found = predictability(opened)
    console.result(_stats_data(channels, found), _stats_lines(channels, found, opened.header.medium))
    if warned := sum(bool(each.warnings) for each in channels):
        console.warn(f"{warned} of {len(channels)} channels look wrong: see the last column.")
    if found and found.warning:
        console.warn(f"{found.warning} {SMOOTHER}")


def _stats_data(channels: list[ChannelStatistics], found: StorePredictability | None) -> dict[str, Any]:
    """What `stats` prints with --json; null is what cannot be measured."""
    if found is None:
        return {"channels": [{**asdict(each), "predictability": None} for each in channels], "predictability": None}
    return {
        "channels": [
            {**asdict(each), "predictability": asdict(figures) if figures else None}
            for each, figures in zip(channels, found.channels, strict=True)
        ],
        "predictability": {
            **asdict(found.mean),
            "bands": found.bands,
            "frames": found.frames,
            "nearly_white": found.mean.nearly_white,
        },
    }


def _stats_lines(channels: list[ChannelStatistics], found: StorePredictability | None, medium: str) -> list[str]:
    """A line for each channel; below them their mean, and what white noise has."""
    heading, in_time = "channel     mean      std   used  largest", [""] * len(channels)
    if found:
        unit = "Hz" if medium == "audio" else "a beat"
        edges = [f"{edge:.2g}" for edge in found.bands]
        bands = [f"{low}–{high}" for low, high in pairwise(edges)]
        heading += "  change     R²" + "".join(f"{band:>9}" for band in bands) + f" {unit}"
        in_time = [_in_time(figures) for figures in found.channels]
    lines = [heading]
    for each, figures in zip(channels, in_time, strict=True):
        row = f"{each.channel:>7} {each.mean:>8.3f} {each.std:>8.3f} {each.used:>5.0%}  {each.largest:>7.1f}"
        lines.append("  ".join([row + figures, *each.warnings]))
    if found:
        lines.append(f"{'mean':<40}{_in_time(found.mean)}")
        lines.append(f"{'white noise':<40}{_in_time(found.white_noise)}")
    return lines


def _in_time(figures: Predictability | None) -> str:
    """The columns of change, R² and spectrum; a dash is what cannot be measured."""
    if figures is None:
        return f"{'–':>8}{'–':>7}" + f"{'–':>9}" * 4
    r2 = "–" if figures.r2 is None else f"{figures.r2:z.2f}"
    return f"{figures.change:>8.2f}{r2:>7}" + "".join(f"{fraction:>9.0%}" for fraction in figures.spectrum)
