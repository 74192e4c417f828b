"""Do the measures of scores tell music from what is none? `python benchmarks/notes.py MIDI_FOLDER`

By a hash of their names, the MIDI files fall into twenty parts. One is held out, and each measure of its pieces against
the rest stands beside the same of baselines, made of these pieces (a Markov chain: trained on the rest, as long as they
are). With `--folds 20` each part is held out once. A measure is of use where music is nearer to music than its
baselines are: the fraction of folds in which it is follows in brackets.

Then the longest passages that pieces share with the rest: held-out ones, baselines, and as many copies of some bars of
the rest, in another key, whole and with notes missing.
"""

from __future__ import annotations

import argparse
import functools
import operator
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from musicldm.core import durable
from musicldm.core.seeding import derive
from musicldm.evaluate.attributes import ATTRIBUTES
from musicldm.evaluate.score_baselines import MarkovChain, random_notes, shuffled_bars, shuffled_notes
from musicldm.evaluate.score_features import ScoreFeatures, wasserstein
from musicldm.evaluate.score_similarity import Overlaps
from musicldm.evaluate.shared_passages import SharedPassage, shared_passages
from musicldm.media.notes.grid import read_on_grid
from musicldm.media.notes.score import STEPS, Score, Track

PARTS = 20
MUSIC = "held-out"

Distances = dict[str, float]
Found = list[tuple[str, str, SharedPassage]]
"""A piece, the one that shares a passage with it, and that passage."""


