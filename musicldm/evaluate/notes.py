"""Notes, and how many of those of one performance are found in another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

TOLERANCE = 0.05
"""Seconds between two onsets that count as one, as in MIREX's note tracking."""

_DIGITS = 4  # of the difference of two onsets in seconds, so that rounding does not decide at the very edge


@dataclass(frozen=True, order=True)
class Note:
    """A note as it is heard."""

    onset: float
    """Seconds."""
    pitch: int
    """As in MIDI: 60 is middle C."""
    offset: float
    """Seconds."""
    velocity: int
    """1 to 127."""


@dataclass(frozen=True)
class OnsetScore:
    """How well notes are found, by their pitches and onsets."""

    f1: float | None
    """2·precision·recall / (precision + recall); None where there are no notes on either side."""
    precision: float | None
    """Of the notes that were found, the fraction that is in the reference."""
    recall: float | None
    """Of the reference's notes, the fraction that was found."""
    matched: int
    found: int
    reference: int


def onset_score(reference: Iterable[Note], found: Iterable[Note], tolerance: float = TOLERANCE) -> OnsetScore:
    """The notes that are found of a reference: those of the same pitch whose onsets lie within `tolerance` seconds.

    Each note counts once, and as many as possible are matched: `mir_eval.transcription.precision_recall_f1_overlap`
    without offsets (Raffel et al. 2014), in time and memory that grow with the notes and not with their square.
    """
    wanted, heard = _onsets_by_pitch(reference), _onsets_by_pitch(found)
    matched = sum(_matches(onsets, heard.get(pitch, ()), tolerance) for pitch, onsets in wanted.items())
    of_reference, of_found = (sum(map(len, each.values())) for each in (wanted, heard))
    if not of_reference and not of_found:
        return OnsetScore(None, None, None, 0, 0, 0)
    return OnsetScore(
        f1=2 * matched / (of_reference + of_found),
        precision=matched / of_found if of_found else 0.0,
        recall=matched / of_reference if of_reference else 0.0,
        matched=matched,
        found=of_found,
        reference=of_reference,
    )


def _onsets_by_pitch(notes: Iterable[Note]) -> dict[int, list[float]]:
    """In order."""
    onsets: defaultdict[int, list[float]] = defaultdict(list)
    for note in sorted(notes):
        onsets[note.pitch].append(note.onset)
    return onsets


def _matches(wanted: Sequence[float], heard: Sequence[float], tolerance: float) -> int:
    """The most pairs that can be made of onsets of one pitch, both in order."""
    matched = i = j = 0
    # Where the earliest of both are within reach of each other, no other pairing leaves more for those that follow;
    # where they are not, the earlier of the two is out of reach of all others.
    while i < len(wanted) and j < len(heard):
        apart = round(heard[j] - wanted[i], _DIGITS)
        if abs(apart) <= tolerance:
            matched, i, j = matched + 1, i + 1, j + 1
        elif apart < 0:
            j += 1
        else:
            i += 1
    return matched
