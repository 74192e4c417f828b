"""`musicldm sample`: a model to new music."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from musicldm.cli import sample_input, sidecar
from musicldm.cli.console import Console
from musicldm.cli.dataclass_options import with_options
from musicldm.cli.options import is_midi_name
from musicldm.cli.sample_input import Input
from musicldm.cli.sample_options import SampleOptions, chosen_task, laid_over, refuse_notes, takes_of
from musicldm.cli.sample_output import Output
from musicldm.cli.sample_session import Session
from musicldm.core.progress import Progress, share
from musicldm.sampling.tasks import Form, Task

if TYPE_CHECKING:
    from torch import Tensor

    from musicldm.sampling import Pipeline


@with_options(SampleOptions)
def sample(options: SampleOptions, given: frozenset[str]) -> None:
    """Make new music, or something of a file: vary, infill, extend, interpolate, loop.

    The same seed gives the same file on a CPU, and take i is the same however many takes are made.
    A JSON file beside each take says how it was made, and so does its metadata.
    Anything longer than a window is written as it is made.
    """
    console = Console(options.quiet, options.as_json)
    recipe = None
    if options.replay is not None:
        recipe = sidecar.read(options.replay)
        options, given = laid_over(options, given, recipe.typed_options(options.replay, given))
    task = chosen_task(options, given)
    takes, of = takes_of(options, given, task, None if recipe is None else (recipe.take, recipe.of))
    # Before minutes of sampling, and where it may be of audio, even before the model is there.
    named = options.format or options.output
    output = Output.of(options, task, takes) if named and not is_midi_name(named) else None
    pipeline = _load(options, console)
    if recipe is not None:
        recipe.check(pipeline, options.inputs)
    if pipeline.spec.medium == "notes":
        from musicldm.cli import sample_notes

        notes = sample_notes.NotesOutput.of(options, task, takes)
        sample_notes.make(sample_notes.NotesSession(options, given, task, of, pipeline, console), takes, notes)
        return
    refuse_notes(given, named)
    output = output or Output.of(options, task, takes)
    for warning in output.warnings():
        console.warn(warning)
    _make(_AudioSession(options, given, task, of, pipeline, console), takes, output)


def _load(options: SampleOptions, console: Console) -> Pipeline:
    from musicldm import models

    with console.progress("Fetching") as progress:
        model = models.find(options.model, progress)

    from musicldm.sampling import Pipeline  # torch, which takes its time

    pipeline = Pipeline.load(model, options.device, options.precision, console.warn)
    if options.compiled:
        pipeline.generator.compile()
    return pipeline


class _AudioSession(Session):
    """Takes of audio."""

    def inputs(self) -> list[Input]:
        """The input files; what is changed about them is said."""
        form = Form(self.pipeline.sample_rate, self.pipeline.channels)
        found = [sample_input.read(path, form, self.task.keeps_input) for path in self.options.inputs]
        for warning in (warning for each in found for warning in each.warnings()):
            self.console.warn(warning)
        return found

    def build(self, inputs: list[Input], take: int) -> Task:
        """The task of one take."""
        sounds, originals = [each.audio for each in inputs], [each.original for each in inputs]
        return self.task.of(self.options.for_task(sounds, originals, self.weight(take)))

    def start(self, task: Task, take: int, progress: Progress) -> Iterator[Tensor]:
        """The pieces of one take."""
        return self.pipeline.stream(task, self.request(take), progress=progress)


def _make(session: _AudioSession, takes: list[int], output: Output) -> None:
    """Every take, and what became of them."""
    options, pipeline, console = session.options, session.pipeline, session.console
    inputs = session.inputs()
    began = time.monotonic()
    changes = {str(each.path): each.changes for each in inputs if each.changes}
    recipe = sidecar.Recipe.made_by(pipeline, options, takes[0], session.of, changes)
    lengths, peaks, made, stopped = list[float](), list[float](), 0.0, False
    with console.progress("Sampling") as progress:
        for place, (take, target) in enumerate(zip(takes, output.targets, strict=True)):
            task = session.build(inputs, take)
            (samples, new), (rate, channels) = task.lengths(pipeline.spec), task.form(pipeline.spec)
            try:
                pieces = session.start(task, take, _timed(progress, place, len(takes), new / rate))
                written = output.write(target, pieces, samples, rate, channels, replace(recipe, take=take))
            except KeyboardInterrupt:
                # Before there is any take, Ctrl-C ends the command as it does any other.
                if not peaks:
                    raise
                stopped = True
                console.warn(f"Stopped: {place} of {len(takes)} takes were made.")
                break
            if written.clipped:
                where = target or "stdout"
                console.warn(f"{where} is clipped beyond full scale: a wav with --bit-depth float keeps that.")
            peaks.append(written.peak)
            lengths.append(written.samples / rate)
            made += max(0, written.samples - (samples - new)) / rate
            if stopped := written.stopped:
                where = "stdout" if target is None else target
                console.warn(f"Stopped: {written.samples / rate:.1f} of {samples / rate:.1f} s are in {where}.")
                break
    spent = time.monotonic() - began
    console.note(f"{made:.4g} s of audio in {spent:.1f} s ({made / spent:.1f} times real time).")
    paths = [str(target) for target in output.targets[: len(peaks)] if target is not None]
    if paths:
        result = {"files": paths, "seconds": lengths, "seed": options.seed, "peaks": peaks, "took": round(spent, 3)}
        console.result(result, paths)
    if stopped:
        raise typer.Exit(130)


def _timed(progress: Progress, take: int, takes: int, seconds: float) -> Progress:
    """The progress of one of several takes of so many seconds, with the pace."""
    began, of_take = time.monotonic(), share(progress, take, takes, "take")

    def move(done: float, total: float | None, text: str = "") -> None:
        pace = seconds * done / (total or 1.0) / max(1e-9, time.monotonic() - began)
        of_take(done, total, f"{text}, {pace:.1f} s of audio a second")

    return move
