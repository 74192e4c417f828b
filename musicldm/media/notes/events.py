"""The events of MIDI files as columns of numbers, both ways. Nothing in a file is believed before it is checked.

A track is a chain: where an event begins follows from the one before it. What is slow in Python is not to follow a
chain but to look at each link, and that is done for all bytes at once: for each, where the next event would begin if
one began here. The chain itself is then a walk through a list.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from musicldm.core.errors import DataError
from musicldm.media.notes.score import Ints

Bytes = NDArray[np.uint8]

MAX_BYTES = 16 << 20
MAX_EVENTS = 2_000_000

META, TEXT, NAME, PORT, END, SET_TEMPO, TIME_SIGNATURE = 0xFF, 0x01, 0x03, 0x21, 0x2F, 0x51, 0x58
NOTE_OFF, NOTE_ON, CONTROL, PROGRAM = 0x80, 0x90, 0xB0, 0xC0

_BLOCK = 1 << 18  # bytes that are looked at at once: what bounds the memory
_LINK = 16  # bytes that tell how long an event is, at most: its delta, status, type and length
_BROKEN, _FINAL = -1, -2  # where no event follows: by a fault, or after the end of the track

_HINT = "Export it again as a standard MIDI file (type 0 or 1), or leave it out."


@dataclass(frozen=True)
class Events:
    """The events of one track in their order; n of them."""

    tick: Ints
    """[n], from the beginning."""
    status: Ints
    """[n], 0x80 to 0xFF, running status resolved."""
    first: Ints
    """[n]: the first byte of data; of a meta event, its type."""
    second: Ints
    """[n]: the second byte of data, and 0 where there is none."""
    place: Ints
    """[n]: where the data of a meta event lies in `data`."""
    size: Ints
    """[n]: its length."""
    data: bytes

    def payload(self, event: int) -> bytes:
        """The data of a meta event."""
        place = int(self.place[event])
        return self.data[place : place + int(self.size[event])]

    def metas(self, kind: int) -> list[int]:
        """Which events are meta events of a kind."""
        found: list[int] = np.flatnonzero((self.status == META) & (self.first == kind)).tolist()
        return found


@dataclass(frozen=True)
class Chunks:
    """A file's header, and the bytes of its tracks."""

    format: int
    """0, one track, or 1, several at once."""
    resolution: int
    """Ticks a quarter."""
    tracks: tuple[bytes, ...]


def chunks(data: bytes) -> Chunks:
    """Take a standard MIDI file apart, RIFF-wrapped (RMID) or not.

    Raises:
        DataError: it is none, is cut short, or of a kind that has no score time.
    """
    data = _unwrapped(data)
    if data[:4] != b"MThd":
        raise DataError("This is not a valid MIDI file: expected the header MThd.", _HINT)
    size = int.from_bytes(data[4:8], "big")
    if size < 6 or len(data) < 8 + size:
        raise DataError("The MIDI file is cut short in its header.", "Get the file again.")
    kind, count, division = struct.unpack(">HHH", data[8:14])
    if kind > 1:
        raise DataError(
            f"{kind} is not a valid type of MIDI file here: expected 0 or 1, whose tracks sound together.", _HINT
        )
    if division & 0x8000:
        raise DataError("The MIDI file counts film frames (SMPTE): expected ticks per quarter note.", _HINT)
    if not division:
        raise DataError("0 is not a valid number of ticks per quarter note: expected 1 to 32,767.", _HINT)
    return Chunks(kind, division, _tracks(data, 8 + size, count))


def parsed(data: bytes, most: int = MAX_EVENTS) -> Events:
    """The events of a track's chunk, up to its end-of-track event or, without one, its end.

    Args:
        most: events that it may have.

    Raises:
        DataError: it is damaged, or has more.
    """
    begins = _beginnings(data, most)
    # Zeros behind, so that what an event lacks can be read before it is refused.
    raw = np.frombuffer(data + bytes(_LINK), np.uint8)
    delta, width = _variable_length(raw, begins)
    at = begins + width
    stated = raw[at] >= 0x80
    status, at = _status(raw[at], stated), at + stated
    first, second = raw[at].astype(np.int64), raw[at + 1].astype(np.int64)
    single = (status >= PROGRAM) & (status < 0xE0)
    second[single] = 0
    system = status >= 0xF0
    if ((first >= 0x80) | (second >= 0x80))[~system].any():
        raise DataError("A MIDI track is damaged: expected data bytes below 128.", _HINT)
    meta = status == META
    size, place = np.zeros(len(at), np.int64), at.copy()
    size[system], width = _variable_length(raw, (at + meta)[system])
    place[system] += meta[system] + width
    second[system] = 0
    first[system & ~meta] = 0
    return Events(np.cumsum(delta), status, first, second, place, size, data)


def assembled(resolution: int, tracks: Sequence[bytes]) -> bytes:
    """The bytes of a file of type 1."""
    header = struct.pack(">4sIHHH", b"MThd", 6, 1, len(tracks), resolution)
    return header + b"".join(struct.pack(">4sI", b"MTrk", len(track)) + track for track in tracks)


def track_bytes(tick: Ints, messages: Bytes, sizes: Ints, length: int, opening: bytes = b"") -> bytes:
    """The bytes of a track's chunk.

    Args:
        tick: [n], in order.
        messages: [n, m]; of each event, the bytes from its status on.
        sizes: [n]: how many of the m bytes count.
        length: the tick at which the track ends.
        opening: events that come first.
    """
    delta = np.diff(np.append(0, np.append(tick, length)))
    prefix = np.stack([delta >> 21 & 127 | 128, delta >> 14 & 127 | 128, delta >> 7 & 127 | 128, delta & 127], axis=1)
    prefix_used = np.stack([delta >> 21 > 0, delta >> 14 > 0, delta >> 7 > 0, delta >= 0], axis=1)
    end = np.zeros((1, max(3, messages.shape[1])), np.uint8)
    end[0, :3] = META, END, 0
    wide = np.zeros((len(messages), end.shape[1]), np.uint8)
    wide[:, : messages.shape[1]] = messages
    rows = np.concatenate([prefix.astype(np.uint8), np.concatenate([wide, end])], axis=1)
    used = np.concatenate([prefix_used, np.arange(end.shape[1]) < np.append(sizes, 3)[:, None]], axis=1)
    return opening + bytes(rows[used].tobytes())


