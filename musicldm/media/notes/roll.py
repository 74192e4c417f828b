"""Scores <-> rolls: the pictures of music that networks read and write.

A roll is float32 [C, T], T steps of 1/24 quarter. `Channels` says what its C rows are; nothing else does. Of a piano:
drums are left out, and so are the pitches that a piano has not. Tempo, pedal and metre are in it, so that a roll alone
is enough to play from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from musicldm.core.errors import DataError, UsageError
from musicldm.media.notes.grid import require_grid
from musicldm.media.notes.score import METRE, STEPS, TEMPO, Ints, Score, Track, union

Floats = NDArray[np.float32]

LOWEST: Final = 21
"""The MIDI note number of a piano's lowest key."""

KEYS: Final = 88

BEATS = (96, 48, 24, 12, 6, 3)
"""Steps of the beats that a metre can have on the grid: a whole note to 1/32."""


class Channels:
    """The rows of a roll."""

    ONSET: Final = slice(0, KEYS)
    """1 where a key is struck."""
    HOLD: Final = slice(KEYS, 2 * KEYS)
    """1 while a key is down, from its onset on."""
    VELOCITY: Final = slice(2 * KEYS, 3 * KEYS)
    """Velocity / 127 where a key is struck, else 0."""
    PEDAL: Final = 3 * KEYS
    """1 while the pedal is down."""
    TEMPO: Final = 3 * KEYS + 1
    """log2 of quarters a minute over 120."""
    DOWNBEAT: Final = 3 * KEYS + 2
    """1 where a bar begins."""
    BEAT: Final = 3 * KEYS + 3
    """1 where a beat of the metre begins: in 6/8, an eighth."""
    COUNT: Final = 3 * KEYS + 4


@dataclass(frozen=True)
class Decoding:
    """How a roll of probabilities and estimates is read; the defaults read an exact roll exactly but for its tempos."""

    onset: float = 0.5
    """The least value that strikes a key."""
    hold: float = 0.5
    """Below it, a key is up."""
    peak: int = 2
    """A key is struck only where no value within so many steps is greater."""
    pedal: float = 0.5
    """The least value that is a pedal down."""
    beat: float = 0.5
    """The least value that is a downbeat or beat."""
    tempo: float = 0.05
    """How far, in octaves, a tempo may lie from the event that stands for it. With 0 every change is an event, else the
    tempo is averaged over a quarter first."""


def playable(score: Score) -> int:
    """How many of its notes a roll can hold: those of a piano's keys, without drums."""
    return sum(int(_on_keys(track.pitch).sum()) for track in score.tracks if not track.is_drum)


def roll_of(score: Score, first: int = 0, last: int | None = None) -> Floats:
    """The roll [C, T] of a score on the grid, from tick `first` up to `last`, or its end.

    No more is made than these steps: a crop of a long piece is cheap, if `score.merged()` was taken once before.

    Raises:
        UsageError: the score is not on the grid, or has no such steps.
    """
    require_grid(score)
    last = score.length if last is None else last
    if not 0 <= first <= last <= score.length:
        raise UsageError(f"{first} to {last} is not a valid range: expected steps in order from 0 to {score.length}.")
    score = score.merged()
    roll = np.zeros((Channels.COUNT, last - first), np.float32)
    for track in score.tracks:
        _draw_notes(roll, track, first, last)
        _draw_pedal(roll[Channels.PEDAL], track.pedals, first, last)
    steps = np.arange(first, last)
    tempo = score.tempos[np.searchsorted(score.tempos[:, 0], steps, side="right") - 1, 1]
    roll[Channels.TEMPO] = np.log2(TEMPO / tempo)
    for channel, ticks in ((Channels.DOWNBEAT, score.bars()), (Channels.BEAT, score.beats())):
        roll[channel, ticks[(ticks >= first) & (ticks < last)] - first] = 1
    return roll


def score_of(roll: Floats, decoding: Decoding | None = None) -> Score:
    """The score, of one track, that a roll [C, T] shows; its values may be what a decoder estimates.

    Raises:
        DataError: it has not the form of a roll, or values that are no numbers.
    """
    decoding = decoding or Decoding()
    if roll.ndim != 2 or len(roll) != Channels.COUNT:
        raise DataError(f"A roll of shape {roll.shape} is not valid: expected [{Channels.COUNT}, T].")
    if not np.isfinite(roll).all():
        raise DataError("A roll is not valid: expected finite numbers.")
    steps = roll.shape[1]
    pedals = _runs(roll[Channels.PEDAL] >= decoding.pedal)
    track = Track(*_notes(roll, decoding), pedals=pedals)
    return Score(
        STEPS,
        steps,
        (track,) if len(track) or len(pedals) else (),
        tempos=_tempos(roll[Channels.TEMPO], decoding.tempo),
        metres=_metres(roll, decoding.beat),
    )


# ---- Score -> roll


def _on_keys(pitch: Ints) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (pitch >= LOWEST) & (pitch < LOWEST + KEYS)
    return found


def _draw_notes(roll: Floats, track: Track, first: int, last: int) -> None:
    seen = _on_keys(track.pitch) & (track.start < last) & (track.end > first)
    key, start, end = track.pitch[seen] - LOWEST, track.start[seen] - first, track.end[seen] - first
    begun = start >= 0  # what began before is held only
    roll[Channels.ONSET][key[begun], start[begun]] = 1
    roll[Channels.VELOCITY][key[begun], start[begun]] = track.velocity[seen][begun] / 127
    # Up and down at the ends of each note; the sum of these so far says what is down. Ends beyond the last step go to
    # a step more.
    edges = np.zeros((KEYS, last - first + 1), np.int8)
    np.add.at(edges, (key, np.maximum(start, 0)), 1)
    np.add.at(edges, (key, np.minimum(end, last - first)), -1)
    roll[Channels.HOLD] = np.cumsum(edges[:, :-1], axis=1, dtype=np.int8)


