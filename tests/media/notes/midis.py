"""MIDI files made by hand, byte for byte, and any scores."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from hypothesis import strategies as st

from musicldm.media.notes.score import Score, Track, separate

Event = tuple[int, bytes]
"""Ticks after the event before, and its bytes."""

END: Event = (0, b"\xff\x2f\x00")


def on(pitch: int, velocity: int = 64, channel: int = 0) -> bytes:
    return bytes([0x90 | channel, pitch, velocity])


def off(pitch: int, channel: int = 0) -> bytes:
    return bytes([0x80 | channel, pitch, 0])


def meta(kind: int, data: bytes) -> bytes:
    return bytes([0xFF, kind, len(data)]) + data


def variable(number: int) -> bytes:
    """A number of variable length."""
    digits = [number & 127]
    while number := number >> 7:
        digits.insert(0, number & 127 | 128)
    return bytes(digits)


def chunk(*events: Event, ended: bool = True) -> bytes:
    """A track of these events."""
    data = b"".join(variable(delta) + event for delta, event in (*events, *([END] if ended else [])))
    return struct.pack(">4sI", b"MTrk", len(data)) + data


def midi(*chunks: bytes, kind: int = 1, division: int = 480, count: int | None = None) -> bytes:
    """A file of these tracks."""
    count = len(chunks) if count is None else count
    return struct.pack(">4sIHHH", b"MThd", 6, kind, count, division) + b"".join(chunks)


def note(pitch: int = 60, length: int = 480) -> tuple[Event, Event]:
    return (0, on(pitch)), (length, off(pitch))


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12).map(lambda text: " ".join(text.split()))


@st.composite
def tracks(draw: st.DrawFn, /, length: int, **fixed: Any) -> Track:
    """A track that fits into so many ticks."""
    ticks = st.integers(0, length - 1)
    notes = st.tuples(ticks, st.integers(1, length), st.integers(21, 108), st.integers(1, 127))
    rows = draw(st.lists(notes, min_size=1, max_size=12))
    columns = np.array([(start, min(start + long, length), *rest) for start, long, *rest in rows]).T
    drums = fixed["is_drum"] if "is_drum" in fixed else draw(st.booleans())
    edges = sorted(draw(st.sets(st.integers(0, length), max_size=6)))
    pedals = [] if drums else edges[: len(edges) // 2 * 2]
    fields = {"program": draw(st.integers(0, 127)), "name": draw(TEXTS), **fixed, "is_drum": drums}
    return Track(*separate(*columns).columns, pedals=np.array(pedals, np.int64).reshape(-1, 2), **fields)


@st.composite
def scores(draw: st.DrawFn) -> Score:
    """Any score that a MIDI file can hold."""
    resolution = 24 * draw(st.sampled_from([1, 2, 20, 40, 1365]))
    length = draw(st.integers(1, 40 * resolution))
    ticks = st.integers(0, length - 1)

    def events(*values: st.SearchStrategy[int]) -> list[tuple[int, ...]]:
        found = draw(st.dictionaries(ticks, st.tuples(*values), max_size=5))
        found[0] = draw(st.tuples(*values))
        return [(tick, *found[tick]) for tick in sorted(found)]

    return Score(
        resolution,
        length,
        tuple(draw(st.lists(tracks(length), min_size=1, max_size=20))),
        tempos=np.array(events(st.integers(1, 0xFFFFFF))),
        metres=np.array(events(st.integers(1, 255), st.sampled_from([1, 2, 4, 8, 16, 32, 64]))),
        title=draw(TEXTS),
        artist=draw(TEXTS),
    )


@st.composite
def gridded(draw: st.DrawFn) -> Score:
    """A score on the grid, of one piano, whose metres change where bars end, as a roll can say it."""
    parts = draw(
        st.lists(
            st.tuples(st.integers(1, 9), st.sampled_from([1, 2, 4, 8, 16]), st.integers(2, 4)), min_size=1, max_size=3
        )
    )
    metres: list[tuple[int, int, int]] = []
    length = 0
    for numerator, denominator, bars in parts:
        if not metres or metres[-1][1:] != (numerator, denominator):
            metres.append((length, numerator, denominator))
        length += bars * numerator * 96 // denominator
    tempos = draw(st.dictionaries(st.integers(1, length - 1), st.integers(200_000, 2_000_000), max_size=5))
    found = [(0, draw(st.integers(200_000, 2_000_000)))]
    for tick in sorted(tempos):
        if tempos[tick] != found[-1][1]:
            found.append((tick, tempos[tick]))
    track = draw(tracks(length, is_drum=False, program=0, name=""))
    return Score(24, length, (track,), tempos=np.array(found), metres=np.array(metres))