def meta_event(kind: int, data: bytes) -> bytes:
    """One meta event, at once after what stands before it."""
    size, digits = len(data), [len(data) & 127]
    while size := size >> 7:
        digits.insert(0, size & 127 | 128)
    return bytes([0, META, kind, *digits]) + data


def _unwrapped(data: bytes) -> bytes:
    """The MIDI file inside a RIFF file, or the data as they are."""
    if data[:4] != b"RIFF" or data[8:12] != b"RMID":
        return data
    place = 12
    while place + 8 <= len(data):
        name, size = struct.unpack("<4sI", data[place : place + 8])
        if name == b"data":
            return data[place + 8 : place + 8 + size]
        place += 8 + size + size % 2
    raise DataError("The RIFF file has no MIDI in it: expected a chunk called data.", _HINT)


def _tracks(data: bytes, place: int, count: int) -> tuple[bytes, ...]:
    """As many tracks as the header states; other chunks are passed over."""
    found: list[bytes] = []
    while len(found) < count:
        if place + 8 > len(data):
            missing = count - len(found)
            raise DataError(
                f"The MIDI file is cut short: {missing} of its {count} tracks are missing.", "Get the file again."
            )
        name, size = struct.unpack(">4sI", data[place : place + 8])
        if place + 8 + size > len(data):
            raise DataError("The MIDI file is cut short: a track is longer than the file.", "Get the file again.")
        if name == b"MTrk":
            found.append(data[place + 8 : place + 8 + size])
        place += 8 + size
    return tuple(found)


def _status(at: Bytes, stated: NDArray[np.bool_]) -> Ints:
    """Each event's status: its own, or that of the last channel event before it."""
    status = at.astype(np.int64)
    channel = stated & (status < 0xF0)
    source = np.maximum.accumulate(np.where(channel, np.arange(len(at)), -1))
    if ((source < 0) & ~stated).any():
        raise DataError("A MIDI track is damaged: expected a status byte before the first data.", _HINT)
    return np.where(stated, status, status[source])


def _beginnings(data: bytes, most: int) -> Ints:
    """Where each event begins: the walk along the chain."""
    found: list[Ints] = []
    total, here, end = 0, 0, 2 * len(data)
    while here < end:
        base = here >> 1
        links = _links(data[base : base + _BLOCK + _LINK]).data  # not a list: only few are looked up
        here, stop = here - 2 * base, 2 * min(_BLOCK, len(data) - base)
        walked = []
        while 0 <= here < stop:
            walked.append(here >> 1)
            here = links[here]
        total += len(walked)
        found.append(np.array(walked, np.int64) + base)
        if total > most:
            raise DataError(f"The MIDI file has too many events: expected at most {MAX_EVENTS:,}.", _HINT)
        if here == _FINAL:
            break
        if here < 0:
            raise DataError("A MIDI track is damaged: expected an event where there is none.", _HINT)
        here += 2 * base
    else:
        if here > end + 1:
            raise DataError("A MIDI track is damaged: its last event is cut short.", _HINT)
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _links(block: bytes) -> Ints:
    """[2 n]: for each byte and running status, where the next event begins if one begins here.

    Places are doubled; what is added is 1 when a running status has two bytes of data, and 0 when it has one.
    """
    raw = np.frombuffer(block + bytes(_LINK), np.uint8)
    count = len(block)
    more = raw >= 0x80
    # Where the status or, under running status, the data come: after a delta of one to four bytes.
    at, longer = np.arange(1, count + 1), more[:count]
    for byte in range(1, 4):
        at += longer
        longer = longer & more[byte : byte + count]
    links = np.stack([2 * (at + 1), 2 * (at + 2) + 1], axis=1)

    stated = np.flatnonzero(more[at])
    status = raw[at[stated]]
    two = (status < PROGRAM) | (status >= 0xE0)  # 0xC0 to 0xDF have one byte of data
    links[stated] = (2 * (at[stated] + 2 + two) + two)[:, None]

    system = stated[status >= 0xF0]
    status, kind = raw[at[system]], raw[at[system] + 1]
    meta = status == META
    size, digits = _variable_length(raw, at[system] + 1 + meta)
    links[system] = 2 * (at[system] + 1 + meta + digits + size)[:, None] + [0, 1]
    links[system[(status > 0xF0) & (status != 0xF7) & ~meta | (digits > 4)]] = _BROKEN
    links[system[meta & (kind == END)]] = _FINAL
    links[longer] = _BROKEN
    return links.ravel()


def _variable_length(raw: Bytes, place: Ints) -> tuple[Ints, Ints]:
    """The numbers of variable length at these places, and their bytes; 5 where they do not end after four."""
    byte = raw[np.minimum(place, len(raw) - 1)]
    value, width = (byte & 127).astype(np.int64), np.ones(len(place), np.int64)
    longer = np.flatnonzero(byte & 128)
    for step in range(1, 4):
        width[longer] += 1
        byte = raw[np.minimum(place[longer] + step, len(raw) - 1)]
        value[longer] = value[longer] << 7 | byte & 127
        longer = longer[byte >= 128]
    width[longer] += 1
    return value, width