def _draw_pedal(row: Floats, pedals: Ints, first: int, last: int) -> None:
    before = -1
    for down, up in pedals.tolist():
        # A foot that lifts and falls at once is lifted for a step, or nobody could see it.
        down += down == before
        row[max(down - first, 0) : max(up - first, 0)] = 1
        before = up


# ---- Roll -> score


def _notes(roll: Floats, decoding: Decoding) -> tuple[Ints, Ints, Ints, Ints]:
    """The start, end, pitch and velocity of each note."""
    onset = roll[Channels.ONSET]
    struck = (onset >= decoding.onset) & _peaks(onset, decoding.peak)
    steps = roll.shape[1]
    # A note ends where its key is up or struck again: of each step, the next such one.
    ends = np.where((roll[Channels.HOLD] < decoding.hold) | struck, np.arange(steps), steps)
    following = np.full((KEYS, steps + 1), steps)
    following[:, :-1] = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    key, start = np.nonzero(struck)
    end = np.maximum(following[key, start + 1], start + 1)
    velocity = np.clip(np.rint(127 * roll[Channels.VELOCITY][key, start]), 1, 127).astype(np.int64)
    return start, end, key + LOWEST, velocity


def _peaks(values: Floats, radius: int) -> NDArray[np.bool_]:
    """Where no value [K, T] within so many steps is greater; equal ones are peaks both."""
    peaks = np.ones(values.shape, bool)
    for distance in range(1, radius + 1):
        peaks[:, distance:] &= values[:, distance:] >= values[:, :-distance]
        peaks[:, :-distance] &= values[:, :-distance] >= values[:, distance:]
    return peaks


def _runs(down: NDArray[np.bool_]) -> Ints:
    """The spans [P, 2] in which it is true."""
    changes = np.flatnonzero(np.diff(down, prepend=False, append=False))
    return union(changes.reshape(-1, 2))


def _tempos(row: Floats, tolerance: float) -> Ints:
    """The tempo map [n, 2] of tempos in octaves above 120."""
    octaves = np.clip(row, -5, 5).astype(np.float64)
    if not len(octaves):
        return np.array([[0, TEMPO]])
    if tolerance:
        window = min(STEPS, len(octaves))
        sums = np.cumsum(np.pad(octaves, (window // 2 + 1, window - window // 2 - 1), mode="edge"))
        octaves = (sums[window:] - sums[:-window]) / window
    starts, values = [0], octaves.tolist()
    least = most = values[0]
    for step in (np.flatnonzero(np.diff(octaves)) + 1).tolist():
        least, most = min(least, values[step]), max(most, values[step])
        if most - least > 2 * tolerance:
            starts.append(step)
            least = most = values[step]
    # The mean of the durations, not of the tempos: what follows comes at the same second.
    lengths = np.diff([*starts, len(octaves)])
    tempo = TEMPO * np.add.reduceat(2.0**-octaves, starts) / lengths
    return np.stack([np.array(starts), np.rint(tempo).astype(np.int64)], axis=1)


def _metres(roll: Floats, threshold: float) -> Ints:
    """The metres [m, 3] in which bars begin where the downbeats are."""
    marks = []
    for channel in (Channels.DOWNBEAT, Channels.BEAT):
        row = roll[channel][None]
        marks.append(np.flatnonzero((row >= threshold)[0] & _peaks(row, BEATS[-1] - 1)[0]))
    steps = roll.shape[1]
    found = [(0, *METRE)]
    if not len(marks[0]) or not steps:
        return np.array(found)
    bars = np.unique(np.append(0, marks[0]))
    beats = np.unique(np.append(bars, marks[1]))
    for bar, end in zip(bars.tolist(), [*bars[1:].tolist(), steps], strict=True):
        inside = beats[(beats >= bar) & (beats < end)]
        start, numerator, denominator = found[-1]
        length = 4 * STEPS * numerator // denominator
        beat = _beat(inside, end) if len(marks[1]) else STEPS
        cut_short = bar > 0 and end == steps and end - bar < length
        if not cut_short or (len(inside) > 1 and beat * denominator != 4 * STEPS):
            numerator, denominator = _metre(end - bar, beat)
        if (numerator, denominator) != found[-1][1:] or (bar - start) % length:
            found.append((bar, numerator, denominator))
    return np.array(found[1:] if len(found) > 1 and found[1][0] == 0 else found)


def _beat(inside: Ints, end: int) -> int:
    """The commonest steps from one beat to the next, of the beats in a bar that ends there."""
    gaps = np.diff(inside) if len(inside) > 1 else end - inside
    return int(np.bincount(gaps).argmax())


def _metre(length: int, seen: int) -> tuple[int, int]:
    """The likeliest metre of a bar of so many steps, whose beats are seen to take so many."""
    # The beats that are seen, if they fill the bar; else the longest that do, or nearly.
    for beat in (seen, STEPS, STEPS // 2, STEPS // 4, BEATS[-1]):
        if beat in BEATS and length % beat == 0 and length // beat <= 255:
            return length // beat, 4 * STEPS // beat
    numerator = max(1, round(length / BEATS[-1]))
    # Longer than any metre in 1/32: as near as quarters come.
    return (numerator, 4 * STEPS // BEATS[-1]) if numerator <= 255 else (min(255, round(length / STEPS)), 4)
