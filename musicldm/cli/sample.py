"""`musicldm sample`: a model to new music."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_type_hints

import typer

from musicldm.cli import sidecar as recipe
from musicldm.cli.console import Console
from musicldm.cli.options import Device, Json, Precision, Quiet, Seed, positive
from musicldm.core.errors import DataError, OutputError, UsageError
from musicldm.core.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from musicldm.sampling import Generator

_WAY, _HOW, _OUT = "Something of what there is, one of these; else new music", "How", "Output"


def sample(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="A bundle, the run folder that holds it, a name of musicldm models, or hf://owner/name.",
            show_default="piano, where it is here",
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Length of each take, or of what follows.", callback=positive)] = 10.0,
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", min=1, help="How many takes.", show_default="1; 5 on the way between two"),
    ] = None,
    seed: Seed = 0,
    take: Annotated[int, typer.Option(min=1, help="Number of the first take, to make more of them later.")] = 1,
    artist: Annotated[str, typer.Option(help='A name, or "Chopin:0.7,Bach:0.3".', show_default=False)] = "",
    position: Annotated[
        float | None,
        typer.Option(
            help="Where in a track it would be: 0 its start, 1 its end. A long piece is there all the time.",
            show_default=False,
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Make a take again, by its .json or by itself.", show_default=False),
    ] = None,
    init: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Vary this.", rich_help_panel=_WAY, show_default=False)
    ] = None,
    strength: Annotated[
        float, typer.Option(help="How far from it: near 0 hardly, 1 wholly new.", rich_help_panel=_WAY)
    ] = 0.6,
    infill: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Make spans of this anew.", rich_help_panel=_WAY, show_default=False),
    ] = None,
    start: Annotated[
        list[float] | None,
        typer.Option(
            "--from", help="Where a span begins, in seconds; can be repeated.", rich_help_panel=_WAY, show_default=False
        ),
    ] = None,
    stop: Annotated[
        list[float] | None,
        typer.Option("--to", help="Where it ends; one for each --from.", rich_help_panel=_WAY, show_default=False),
    ] = None,
    extend: Annotated[
        Path | None,
        typer.Option(
            "--continue", metavar="FILE", help="Go on from the end of this.", rich_help_panel=_WAY, show_default=False
        ),
    ] = None,
    interpolate: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A B", help="From one file to another.", rich_help_panel=_WAY, show_default=False),
    ] = None,
    interpolate_seeds: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="A B", help="From one seed to another.", rich_help_panel=_WAY, show_default=False),
    ] = None,
    loop: Annotated[
        bool, typer.Option("--loop", help="New music whose end goes on with its start.", rich_help_panel=_WAY)
    ] = False,
    sampler: Annotated[
        Literal["ddim", "ddpm", "dpm++2m", "dpm++2m-sde", "heun", "euler", "euler-a", "unipc"],
        typer.Option(help="How to denoise.", rich_help_panel=_HOW),
    ] = "unipc",
    steps: Annotated[int, typer.Option(help="Denoising steps; ddpm wants many.", rich_help_panel=_HOW)] = 50,
    spacing: Annotated[
        Literal["trailing", "uniform", "karras"], typer.Option(help="Where the steps lie.", rich_help_panel=_HOW)
    ] = "trailing",
    eta: Annotated[
        float, typer.Option(min=0, max=1, help="Of ddim: 0 adds no noise, 1 as much as ddpm.", rich_help_panel=_HOW)
    ] = 0.0,
    guidance: Annotated[
        float,
        typer.Option(help="How much --artist and --position count: 1 as they are, 3 much more.", rich_help_panel=_HOW),
    ] = 1.0,
    guidance_interval: Annotated[
        tuple[float, float],
        typer.Option(
            metavar="LOW HIGH", help="Noise levels where guidance acts: 0 clean, 1 noise.", rich_help_panel=_HOW
        ),
    ] = (0.0, 1.0),
    guidance_rescale: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="How far guidance leaves the spread as it was: 0 not at all, 1 wholly.",
            rich_help_panel=_HOW,
        ),
    ] = 0.0,
    window: Annotated[
        float | None,
        typer.Option(
            help="Seconds denoised at once.", callback=positive, rich_help_panel=_HOW, show_default="16 or more"
        ),
    ] = None,
    joint: Annotated[
        bool,
        typer.Option(
            "--joint", help="Denoise all windows of a long piece together, not one after another.", rich_help_panel=_HOW
        ),
    ] = False,
    resample: Annotated[
        int,
        typer.Option(
            min=1,
            help="How often to take each step where something is kept: more fits better, and takes longer.",
            rich_help_panel=_HOW,
        ),
    ] = 1,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="The file; - for stdout; {i} is the take's number.",
            rich_help_panel=_OUT,
            show_default="out.wav",
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="wav, flac, mp3, ogg or m4a.", rich_help_panel=_OUT, show_default="by the file's name"),
    ] = None,
    bit_depth: Annotated[
        Literal["16", "24", "float"] | None,
        typer.Option(help="Of wav and flac.", rich_help_panel=_OUT, show_default="16; float where a file is kept"),
    ] = None,
    normalize: Annotated[
        float | None,
        typer.Option(metavar="LUFS", help="Make it so loud, such as -16.", rich_help_panel=_OUT, show_default=False),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the denoiser first: pays off over many takes.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make new music, or something of a file that there is: vary, fill in, continue, go from one to another, loop.

    The same seed gives the same file on a CPU, and take i of it whatever the number of takes.
    A JSON file beside each tells how it was made, and so does its metadata.
    What is longer than a window is written as it comes.
    """
    console = Console(quiet, as_json)
    asked = _asked(context)
    way = _way(asked)
    targets = number(asked.output or f"out.{format or 'wav'}", asked.takes)
    _check_output(asked, way, targets)
    _sample(console, asked, way, targets)


