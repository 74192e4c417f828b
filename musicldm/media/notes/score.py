"""Music as notes in score time: what a MIDI file says, without its bytes.

Times are ticks, `resolution` of them a quarter note. The tempo map leads from ticks to seconds, the metres to bars.
A score that breaks a rule given here cannot be made, so that nobody else has to check.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from musicldm.core.errors import DataError, UsageError

Ints = NDArray[np.int64]

STEPS = 24
"""Steps a quarter on the grid; every score's resolution is a multiple, so that the grid lies on ticks."""

MAX_RESOLUTION = 0x7FFF // STEPS * STEPS  # a MIDI file has 15 bits for it

TEMPO = 500_000
"""Microseconds a quarter where a file gives none: 120 quarters a minute."""

METRE = (4, 4)
"""Where a file gives none."""

DENOMINATORS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, eq=False)
class Track:
    """The notes of one instrument, in the order of their starts, then pitches; N notes, P pedal spans.

    Two notes of one pitch never overlap: like a piano's key, it must come up before it can be struck again.

    Raises:
        DataError: a note is shorter than a tick, overlaps another of its pitch, or has a value that MIDI has not.
    """

    start: Ints
    """Ticks [N]."""
    end: Ints
    """Ticks [N], each greater than its start."""
    pitch: Ints
    """MIDI note numbers [N], 0 to 127; 60 is the middle C."""
    velocity: Ints
    """1 to 127 [N]."""
    program: int = 0
    """The General MIDI instrument, 0 to 127; 0 is a piano."""
    is_drum: bool = False
    """Whether its pitches are drums; it has no pedal then."""
    name: str = ""
    pedals: Ints = field(default_factory=lambda: np.empty((0, 2), np.int64))
    """Ticks [P, 2] at which the sustain pedal goes down and up, disjoint and in order; two spans may touch."""

    def __post_init__(self) -> None:
        columns = [_ints(getattr(self, name)) for name in ("start", "end", "pitch", "velocity")]
        if len({column.shape for column in columns}) > 1 or columns[0].ndim != 1:
            raise DataError("The columns of the notes differ in length.", "Give one value of each for every note.")
        order = np.lexsort((columns[2], columns[0]))
        for name, column in zip(("start", "end", "pitch", "velocity"), columns, strict=True):
            object.__setattr__(self, name, _frozen(column[order]))
        object.__setattr__(self, "pedals", _frozen(_ints(self.pedals).reshape(-1, 2)))
        self._check()

    def _check(self) -> None:
        hint = "musicldm.media.notes.score.separate puts such notes right."
        if (self.start < 0).any() or (self.end <= self.start).any():
            raise DataError("A note is not valid: expected a start from 0 and an end after it.", hint)
        if _outside(self.pitch, 0, 127) or _outside(self.velocity, 1, 127):
            raise DataError("A note is not valid: expected a pitch of 0 to 127 and a velocity of 1 to 127.", hint)
        by_pitch = np.argsort(self.pitch, kind="stable")
        same = np.diff(self.pitch[by_pitch]) == 0
        if (same & (self.start[by_pitch][1:] < self.end[by_pitch][:-1])).any():
            raise DataError("Two notes of one pitch overlap: expected the first to end before the second starts.", hint)
        times = self.pedals.ravel()
        if (self.pedals[:, 0] >= self.pedals[:, 1]).any() or (np.diff(times) < 0).any() or (times < 0).any():
            raise DataError("The spans of the pedal are not valid: expected disjoint ones in order.")
        if not 0 <= self.program <= 127 or (self.is_drum and len(self.pedals)):
            raise DataError("A track is not valid: expected a program of 0 to 127, and no pedal for drums.")

    def __len__(self) -> int:
        return len(self.start)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Track) and _equal(self, other)


