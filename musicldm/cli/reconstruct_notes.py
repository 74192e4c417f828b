"""musicldm reconstruct with a MIDI file: notes to latents and back."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from musicldm.core import durable
from musicldm.core.errors import DataError, UsageError
from musicldm.core.guard import Guard

if TYPE_CHECKING:
    from musicldm.cli.console import Console
    from musicldm.codecs.base import Codec
    from musicldm.evaluate.score_reconstruction import ScoreReconstruction

COMMENT = "reconstruction"
"""In the metadata of what is written, by which it is known as ours."""


def check(source: Path, target: Path | None, overwrite: bool) -> None:
    """See that a reconstruction can be written, before anything is loaded.

    Raises:
        UsageError, OutputError: it cannot.
    """
    if target is None:
        return
    if target.suffix.lower() not in (".mid", ".midi"):
        raise UsageError(f"{source} holds notes: what becomes of it is a MIDI file.", "Such as out.mid.")
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"{target} would overwrite the original.", "Give the reconstruction another name.")
    Guard(_is_ours, overwrite).check(target)


def run(source: Path, target: Path | None, codec: Codec, overwrite: bool, console: Console) -> None:
    """Write the codec's reconstruction of a MIDI file by the posterior's mode, and show how close it is.

    Raises:
        UsageError: the codec is of audio.
        DataError: the file is no usable MIDI file.
    """
    import torch

    from musicldm.codecs.windows import reconstruct
    from musicldm.evaluate.score_reconstruction import ScoreReconstruction
    from musicldm.media.notes.grid import quantized
    from musicldm.media.notes.midi import read_midi, write_midi
    from musicldm.media.notes.roll import roll_of, score_of

    if codec.spec.medium != "notes":
        raise UsageError(f"The codec {codec.name!r} is of audio, and {source} holds notes.", "Name a codec of notes.")
    try:
        score, _ = quantized(read_midi(source)[0])
    except DataError as error:
        raise DataError(f"{source} cannot be used: {error.message}", error.hint) from error
    began = time.monotonic()
    roll = torch.from_numpy(roll_of(score)).to(codec.device)
    made = score_of(reconstruct(codec, roll).numpy())
    spent = time.monotonic() - began
    data = write_midi(made, comment=COMMENT)
    if target is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        durable.make_folder(target.parent)
        durable.write_bytes(target, data, Guard(_is_ours, overwrite).commit)
    figures = ScoreReconstruction.of(score, made)
    show(console, figures)
    console.note(
        f"{score.notes:,} notes there and back in {spent:.1f} s; the latent has {codec.spec.channels} numbers for each "
        f"{codec.spec.hop / codec.spec.rate:g} beat(s)."
    )
    if target is not None:
        about = {"file": str(target), "notes": score.notes, "took": round(spent, 3)}
        console.result(about | figures.to_dict(), [str(target)])


def show(console: Console, figures: ScoreReconstruction) -> None:
    """The figures as a table."""
    from rich.table import Table

    table = Table("", box=None, show_header=False)
    table.add_column(justify="right")
    table.add_column("")
    onsets = figures.onsets
    table.add_row(
        "note onsets, F1",
        _number(onsets.f1, ".3f"),
        f"1 is perfect; {onsets.matched:,} of {onsets.original:,} notes, and {onsets.found - onsets.matched:,} others",
    )
    table.add_row("keys held, F1", _number(figures.holds.f1, ".3f"), "1 is perfect")
    table.add_row("velocities", _number(figures.velocity_error), "of 127; mean error of the notes that match")
    table.add_row("durations", _number(figures.duration_error), "median error, in steps of 1/24 quarter")
    table.add_row("pedal, F1", _number(figures.pedal.f1, ".3f"), "1 is perfect")
    table.add_row("bars, F1", _number(figures.downbeats.f1, ".3f"), "1 is perfect")
    table.add_row("tempo", _number(figures.tempo_error, ".3f"), "octaves; median error")
    console.show(table)


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def _is_ours(path: Path) -> bool:
    from musicldm.media.notes.midi import comment_of, is_midi

    try:
        return is_midi(path) and comment_of(path) == COMMENT
    except DataError:
        return False