def _sample(console: Console, asked: SimpleNamespace, way: str, targets: list[Path | None]) -> None:
    """Load once, then every take."""
    from musicldm import models

    with console.progress("Fetching") as progress:
        model = models.find(asked.model, progress)

    from musicldm.sampling import Generator  # torch, which takes its time

    generator = Generator.load(model, asked.device, asked.precision, console.warn)
    if asked.made:
        recipe.check(asked.made, generator, _inputs(asked))
    if asked.compiled:
        generator.diffusion.network.compile()
    takes = _takes(asked, way, generator, console)
    rate, began = generator.sample_rate, time.monotonic()
    facts = recipe.recipe(generator, asked.options, asked.takes[0], asked.of, _inputs(asked))
    lengths, peaks, made, stopped = list[float](), list[float](), 0.0, False
    with console.progress("Sampling") as progress:
        for place, (take, target) in enumerate(zip(asked.takes, targets, strict=True)):
            told = {**facts, "take": take}
            move = _timed(progress, place, len(targets), takes.new / rate)
            try:
                written = _write(target, takes.make(take, move), takes.samples, generator, asked, way, told)
            except KeyboardInterrupt:
                if not peaks:
                    raise
                stopped = True
                console.warn(f"Stopped: {place} of {len(targets)} takes are made.")
                break
            peaks.append(written.peak)
            lengths.append(written.samples / rate)
            made += max(0, written.samples - (takes.samples - takes.new)) / rate
            if stopped := written.stopped:
                where = "stdout" if target is None else target
                console.warn(f"Stopped: {written.samples / rate:.1f} of {takes.samples / rate:.1f} s are in {where}.")
                break
    spent = time.monotonic() - began
    console.note(f"{made:.4g} s of audio in {spent:.1f} s ({made / spent:.1f} times real time).")
    paths = [str(target) for target in targets[: len(peaks)] if target is not None]
    if paths:
        result = {"files": paths, "seconds": lengths, "seed": asked.seed, "peaks": peaks, "took": round(spent, 3)}
        console.result(result, paths)
    if stopped:
        raise typer.Exit(130)


# ---- What is asked ---------------------------------------------------------------------------------------------------

_WAYS = {
    "init": "--init",
    "infill": "--infill",
    "extend": "--continue",
    "interpolate": "--interpolate",
    "interpolate_seeds": "--interpolate-seeds",
    "loop": "--loop",
}


