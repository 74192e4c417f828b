"""musicldm latents: look into a latent store."""

from __future__ import annotations

from dataclasses import asdict

import typer

from musicldm.cli.console import Console
from musicldm.cli.options import Json, Quiet, Store

app = typer.Typer(
    no_args_is_help=True, help="Look into a latent store: what is in it, is it whole, how are its channels."
)


@app.command()
def info(store: Store, json: Json = False, quiet: Quiet = False) -> None:
    """Say what is in a store: tracks, hours, size, the codec it was made with, licences."""
    from musicldm.latents import examine
    from musicldm.latents.store import LatentStore

    found = examine.info(LatentStore.open(store))
    channels = {1: "mono", 2: "stereo"}.get(found.media_channels, f"{found.media_channels} channels")
    form = f"{found.rate} Hz {channels}, {found.hop} samples a frame"
    if found.medium != "audio":
        form = f"{found.rate} ticks a beat, {found.hop} a frame"
    lines = {
        "tracks": f"{found.tracks}, {found.hours:.2f} h, {found.heldout} held out, by {found.artists} artists",
        "latents": f"{found.channels} channels, {found.frames_a_second:.4g} frames a second, float16",
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
    """Compare all of a store with the checksums that it was written with; exit with 1 where one does not fit."""
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
    console.note(f"All {len(opened.tracks)} tracks are whole.")


@app.command()
def stats(store: Store, json: Json = False, quiet: Quiet = False) -> None:
    """Show every channel's mean and standard deviation, and warn of what no generator can learn from."""
    from musicldm.latents import examine
    from musicldm.latents.store import LatentStore

    console = Console(quiet, json)
    with console.progress("Measuring") as progress:
        channels = examine.channel_statistics(LatentStore.open(store), progress)
    lines = ["channel     mean      std   used  largest"]
    for each in channels:
        row = f"{each.channel:>7} {each.mean:>8.3f} {each.std:>8.3f} {each.used:>5.0%}  {each.largest:>7.1f}"
        lines.append("  ".join([row, *each.warnings]))
    console.result({"channels": [asdict(each) for each in channels]}, lines)
    if warned := sum(bool(each.warnings) for each in channels):
        console.warn(f"{warned} of {len(channels)} channels look wrong: see the last column.")
