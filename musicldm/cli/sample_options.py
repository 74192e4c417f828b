"""The options of `musicldm sample`: each declared once, with its type, its default and its help."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_type_hints

import typer

from musicldm.cli.options import MIDI, Device, Json, Overwrite, Precision, Quiet, Seed, is_midi_name, positive
from musicldm.core.errors import UsageError
from musicldm.sampling.tasks import TASKS, Given, Original, Task

if TYPE_CHECKING:
    from torch import Tensor

    from musicldm.generators.base import GeneratorFamily
    from musicldm.sampling.request import Request


@dataclass(frozen=True)
class Recorded:
    """Marks an option that belongs to a recipe: what is heard depends on it, and a recipe may set it.

    A recipe may be anybody's, so all other options (where files go, what is fetched, what computes) are the command
    line's alone.
    """

    low: float = -math.inf
    """Of its number, or of each of its numbers, as a recipe may have it."""
    high: float = math.inf


MOST_TAKES = 100_000
"""Of one command."""
DAY = 86400.0
"""Seconds of a take that a recipe may demand."""

_TASK, _HOW, _OUT = "Task: at most one of these; without any, new music", "Sampling", "Output"
CONDITIONS = ("artist", "position")
"""Options that are conditions of the model."""
GENERATORS_OWN = frozenset(
    {"sampler", "steps", "spacing", "eta", "guidance", "guidance_interval", "guidance_rescale", "repaint"}
)
"""Options that only some kinds of generators have, under these names."""


@dataclass(frozen=True)
class SampleOptions:
    """What a command line of `musicldm sample` says."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="A bundle, the run folder that holds it, a name of musicldm models, or hf://owner/name.",
            show_default="piano, where it is installed",
        ),
        Recorded(),
    ] = None
    seconds: Annotated[
        float,
        typer.Option(help="Length of each take, or of what follows --extend.", callback=positive),
        Recorded(0, DAY),
    ] = 10.0
    bars: Annotated[
        float | None,
        typer.Option(
            help="The same in bars, of a model of notes.", callback=positive, show_default="16, of a model of notes"
        ),
        Recorded(0, 1e6),
    ] = None
    tempo: Annotated[
        float | None,
        typer.Option(
            min=10,
            max=600,
            metavar="BPM",
            help="Of notes: quarters a minute on average, which else the model decides.",
            show_default=False,
        ),
        Recorded(10, 600),
    ] = None
    meter: Annotated[
        str,
        typer.Option(metavar="N/M", help="Of notes: the metre, which else the model decides.", show_default=False),
        Recorded(),
    ] = ""
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", min=1, help="How many takes.", show_default="1; 5 where they interpolate"),
    ] = None
    seed: Annotated[Seed, Recorded(-(1 << 63), (1 << 63) - 1)] = 0
    take: Annotated[int, typer.Option(min=1, help="Number of the first take, to make more of them later.")] = 1
    artist: Annotated[str, typer.Option(help='A name, or "Chopin:0.7,Bach:0.3".', show_default=False), Recorded()] = ""
    position: Annotated[
        float | None,
        typer.Option(
            help="Position in a track: 0 its start, 1 its end. A long piece keeps this position throughout.",
            show_default=False,
        ),
        Recorded(0, 1),
    ] = None
    condition: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Any other condition of the model; can be repeated.", show_default=False
        ),
        Recorded(),
    ] = None
    replay: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Make a take again, from its .json or from itself.", show_default=False),
    ] = None
    vary: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Make a variation of this file.", rich_help_panel=_TASK, show_default=False),
        Recorded(),
    ] = None
    strength: Annotated[
        float,
        typer.Option(
            help="How far to depart from the file: near 0 hardly at all, 1 completely new.", rich_help_panel=_TASK
        ),
        Recorded(0, 1),
    ] = 0.6
    infill: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Regenerate spans of this file.", rich_help_panel=_TASK, show_default=False),
        Recorded(),
    ] = None
    start: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            help="Where a span begins: in seconds, or 9b for bar 9 of notes; repeatable.",
            rich_help_panel=_TASK,
            show_default=False,
        ),
        Recorded(0, DAY),
    ] = None
    stop: Annotated[
        list[str] | None,
        typer.Option("--to", help="Where it ends; one for each --from.", rich_help_panel=_TASK, show_default=False),
        Recorded(0, DAY),
    ] = None
    extend: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Continue from the end of this file.", rich_help_panel=_TASK, show_default=False
        ),
        Recorded(),
    ] = None
    interpolate: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A B", help="From one file to another.", rich_help_panel=_TASK, show_default=False),
        Recorded(),
    ] = None
    interpolate_seeds: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="A B", help="From one seed to another.", rich_help_panel=_TASK, show_default=False),
        Recorded(),
    ] = None
    loop: Annotated[
        bool,
        typer.Option("--loop", help="New music whose end leads into its start.", rich_help_panel=_TASK),
        Recorded(),
    ] = False
    sampler: Annotated[
        Literal["ddim", "ddpm", "dpm++2m", "dpm++2m-sde", "heun", "euler", "euler-a", "unipc"],
        typer.Option(help="How to denoise.", rich_help_panel=_HOW),
        Recorded(),
    ] = "unipc"
    steps: Annotated[
        int, typer.Option(help="Denoising steps; ddpm needs many.", rich_help_panel=_HOW), Recorded(1, 100_000)
    ] = 50
    spacing: Annotated[
        Literal["trailing", "uniform", "karras"],
        typer.Option(help="How the steps are spaced in time.", rich_help_panel=_HOW),
        Recorded(),
    ] = "trailing"
    eta: Annotated[
        float,
        typer.Option(min=0, max=1, help="For ddim: 0 adds no noise, 1 as much as ddpm.", rich_help_panel=_HOW),
        Recorded(0, 1),
    ] = 0.0
    guidance: Annotated[
        float,
        typer.Option(
            help="How closely to follow --artist and --position: 1 as learned, 3 much more.", rich_help_panel=_HOW
        ),
        Recorded(-1000, 1000),
    ] = 1.0
    guidance_interval: Annotated[
        tuple[float, float],
        typer.Option(
            metavar="LOW HIGH", help="Noise levels at which to guide: 0 clean, 1 noise.", rich_help_panel=_HOW
        ),
        Recorded(0, 1),
    ] = (0.0, 1.0)
    guidance_rescale: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="How far guidance keeps the standard deviation: 0 not at all, 1 wholly.",
            rich_help_panel=_HOW,
        ),
        Recorded(0, 1),
    ] = 0.0
    window: Annotated[
        float | None,
        typer.Option(
            help="Seconds denoised at once.", callback=positive, rich_help_panel=_HOW, show_default="16 or more"
        ),
        Recorded(0, DAY),
    ] = None
    joint: Annotated[
        bool,
        typer.Option(
            "--joint", help="Denoise all windows of a long piece together, not one after another.", rich_help_panel=_HOW
        ),
        Recorded(),
    ] = False
    repaint: Annotated[
        int,
        typer.Option(
            min=1,
            help="How often to repeat each step where part of a file is kept: more fit better and take longer.",
            rich_help_panel=_HOW,
        ),
        Recorded(1, 1000),
    ] = 1
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="The file; - for stdout; {i} is the take's number.",
            rich_help_panel=_OUT,
            show_default="out.wav, or out.mid of notes",
        ),
    ] = None
    format: Annotated[
        str | None,
        typer.Option(
            help="wav, flac, mp3, ogg, m4a, or mid of notes.", rich_help_panel=_OUT, show_default="by the file's name"
        ),
    ] = None
    bit_depth: Annotated[
        Literal["16", "24", "float"] | None,
        typer.Option(
            help="Of wav and flac.", rich_help_panel=_OUT, show_default="16; float or 24 where a file is kept"
        ),
        Recorded(),
    ] = None
    normalize: Annotated[
        float | None,
        typer.Option(
            metavar="LUFS", help="Normalize to this loudness, such as -16.", rich_help_panel=_OUT, show_default=False
        ),
        Recorded(-70, 0),
    ] = None
    soundfont: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What plays notes that go into an audio file, by fluidsynth.",
            rich_help_panel=_OUT,
            show_default="the built-in piano",
        ),
    ] = None
    picture: Annotated[
        bool, typer.Option("--picture", help="Of notes: draw a piano roll beside each take.", rich_help_panel=_OUT)
    ] = False
    overwrite: Overwrite = False
    device: Device = "auto"
    precision: Annotated[Precision, Recorded()] = "auto"
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the network first: pays off over many takes.")
    ] = False
    as_json: Json = False
    quiet: Quiet = False

    @property
    def inputs(self) -> list[Path]:
        """The files that it takes."""
        return [path for path in (self.vary, self.infill, self.extend, *(self.interpolate or ())) if path]

    @property
    def spans(self) -> list[tuple[Place, Place]]:
        """Where they begin and end.

        Raises:
            UsageError: one is no place.
        """
        return list(zip(map(place, self.start or []), map(place, self.stop or []), strict=True))

    def for_task(self, sounds: Sequence[Tensor], originals: Sequence[Original | None], weight: float) -> Given:
        """What a task of audio is built from.

        Args:
            sounds: the input files, as the model hears them.
            originals: the same as they are, where that differs and is to be kept.
            weight: between two things, where a task goes from one to the other.

        Raises:
            UsageError: a span counts in bars.
        """
        seeds = self.interpolate_seeds or (0, 0)
        if any(each.bars for span in self.spans for each in span):
            raise UsageError("This model makes audio, which has no bars.", "Give --from and --to in seconds.")
        spans = [(first.number, last.number) for first, last in self.spans]
        return Given(sounds, originals, self.seconds, self.strength, spans, seeds, weight)

    def request(self, family: GeneratorFamily, take: int, given: frozenset[str]) -> Request:
        """How to sample.

        Args:
            take: counted from 0.

        Raises:
            UsageError: an option that this kind of generator does not have, or one that makes no sense.
        """
        from musicldm.sampling.request import Request

        theirs = {field.name for field in fields(family.options)}
        for name in (GENERATORS_OWN & given) - theirs:
            raise UsageError(f"{spelled(name)} does not go with a {family.name} model.", "Leave it out.")
        own: dict[str, Any] = {name: getattr(self, name) for name in GENERATORS_OWN & theirs}
        conditions = {**{name: getattr(self, name) for name in CONDITIONS}, **self._others()}
        return Request(self.seed, take, conditions, family.options(**own), self.window, self.joint)

    def _others(self) -> dict[str, str]:
        """What --condition says, by the conditions' names.

        Raises:
            UsageError: something that is no name and value.
        """
        pairs = [text.partition("=") for text in self.condition or []]
        for name, sign, value in pairs:
            if not (name and sign and value):
                raise UsageError(f"{name + sign + value!r} is not a valid condition: expected NAME=VALUE.")
        return {name: value for name, _, value in pairs}


