"""`musicldm sample`: a model to new music."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from musicldm.cli.console import Console
from musicldm.cli.options import Device, Json, Precision, Quiet, Seed, positive
from musicldm.errors import UsageError


def sample(
    model: Annotated[Path, typer.Option("--model", "-m", help="A bundle, or the run folder that holds it.")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="The file; - for stdout; {i} numbers several takes.")
    ] = "out.wav",
    sampler: Annotated[Literal["ddim", "ddpm"], typer.Option(help="How to denoise.")] = "ddim",
    steps: Annotated[int, typer.Option(help="Denoising steps; ddpm wants many.")] = 20,
    eta: Annotated[float, typer.Option(min=0, max=1, help="Of ddim: 0 deterministic, 1 as random as ddpm.")] = 0.0,
    seconds: Annotated[float, typer.Option(help="Length of each take.", callback=positive)] = 10.0,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many takes.")] = 1,
    seed: Seed = 0,
    format: Annotated[
        str | None, typer.Option(help="wav, flac, mp3, ogg or m4a.", show_default="by the file's name")
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make new music. The same seed gives the same file on a CPU, and take i of it whatever the number of takes."""
    from musicldm.audio import files
    from musicldm.durable import make_folder
    from musicldm.generate import Generator

    console = Console(quiet, as_json)
    output = output or f"out.{format or 'wav'}"
    targets = number(output, count)
    if output == "-" and as_json:
        raise UsageError("--json and -o - both want stdout.", "Choose one.")
    for target in targets:  # what cannot be written is known before minutes of sampling
        files.format_of(target, format)
        if target is not None:
            make_folder(target.parent)
    generator = Generator.load(model, device, precision)
    began = time.monotonic()
    peaks = []
    with console.progress("Sampling") as progress:
        for take, target in enumerate(targets):

            def move(done: int, take: int = take) -> None:
                progress(take * steps + done, count * steps, f"take {take + 1} of {count}, step {done} of {steps}")

            waveform = generator.sample(
                seconds, seed=seed, take=take, sampler=sampler, steps=steps, eta=eta, callback=move
            ).numpy()
            peaks.append(float(abs(waveform).max()))
            files.write(sys.stdout.buffer if target is None else target, waveform, generator.sample_rate, format)
    spent = time.monotonic() - began
    console.note(f"{count * seconds:g} s of audio in {spent:.1f} s ({count * seconds / spent:.1f} times real time).")
    if output != "-":
        paths = [str(target) for target in targets]
        console.result(
            {"files": paths, "seconds": seconds, "seed": seed, "peaks": peaks, "took": round(spent, 3)}, paths
        )


def number(output: str, count: int) -> list[Path | None]:
    """The file of each take; None is stdout.

    Raises:
        UsageError: several takes for stdout.
    """
    if output == "-":
        if count > 1:
            raise UsageError(f"{count} takes cannot go to stdout.", "Name files: -o 'take-{i}.wav'.")
        return [None]
    if count > 1 and "{i}" not in output:
        path = Path(output)
        output = str(path.with_name(f"{path.stem}-{{i}}{path.suffix}"))
    return [Path(output.replace("{i}", str(i + 1))) for i in range(count)]
