"""The notes of MIDI files, at the times at which they sound. Needs symusic, which is in the dev group.

`rendered` is for audio that fluidsynth made. Its clock counts whole milliseconds and whole ticks and starts anew at
every tempo event, so that a piece with an expressive tempo map runs ahead of its MIDI file: at the last onset by 59 ms
in the median of the corpus' 285 pieces, by 0.86 s at most. At the times given here, onsets lie within 5 ms of those in
the audio (24 pieces with 89 to 3,891 tempo events).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import symusic

PITCHES = range(21, 109)
"""Of a piano: 88 keys."""

_RATE, _BLOCK = 44100, 64  # samples a second and in a step of fluidsynth's clock


@dataclass(frozen=True)
class Notes:
    """Notes in the order of their onsets; every array is [notes]."""

    onset: np.ndarray
    """In seconds."""
    end: np.ndarray
    """In seconds; with the pedal down, when it is lifted."""
    key: np.ndarray
    """The piano's, 0 to 87."""
    velocity: np.ndarray
    """In (0, 1]."""


def files_in(folder: Path) -> dict[str, Path]:
    """The MIDI files anywhere below a folder, by their names without the extension."""
    return {file.stem: file for file in sorted(folder.rglob("*.mid"))}


def name_of(track: str | Path) -> str:
    """The MIDI file's name in a track's: `Composer/Title [elise].wav` -> `elise`; empty where there is none."""
    named = re.search(r"\[([^\[\]]+)\]\.\w+$", str(track))
    return named[1] if named else ""


def notes_of(file: Path, rendered: bool = True, trimmed: bool = False) -> Notes:
    """The notes of a file.

    Args:
        rendered: at the times at which fluidsynth (2.3) plays them; else at those that the file says.
        trimmed: counted from the first onset, as in a recording whose silence was trimmed.
    """
    score = symusic.Score(file)
    tempos = score.tempos.numpy()
    events = list(zip(tempos["time"].tolist(), tempos["mspq"].tolist(), strict=True))
    clock = Clock(events, score.ticks_per_quarter, rendered)
    # Both hands are on one channel, and the pedal, which is in either's track, holds the notes of both.
    pedals = [(pedal.time, pedal.time + pedal.duration) for track in score.tracks for pedal in track.pedals]
    found = []
    for track in score.tracks:
        notes = track.notes.numpy()
        start, end = notes["time"], notes["time"] + notes["duration"]
        for down, up in pedals:
            end[(end >= down) & (end < up)] = up
        found.append((clock.seconds(start), clock.seconds(end), notes["pitch"], notes["velocity"]))
    onset, end, pitch, velocity = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(onset, kind="stable")
    order = order[np.isin(pitch[order], PITCHES)]
    first = onset[order][0] if trimmed else 0.0
    return Notes(onset[order] - first, end[order] - first, pitch[order] - PITCHES[0], velocity[order] / 127)


class Clock:
    """Ticks -> seconds.

    Args:
        tempos: the tick of each tempo event, in order, and its microseconds per quarter note.
        resolution: ticks a quarter.
        rendered: as fluidsynth counts, else as it should be.
    """

    def __init__(self, tempos: Sequence[tuple[int, int]], resolution: int, rendered: bool) -> None:
        # Of each stretch of one tempo: the tick where its events begin; then a tick, its millisecond, and the length of
        # a tick in milliseconds.
        stretches = [(0, 0.0, 0.0, 500_000 / resolution / 1000)]
        block = 0
        for tick, tempo in tempos:
            _, base, since, length = stretches[-1]
            if not rendered:
                stretches.append((tick, tick, since + (tick - base) * length, tempo / resolution / 1000))
                continue
            # fluid_player_callback: at each block, the tick is that of the last tempo event and the whole milliseconds
            # since, divided by a tick's and rounded; all events up to it are played, a tempo event among them.
            block = max(block, int((since + (tick - base - 0.5) * length) * _RATE / 1000 / _BLOCK) - 2)
            while base + int((_milliseconds(block) - since) / length + 0.5) < tick:
                block += 1
            now = _milliseconds(block)
            reached = base + int((now - since) / length + 0.5)
            stretches.append((tick, reached, now, float(np.float32(tempo / resolution / 1000))))
        self._stretches = np.array(stretches)
        self._early = 0.5 if rendered else 0.0  # of a tick, because fluidsynth rounds

    def seconds(self, ticks: np.ndarray) -> np.ndarray:
        """The times of ticks."""
        first, base, since, length = self._stretches.T
        stretch = np.searchsorted(first, ticks, side="right") - 1
        elapsed = (ticks - base[stretch] - self._early) * length[stretch]
        return np.maximum(0, since[stretch] + elapsed) / 1000


def _milliseconds(block: int) -> int:
    return int(1000 * block * _BLOCK / _RATE)
