"""A small piano: scores -> sound, where no soundfont is installed.

A string's partials are slightly sharp of the harmonics, the more so the higher they are (Fletcher, 1964); each dies
away in two stages, at first fast and then slowly (Weinreich, 1977), high ones faster than low ones; a harder blow is
louder and brighter. Every partial is a power of one complex number, z^t. Written as z^(jK) · z^k, a note's samples
are one product of two small matrices, which costs less than a single sine would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from musicldm.core.errors import UsageError
from musicldm.media.notes.roll import score_of
from musicldm.media.notes.score import Ints, Score, Track

Floats = NDArray[np.float32]

DEMO_RATE = 16000
"""Samples a second of demos."""

_PEAK = 10 ** (-1 / 20)  # -1 dBFS
_PARTIALS = 14
_ROW = 256  # samples in a row of the product
_ATTACK = 0.003  # seconds
_RELEASE = 0.07  # seconds in which a damper quiets a string by 1/e
_UNDAMPED = 90  # from this pitch on a piano has no dampers
_SILENT = 6.9  # 1/e's, 60 dB, after which a sound has ended
_LONGEST = 16.0  # seconds
_TAIL = 2.0  # seconds at most that sound after the score's end
_PAN = 0.3  # from left to right, of the lowest and the highest key

_LOW_DRUMS = range(35, 38)
_LONG_DRUMS = (46, 49, 51, 52, 55, 57, 59)  # open hi-hat and cymbals


@dataclass(frozen=True)
class _Sounding:
    """Everything that sounds, in the order of its onsets; n notes."""

    start: Ints
    """Samples [n]."""
    damped: Ints
    """Samples [n]: when the damper falls."""
    pitch: Ints
    velocity: Ints
    drum: NDArray[np.bool_]


def render(score: Score, sample_rate: int = 44100, channels: int = 2) -> Floats:
    """Play a score: float32 [C, T], its loudest sample at -1 dBFS; all zeros if nothing sounds.

    It ends with the score, or when what sounds then has died away, after two seconds at most.

    Args:
        channels: 1 or 2; in two, low keys are a little to the left.

    Raises:
        UsageError: no such number of channels, or a rate below 8,000.
    """
    blocks = list(_blocks(score, sample_rate, channels, 10.0))
    sound = np.concatenate(blocks, axis=1) if blocks else np.zeros((channels, 0), np.float32)
    return sound * _gain(np.abs(sound).max(initial=0))


def render_roll(roll: Floats) -> Floats:
    """What a roll sounds like, for demos: [1, T] at `DEMO_RATE`."""
    return render(score_of(roll), DEMO_RATE, 1)


def stream(score: Score, sample_rate: int = 44100, channels: int = 2, seconds: float = 10.0) -> Iterator[Floats]:
    """What `render` gives, in blocks [C, n] of so many seconds: an hour takes no more memory than a minute.

    It is played twice, since the loudest sample must be known before the first.
    """
    loudest = max((np.abs(block).max(initial=0) for block in _blocks(score, sample_rate, channels, seconds)), default=0)
    for block in _blocks(score, sample_rate, channels, seconds):
        yield block * _gain(loudest)


def _gain(loudest: float) -> np.float32:
    return np.float32(_PEAK / loudest if loudest > 0 else 1)


def _blocks(score: Score, rate: int, channels: int, seconds: float) -> Iterator[Floats]:
    """The sound before its level is set."""
    if channels not in (1, 2):
        raise UsageError(f"{channels} is not a valid number of channels: expected 1 or 2.")
    if rate < 8000:
        raise UsageError(f"{rate} is not a valid sample rate: expected 8000 Hz or more.")
    notes = _sounding(score, rate)
    width, end = round(seconds * rate), round(score.duration * rate)
    # What is begun but not yet given away: a block, and what its notes sound on.
    ahead = np.zeros((channels, width + round((_LONGEST + 1) * rate)), np.float32)
    note, place, last = 0, 0, end
    while place < last:
        while note < len(notes.start) and notes.start[note] < place + width:
            sound = _sound(notes, note, rate)
            start = int(notes.start[note])
            for row, gain in zip(ahead, _pans(int(notes.pitch[note]), channels), strict=True):
                row[start - place : start - place + len(sound)] += gain * sound
            last = max(last, min(start + len(sound), end + round(_TAIL * rate)))
            note += 1
        count = min(width, last - place)
        block = ahead[:, :count].copy()
        if place + count > end:
            block *= _fade(place, count, end, rate)
        ahead[:, :-width] = ahead[:, width:]
        ahead[:, -width:] = 0
        place += width
        yield block


def _sounding(score: Score, rate: int) -> _Sounding:
    columns = [np.empty((5, 0), np.int64)]
    for track in score.tracks:
        times = np.rint(score.seconds(np.stack([track.start, _damped(track)])) * rate).astype(np.int64)
        drum = np.full(len(track), track.is_drum, np.int64)
        columns.append(np.stack([*times, track.pitch, track.velocity, drum]))
    found = np.concatenate(columns, axis=1)
    start, damped, pitch, velocity, drum = found[:, np.lexsort((found[2], found[0]))]
    return _Sounding(start, damped, pitch, velocity, drum > 0)


def _damped(track: Track) -> Ints:
    """The ticks at which the dampers fall: when the key is up, or with the pedal down, when that is lifted.

    A string that is struck again is damped by nothing, but its new sound takes over.
    """
    end = track.end.copy()
    down, up = track.pedals.T
    if len(down):
        span = np.searchsorted(down, end, side="right") - 1
        held = (span >= 0) & (end < up[span])
        end[held] = up[span[held]]
    order = np.lexsort((track.start, track.pitch))
    same = np.diff(track.pitch[order]) == 0
    again = np.where(same, track.start[order][1:], np.iinfo(np.int64).max)
    end[order[:-1]] = np.minimum(end[order[:-1]], again)
    return end


def _sound(notes: _Sounding, note: int, rate: int) -> Floats:
    """One note [n], from its onset until it has died away."""
    pitch, velocity = int(notes.pitch[note]), int(notes.velocity[note])
    if notes.drum[note]:
        return _drum(pitch, velocity, rate)
    held = int(notes.damped[note] - notes.start[note])
    rows, natural = _string(pitch, rate)
    count = min(natural, held + round(_SILENT * _RELEASE * rate)) if pitch < _UNDAMPED else natural
    # z^(jK), with each partial's strength at this velocity: [rows, 2 partials, both real]
    bases = _rotations(pitch, rate)[: -(-count // _ROW)]
    strength = np.concatenate([_strengths(pitch, velocity, rate)] * 2).astype(np.float32)
    sound: Floats = np.asarray((bases * strength) @ rows, np.float32).reshape(-1)[:count]
    attack = min(round(_ATTACK * rate), count)
    sound[:attack] *= 0.5 - 0.5 * np.cos(np.pi * np.arange(attack, dtype=np.float32) / attack)
    if held < count and pitch < _UNDAMPED:
        sound[held:] *= np.exp(np.arange(count - held, dtype=np.float32) / np.float32(-_RELEASE * rate))
    return sound


@lru_cache(maxsize=512)
def _partials(pitch: int, rate: int) -> tuple[NDArray[np.complex128], int]:
    """The logarithms of z of each partial, in its fast stage and its slow one; and the samples until all is silent."""
    number = np.arange(1, _PARTIALS + 1)
    stiffness = 1e-4 * 2 ** ((pitch - 60) / 9) if pitch > 40 else 1e-4 * 2 ** ((40 - pitch) / 24 - 20 / 9)
    # So that the first partial, which gives the pitch, is in tune.
    hertz = 440 * 2 ** ((pitch - 69) / 12) * number * np.sqrt((1 + stiffness * number**2) / (1 + stiffness))
    slow = 6.0 * 2 ** ((36 - pitch) / 14) / (1 + 0.12 * (number - 1))  # seconds until 1/e
    slow = np.minimum(slow, _LONGEST / _SILENT)
    decay = np.concatenate([slow / 5, slow])
    logs = (-1 / decay + 2j * np.pi * np.tile(hertz, 2)) / rate
    return logs, round(min(_LONGEST, _SILENT * float(slow[0])) * rate)


@lru_cache(maxsize=512)
def _string(pitch: int, rate: int) -> tuple[Floats, int]:
    """z^k for the samples of a row: the real parts, then the imaginary, negative, since Re(ab) = Re Re - Im Im."""
    logs, natural = _partials(pitch, rate)
    powers = np.exp(logs[:, None] * np.arange(_ROW))
    return np.concatenate([powers.real, -powers.imag]).astype(np.float32), natural


@lru_cache(maxsize=128)
def _rotations(pitch: int, rate: int) -> Floats:
    """z^(jK) for every row that the note can have, real parts and imaginary."""
    logs, natural = _partials(pitch, rate)
    powers = np.exp(np.arange(-(-natural // _ROW))[:, None] * _ROW * logs)
    # The phases of a hammered string: sines, all from 0.
    powers *= -1j
    return np.concatenate([powers.real, powers.imag], axis=1).astype(np.float32)


@lru_cache(maxsize=4096)
def _strengths(pitch: int, velocity: int, rate: int) -> NDArray[np.float64]:
    """The strength of each partial's two stages. A hammer at 1/8 of the string leaves out every eighth partial."""
    number = np.arange(1, _PARTIALS + 1)
    force = velocity / 127
    brightness = 0.35 + 0.5 * force - 0.25 * (pitch - 60) / 48
    strength = np.abs(np.sin(np.pi * number / 8.5)) * np.exp(-(number - 1) * (1 - np.clip(brightness, 0.1, 0.9)))
    strength *= force**1.7 / np.sqrt((strength**2).sum())
    # Of what would be above the highest frequency, aliases would be heard.
    strength[440 * 2 ** ((pitch - 69) / 12) * number > min(9000, 0.42 * rate)] = 0
    return np.concatenate([0.7 * strength, 0.3 * strength])