@dataclass
class Results:
    """By measure, then set, a distance for each fold; and by set, the longest passage of each piece."""

    distances: defaultdict[str, defaultdict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    passages: defaultdict[str, Found] = field(default_factory=lambda: defaultdict(list))
    seconds: list[float] = field(default_factory=list)
    """Of each search for passages."""


@dataclass(frozen=True)
class Measured:
    """All that is measured of one score."""

    features: ScoreFeatures
    overlaps: Overlaps
    attributes: tuple[float, ...]

    @classmethod
    def of(cls, score: Score) -> Measured:
        attributes = tuple(attribute(score) for attribute in ATTRIBUTES.values())
        return cls(ScoreFeatures.of(score), Overlaps.of(score), attributes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="MIDI files")
    parser.add_argument("--folds", type=int, default=1, help=f"parts to hold out, of {PARTS}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args()

    scores = {file.stem: read_on_grid(file)[0] for file in sorted(options.folder.rglob("*.mid"))}
    measured = {name: Measured.of(score) for name, score in scores.items()}
    console, results = Console(width=120), Results()
    pieces = 0
    for fold in track(range(options.folds), console=Console(stderr=True)):
        names = [name for name in scores if derive(name) % PARTS == fold]
        if names:
            pieces += len(names)
            hold_out(names, scores, measured, results, options.seed)
    console.print(f"{len(scores)} pieces; {pieces} held out in {options.folds} folds")
    show_distances(console, results)
    show_passages(console, results)
    if options.json:
        lengths = {name: [passage.length for _, _, passage in found] for name, found in results.passages.items()}
        durable.write_json(options.json, {"distances": results.distances, "passages": lengths})


def hold_out(
    names: Sequence[str], scores: dict[str, Score], measured: dict[str, Measured], results: Results, seed: int
) -> None:
    """Measure one part, and its baselines, against the rest."""
    heldout = [scores[name] for name in names]
    rest = [name for name in scores if name not in names]
    training = [scores[name] for name in rest]
    chain = MarkovChain(training)
    sets = {
        MUSIC: heldout,
        "shuffled bars": [shuffled_bars(score, seed) for score in heldout],
        "shuffled notes": [shuffled_notes(score, seed) for score in heldout],
        "random notes": [random_notes(score, seed) for score in heldout],
        "Markov chain": [
            chain.sample(score.length, derive(seed, name)) for name, score in zip(names, heldout, strict=True)
        ],
    }
    reference = [measured[name] for name in rest]
    for label, some in sets.items():
        own = [measured[name] for name in names] if label == MUSIC else list(map(Measured.of, some))
        for measure, distance in distances(own, reference).items():
            results.distances[measure][label].append(distance)
    for bars in (4, 8):
        sets[f"{bars} copied bars"] = [copied(training, bars, derive(seed, name, bars)) for name in names]
    for lost in (0.05, 0.1):
        sets[f"8 copied bars, {lost:.0%} of notes lost"] = [
            thinned(score, lost, derive(seed, name)) for name, score in zip(names, sets["8 copied bars"], strict=True)
        ]
    began = time.perf_counter()
    found = iter(shared_passages([score for some in sets.values() for score in some], training))
    results.seconds.append(time.perf_counter() - began)
    for label in sets:
        results.passages[label] += [(name, rest[(each := next(found)).piece], each) for name in names]


def distances(own: Sequence[Measured], reference: Sequence[Measured]) -> Distances:
    """By measure, 0 where two sets agree."""
    features = [functools.reduce(operator.add, (each.features for each in some)) for some in (own, reference)]
    overlaps = [functools.reduce(operator.add, (each.overlaps for each in some)) for some in (own, reference)]
    found = features[0].distances(features[1])
    for statistic, likeness in overlaps[0].likeness(overlaps[1]).items():
        found[f"1 − consistency of {statistic}"] = 1 - (likeness.consistency or 0)
        found[f"1 − variance of {statistic}"] = 1 - (likeness.variance or 0)
    columns = [np.array([each.attributes for each in some]).T for some in (own, reference)]
    for attribute, mine, theirs in zip(ATTRIBUTES, *columns, strict=True):
        found[f"attribute: {attribute}"] = wasserstein(mine, theirs)
    return found


def copied(training: Sequence[Score], bars: int, seed: int) -> Score:
    """Some bars of a training score, from any on, at most five semitones higher or lower."""
    rng = np.random.default_rng(seed)
    while True:
        score = training[int(rng.integers(len(training)))]
        edges = np.append(score.bars(), score.length)
        first = int(rng.integers(max(1, len(edges) - bars)))
        part = score.cut(int(edges[first]), int(edges[min(first + bars, len(edges) - 1)])).merged()
        if part.notes > 1:
            low, high = part.tracks[0].pitch.min(), part.tracks[0].pitch.max()
            return part.transposed(int(np.clip(rng.integers(-5, 6), -low, 127 - high)))


def thinned(score: Score, lost: float, seed: int) -> Score:
    """Without a fraction of its notes, as a codec may leave it."""
    notes = score.tracks[0]
    kept = np.random.default_rng(seed).random(len(notes)) >= lost
    columns = (column[kept] for column in (notes.start, notes.end, notes.pitch, notes.velocity))
    return replace(score, tracks=(Track(*columns),))


def show_distances(console: Console, results: Results) -> None:
    shown = Table(title="Distance from the rest: the median over folds")
    sets = list(next(iter(results.distances.values())))
    for name in ("", *sets):
        shown.add_column(name, justify="right" if name else "left")
    for measure, row in results.distances.items():
        music = np.array(row[MUSIC])
        cells = [f"{np.median(music):.3f}"]
        for name in sets[1:]:
            beyond = np.array(row[name]) - music
            nearer = np.where(np.abs(beyond) < 1e-9, 0.5, beyond > 0).mean()  # some baselines keep what is measured
            cells.append(f"{np.median(row[name]):.3f} ({nearer:.2f})")
        shown.add_row(measure.replace("_", " "), *cells)
    console.print(shown)


def show_passages(console: Console, results: Results) -> None:
    shown = Table(title=f"Length of the longest shared passage, in notes ({np.median(results.seconds):.1f} s a search)")
    for name in ("", "pieces", "5 %", "median", "95 %", "longest", "beyond 95 %, 99 % of held-out"):
        shown.add_column(name, justify="right" if name else "left")
    lengths = {name: np.array([each.length for _, _, each in found]) for name, found in results.passages.items()}
    limits = np.quantile(lengths[MUSIC], [0.95, 0.99])
    for name, values in lengths.items():
        quantiles = (f"{value:.0f}" for value in np.quantile(values, [0.05, 0.5, 0.95, 1]))
        beyond = ", ".join(f"{(values > limit).mean():.2f}" for limit in limits)
        shown.add_row(name, str(len(values)), *quantiles, beyond)
    console.print(shown)
    shown = Table(title="The longest of held-out pieces")
    for name in ("piece", "length", "notes", "at quarter", "shared with", "at quarter", "semitones"):
        shown.add_column(name)
    for name, other, passage in sorted(results.passages[MUSIC], key=lambda each: -each[2].length)[:12]:
        where = (passage.start // STEPS, other, passage.piece_start // STEPS, passage.transposition)
        shown.add_row(name, str(passage.length), str(passage.notes), *map(str, where))
    console.print(shown)


if __name__ == "__main__":
    main()
