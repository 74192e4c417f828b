"""`musicldm encode`: prepared audio and a codec to a latent store."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from musicldm.cli.console import Console
from musicldm.cli.options import Device, Json, Quiet, Resample, Store, Strict, check_complete


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or not int(text):
        raise typer.BadParameter("must be a number above 0, or auto.")
    return int(text)


def encode(
    data: Annotated[Path, typer.Argument(help="The folder that preprocess made.")],
    store: Store,
    codec: Annotated[
        str,
        typer.Option(
            "--codec",
            "--vae",
            metavar="BUNDLE",
            help="The codec: a run folder of train-vae, its bundle, or the name of a model.",
        ),
    ],
    device: Device = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="32, 16, bf16 or auto. Only 32 gives the same latents everywhere; the store records any other."
        ),
    ] = "32",
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N|auto",
            help="Windows to encode together. auto: as many as fit into a GPU's memory; 1 on a CPU, where more are "
            "slower.",
            parser=_batch_size,
            show_default="auto",
        ),
    ] = None,
    window_seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of audio in a window.")] = 30.0,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Threads that read audio ahead. Default: one per core, up to 8.", show_default=False),
    ] = None,
    cluster: Annotated[
        str, typer.Option(metavar="ADDRESS", help="A Dask scheduler, such as tcp://host:8786, whose workers encode.")
    ] = "",
    compress: Annotated[
        int | None,
        typer.Option(
            metavar="BITS",
            min=1,
            max=10,
            help="Make the store smaller: keep this many of the 10 mantissa bits (7 is gentle), and compress.",
            show_default="uncompressed",
        ),
    ] = None,
    resample: Resample = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Drop tracks from the store that are no longer in DATA.")
    ] = False,
    strict: Strict = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Encode waveforms to latents, whole tracks of any length, into a store from which train-diffusion reads.

    Tracks that are in the store already are skipped. A track that cannot be used is named with the reason, and the
    others go on; when interrupted, the store keeps every track that was complete. With --device auto, all GPUs of the
    machine are used.
    """
    from musicldm.codecs.base import load_codec
    from musicldm.latents import encode as library
    from musicldm.latents.encoders import READERS
    from musicldm.latents.store import LatentStore
    from musicldm.media.audio.forms import converted
    from musicldm.media.medium import in_words

    console = Console(quiet, json)
    LatentStore.check_target(store)
    model = load_codec(codec)
    devices = [device] if cluster else library.pick_devices(device)
    start = time.monotonic()
    try:
        with console.progress("Encoding") as progress:
            summary = library.encode(
                data,
                store,
                model,
                window_seconds,
                progress,
                devices=devices,
                cluster=cluster,
                readers=jobs or READERS,
                batch_size=batch_size,
                precision=precision,
                keep_bits=compress,
                prune=prune,
                resample=resample,
            )
    except KeyboardInterrupt:
        console.note(f"Interrupted. {store} has every track that was complete; the same command continues from there.")
        raise
    minutes = (time.monotonic() - start) / 60

    for name, reason in summary.left_out.items():
        console.warn(f"Left out {name}: {reason}")
    if summary.vanished:
        some = ", ".join(summary.vanished[:3]) + (", …" if len(summary.vanished) > 3 else "")
        done = "and were dropped" if prune else "but not from the store; --prune drops them"
        console.note(f"{len(summary.vanished)} tracks have vanished from {data}, {done}: {some}.")
    if sentence := converted(summary.converted, "track", model.spec.rate, model.spec.media_channels):
        console.warn(sentence)
    if summary.relabelled:
        console.warn(
            f"Tracks with a different artist in {data} than in {store}: {summary.relabelled}. The store keeps the one "
            "it has; a new store would take the other."
        )
    amount = in_words(summary.hours, summary.beats)
    console.note(
        f"{summary.encoded} tracks encoded ({summary.encoded_hours:.2f} h in {minutes:.1f} min), "
        f"{summary.skipped} there before, {len(summary.left_out)} left out. "
        f"In all {summary.tracks} tracks, {amount}, {summary.bytes / 1e6:.1f} MB on disk."
    )
    console.result({"store": str(store), "minutes": round(minutes, 3)} | asdict(summary), [str(store)])
    check_complete(console, strict, len(summary.left_out), summary.tracks)
