"""A folder of toy music as MIDI: simple tunes over chords, by two composers, that a toy codec can learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from musicldm.media.notes.midi import write_midi
from musicldm.media.notes.score import Score, Track

CHORDS = ((48, 52, 55), (53, 57, 60), (55, 59, 62), (48, 52, 55))


def tune(seed: int, bars: int = 12) -> Score:
    """A melody in quarters and eighths, a chord for each bar in 4/4, and the pedal."""
    chance = np.random.default_rng(seed)
    notes = []
    for bar in range(bars):
        chord, start = CHORDS[bar % 4], 96 * bar
        notes += [(start, start + 90, pitch, 60) for pitch in chord]
        place = start
        while place < start + 96:
            length = int(chance.choice([12, 24, 24, 48]))
            length = min(length, start + 96 - place)
            notes.append((place, place + length, 12 + int(chance.choice(chord)) + 12, int(chance.integers(70, 110))))
            place += length
    start, end, pitch, velocity = np.array(notes).T
    pedals = np.array([[96 * bar, 96 * bar + 80] for bar in range(bars)])
    tempos = np.array([[0, 500_000], [96 * bars // 2, 600_000]])
    return Score(
        24, 96 * bars, (Track(start, end, pitch, velocity, pedals=pedals),), tempos=tempos, title=f"Tune {seed}"
    )


def compose(folder: Path, pieces: int = 10) -> None:
    """Write the MIDI files."""
    for number in range(pieces):
        write_midi(tune(number), folder / ("Anna" if number % 2 else "Bert") / f"tune {number}.mid")
