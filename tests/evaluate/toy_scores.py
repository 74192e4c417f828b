"""Scores to measure: some made by hand, and any."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from musicldm.media.notes.score import Score, Track, separate

Row = tuple[int, int, int]


def score(*notes: Row, length: int | None = None, velocity: int = 64, pedals: Any = (), **fields: Any) -> Score:
    """A score on the grid of notes of start, end and pitch, none of which is struck again while it is down."""
    start, end, pitch = np.array(notes, np.int64).reshape(-1, 3).T
    track = Track(start, end, pitch, np.full(len(start), velocity), pedals=np.array(pedals, np.int64).reshape(-1, 2))
    return Score(24, max(int(end.max(initial=0)), length or 0), (track,), **fields)


def tune(pitches: list[int], each: int = 12, **fields: Any) -> Score:
    """Notes one after the other, of so many steps each."""
    return score(*((each * i, each * (i + 1), pitch) for i, pitch in enumerate(pitches)), **fields)


def music(bars: int, seed: int = 0) -> Score:
    """A melody in C major that wanders, of four to sixteen notes a bar of 4/4, above held fifths."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    degree = 0
    for bar in range(bars):
        unit = int(rng.choice([6, 12, 24]))
        for start in range(96 * bar, 96 * (bar + 1), unit):
            degree = int(np.clip(degree + rng.integers(-2, 3), -7, 14))
            rows.append((start, start + unit, 72 + 12 * (degree // 7) + (0, 2, 4, 5, 7, 9, 11)[degree % 7]))
        root = int(rng.choice([36, 41, 43]))
        rows += [(96 * bar, 96 * bar + 96, root), (96 * bar, 96 * bar + 96, root + 7)]
    return score(*rows)


@st.composite
def anything(draw: st.DrawFn) -> Score:
    """Some notes, in bars of any length."""
    length = draw(st.integers(24, 24 * 24))
    notes = st.tuples(st.integers(0, length - 1), st.integers(1, 60), st.integers(40, 80), st.integers(1, 127))
    rows = np.array(draw(st.lists(notes, min_size=1, max_size=40))).T
    columns = separate(rows[0], np.minimum(rows[0] + rows[1], length), rows[2], rows[3]).columns
    metre = [[0, draw(st.integers(1, 9)), draw(st.sampled_from([2, 4, 8, 16]))]]
    return Score(24, length, (Track(*columns),), metres=np.array(metre))
