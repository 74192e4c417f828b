"""musicldm evaluate: how good is a VAE, and how good are samples?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from musicldm.cli.console import Console
from musicldm.cli.evaluate_memorization import memory
from musicldm.cli.evaluate_tables import samples_lines, vae_lines
from musicldm.cli.options import Device, Html, Json, Quiet
from musicldm.core.errors import UsageError

app = typer.Typer(
    no_args_is_help=True, help="How good is it: a VAE, samples beside music, and whether they are copies."
)

app.command()(memory)

Split = Annotated[Literal["train", "heldout", "all"], typer.Option(help="Which tracks of what preprocess made.")]


@app.command()
def vae(
    model: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="The VAE's: a run folder, a bundle, or a model's name.")
    ],
    data: Annotated[Path, typer.Argument(help="What preprocess made, or any folder of audio files.")],
    split: Split = "heldout",
    html: Html = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Hear how near a VAE brings back music that it has not seen, and look at its latents.

    Every track goes to latents (the posterior's mode) and back. In brackets: 95 % confidence intervals over tracks.
    """
    from musicldm.cli.evaluate_pages import vae_page
    from musicldm.codecs.vae.model import VAE
    from musicldm.core.devices import pick_device
    from musicldm.evaluate.vae import evaluate_vae

    console = Console(quiet, json)
    loaded = VAE.load(model, pick_device(device))
    with console.progress("Evaluating") as progress:
        result = evaluate_vae(loaded, data, split, progress)
    for name, reason in result.left_out.items():
        console.warn(f"Left out {name}: {reason}")
    console.result(result.to_dict(), vae_lines(result))
    if html is not None:
        vae_page(result, loaded, data, split).write(html)
        console.note(f"A page to listen to: {html}")


@app.command()
def samples(
    out: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Audio files, or folders of them.")],
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="DATA|STORE", help="Music to hold them against: what preprocess made, any folder, a store."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "--vae",
            "-m",
            metavar="BUNDLE",
            help="Whose VAE to compare in the latent space of: a run folder, a bundle, or a model's name. A store has "
            "its own.",
        ),
    ] = None,
    split: Split = "train",
    pieces: Annotated[int, typer.Option(min=1, help="Pieces of the reference, each as long as a sample.")] = 200,
    yardsticks: Annotated[
        bool, typer.Option(help="Measure the reference's halves, its way through the VAE, and decoded noise, too.")
    ] = True,
    clap: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="A CLAP model in safetensors, to compare by it too.", show_default="one in the cache"
        ),
    ] = None,
    html: Html = None,
    curve: Annotated[
        Path | None,
        typer.Option("--steps-curve", metavar="JSON", help="A quality.json of benchmarks/quality.py to draw there."),
    ] = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say how near samples are to music: distances, self-similarity, level, clipping and silence.

    Beside the samples stand yardsticks: how near music is to itself, and how far noise is from it. ± are 95 %
    confidence intervals over samples.
    """
    from musicldm.cli.evaluate_pages import samples_page, steps_curves
    from musicldm.core.devices import pick_device
    from musicldm.evaluate.clap import Clap
    from musicldm.evaluate.samples import evaluate_samples

    console = Console(quiet, json)
    if curve is not None and html is None:
        raise UsageError("The curve of steps is drawn on a page.", "Name one with --html FILE.")
    curves = steps_curves(curve) if curve is not None else {}
    where = pick_device(device)
    ear = Clap(clap, where) if clap else Clap.found(where)
    with console.progress("Evaluating") as progress:
        result = evaluate_samples(
            out,
            reference,
            model,
            split=split,
            pieces=pieces,
            yardsticks=yardsticks,
            clap=ear,
            device=where,
            progress=progress,
        )
    for name, reason in result.left_out.items():
        console.warn(f"Left out {name}: {reason}")
    for note in result.notes:
        console.note(note)
    console.result(result.to_dict(), samples_lines(result))
    if html is not None:
        samples_page(result, out, curves).write(html)
        console.note(f"A page to listen to: {html}")
