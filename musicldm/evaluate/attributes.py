"""What a score or a window of it is like, in one number each: the attributes of MusicVAE (Roberts et al. 2018, 4.4).

Vectors between latents of high and of low values of them steer what is generated. The paper's are of melodies on
sixteenths. Here is polyphonic music on a finer grid: intervals are those of its highest voice, syncopation is of steps
with an onset, however many notes start there, and an onset between the sixteenths is not syncopated but counts.

All are 0 of a score without notes. Positions are counted from where a bar begins; `Score.cut` makes a window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from musicldm.evaluate.score_windows import SIXTEENTH, melodic
from musicldm.media.notes.score import Ints, Score

_DIATONIC = (0, 2, 4, 5, 7, 9, 11)


def diatonic(score: Score) -> float:
    """The fraction of notes in the scale of C major, 0 to 1."""
    pitch = melodic(score).pitch
    return float(np.isin(pitch % 12, _DIATONIC).mean()) if len(pitch) else 0.0


def note_density(score: Score) -> float:
    """Notes a sixteenth."""
    return len(melodic(score)) * SIXTEENTH / score.length if score.length else 0.0


def mean_interval(score: Score) -> float:
    """Semitones between one note of the highest voice and the next, on average, up or down.

    The highest voice has one note for each step with an onset: the highest of those that start there, unless a higher
    one that started before is still down.
    """
    voice = highest_voice(score)
    return float(np.abs(np.diff(voice)).mean()) if len(voice) > 1 else 0.0


def sixteenth_syncopation(score: Score) -> float:
    """Of steps with an onset, the fraction that is an even sixteenth of its bar after one without an onset, 0 to 1."""
    return _syncopation(score, SIXTEENTH)


def eighth_syncopation(score: Score) -> float:
    """Of steps with an onset, the fraction that is an even eighth of its bar after one without an onset, 0 to 1."""
    return _syncopation(score, 2 * SIXTEENTH)


ATTRIBUTES: Final[dict[str, Callable[[Score], float]]] = {
    "diatonic": diatonic,
    "note_density": note_density,
    "mean_interval": mean_interval,
    "eighth_syncopation": eighth_syncopation,
    "sixteenth_syncopation": sixteenth_syncopation,
}


def highest_voice(score: Score) -> Ints:
    """The pitches of the highest voice, [notes]; see `mean_interval`."""
    track = melodic(score)
    voice: list[int] = []
    down: list[tuple[int, int]] = []  # the end and pitch of notes that started before and may still be down
    onsets, first = np.unique(track.start, return_index=True)
    chords = np.split(np.stack([track.end, track.pitch], axis=1), first[1:])
    for onset, chord in zip(onsets.tolist(), chords if len(onsets) else [], strict=True):
        down = [(end, pitch) for end, pitch in down if end > onset]
        struck = [(end, pitch) for end, pitch in chord.tolist()]
        highest = max(pitch for _, pitch in struck)
        if all(pitch < highest for _, pitch in down):
            voice.append(highest)
        down += struck
    return np.array(voice, np.int64)


def _syncopation(score: Score, unit: int) -> float:
    """Of steps with an onset, the fraction on a weak `unit`, every second one of its bar, after an empty strong one."""
    onsets = np.unique(melodic(score).start)
    if not len(onsets):
        return 0.0
    bars = score.bars()
    place = onsets - bars[np.searchsorted(bars, onsets, side="right") - 1]
    weak = (place % unit == 0) & (place // unit % 2 == 1)
    return float((weak & ~np.isin(onsets - unit, onsets)).mean())
