"""`musicldm sample` with a model of notes: MIDI files in and out, or played into audio files with the MIDI beside."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from musicldm.cli import sidecar
from musicldm.cli.options import MIDI, is_midi_name
from musicldm.cli.sample_options import Place, SampleOptions
from musicldm.cli.sample_output import Output, number
from musicldm.cli.sample_session import Session
from musicldm.core import durable
from musicldm.core.errors import DataError, UsageError
from musicldm.core.guard import Guard, keep_originals
from musicldm.core.progress import Progress, share
from musicldm.media.notes.edit import at_tempo, in_metre, metre_of, spliced, tick_of_bar, ticks_of
from musicldm.media.notes.grid import read_on_grid
from musicldm.media.notes.midi import write_midi
from musicldm.media.notes.roll import playable, roll_of, score_of
from musicldm.media.notes.score import METRE, STEPS, Score
from musicldm.sampling.tasks import TASKS, Extend, Given, Infill, Task

if TYPE_CHECKING:
    from torch import Tensor

BARS = 16.0
"""Of a take, where nobody says."""
USUAL_TEMPO = 120.0
"""Quarters a minute, by which seconds are counted before there is any music."""
PLAYED_RATE = 44100
"""Samples a second of what is played."""


@dataclass(frozen=True)
class NotesOutput:
    """Where the takes of a command go: MIDI files, each with an audio file beside it where that was named."""

    targets: list[Path | None]
    """The MIDI files; None is stdout."""
    audio: Output | None
    """None: MIDI alone."""
    soundfont: Path | None
    picture: bool
    overwrite: bool

    @classmethod
    def of(cls, options: SampleOptions, task: type[Task], takes: Sequence[int]) -> NotesOutput:
        """What the options say, once it is sure that it can be written.

        Raises:
            UsageError, OutputError: it cannot.
        """
        named = options.output or f"out.{options.format or MIDI}"
        audio = None
        if options.format != MIDI and not is_midi_name(named) and named != "-":
            audio = Output.of(replace(options, output=named), TASKS["new"], takes)
        elif options.format not in (None, MIDI):
            raise UsageError(f"{named} is no {options.format} file.", "Give the file another name.")
        elif options.normalize is not None or options.bit_depth is not None:
            raise UsageError("A MIDI file has no loudness and no bit depth.", "Name an audio file, such as -o out.wav.")
        targets = number(named, takes)
        if audio is not None:
            targets = [target and target.with_suffix(f".{MIDI}") for target in targets]
        if named == "-" and (options.as_json or sys.stdout.isatty()):
            raise UsageError("A MIDI file goes to a pipe.", "For example -o - | timidity -, without --json.")
        output = cls(targets, audio, options.soundfont, options.picture, options.overwrite)
        files = [target for target in targets if target is not None]
        keep_originals(files, options.inputs)
        output._guard.check(*files)
        Guard(sidecar.is_one, options.overwrite).check(*map(sidecar.beside, files))
        if options.picture:
            # It has no recipe of its own: it is ours where the take beside it is.
            drawn = Guard(lambda path: sidecar.is_take(path.with_suffix(f".{MIDI}")), options.overwrite)
            drawn.check(*(target.with_suffix(".png") for target in files))
        return output

    @property
    def _guard(self) -> Guard:
        return Guard(sidecar.is_take, self.overwrite)

    def write(self, place: int, score: Score, recipe: sidecar.Recipe) -> list[Path]:
        """A take into its files, with their recipes; returns them, the one that was named first."""
        target = self.targets[place]
        comment = json.dumps(recipe.to_dict(), separators=(",", ":"))
        if target is None:
            sys.stdout.buffer.write(write_midi(score, comment=comment))
            sys.stdout.buffer.flush()
            return []
        durable.make_folder(target.parent)
        durable.write_bytes(target, write_midi(score, comment=comment), sidecar.committing(self._guard, recipe))
        written = [target]
        if self.audio is not None:
            sound = self._played(score)
            named = self.audio.targets[place]
            step = 10 * PLAYED_RATE
            pieces = (sound[:, first : first + step] for first in range(0, sound.shape[1], step))
            self.audio.write(named, pieces, sound.shape[1], PLAYED_RATE, len(sound), recipe)
            written = [named or target, target]
        if self.picture:
            from musicldm.media.notes.picture import picture

            picture(target.with_suffix(".png"), score, target.name)
        return written

    def _played(self, score: Score) -> Tensor:
        import torch

        from musicldm.media.notes.soundfont import render_soundfont
        from musicldm.media.notes.synth import render

        if self.soundfont is not None:
            return torch.from_numpy(render_soundfont(score, self.soundfont, PLAYED_RATE))
        return torch.from_numpy(render(score, PLAYED_RATE))


class NotesSession(Session):
    """Takes of notes."""

    def make(self, takes: list[int], output: NotesOutput, timed: Progress) -> tuple[list[list[Path]], list[float]]:
        """Every take; the files of each, and how many seconds it lasts."""
        files, seconds = list[list[Path]](), list[float]()
        scores = [self._read(path) for path in self.options.inputs]
        given = self._given(scores)
        recipe = sidecar.Recipe.made_by(self.pipeline, self.options, takes[0], self.of, {})
        for place, take in enumerate(takes):
            score = self._take(scores, given, take, share(timed, place, len(takes), "take"))
            if not score.notes:
                self.console.warn(f"Take {take} has no notes: the model plays nothing.")
            files.append(output.write(place, score, replace(recipe, take=take)))
            seconds.append(score.duration)
        return files, seconds

    def _read(self, path: Path) -> Score:
        """A MIDI file on the grid; what a model does not see of it is said."""
        try:
            score, loss = read_on_grid(path)
        except DataError as error:
            raise DataError(f"{path} cannot be used: {error.message}", "Give a complete MIDI file.") from error
        if loss.onsets_exact < 0.95:
            self.console.warn(
                f"{1 - loss.onsets_exact:.0%} of the notes of {path} lie off the grid of {STEPS} steps a quarter: they "
                "are moved to it."
            )
        if unseen := score.notes - playable(score):
            kept = ", and are kept where nothing is made" if self.task.keeps_input else ""
            self.console.warn(
                f"{unseen:,} notes of {path} are drums or beyond a piano's keys: the model does not see them{kept}."
            )
        return score

    def _given(self, scores: Sequence[Score]) -> Given:
        """What the task is built from, but for the weight, in which takes differ."""
        import torch

        options = self.options
        spans = [(_tick(scores[0], first), _tick(scores[0], last)) for first, last in options.spans] if scores else []
        return Given(
            sounds=[torch.from_numpy(roll_of(score)) for score in scores],
            seconds=self._beats(scores),
            strength=options.strength,
            spans=[(first / STEPS, last / STEPS) for first, last in spans],
            seeds=options.interpolate_seeds or (0, 0),
        )

    def _take(self, scores: Sequence[Score], given: Given, take: int, progress: Progress) -> Score:
        task = self.task.of(replace(given, weight=self.weight(take)))
        made = score_of(self.pipeline.sample(task, self.request(take), progress=progress).numpy())
        if issubclass(self.task, Infill):
            ticks = sorted((round(first * STEPS), round(last * STEPS)) for first, last in given.spans)
            made = spliced(scores[0], made, ticks)
        elif issubclass(self.task, Extend):
            made = spliced(scores[0], made, [(scores[0].length, made.length)])
        return self._changed(made)

    def _beats(self, scores: Sequence[Score]) -> float:
        """How many quarters are to be made."""
        options = self.options
        if "seconds" in self.given:
            if options.bars is not None:
                raise UsageError("--bars and --seconds both say how long it is.", "Choose one.")
            return options.seconds * (options.tempo or USUAL_TEMPO) / 60
        metre = metre_of(options.meter) if options.meter else METRE
        if scores and not options.meter:
            metre = tuple(scores[0].metres[-1, 1:].tolist())
        return (BARS if options.bars is None else options.bars) * 4 * metre[0] / metre[1]

    def _changed(self, score: Score) -> Score:
        if self.options.meter:
            score = in_metre(score, *metre_of(self.options.meter))
        return score if self.options.tempo is None else at_tempo(score, self.options.tempo)


def make(session: NotesSession, takes: list[int], output: NotesOutput) -> None:
    """Every take, and what became of them."""
    console, began = session.console, time.monotonic()
    with console.progress("Sampling") as progress:
        files, seconds = session.make(takes, output, progress)
    spent = time.monotonic() - began
    console.note(f"{sum(seconds):.4g} s of music in {spent:.1f} s.")
    paths = [str(path) for each in files for path in each[:1]]
    if paths:
        everything = [str(path) for each in files for path in each]
        result = {"files": everything, "seconds": seconds, "seed": session.options.seed, "took": round(spent, 3)}
        console.result(result, paths)


def _tick(score: Score, place: Place) -> int:
    return tick_of_bar(score, place.number) if place.bars else ticks_of(score, place.number)
