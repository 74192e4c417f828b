"""`musicldm reconstruct`: a sound through a codec and back."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from musicldm.cli.console import Console
from musicldm.cli.options import Device, Json, Overwrite, Quiet, Transcriber, positive
from musicldm.cli.transcribers import hint_at_notes
from musicldm.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from musicldm.evaluate.metrics import Reconstruction
    from musicldm.evaluate.notes import OnsetScore


def reconstruct(
    source: Annotated[Path, typer.Argument(metavar="IN", help="An audio or MIDI file of any kind and length.")],
    output: Annotated[
        str,
        typer.Argument(
            metavar="OUT",
            help="The output file: wav, flac, mp3, ogg or m4a by its suffix, or mid for notes; - for stdout.",
        ),
    ],
    vae: Annotated[
        Path, typer.Option(metavar="BUNDLE", help="The codec: a run folder of train-vae, a bundle, or a model's name.")
    ],
    start: Annotated[float, typer.Option(min=0, help="Seconds to skip at the beginning.")] = 0.0,
    seconds: Annotated[
        float | None, typer.Option(help="Seconds to use from there.", callback=positive, show_default="all")
    ] = None,
    transcriber: Transcriber = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Hear what a codec does to a file, and see in figures how close the result is.

    The file goes to latents (the posterior's mode) and back: audio at the codec's rate and with its channels, a MIDI
    file by a codec of notes.
    """
    from musicldm.cli import reconstruct_notes
    from musicldm.codecs.base import load_codec
    from musicldm.core.devices import pick_device
    from musicldm.core.guard import Guard, keep_originals
    from musicldm.evaluate.reconstruct import is_reconstruction, reconstruct_file
    from musicldm.evaluate.transcription import load_transcriber
    from musicldm.media.audio import files
    from musicldm.media.audio.decode import probe
    from musicldm.media.notes.midi import is_midi

    console = Console(quiet, as_json)
    target = None if output == "-" else Path(output)
    if target is None and as_json:
        raise UsageError("--json and - both want stdout.", "Choose one.")
    if source.is_dir():
        raise DataError(f"{source} is a folder.", "Choose one file in it.")
    if is_midi(source):
        reconstruct_notes.check(source, target, overwrite)
        reconstruct_notes.run(source, target, load_codec(vae, pick_device(device)), overwrite, console)
        return
    files.format_of(target)
    if target is not None:  # what cannot be written is known before anything is loaded
        keep_originals([target], [source], "reconstruction")
        Guard(is_reconstruction, overwrite).check(target)
    where = pick_device(device)
    listener = load_transcriber(transcriber, where) if transcriber else None
    codec = load_codec(vae, where)
    with console.progress("Reconstructing") as progress:
        place = target or sys.stdout.buffer
        result = reconstruct_file(source, place, codec, start, seconds, progress, listener, overwrite)
    figures, speed = result.figures, result.figures.seconds / result.spent
    _show(console, figures, result.notes)
    info, spec = probe(source), codec.spec
    if (info.sample_rate, info.channels) != (spec.rate, spec.media_channels):
        console.warn(
            f"{source} has {info.sample_rate} Hz and {info.channels} channel(s); the reconstruction has the codec's "
            f"{spec.rate} Hz and {spec.media_channels}."
        )
    if result.cancelled:
        console.warn(f"The channels of {source} cancel each other: the loudest one was used.")
    if figures.is_of_silence:
        console.warn(f"{source} is silent: there is nothing to measure against.")
    console.note(
        f"{figures.seconds:.1f} s of audio encoded and decoded in {result.spent:.1f} s ({speed:.1f} times real time); "
        f"the latent has {codec.spec.compression:.3g} times fewer numbers."
    )
    hint_at_notes(console, transcriber)
    if target is not None:
        notes = None if result.notes is None else asdict(result.notes)
        original = {"sample_rate": info.sample_rate, "channels": info.channels, "cancelled": result.cancelled}
        about = {"notes": notes, "speed": speed, "compression": codec.spec.compression, "original": original}
        console.result({"file": output, **asdict(figures), **about}, [output])


def _show(console: Console, figures: Reconstruction, notes: OnsetScore | None) -> None:
    from rich.table import Table

    table = Table("", box=None, show_header=False)
    table.add_column(justify="right")
    table.add_column("")
    ratio = figures.mel_to_silence
    of_silence = "" if ratio is None else f"; without logarithms {ratio:.1%} of silence's"
    table.add_row("mel distance", f"{figures.mel:.3f}", f"0 is perfect{of_silence}")
    table.add_row("STFT distance", f"{figures.stft:.3f}", "0 is perfect")
    if notes is not None:
        found = f"1 is perfect; {notes.matched} of {notes.reference} notes, and {notes.found - notes.matched} others"
        table.add_row("note onsets, F1", "-" if notes.f1 is None else f"{notes.f1:.3f}", found)
    if figures.si_sdr is not None:
        table.add_row("SI-SDR", f"{figures.si_sdr:.2f}", "dB; higher is closer")
    if figures.l1 is not None and figures.l1_to_silence is not None:
        of_silence = f"; {figures.l1_to_silence:.1%} of silence's, {figures.l1_of_silence:.4f}"
        table.add_row("L1 distance", f"{figures.l1:.4f}", f"0 is perfect{of_silence}")
    console.show(table)
