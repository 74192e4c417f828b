"""musicldm reconstruct with a MIDI file: notes to latents and back."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from musicldm.cli.evaluate_tables import number
from musicldm.cli.options import is_midi_name
from musicldm.core import durable
from musicldm.core.errors import DataError, UsageError
from musicldm.core.guard import Guard, keep_originals

if TYPE_CHECKING:
    from musicldm.cli.console import Console
    from musicldm.codecs.base import Codec
    from musicldm.evaluate.score_reconstruction import ScoreReconstruction


def check(source: Path, target: Path | None, overwrite: bool) -> None:
    """See that a reconstruction can be written, before anything is loaded.

    Raises:
        UsageError, OutputError: it cannot.
    """
    if target is None:
        return
    from musicldm.evaluate.reconstruct import is_reconstruction

    if not is_midi_name(target):
        raise UsageError(f"{source} holds notes, so the output is a MIDI file.", "For example out.mid.")
    keep_originals([target], [source], "reconstruction")
    Guard(is_reconstruction, overwrite).check(target)


def run(source: Path, target: Path | None, codec: Codec, overwrite: bool, console: Console) -> None:
    """Write the codec's reconstruction of a MIDI file by the posterior's mode, and show how close it is.

    Raises:
        UsageError: the codec is of audio.
        DataError: the file is no usable MIDI file.
    """
    from musicldm.evaluate.reconstruct import is_reconstruction, remark
    from musicldm.evaluate.score_codec import reconstructed
    from musicldm.evaluate.score_reconstruction import ScoreReconstruction
    from musicldm.media.notes.grid import read_on_grid
    from musicldm.media.notes.midi import write_midi
    from musicldm.media.notes.roll import roll_of

    if codec.spec.medium != "notes":
        raise UsageError(f"The codec {codec.name!r} is of audio, and {source} holds notes.", "Name a codec of notes.")
    try:
        score, _ = read_on_grid(source)
    except DataError as error:
        raise DataError(f"{source} cannot be used: {error.message}", error.hint) from error
    began = time.monotonic()
    made = reconstructed(codec, roll_of(score))
    spent = time.monotonic() - began
    data = write_midi(made, comment=remark())
    if target is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        durable.make_folder(target.parent)
        durable.write_bytes(target, data, Guard(is_reconstruction, overwrite).commit)
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
        number(onsets.f1, 3),
        f"1 is perfect; {onsets.matched:,} of {onsets.original:,} notes, and {onsets.found - onsets.matched:,} others",
    )
    table.add_row("keys held, F1", number(figures.holds.f1, 3), "1 is perfect")
    table.add_row("velocities", number(figures.velocity_error, 2), "of 127; mean error of the notes that match")
    table.add_row("durations", number(figures.duration_error, 2), "median error, in steps of 1/24 quarter")
    table.add_row("pedal, F1", number(figures.pedal.f1, 3), "1 is perfect")
    table.add_row("bars, F1", number(figures.downbeats.f1, 3), "1 is perfect")
    table.add_row("tempo", number(figures.tempo_error, 3), "octaves; median error")
    console.show(table)