@lru_cache(maxsize=256)
def _drum(pitch: int, velocity: int, rate: int) -> Floats:
    """A drum: low ones fall in pitch, others are noise, and the same at every blow."""
    seconds = 1.2 if pitch in _LONG_DRUMS else 0.3
    t = np.arange(round(seconds * rate)) / rate
    if pitch in _LOW_DRUMS:
        sound: NDArray[np.float64] = np.sin(2 * np.pi * (50 * t + 6 * (1 - np.exp(-t / 0.03)))) * np.exp(-t / 0.09)
    else:
        noise = np.random.default_rng(pitch).standard_normal(len(t))
        # A difference of neighbours brightens it: cymbals and hi-hats have little below.
        noise = np.diff(noise, prepend=0.0) if pitch >= 42 else noise
        sound = 0.3 * noise * np.exp(-t / (seconds / 5))
    blow: Floats = (0.8 * (velocity / 127) ** 1.7 * sound).astype(np.float32)
    return blow


def _pans(pitch: int, channels: int) -> tuple[np.float32, ...]:
    """The gain of each channel, at equal power."""
    if channels == 1:
        return (np.float32(1),)
    angle = np.pi / 4 * (1 + _PAN * np.clip((pitch - 64.5) / 43.5, -1, 1))
    return np.float32(np.cos(angle)), np.float32(np.sin(angle))


def _fade(place: int, count: int, end: int, rate: int) -> Floats:
    """What lets the sound after the score's end come to rest within `_TAIL`."""
    left = 1 - (np.arange(place, place + count) - end) / (_TAIL * rate)
    return np.clip(left, 0, 1).astype(np.float32)