@dataclass(frozen=True, eq=False)
class Score:
    """A piece of music.

    Raises:
        DataError: see each field.
    """

    resolution: int
    """Ticks a quarter: a multiple of 24, at most 32,760."""
    length: int
    """In ticks; no note ends later."""
    tracks: tuple[Track, ...] = ()
    tempos: Ints = field(default_factory=lambda: np.array([[0, TEMPO]]))
    """[n, 2]: tick, and microseconds a quarter from there on. The first is at 0, all before `length`."""
    metres: Ints = field(default_factory=lambda: np.array([[0, *METRE]]))
    """[m, 3]: tick at which a bar begins, numerator, and denominator, a power of two up to 64. The first is at 0."""
    title: str = ""
    artist: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tracks", tuple(self.tracks))
        object.__setattr__(self, "tempos", _frozen(_ints(self.tempos).reshape(-1, 2)))
        object.__setattr__(self, "metres", _frozen(_ints(self.metres).reshape(-1, 3)))
        if self.resolution not in range(STEPS, MAX_RESOLUTION + 1, STEPS):
            raise DataError(
                f"{self.resolution} is not a valid resolution: expected a multiple of {STEPS} up to {MAX_RESOLUTION}."
            )
        for events in (self.tempos, self.metres):
            ticks = events[:, 0]
            if not len(ticks) or ticks[0] or (np.diff(ticks) <= 0).any() or ticks[-1] >= max(self.length, 1):
                raise DataError(
                    "Tempos and time signatures are not valid: expected the first at 0 and the others after it in "
                    "order, up to the end."
                )
        if _outside(self.tempos[:, 1], 1, 0xFFFFFF):
            raise DataError("A tempo is not valid: expected 1 to 16,777,215 microseconds per quarter note.")
        if _outside(self.metres[:, 1], 1, 255) or not np.isin(self.metres[:, 2], DENOMINATORS).all():
            raise DataError(
                "A time signature is not valid: expected 1 to 255 beats, and a denominator that is a power of two up "
                "to 64."
            )
        if any(times.max(initial=0) > self.length for track in self.tracks for times in (track.end, track.pedals)):
            raise DataError("A note or the pedal ends after the score: expected a longer score.")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Score) and _equal(self, other)

    @property
    def notes(self) -> int:
        """How many there are in all tracks."""
        return sum(map(len, self.tracks))

    @property
    def duration(self) -> float:
        """In seconds."""
        return float(self.seconds(self.length))

    def seconds(self, ticks: ArrayLike) -> NDArray[np.float64]:
        """When ticks sound."""
        ticks = np.asarray(ticks)
        first, tempo = self.tempos.T
        part = np.maximum(np.searchsorted(first, ticks, side="right") - 1, 0)
        microseconds: NDArray[np.float64] = (
            self._elapsed()[part] + (ticks - first[part]) * tempo[part] / self.resolution
        )
        return microseconds / 1e6

    def ticks(self, seconds: ArrayLike) -> NDArray[np.float64]:
        """Which ticks sound at these times; between two, a fraction."""
        microseconds = np.asarray(seconds) * 1e6
        first, tempo = self.tempos.T
        elapsed = self._elapsed()
        part = np.maximum(np.searchsorted(elapsed, microseconds, side="right") - 1, 0)
        ticks: NDArray[np.float64] = first[part] + (microseconds - elapsed[part]) * self.resolution / tempo[part]
        return ticks

    def bars(self) -> Ints:
        """The ticks at which bars begin."""
        return self._beats(self.metres[:, 1])

    def beats(self) -> Ints:
        """The ticks at which the metre's beats begin: in 6/8, the eighths."""
        return self._beats(np.ones(len(self.metres), np.int64))

    def transposed(self, semitones: int) -> Score:
        """The same, higher; drums stay what they are.

        Raises:
            UsageError: a note leaves MIDI's pitches.
        """
        pitches = [track.pitch for track in self.tracks if not track.is_drum and len(track)]
        if any(_outside(pitch + semitones, 0, 127) for pitch in pitches):
            raise UsageError(f"A transposition by {semitones} is not valid here: expected pitches to stay in 0 to 127.")
        moved = (track if track.is_drum else replace(track, pitch=track.pitch + semitones) for track in self.tracks)
        return replace(self, tracks=tuple(moved))

    def cut(self, first: int, last: int) -> Score:
        """The part from tick `first` up to `last`.

        A note belongs to it when it starts there, and ends with it at the latest. A bar begins with it: to keep the
        bars of the whole, cut where one begins.

        Raises:
            UsageError: no such part exists.
        """
        if not 0 <= first < last <= self.length:
            raise UsageError(
                f"{first} to {last} is not a valid range: expected ticks in order from 0 to {self.length}."
            )
        return replace(
            self,
            length=last - first,
            tracks=tuple(_cut(track, first, last) for track in self.tracks),
            tempos=_in_force(self.tempos, first, last),
            metres=_in_force(self.metres, first, last),
        )

    def merged(self) -> Score:
        """All tracks but drums as one, a piano's: a key that several strike at once is struck once."""
        melodic = [track for track in self.tracks if not track.is_drum]
        if len(melodic) < 2:
            return replace(self, tracks=tuple(melodic))
        notes = separate(*(np.concatenate(column) for column in zip(*map(_columns, melodic), strict=True)))
        pedals = union(np.concatenate([track.pedals for track in melodic]))
        return replace(self, tracks=(Track(*notes.columns, pedals=pedals),))

    def _elapsed(self) -> NDArray[np.float64]:
        """Microseconds until each tempo."""
        first, tempo = self.tempos.T
        return np.concatenate([[0], np.cumsum(np.diff(first) * tempo[:-1])]) / self.resolution

    def _beats(self, numerators: Ints) -> Ints:
        """The ticks of every so many beats of the metre in force."""
        found = []
        ends = np.append(self.metres[1:, 0], self.length)
        for first, end, numerator, denominator in zip(
            self.metres[:, 0].tolist(), ends.tolist(), numerators.tolist(), self.metres[:, 2].tolist(), strict=True
        ):
            # In ticks times the denominator, since a bar of 1/64 need not be a whole number of steps.
            bar = 4 * self.resolution * numerator
            starts = (np.arange(-(-(end - first) * denominator // bar)) * bar + denominator // 2) // denominator
            found.append(first + starts[starts < end - first])
        return np.concatenate(found).astype(np.int64)


@dataclass(frozen=True)
class Separated:
    """Notes of which none overlaps another of its pitch, and what had to be changed."""

    columns: tuple[Ints, Ints, Ints, Ints]
    """Start, end, pitch and velocity, as a track has them."""
    doubled: int
    """Notes that started together with another of their pitch; the longer end and the louder velocity are kept."""
    overlapping: int
    """Notes that now end where their pitch is struck again."""


def separate(start: ArrayLike, end: ArrayLike, pitch: ArrayLike, velocity: ArrayLike) -> Separated:
    """Put notes right that overlap others of their pitch; each must have a positive length."""
    order = np.lexsort((np.asarray(start), np.asarray(pitch)))
    starts, ends, pitches, velocities = (_ints(column)[order] for column in (start, end, pitch, velocity))
    if not len(starts):
        return Separated((starts, ends, pitches, velocities), 0, 0)
    again = (np.diff(pitches) == 0) & (np.diff(starts) == 0)
    kept = np.flatnonzero(np.append(True, ~again))
    ends, velocities = np.maximum.reduceat(ends, kept), np.maximum.reduceat(velocities, kept)
    starts, pitches = starts[kept], pitches[kept]
    struck = np.where(np.diff(pitches) == 0, starts[1:], np.iinfo(np.int64).max)  # when each is struck again
    overlapping = int((ends[:-1] > struck).sum())
    ends[:-1] = np.minimum(ends[:-1], struck)
    order = np.lexsort((pitches, starts))
    return Separated((starts[order], ends[order], pitches[order], velocities[order]), int(again.sum()), overlapping)


def union(spans: Ints) -> Ints:
    """Spans [P, 2] in any order -> the disjoint ones that cover the same; those that touch become one."""
    if not len(spans):
        return spans
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    reached = np.maximum.accumulate(spans[:, 1])
    first = np.append(True, spans[1:, 0] > reached[:-1])
    last = np.append(first[1:], True)
    return np.stack([spans[first, 0], reached[last]], axis=1)


def rescaled(score: Score, resolution: int) -> Score:
    """The same at other ticks a quarter: every time goes to the nearest tick, and nothing becomes shorter than one.

    Seconds are kept: where a tempo changes between two of the new ticks, the tick takes as long as it took before.

    Raises:
        DataError: the resolution is none that a score may have.
    """
    if resolution == score.resolution:
        return score

    def moved(ticks: Ints) -> Ints:
        return (2 * ticks * resolution + score.resolution) // (2 * score.resolution)

    tracks = []
    for track in score.tracks:
        start = moved(track.start)
        notes = separate(start, np.maximum(moved(track.end), start + 1), track.pitch, track.velocity)
        tracks.append(_with(track, notes, _apart(moved(track.pedals))))
    ends = [times.max(initial=0) for track in tracks for times in (track.end, track.pedals)]
    length = max(int(moved(np.array(score.length))), *map(int, ends), 0)
    metres = score.metres.copy()
    metres[:, 0] = moved(metres[:, 0])
    return replace(
        score,
        resolution=resolution,
        length=length,
        tracks=tuple(tracks),
        tempos=_kept_in_time(score, resolution, length),
        metres=latest(metres, length),
    )


def joined(scores: Sequence[Score]) -> Score:
    """One after the other, in the resolution and with the title and artist of the first.

    Tracks of one program and name become one.

    Raises:
        UsageError: there is none.
    """
    if not scores:
        raise UsageError("There is nothing to join: expected one score or more.")
    scores = [rescaled(score, scores[0].resolution) for score in scores]
    starts = np.cumsum([0, *(score.length for score in scores)]).tolist()
    tracks: dict[tuple[int, bool, str], list[Track]] = {}
    for offset, score in zip(starts, scores, strict=False):
        for track in score.tracks:
            later = replace(track, start=track.start + offset, end=track.end + offset, pedals=track.pedals + offset)
            tracks.setdefault((track.program, track.is_drum, track.name), []).append(later)

    def one_after_another(lists: Sequence[Ints]) -> Ints:
        later = [
            np.column_stack([events[:, :1] + offset, events[:, 1:]])
            for offset, events in zip(starts, lists, strict=False)
        ]
        return latest(np.concatenate(later), starts[-1])

    return replace(
        scores[0],
        length=starts[-1],
        tracks=tuple(_one_track(alike) for alike in tracks.values()),
        tempos=one_after_another([score.tempos for score in scores]),
        metres=one_after_another([score.metres for score in scores]),
    )


def latest(events: Ints, length: int) -> Ints:
    """Of events [n, …] in order of their ticks, the last of each tick, without those from `length` on."""
    events = events[(events[:, 0] < length) | (events[:, 0] == 0)]
    return events[np.append(np.diff(events[:, 0]) > 0, True)] if len(events) else events


def _with(track: Track, notes: Separated, pedals: Ints) -> Track:
    """The same instrument with other notes."""
    start, end, pitch, velocity = notes.columns
    return replace(track, start=start, end=end, pitch=pitch, velocity=velocity, pedals=pedals)


def _columns(track: Track) -> tuple[Ints, Ints, Ints, Ints]:
    return track.start, track.end, track.pitch, track.velocity


def _one_track(alike: Sequence[Track]) -> Track:
    """Tracks of one instrument as one."""
    if len(alike) == 1:
        return alike[0]
    notes = separate(*(np.concatenate(column) for column in zip(*map(_columns, alike), strict=True)))
    pedals = np.concatenate([track.pedals for track in alike])
    pedals = pedals[np.argsort(pedals[:, 0], kind="stable")]
    if (np.diff(pedals.ravel()) < 0).any():
        pedals = union(pedals)
    return _with(alike[0], notes, pedals)


def _cut(track: Track, first: int, last: int) -> Track:
    inside = (track.start >= first) & (track.start < last)
    pedals = np.clip(track.pedals, first, last) - first
    return replace(
        track,
        start=track.start[inside] - first,
        end=np.minimum(track.end[inside], last) - first,
        pitch=track.pitch[inside],
        velocity=track.velocity[inside],
        pedals=pedals[pedals[:, 0] < pedals[:, 1]],
    )


def _in_force(events: Ints, first: int, last: int) -> Ints:
    """Events [n, …] of a part, the one that is in force at its beginning included."""
    since = int(np.searchsorted(events[:, 0], first, side="right")) - 1
    found = events[since:][events[since:, 0] < last].copy()
    found[:, 0] = np.maximum(found[:, 0] - first, 0)
    return found


def _apart(pedals: Ints) -> Ints:
    """Pedals on new ticks: a tick at least between two, so that a lift of the foot is not lost, and none is empty."""
    starts, ends = pedals.T
    if len(pedals):
        starts = np.append(starts[0], np.maximum(starts[1:], ends[:-1] + 1))
    apart: Ints = np.stack([starts, ends], axis=1)[starts < ends]
    return apart


def _kept_in_time(score: Score, resolution: int, length: int) -> Ints:
    """The tempo map on new ticks, at which as many seconds have passed as at the same place before."""
    place = score.tempos[:, 0] * resolution
    ticks = np.unique(np.concatenate([place // score.resolution, -(-place // score.resolution)]))
    ticks = ticks[ticks < max(length, 1)]
    seconds = score.seconds(np.append(ticks, ticks[-1] + 1) * score.resolution / resolution)
    tempos = np.rint(np.diff(seconds) / np.diff(np.append(ticks, ticks[-1] + 1)) * resolution * 1e6)
    # The first tempo is in force before the first event too, and one that does not change needs no event.
    changes = np.append(True, np.diff(tempos) != 0)
    kept: Ints = np.stack([ticks, np.clip(tempos, 1, 0xFFFFFF).astype(np.int64)], axis=1)[changes]
    return kept


def _ints(values: ArrayLike) -> Ints:
    return np.asarray(values, np.int64)


def _frozen(values: Ints) -> Ints:
    values = np.array(values)  # a copy, which nobody else can change
    values.setflags(write=False)
    return values


def _outside(values: Ints, least: int, most: int) -> bool:
    return bool(len(values)) and bool(values.min() < least or values.max() > most)


def _equal(one: Track | Score, other: Track | Score) -> bool:
    """Whether two have equal fields."""
    return all(
        np.array_equal(mine, theirs) if isinstance(mine, np.ndarray) else bool(mine == theirs)
        for mine, theirs in ((getattr(one, each.name), getattr(other, each.name)) for each in fields(one))
    )
