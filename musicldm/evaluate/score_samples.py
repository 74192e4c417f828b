"""How close notes come to music, and whether they are copies of it: samples and their baselines beside each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from musicldm.core.errors import DataError
from musicldm.core.progress import Progress, silent
from musicldm.core.seeding import derive
from musicldm.evaluate.score_baselines import MarkovChain, random_notes, shuffled_bars, shuffled_notes
from musicldm.evaluate.score_features import features_of
from musicldm.evaluate.score_similarity import overlaps_of
from musicldm.evaluate.shared_passages import SharedPassage, shared_passages
from musicldm.media.manifest import read_tracks
from musicldm.media.notes.grid import read_on_grid
from musicldm.media.notes.midi import is_midi
from musicldm.media.notes.score import Score
from musicldm.media.sources import walk

SAMPLES, HELDOUT = "samples", "held-out music"


@dataclass(frozen=True)
class SetFigures:
    """Of one set of scores, against the music that was trained on."""

    distances: dict[str, float]
    """By feature, 0 where they agree; see `ScoreFeatures.distances`."""
    consistency: dict[str, float | None]
    """Of pitch and of duration, from 0 to 1; see `likeness`."""
    variance: dict[str, float | None]
    passages: list[SharedPassage]
    """The longest that each score shares with a training piece."""


@dataclass(frozen=True)
class NoteSamples:
    """The samples and what stands beside them."""

    samples: list[str]
    pieces: list[str]
    """The training pieces, by the numbers that passages name."""
    sets: dict[str, SetFigures]
    left_out: dict[str, str] = field(default_factory=dict)
    """File -> reason."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def evaluate_notes(
    places: Sequence[Path], reference: Path, baselines: bool = True, seed: int = 0, progress: Progress = silent
) -> NoteSamples:
    """Compare MIDI files, and baselines made of held-out music, with the music that was trained on.

    Args:
        places: MIDI files, or folders of them.
        reference: a folder that `preprocess` made: its training split is what is compared with.

    Raises:
        DataError: there are no samples or no training pieces, or none of them has notes.
    """
    left_out: dict[str, str] = {}
    samples = _samples(places, left_out)
    tracks = read_tracks(reference, "notes")
    training = [track for track in tracks if track.split == "train"]
    heldout = [read_on_grid(track.path)[0] for track in tracks if track.split == "heldout"]
    if not samples or not training:
        missing = "MIDI file that can be used" if not samples else "training piece"
        raise DataError(f"There is no {missing}.", next(iter(left_out.values()), "Give --reference a prepared folder."))
    music = [read_on_grid(track.path)[0] for track in training]
    sets: dict[str, list[Score]] = {SAMPLES: list(samples.values())}
    if heldout:
        sets[HELDOUT] = heldout
    if baselines and heldout:
        sets |= _baselines(heldout, music, seed)
    features, overlaps = features_of(music), overlaps_of(music)
    found = iter(shared_passages([score for some in sets.values() for score in some], music))
    figures = {}
    for number, (name, some) in enumerate(sets.items()):
        progress(number, len(sets), name)
        likeness = overlaps_of(some).likeness(overlaps)
        figures[name] = SetFigures(
            distances=features_of(some).distances(features),
            consistency={each: like.consistency for each, like in likeness.items()},
            variance={each: like.variance for each, like in likeness.items()},
            passages=[next(found) for _ in some],
        )
    return NoteSamples(list(samples), [track.title for track in training], figures, left_out)


def midi_files(places: Sequence[Path]) -> list[Path]:
    """The MIDI files among files and in folders."""
    seen: set[tuple[int, int]] = set()
    inside = (path for place in places for path in (walk(place, seen) if place.is_dir() else [place]))
    return [path for path in inside if is_midi(path)]


def _samples(places: Sequence[Path], left_out: dict[str, str]) -> dict[str, Score]:
    found = {}
    for path in midi_files(places):
        try:
            found[str(path)], _ = read_on_grid(path)
        except DataError as error:
            left_out[str(path)] = error.message
    return found


def _baselines(heldout: Sequence[Score], music: Sequence[Score], seed: int) -> dict[str, list[Score]]:
    makers: dict[str, Callable[[Score, int], Score]] = {
        "shuffled bars": shuffled_bars,
        "shuffled notes": shuffled_notes,
        "random notes": random_notes,
    }
    made = {
        name: [make(score, derive(seed, name, number)) for number, score in enumerate(heldout)]
        for name, make in makers.items()
    }
    chain = MarkovChain(music)
    chained = [chain.sample(score.length, derive(seed, "chain", number)) for number, score in enumerate(heldout)]
    return {**made, "Markov chain": chained}
