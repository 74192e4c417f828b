"""musicldm encode: waveforms and a VAE to a latent store."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from musicldm.cli.console import Console
from musicldm.cli.options import Device, Json, Quiet, Strict


def encode(
    data: Annotated[Path, typer.Argument(help="The folder that preprocess made.")],
    store: Annotated[Path, typer.Argument(help="The latent store to make or to add to.")],
    vae: Annotated[Path, typer.Option(metavar="BUNDLE", help="The VAE: a run folder of train-vae, or its bundle.")],
    device: Device = "auto",
    window_seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of audio encoded at once.")] = 30.0,
    strict: Strict = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Encode waveforms to latents, whole tracks of any length, into a store from which train-diffusion reads.

    Tracks that are in the store already are skipped. A track that cannot be used is named with its reason, and the
    rest goes on; interrupted, the store keeps every track that was complete.
    """
    from musicldm.devices import pick_device
    from musicldm.latents import encode as library
    from musicldm.vae.model import VAE

    console = Console(quiet, json)
    model = VAE.load(vae, pick_device(device))
    start = time.monotonic()
    try:
        with console.progress("Encoding") as progress:
            summary = library.encode(data, store, model, window_seconds, progress)
    except KeyboardInterrupt:
        console.note(f"Interrupted. {store} has every track that was complete; the same command goes on from there.")
        raise
    minutes = (time.monotonic() - start) / 60

    for name, reason in summary.left_out.items():
        console.warn(f"Left out {name}: {reason}")
    console.note(
        f"{summary.encoded} tracks encoded ({summary.encoded_hours:.2f} h in {minutes:.1f} min), "
        f"{summary.skipped} there before, {len(summary.left_out)} left out. "
        f"In all {summary.tracks} tracks, {summary.hours:.2f} h, {summary.bytes / 1e6:.1f} MB on disk."
    )
    console.result({"store": str(store), "minutes": round(minutes, 3)} | asdict(summary), [str(store)])
    if strict and summary.left_out:
        raise typer.Exit(1)
