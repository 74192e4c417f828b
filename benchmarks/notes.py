"""Do the measures of scores tell music from what is none? `python benchmarks/notes.py MIDI_FOLDER`

Of the MIDI files every twentieth, by a hash of its name, is held out. Each measure of these against the rest is a row;
beside it the same of baselines, made of the held-out pieces (a Markov chain: trained on the rest, and as long as they
are). A measure is of use where music is nearer to music than its baselines are. Then the longest passage that each
held-out piece shares with the rest, and the same of the baselines: what `copied` has to exceed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from musicldm.core import durable
from musicldm.core.seeding import derive
from musicldm.evaluate.attributes import ATTRIBUTES
from musicldm.evaluate.score_baselines import MarkovChain, random_notes, shuffled_bars, shuffled_notes
from musicldm.evaluate.score_features import ScoreFeatures
from musicldm.evaluate.score_similarity import overlaps_of
from musicldm.evaluate.shared_passages import SharedPassage, shared_passages
from musicldm.media.notes.grid import quantized
from musicldm.media.notes.midi import read_midi
from musicldm.media.notes.score import Score

Row = dict[str, float | None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="MIDI files")
    parser.add_argument("--every", type=int, default=20, help="one in so many is held out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args()

    files = sorted(options.folder.rglob("*.mid"))
    scores = {file.stem: quantized(read_midi(file)[0])[0] for file in files}
    names = [name for name in scores if derive(name) % options.every == 0]
    heldout = [scores[name] for name in names]
    rest = {name: score for name, score in scores.items() if name not in names}
    chain = MarkovChain(list(rest.values()))
    sets = {
        "held-out": heldout,
        "shuffled bars": [shuffled_bars(score, options.seed) for score in heldout],
        "shuffled notes": [shuffled_notes(score, options.seed) for score in heldout],
        "random notes": [random_notes(score, options.seed) for score in heldout],
        "Markov chain": [chain.sample(score.length, options.seed + n) for n, score in enumerate(heldout)],
    }
    console = Console()
    hours = sum(score.duration for score in heldout) / 3600
    console.print(f"{len(heldout)} pieces held out, {hours:.2f} hours; the rest: {len(rest)}")
    rows = measured(sets, list(rest.values()))
    table(console, "Against the rest", list(sets), rows)

    began = time.perf_counter()
    found = {name: shared_passages(some, list(rest.values())) for name, some in sets.items()}
    seconds = time.perf_counter() - began
    lengths: dict[str, Row] = {
        label: {name: float(pick([each.length for each in passages])) for name, passages in found.items()}
        for label, pick in {"median": np.median, "longest": np.max}.items()
    }
    title = f"Length in notes of the longest shared passages ({seconds / len(sets):.1f} s to find those of a set)"
    table(console, title, list(sets), lengths)
    passages(console, names, list(rest), found["held-out"])
    if options.json:
        durable.write_json(options.json, {"measures": rows, "passages": lengths})


def measured(sets: dict[str, list[Score]], rest: Sequence[Score]) -> dict[str, Row]:
    """Each measure of each set against the rest."""
    rows: dict[str, Row] = {}
    features, overlaps = ScoreFeatures.of(rest), overlaps_of(rest)
    for name, some in sets.items():
        for measure, value in ScoreFeatures.of(some).distances(features).items():
            rows.setdefault(f"distance: {measure}", {})[name] = value
        own = overlaps_of(some)
        for statistic, likeness in own.likeness(overlaps).items():
            rows.setdefault(f"consistency: {statistic}", {})[name] = likeness.consistency
            rows.setdefault(f"variance: {statistic}", {})[name] = likeness.variance
        for attribute, of in ATTRIBUTES.items():
            rows.setdefault(f"mean: {attribute}", {})[name] = float(np.mean([of(score) for score in some]))
    return rows


def table(console: Console, title: str, names: Sequence[str], rows: dict[str, Row]) -> None:
    shown = Table(title=title)
    for name in ("", *names):
        shown.add_column(name, justify="right" if name else "left")
    for label, row in rows.items():
        values = (row[name] for name in names)
        shown.add_row(label, *("–" if value is None else f"{value:.3f}" for value in values))
    console.print(shown)


def passages(console: Console, names: Sequence[str], rest: Sequence[str], found: Sequence[SharedPassage]) -> None:
    shown = Table(title="Held-out pieces, the longest first")
    for column in ("piece", "length", "notes", "at quarter", "shared with", "at quarter", "semitones"):
        shown.add_column(column)
    for name, passage in sorted(zip(names, found, strict=True), key=lambda pair: -pair[1].length):
        shown.add_row(
            name,
            *map(str, (passage.length, passage.notes, passage.start // 24, rest[passage.piece])),
            *map(str, (passage.piece_start // 24, passage.transposition)),
        )
    console.print(shown)


if __name__ == "__main__":
    main()