OF_NOTES = ("bars", "tempo", "meter", "soundfont", "picture")
"""Options that go with models of notes alone."""


def refuse_notes(given: frozenset[str], named: str | None) -> None:
    """Refuse what a model of audio does not do.

    Args:
        named: the output's format or name.

    Raises:
        UsageError: there is such a thing.
    """
    for name in OF_NOTES:
        if name in given:
            raise UsageError(f"{spelled(name)} goes with a model of notes, and this one makes audio.", "Leave it out.")
    if named and (named == MIDI or is_midi_name(named)):
        raise UsageError("This model makes audio, and no MIDI files.", "Name an audio file, such as -o out.wav.")


class Place(NamedTuple):
    """A place in a file."""

    number: float
    bars: bool
    """Whether it is a bar, counted from 1, and not seconds."""


def place(text: str) -> Place:
    """A place as it is typed: `12.5` or `9b`.

    Raises:
        UsageError: it is none.
    """
    try:
        number = float(text.removesuffix("b"))
    except ValueError:
        number = math.nan
    if not 0 <= number <= DAY:
        raise UsageError(f"{text!r} is not a valid place: expected seconds such as 12.5, or a bar such as 9b.")
    return Place(number, text.endswith("b"))


RECORDED: dict[str, Recorded] = {
    name: mark
    for name, hint in get_type_hints(SampleOptions, include_extras=True).items()
    for mark in getattr(hint, "__metadata__", ())
    if isinstance(mark, Recorded)
}
"""The options that a recipe keeps, and may set: its allow-list."""