def _asked(context: typer.Context) -> SimpleNamespace:
    """The options; with --like those of the recipe, where the command line says nothing else.

    `given` has the names of those that somebody set, `options` all that is to be told, `takes` the numbers of the
    takes, and `of` how many there are on the way between two.
    """
    options: dict[str, Any] = dict(context.params)
    # By name: the enumeration is click's.
    given = {key for key in options if getattr(context.get_parameter_source(key), "name", "") == "COMMANDLINE"}
    made = recipe.read(options["like"]) if options["like"] is not None else {}
    if made:
        defaults = {each.name: recipe.plain(each.get_default(context)) for each in context.command.params}
        paths = {"init", "infill", "extend"}
        kinds = get_type_hints(sample)
        for key, value in made["options"].items():
            if key in options and key not in given and value not in (None, []):
                if not recipe.fits(value, kinds[key]):
                    raise DataError(
                        f"{options['like']} does not tell how it was made: its {key} is {value!r}.",
                        "Was it changed? The take itself tells the same.",
                    )
                options[key] = Path(value) if key in paths else value
                if key == "interpolate":
                    options[key] = tuple(map(Path, value))
                if value != defaults[key]:
                    given.add(key)
    for key in ("guidance_interval", "interpolate_seeds"):
        options[key] = tuple(options[key]) if options[key] else options[key]
    between = options["interpolate"] or options["interpolate_seeds"]
    if between and made and "count" not in given:
        takes, of = [made["take"]], made["of"]
    else:
        first = options["take"] if "take" in given or not made or between else made["take"]
        count = options["count"] or (5 if between else 1)
        takes, of = list(range(first, first + count)), count if between else 1
    return SimpleNamespace(**options, options=dict(options), given=given, made=made, takes=takes, of=of)


def _way(asked: SimpleNamespace) -> str:
    """Which of the ways, "new" where none is asked for.

    Raises:
        UsageError: several, or options that do not go with it.
    """
    ways = [key for key in _WAYS if getattr(asked, key)]
    if len(ways) > 1:
        raise UsageError(f"{_WAYS[ways[0]]} and {_WAYS[ways[1]]} are different ways.", "Choose one.")
    way = ways[0] if ways else "new"
    if len(asked.start or []) != len(asked.stop or []):
        raise UsageError("Each --from needs a --to.", "Such as --from 10 --to 20.")
    for keys, option, fit in (
        (("strength",), "--strength", ("init", "interpolate")),
        (("start", "stop"), "--from and --to", ("infill",)),
        (("seed",), "--seed", ("new", *(each for each in _WAYS if each != "interpolate_seeds"))),
        (("seconds",), "--seconds", ("new", "extend", "loop", "interpolate_seeds")),
        (("joint",), "--joint", ("new", "extend")),
        (("normalize",), "--normalize", ("new", "init", "loop", "interpolate", "interpolate_seeds")),
        (("resample",), "--resample", ("new", "infill", "extend")),
        (("take",), "--take", ("new", "init", "infill", "extend", "loop")),
    ):
        if asked.given.intersection(keys) and way not in fit:
            here = _WAYS.get(way, "new music")
            fitting = ", ".join(_WAYS.get(each, "new music") for each in fit)
            raise UsageError(f"{option} does not go with {here}.", f"It goes with {fitting}.")
    return way


def _check_output(asked: SimpleNamespace, way: str, targets: list[Path | None]) -> None:
    """What cannot be written is known before minutes of sampling.

    Raises:
        UsageError, OutputError: for that reason.
    """
    from musicldm.media.audio import files

    if asked.output == "-" and sys.stdout.isatty():
        raise UsageError("A terminal cannot play a WAV file.", "Pipe it to a program that can: … -o - | aplay.")
    if asked.output == "-" and asked.as_json:
        raise UsageError("--json and -o - both want stdout.", "Choose one.")
    if asked.output == "-" and asked.normalize is not None:
        raise UsageError("How loud a piece is shows only at its end.", "Leave --normalize out, or name a file.")
    if asked.normalize is not None and not -70 <= asked.normalize <= 0:
        raise UsageError(f"{asked.normalize:g} LUFS is no loudness for music.", "Such as -16; between -70 and 0.")
    told = set[Path]()
    for target in targets:
        format = files.format_of(target, asked.format)
        files.check_depth(format, _depth(asked, way, format))
        if target is None:
            continue
        _check_folder(target.parent)
        if target.is_dir():
            raise OutputError(f"{target} is a folder.", "Name a file in it.")
        if target.exists() and not target.is_file():  # to be replaced, and root may replace a device
            raise OutputError(f"{target} is no file.", "Name one, or - for stdout.")
        beside = target.with_suffix(".json")
        if beside == target or beside in told:
            what = "a take" if beside == target else "more than one take"
            raise UsageError(
                f"{beside} would hold how {what} is made, and cannot hold both.", "Such as -o take-{i}.wav."
            )
        told.add(beside)
        if beside.exists() and not recipe.is_one(beside):
            raise UsageError(f"{beside} is in the way of how {target} is made.", "Give the new one another name.")
        for source in _inputs(asked):
            if target.exists() and source.exists() and target.samefile(source):
                raise UsageError(f"{target} would overwrite the original.", "Give the new one another name.")


