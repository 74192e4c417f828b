"""`musicldm demo`: the whole pipeline in minutes, on music that it composes itself."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from musicldm.cli.console import Console
from musicldm.cli.encode import encode
from musicldm.cli.options import Overwrite, Quiet
from musicldm.cli.preprocess import preprocess
from musicldm.cli.sample import sample
from musicldm.cli.train_diffusion import train_diffusion
from musicldm.cli.train_vae import train_vae

STEPS = """
preprocess {demo}/raw {demo}/wav
train-vae {demo}/wav -o {demo}/vae --preset tiny --steps 700
encode {demo}/wav {demo}/latents.zarr --vae {demo}/vae
train-diffusion {demo}/latents.zarr -o {demo}/ldm --preset tiny --steps 1000 --batch-size 8 --learning-rate 2e-3
sample --model {demo}/ldm --sampler ddim --steps 20 --seconds 10 -o {demo}/out.wav
"""


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for everything.")] = Path("demo"),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Run the whole pipeline in a few minutes on a CPU: compose, preprocess, train both networks, sample.

    Four invented artists replace the crawl. Each command is printed as a person would type it. An interrupted demo
    continues where it stopped.
    """
    from musicldm.cli.sidecar import beside, is_one, is_take
    from musicldm.core.guard import Guard
    from musicldm.latents.store import LatentStore
    from musicldm.media import synth
    from musicldm.media.audio import files, spectrogram
    from musicldm.training import run_folder

    console = Console(quiet)
    began = time.monotonic()
    pipeline = typer.Typer()
    for verb in (preprocess, train_vae, encode, train_diffusion, sample):
        pipeline.command(verb.__name__.replace("_", "-"))(verb)

    picture = Guard(spectrogram.is_ours, overwrite)
    # Each verb asks for itself, but only when it is its turn.
    for run in ("vae", "ldm"):
        run_folder.check(output / run, overwrite)
    LatentStore.check_target(output / "latents.zarr")
    Guard(is_take, overwrite).check(output / "out.wav")
    Guard(is_one, overwrite).check(beside(output / "out.wav"))
    picture.check(output / "out.png")
    console.note("Composing songs by four invented artists, in place of a crawl")
    synth.compose(output / "raw", overwrite=overwrite)
    for line in STEPS.format(demo=shlex.quote(str(output))).strip().splitlines():
        console.command(f"musicldm {line}")
        arguments = shlex.split(line) + (["--quiet"] if quiet else [])
        arguments += ["--overwrite"] if overwrite and arguments[0] != "encode" else []
        with console.results_as_notes():
            # Otherwise click would print errors itself and end the process; so they reach `main`.
            code = pipeline(arguments, standalone_mode=False)
        if code:
            raise typer.Exit(code)

    song = sorted((output / "wav").glob("*/*.wav"))[0]
    rate = 16000
    panels = {"Composed": files.read(song, 0, 10 * rate), "New: out.wav": files.read(output / "out.wav")}
    spectrogram.picture(output / "out.png", panels, rate, picture.commit)
    console.note(f"Done in {(time.monotonic() - began) / 60:.1f} minutes. Listen to the first, look at the second:")
    console.result({}, [str(output / "out.wav"), str(output / "out.png")])
