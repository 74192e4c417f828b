"""musicldm evaluate samples, of MIDI files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from musicldm.cli.evaluate_tables import number
from musicldm.core.errors import UsageError

if TYPE_CHECKING:
    from musicldm.cli.console import Console
    from musicldm.evaluate.score_samples import NoteSamples


def are_notes(places: list[Path], reference: str | None) -> bool:
    """Whether samples are to be measured as notes: they are MIDI files, or are compared with such."""
    from musicldm.evaluate.sounds import is_prepared
    from musicldm.media.manifest import read_tracks
    from musicldm.media.notes.midi import is_midi

    if any(is_midi(place) for place in places):
        return True
    if reference is None or not is_prepared(folder := Path(reference)):
        return False
    return {track.medium for track in read_tracks(folder)} == {"notes"}


def run(places: list[Path], reference: str | None, baselines: bool, console: Console) -> None:
    """Measure samples of notes, and show the figures beside those of the baselines.

    Raises:
        UsageError: there is nothing to compare with.
    """
    from musicldm.evaluate.score_samples import evaluate_notes

    if reference is None:
        raise UsageError("There is nothing to compare with.", "Give --reference a folder of prepared MIDI files.")
    with console.progress("Evaluating") as progress:
        result = evaluate_notes(places, Path(reference), baselines, progress=progress)
    for name, reason in result.left_out.items():
        console.warn(f"Left out {name}: {reason}")
    _show(console, result)
    console.result(result.to_dict(), [])


def _show(console: Console, result: NoteSamples) -> None:
    import numpy as np
    from rich.table import Table

    table = Table("distance from the training music (0: none)", box=None)
    for name in result.sets:
        table.add_column(name, justify="right")
    figures = list(result.sets.values())
    for feature in figures[0].distances:
        table.add_row(feature.replace("_", " "), *(f"{each.distances[feature]:.3f}" for each in figures))
    for word, values in (
        ("consistency", [f.consistency for f in figures]),
        ("variance", [f.variance for f in figures]),
    ):
        for what in values[0]:
            cells = (number(each[what], 3) for each in values)
            table.add_row(f"{word} of {what} (1 is best)", *cells)
    lengths = [np.array([passage.length for passage in each.passages]) for each in figures]
    table.add_row("longest shared passage: median", *(f"{np.median(each):.0f} notes" for each in lengths))
    table.add_row("… and longest of all", *(f"{each.max()} notes" for each in lengths))
    console.show(table)
    longest = max(figures[0].passages, key=lambda passage: passage.length)
    if longest.notes:
        piece = result.pieces[longest.piece]
        console.note(f"The longest is shared with {piece}, {longest.transposition:+d} semitones.")