def _check_folder(folder: Path) -> None:
    """See that there is a place for it, and make nothing yet.

    Raises:
        OutputError: there is none.
    """
    there = next(each for each in (folder, *folder.parents) if each.exists())
    hint = "Check it, or name another one with -o."
    if not there.is_dir():
        raise OutputError(f"{there} is no folder.", hint)
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"The folder {there} cannot be written.", hint)


def _depth(asked: SimpleNamespace, way: str, format: str) -> int | Literal["float"]:
    if asked.bit_depth is None:
        return "float" if way in ("infill", "extend") and format == "wav" else 16
    return "float" if asked.bit_depth == "float" else int(asked.bit_depth)


def _inputs(asked: SimpleNamespace) -> list[Path]:
    return [path for path in (asked.init, asked.infill, asked.extend, *(asked.interpolate or ())) if path]


def number(output: str, takes: Sequence[int]) -> list[Path | None]:
    """The file of each take, by its number; None is stdout.

    Raises:
        UsageError: several takes for stdout.
    """
    if output == "-":
        if len(takes) > 1:
            raise UsageError(f"{len(takes)} takes cannot go to stdout.", "Name files: -o 'take-{i}.wav'.")
        return [None]
    if len(takes) > 1 and "{i}" not in output:
        path = Path(output)
        output = str(path.with_name(f"{path.stem}-{{i}}{path.suffix}"))
    return [Path(output.replace("{i}", str(take))) for take in takes]


_SAMPLING = (
    *("seed", "sampler", "steps", "spacing", "eta", "artist", "position", "guidance", "guidance_interval"),
    *("guidance_rescale", "window", "joint", "resample"),
)

# ---- Takes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Takes:
    """All that is left to do is to ask for one."""

    samples: int
    """Of each."""
    new: int
    """How many of these are made: the others are there already."""
    make: Callable[[int, Progress], Iterator[Tensor]]
    """Its pieces [C, n], for its number and whoever watches."""


def _takes(asked: SimpleNamespace, way: str, generator: Generator, console: Console) -> _Takes:
    how = {key: getattr(asked, key) for key in _SAMPLING}
    seconds = asked.seconds
    sounds = [_read(path, generator, console) for path in _inputs(asked)]
    spans = list(zip(asked.start or [], asked.stop or [], strict=True))
    length, new = min((each.shape[1] for each in sounds), default=0), generator.samples(seconds)

    def share(take: int) -> float:
        return (take - 1) / (asked.of - 1) if asked.of > 1 else 0.5

    def make(take: int, progress: Progress) -> Iterator[Tensor]:
        options = {**how, "take": take - 1, "progress": progress}
        if way == "new":
            return generator.stream(seconds, **options)
        if way == "extend":
            return generator.extend(sounds[0], seconds, **options)
        if way == "init":
            return iter([generator.vary(sounds[0], asked.strength, **options)])
        if way == "infill":
            return iter([generator.infill(sounds[0], spans, **options)])
        if way == "loop":
            return iter([generator.loop(seconds, **options)])
        options["take"] = 0  # the noise is one on the whole way
        if way == "interpolate":
            return iter([generator.between(sounds[0], sounds[1], share(take), asked.strength, **options)])
        return iter([generator.between_seeds(asked.interpolate_seeds, seconds, share(take), **options)])

    samples = {"extend": length + new, "loop": generator.frames(seconds) * generator.vae.config.hop}
    filled = sum(round((last - first) * generator.sample_rate) for first, last in spans)
    whole = samples.get(way, length or new)
    return _Takes(whole, {"extend": new, "infill": filled}.get(way, whole), make)


