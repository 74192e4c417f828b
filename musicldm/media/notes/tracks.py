"""The events of a MIDI file -> tracks: which note ends when, on which instrument, under which pedal.

Files in the world strike keys that are down, never release others, and release what nobody struck. Here a key does what
a piano's does: it sounds until it is first released or struck again. What had to be put right for that is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from musicldm.media.notes import events
from musicldm.media.notes.events import Events
from musicldm.media.notes.score import STEPS, Ints, Track, separate

DRUMS = 9
"""The channel that General MIDI keeps for drums."""

PEDAL = 64
"""The controller; values from 64 on are down."""

_RESET = 121  # all controllers, and with them the pedal
_LONGEST_UNENDED = 4  # quarters


@dataclass(frozen=True)
class Repairs:
    """How often something in a file was put right, or left out, in reading it."""

    zero_length: int = 0
    """Notes that ended where they began; they last a step of the grid."""
    unended: int = 0
    """Notes that nothing ended; they last until their key is struck again, a whole note at most."""
    doubled: int = 0
    """Notes that began together with another of the same key, and were merged with it."""
    overlapping: int = 0
    """Notes whose key was struck again before they ended; they end there."""
    stray_ends: int = 0
    """Ends of notes that had not begun."""
    text: int = 0
    """Titles and names that were not UTF-8: read as Shift-JIS or Latin-1."""
    rounded: int = 0
    """Events moved to the next tick, because the file's own ticks a quarter have no usable multiple of 24."""
    ignored: int = 0
    """Events that a score does not keep: controllers but the pedal, pitch bends, pressure, system messages."""

    def __add__(self, other: Repairs) -> Repairs:
        return Repairs(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


def strikes(part: Events) -> NDArray[np.bool_]:
    """Which events strike a key; with a velocity of 0 they release it."""
    found: NDArray[np.bool_] = (part.status & 0xF0 == events.NOTE_ON) & (part.second > 0)
    return found


def tracks_of(
    parts: Sequence[Events], resolution: int, length: int, names: Sequence[str]
) -> tuple[list[Track], Repairs]:
    """The tracks of a file, in the order of its own, then of channels, then of programs.

    Args:
        parts: the events of each of the file's tracks, in ticks of the score.
        length: in ticks: where a pedal that stays down is lifted.
        names: of the file's tracks.
    """
    channels = [_channels(part) for part in parts]
    programs, pedals = _programs(parts, channels), _pedals(parts, channels, length)
    tracks, repairs = [], Repairs()
    for part, channel, name in zip(parts, channels, names, strict=True):
        repairs += Repairs(ignored=_ignored(part))
        if not strikes(part).any():
            continue
        notes, mended = _notes(part, channel, resolution)
        repairs += mended
        for number in np.unique(notes.channel).tolist():
            here = notes.chosen(notes.channel == number)
            program = _program(part, channel, number, here, programs.get(number))
            drums = number & 15 == DRUMS
            for each in np.unique(program).tolist():
                played = here.chosen(program == each)
                apart = separate(played.start, played.end, played.pitch, played.velocity)
                repairs += Repairs(doubled=apart.doubled, overlapping=apart.overlapping)
                pedal = np.empty((0, 2), np.int64) if drums else pedals.get(number, np.empty((0, 2), np.int64))
                tracks.append(Track(*apart.columns, program=each, is_drum=drums, name=name, pedals=pedal))
    return tracks, repairs


@dataclass(frozen=True)
class _Notes:
    """Notes of one of the file's tracks; every array is [n]."""

    start: Ints
    end: Ints
    pitch: Ints
    velocity: Ints
    channel: Ints
    event: Ints
    """Which event struck it."""

    def chosen(self, which: NDArray[np.bool_]) -> _Notes:
        """Some of them."""
        return _Notes(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


def _notes(part: Events, channel: Ints, resolution: int) -> tuple[_Notes, Repairs]:
    """Pair the strikes of each key with their releases."""
    strike = strikes(part)
    release = (part.status & 0xF0 == events.NOTE_OFF) | ((part.status & 0xF0 == events.NOTE_ON) & ~strike)
    chosen = np.flatnonzero(strike | release)
    key = channel[chosen] << 7 | part.first[chosen]
    order = np.argsort(key, kind="stable")
    chosen, key = chosen[order], key[order]
    on, tick = strike[chosen], part.tick[chosen]
    # Some writers put a strike before the release of the same key at the same tick: the release is the earlier note's.
    late = on[:-2] & on[1:-1] & ~on[2:] & (key[:-2] == key[2:]) & (tick[:-2] < tick[1:-1]) & (tick[1:-1] == tick[2:])
    second = np.flatnonzero(late) + 1
    chosen[second], chosen[second + 1] = chosen[second + 1], chosen[second]
    on[second], on[second + 1] = False, True

    struck = np.flatnonzero(on)
    places = np.where(on, len(on), np.arange(len(on)))
    released = np.minimum.accumulate(places[::-1])[::-1][struck]  # of each strike, the next release
    ended = released < len(on)
    released = np.minimum(released, max(len(on) - 1, 0))
    ended &= key[released] == key[struck]
    start, step = tick[struck], resolution // STEPS
    last = int(part.tick[-1]) if len(part.tick) else 0
    unended = np.minimum(start + _LONGEST_UNENDED * resolution, np.maximum(last, start + step))
    end = np.where(ended, tick[released], unended)
    empty = end <= start
    end[empty] += step

    surplus = np.bincount(key[~on] & 0x7FF, minlength=0x800) - np.bincount(key[on] & 0x7FF, minlength=0x800)
    event = chosen[struck]
    notes = _Notes(start, end, part.first[event], part.second[event], channel[event], event)
    repairs = Repairs(
        zero_length=int(empty.sum()), unended=int((~ended).sum()), stray_ends=int(np.maximum(surplus, 0).sum())
    )
    return notes, repairs


def _channels(part: Events) -> Ints:
    """The channel of each event, and -1 of others; a port, which files with more than 16 channels have, counts too."""
    ports = part.metas(events.PORT)
    port = part.payload(ports[0])[:1] if ports else b""
    return np.where(part.status < 0xF0, part.status & 15 | (port[0] if port else 0) << 4, -1)


def _of_all(parts: Sequence[Events], channels: Sequence[Ints], chosen: Sequence[NDArray[np.bool_]]) -> dict[int, Ints]:
    """Events of all parts by their channel: rows [n, 3] of tick, first and second byte, in order."""
    found = [
        np.stack([channel[which], part.tick[which], part.first[which], part.second[which]], axis=1)
        for part, channel, which in zip(parts, channels, chosen, strict=True)
        if which.any()
    ]
    if not found:
        return {}
    rows = np.concatenate(found)
    rows = rows[np.argsort(rows[:, 1], kind="stable")]
    return {number: rows[rows[:, 0] == number, 1:] for number in np.unique(rows[:, 0]).tolist()}


def _programs(parts: Sequence[Events], channels: Sequence[Ints]) -> dict[int, Ints]:
    return _of_all(parts, channels, [part.status & 0xF0 == events.PROGRAM for part in parts])


def _program(part: Events, channel: Ints, number: int, notes: _Notes, anywhere: Ints | None) -> Ints:
    """The program of each note: the last that its own track set on its channel, else the last that any did, else 0."""
    program = np.zeros(len(notes.event), np.int64)
    if anywhere is None:
        return program
    before = np.searchsorted(anywhere[:, 0], notes.start, side="right") - 1
    program = np.where(before >= 0, anywhere[np.maximum(before, 0), 1], program)
    own = np.flatnonzero((part.status & 0xF0 == events.PROGRAM) & (channel == number))
    if len(own):
        before = np.searchsorted(own, notes.event) - 1
        program = np.where(before >= 0, part.first[own[np.maximum(before, 0)]], program)
    return program


def _pedals(parts: Sequence[Events], channels: Sequence[Ints], length: int) -> dict[int, Ints]:
    """The spans [P, 2] of each channel's pedal."""
    found = {}
    for number, rows in _of_all(parts, channels, [_pedal_events(part) for part in parts]).items():
        down = (rows[:, 1] == PEDAL) & (rows[:, 2] >= 64)
        change = np.flatnonzero(np.diff(down, prepend=False))
        ticks = rows[change, 0]
        if len(ticks) % 2:
            ticks = np.append(ticks, length)
        spans = np.minimum(ticks.reshape(-1, 2), length)
        found[number] = spans[spans[:, 0] < spans[:, 1]]
    return found


def _ignored(part: Events) -> int:
    kind = part.status & 0xF0
    kept = (kind <= events.NOTE_ON) | (kind == events.PROGRAM) | (part.status == events.META) | _pedal_events(part)
    return int((~kept).sum())


def _pedal_events(part: Events) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (part.status & 0xF0 == events.CONTROL) & ((part.first == PEDAL) | (part.first == _RESET))
    return found