def spelled(name: str) -> str:
    """An option as one types it."""
    return {"start": "--from and --to", "stop": "--from and --to"}.get(name, f"--{name.replace('_', '-')}")


def chosen_task(options: SampleOptions, given: frozenset[str]) -> type[Task]:
    """The task that a command line asks for.

    Raises:
        UsageError: several, or options that do not go with it.
    """
    chosen = [task for task in TASKS.values() if task.option and getattr(options, task.name)]
    if len(chosen) > 1:
        raise UsageError(f"{chosen[0].option} and {chosen[1].option} are different tasks.", "Choose one.")
    task = chosen[0] if chosen else TASKS["new"]
    if len(options.start or []) != len(options.stop or []):
        raise UsageError("Each --from needs a --to.", "For example --from 10 --to 20.")
    for field in fields(options):
        fitting = [each for each in TASKS.values() if field.name in each.takes]
        if field.name in given and fitting and task not in fitting:
            known = ", ".join(each.option or "new music" for each in fitting)
            raise UsageError(
                f"{spelled(field.name)} does not go with {task.option or 'new music'}.", f"It goes with {known}."
            )
    return task


def takes_of(
    options: SampleOptions, given: frozenset[str], task: type[Task], replayed: tuple[int, int] | None
) -> tuple[list[int], int]:
    """The numbers of the takes, from 1 on, and how many there are between two things.

    Args:
        replayed: the number of the take that is made again, and of how many it was one.

    Raises:
        UsageError: more than one command should make.
    """
    if task.is_between and replayed and "count" not in given:
        return [replayed[0]], replayed[1]
    first = replayed[0] if replayed and "take" not in given and not task.is_between else options.take
    count = options.count or (5 if task.is_between else 1)
    if count > MOST_TAKES:
        raise UsageError(
            f"{count} takes are too many for a command: expected at most {MOST_TAKES}.",
            "Make the rest later with --take.",
        )
    return list(range(first, first + count)), count if task.is_between else 1


def laid_over(
    options: SampleOptions, given: frozenset[str], recorded: dict[str, Any]
) -> tuple[SampleOptions, frozenset[str]]:
    """Recorded options where the command line says nothing else; those that are not the default count as given."""
    fresh = {name: value for name, value in recorded.items() if name not in given}
    defaults = {field.name: field.default for field in fields(options)}
    return replace(options, **fresh), given | {name for name, value in fresh.items() if value != defaults[name]}