def _read(path: Path, generator: Generator, console: Console) -> Tensor:
    """A file of any kind at the model's rate, with its channels: [C, T].

    Raises:
        DataError: there is no usable audio in it.
    """
    import numpy as np
    import torch

    from musicldm.media.audio.decode import decode

    try:
        blocks = list(decode(path, generator.sample_rate, generator.channels))
    except DataError as error:
        reason = error.message[0].lower() + error.message[1:]
        raise DataError(f"{path} cannot be used: {reason}", "Name a file with audio in it, and a whole one.") from error
    audio = torch.from_numpy(np.concatenate([np.zeros((generator.channels, 0), np.float32), *blocks], axis=1))
    if audio.shape[1] and not audio.any():
        console.warn(f"{path} is silent.")
    return audio


def _timed(progress: Progress, take: int, takes: int, seconds: float) -> Progress:
    """The progress of one of several takes of so many seconds, with the pace."""
    began = time.monotonic()

    def move(done: float, total: float | None, text: str = "") -> None:
        whole = total or 1.0
        pace = seconds * done / whole / max(1e-9, time.monotonic() - began)
        words = f"take {take + 1} of {takes}, {text}" if takes > 1 else text
        progress(take * whole + done, takes * whole, f"{words}, {pace:.1f} s of audio a second")

    return move


# ---- Files -----------------------------------------------------------------------------------------------------------


class _Written(NamedTuple):
    """What came of a take."""

    samples: int
    peak: float
    stopped: bool
    """By Ctrl-C: what was done till then is there."""


def _write(
    target: Path | None,
    pieces: Iterator[Tensor],
    samples: int,
    generator: Generator,
    asked: SimpleNamespace,
    way: str,
    told: dict[str, Any],
) -> _Written:
    """A take as it comes to its place, and how it was made beside it."""
    import json

    from musicldm.core.durable import write_json
    from musicldm.media.audio import files
    from musicldm.sampling.postprocess import at_loudness

    rate, channels = generator.sample_rate, generator.channels
    format = files.format_of(target, asked.format)
    depth = _depth(asked, way, format)
    comment = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    written, peak = 0, 0.0
    with _UntilStopped(pieces) as made:
        sound: Iterator[Tensor] = made
        if asked.normalize is not None:
            sound = at_loudness(made, asked.normalize, rate, channels)
        begin = next(sound)  # what fails before there is any sound leaves nothing behind
        place = sys.stdout.buffer if target is None else target
        with files.piecewise(place, rate, channels, samples, format, depth, comment) as append:
            for piece in itertools.chain([begin], sound):
                append(piece.numpy())
                written, peak = written + piece.shape[1], max(peak, float(piece.abs().max()))
                if target is None:
                    sys.stdout.buffer.flush()
    if target is not None:
        write_json(target.with_suffix(".json"), told)
    return _Written(written, peak, made.stopped)


class _UntilStopped(Iterator["Tensor"]):
    """Pieces until Ctrl-C, which interrupts only while one is being made: those that are done go where they should.

    Before there is any, it interrupts as ever; so does a second one.
    """

    def __init__(self, pieces: Iterator[Tensor]) -> None:
        self.stopped = False
        self._pieces, self._making, self._any = pieces, False, False

    def __enter__(self) -> _UntilStopped:
        if threading.current_thread() is threading.main_thread():  # no other may
            self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._before)

    def __next__(self) -> Tensor:
        if self.stopped:
            raise StopIteration
        self._making = True
        try:
            piece = next(self._pieces)
        except KeyboardInterrupt:
            if not self._any:
                raise
            self.stopped = True
            raise StopIteration from None
        finally:
            self._making = False
        self._any = True
        return piece

    def _hear(self, *_: object) -> None:
        if self._making or self.stopped or not self._any:
            raise KeyboardInterrupt
        self.stopped = True
