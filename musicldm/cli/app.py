"""The `musicldm` command. Each verb lives in a file of its own; `main` is the one error boundary."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import musicldm
from musicldm.cli import renamed, signals
from musicldm.cli.bundle import app as bundle
from musicldm.cli.console import Console
from musicldm.cli.crawl import crawl
from musicldm.cli.demo import demo
from musicldm.cli.doctor import doctor
from musicldm.cli.encode import encode
from musicldm.cli.evaluate import app as evaluate
from musicldm.cli.explained import explained
from musicldm.cli.latents import app as latents
from musicldm.cli.models import models
from musicldm.cli.numbers import finite
from musicldm.cli.preprocess import preprocess
from musicldm.cli.reconstruct import reconstruct
from musicldm.cli.sample import sample
from musicldm.cli.train_diffusion import train_diffusion
from musicldm.cli.train_vae import train_vae
from musicldm.core.streams import prepare_streams

app = typer.Typer(
    name="musicldm",
    help="From artists' names to new music: crawl, preprocess, train-vae, encode, train-diffusion, sample.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    # `main` turns every exception into a sentence; Typer's own pages would come first.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Each verb imports what it works with only when it runs: torch takes seconds, and --help should take none.
for verb in (crawl, preprocess, train_vae, reconstruct, encode, train_diffusion, sample, models, doctor, demo):
    app.command(verb.__name__.replace("_", "-"))(verb)
app.add_typer(latents, name="latents")
app.add_typer(bundle, name="bundle")
app.add_typer(evaluate, name="evaluate")
finite(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"musicldm {musicldm.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed with a sentence, 2 wrong usage, 130 interrupted."""
    console = Console()
    try:
        prepare_streams()
        # Before the parser, which knows no more of such an option than that it does not exist.
        renamed.check(sys.argv[1:])
        with signals.ending_tidily():
            app()
    except KeyboardInterrupt:
        # 128 + SIGINT, as a shell reports a program that Ctrl-C has ended.
        sys.exit(130)
    except Exception as error:
        _traceback_if_debugging()
        sentence = explained(error)
        console.error(sentence)
        sys.exit(sentence.exit_code)


def _traceback_if_debugging() -> None:
    if os.environ.get("MUSICLDM_DEBUG", "0") not in ("", "0"):
        import traceback

        traceback.print_exc()
