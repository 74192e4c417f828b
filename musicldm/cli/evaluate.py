"""`musicldm evaluate`: how good is a codec, and how good are samples?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from musicldm.cli.console import Console
from musicldm.cli.evaluate_memorization import memory
from musicldm.cli.evaluate_tables import codec_lines, samples_lines
from musicldm.cli.options import Device, Html, Json, Overwrite, Quiet, Transcriber
from musicldm.cli.transcribers import hint_at_notes
from musicldm.core.errors import UsageError

if TYPE_CHECKING:
    from musicldm.codecs.base import Codec

app = typer.Typer(
    no_args_is_help=True,
    help="Evaluate a codec, or samples: how close they are to music, and whether they are copies of it.",
)

app.command()(memory)

Split = Annotated[
    Literal["train", "heldout", "all"], typer.Option(help="Which tracks of a prepared folder or a store.")
]


@app.command()
def vae(
    model: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="The codec: a run folder, a bundle, or a model's name.")
    ],
    data: Annotated[Path, typer.Argument(help="A folder that preprocess made, or any folder of audio files.")],
    split: Split = "heldout",
    transcriber: Transcriber = None,
    html: Html = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure how well a codec reconstructs music that it has not seen, and examine its latents.

    Every track is encoded (to the posterior's mode) and decoded. In brackets: 95 % confidence intervals over tracks.
    Notes are compared in 30 s from the middle of each track; a codec of notes, by all of them.
    """
    from musicldm.cli.evaluate_pages import check_page, codec_page
    from musicldm.codecs.base import load_codec
    from musicldm.core.devices import pick_device
    from musicldm.evaluate.codec import evaluate_codec
    from musicldm.evaluate.transcription import load_transcriber

    check_page(html, overwrite)
    console, where = Console(quiet, json), pick_device(device)
    listener = load_transcriber(transcriber, where) if transcriber else None
    codec = load_codec(model, where)
    if codec.spec.medium == "notes":
        if html is not None or transcriber:
            raise UsageError("--html and --transcriber are for codecs of audio.", "Leave them out.")
        _evaluate_notes(codec, data, split, console)
        return
    with console.progress("Evaluating") as progress:
        result = evaluate_codec(codec, data, split, progress, listener)
    for name, reason in result.left_out.items():
        console.warn(f"Left out {name}: {reason}")
    console.result(result.to_dict(), codec_lines(result))
    hint_at_notes(console, transcriber)
    if html is not None:
        codec_page(result, codec, data, split).write(html, overwrite)
        console.note(f"Page with audio: {html}")


def _evaluate_notes(codec: Codec, data: Path, split: Split, console: Console) -> None:
    from musicldm.cli.reconstruct_notes import show
    from musicldm.evaluate.score_codec import evaluate_notes_codec

    with console.progress("Evaluating") as progress:
        result = evaluate_notes_codec(codec, data, split, progress)
    for name, reason in result.left_out.items():
        console.warn(f"Left out {name}: {reason}")
    show(console, result.figures)
    console.note(
        f"{result.notes:,} notes of {result.tracks} tracks; {result.numbers_a_second:.0f} numbers a second, "
        f"MIDI {result.bytes_a_second:.0f} bytes."
    )
    console.result(result.to_dict(), [])


@app.command()
def samples(
    out: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Audio or MIDI files, or folders of them.")],
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="DATA|STORE",
            help="Music to compare with: a folder that preprocess made, any folder of audio, or a store.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "--vae",
            "-m",
            metavar="BUNDLE",
            help="The codec in whose latent space to compare: a run folder, a bundle, or a model's name; a store has "
            "its own.",
        ),
    ] = None,
    split: Split = "train",
    pieces: Annotated[int, typer.Option(min=1, help="Pieces of the reference, each as long as a sample.")] = 200,
    baselines: Annotated[
        bool, typer.Option(help="Also measure the reference's halves, its reconstruction, decoded and white noise.")
    ] = True,
    clap: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="A CLAP model in safetensors, as one more embedding.",
            show_default="one in the cache",
        ),
    ] = None,
    transcriber: Transcriber = None,
    spectra_rate: Annotated[
        int | None,
        typer.Option(
            min=1000,
            metavar="HZ",
            help="The sample rate at which spectra are compared: to compare codecs of several rates, the lowest of "
            "them.",
            show_default="the codec's, or the reference's",
        ),
    ] = None,
    html: Html = None,
    overwrite: Overwrite = False,
    curve: Annotated[
        Path | None,
        typer.Option(
            "--steps-curve", metavar="JSON", help="A quality.json from benchmarks/quality.py to plot on the page."
        ),
    ] = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure how close samples are to music: distances, self-similarity, level, clipping and silence.

    The two-sample test is how often a small classifier tells them from music: 0.5 is chance. Baselines stand beside the
    samples: how close music is to itself, and how far noise is from it. ± are 95 % confidence intervals over samples.
    Figures in latent space depend on the codec: compare models with different codecs by spectra alone, against the same
    folder of music (the music of a store is decoded by its codec).

    MIDI files are compared with a folder of prepared ones: histograms, self-similarity, and the longest passage that is
    also in a training piece, beside held-out music and music made by simple rules.
    """
    from musicldm.cli import evaluate_notes
    from musicldm.cli.evaluate_pages import check_page, samples_page, steps_curves
    from musicldm.core.devices import pick_device
    from musicldm.evaluate.clap import Clap
    from musicldm.evaluate.samples import evaluate_samples
    from musicldm.evaluate.transcription import load_transcriber

    console = Console(quiet, json)
    if evaluate_notes.are_notes(out, reference):
        if html is not None or transcriber or clap or model:
            raise UsageError("--html, --model, --clap and --transcriber are for audio.", "Leave them out.")
        evaluate_notes.run(out, reference, baselines, console)
        return
    if curve is not None and html is None:
        raise UsageError("--steps-curve is plotted on an HTML page.", "Give one with --html FILE.")
    check_page(html, overwrite)
    curves = steps_curves(curve) if curve is not None else {}
    where = pick_device(device)
    listener = load_transcriber(transcriber, where) if transcriber else None
    embedding = Clap(clap, where) if clap else Clap.found(where)
    with console.progress("Evaluating") as progress:
        result = evaluate_samples(
            out,
            reference,
            model,
            split=split,
            pieces=pieces,
            baselines=baselines,
            clap=embedding,
            transcriber=listener,
            spectra_rate=spectra_rate,
            device=where,
            progress=progress,
        )
    for name, reason in result.left_out.items():
        console.warn(f"Left out {name}: {reason}")
    for note in result.notes:
        console.note(note)
    console.result(result.to_dict(), samples_lines(result))
    hint_at_notes(console, transcriber)
    if html is not None:
        samples_page(result, out, curves).write(html, overwrite)
        console.note(f"Page with audio: {html}")
