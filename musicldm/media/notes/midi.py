"""MIDI files <-> scores.

A file is judged by its content. One that cannot be meant is refused before anything of its size is made; what players
would put up with is put right, and counted, so that nothing changes in silence.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from musicldm.core import durable
from musicldm.core.errors import DataError
from musicldm.core.reading import head
from musicldm.media.notes import events
from musicldm.media.notes.events import Events
from musicldm.media.notes.score import (
    DENOMINATORS,
    MAX_RESOLUTION,
    METRE,
    STEPS,
    TEMPO,
    Ints,
    Score,
    Track,
    latest,
)
from musicldm.media.notes.tracks import DRUMS, PEDAL, Repairs, strikes, tracks_of

MAX_NOTES = 500_000
MAX_HOURS = 12
MAX_QUARTERS = 131_072

_MELODIC = [channel for channel in range(16) if channel != DRUMS]
_ARTIST = "Artist: "
_COMMENT = b"musicldm: "
_LONGEST_TEXT = 1000  # bytes
_JAPANESE = re.compile("[\u3040-\u30ff\u4e00-\u9fff]{2}")
_ANYTHING = re.compile("")

_HINT = "Look at it in a sequencer, or leave it out."


def is_midi(source: Path | bytes) -> bool:
    """Whether a file, or its bytes, begin as MIDI does; False where it cannot be read."""
    if isinstance(source, Path):
        source = head(source, 12)
    return source[:4] == b"MThd" or (source[:4] == b"RIFF" and source[8:12] == b"RMID")


def read_midi(source: Path | bytes) -> tuple[Score, Repairs]:
    """Read a MIDI file of type 0 or 1, or its bytes.

    A track is what one channel of one of the file's tracks plays on one instrument. The pedal acts on its channel,
    whichever of the file's tracks it stands in.

    Raises:
        DataError: it is no such file, is damaged, has no notes, or more or longer than MAX_NOTES, MAX_HOURS and
            MAX_QUARTERS allow.
    """
    file = events.chunks(_bytes(source))
    parts: list[Events] = []
    for chunk in file.tracks:
        parts.append(events.parsed(chunk, events.MAX_EVENTS - sum(len(part.tick) for part in parts)))
    notes = sum(int(strikes(part).sum()) for part in parts)
    if not notes:
        raise DataError("The MIDI file has no notes.", "Leave it out.")
    if notes > MAX_NOTES:
        raise DataError(f"The MIDI file has {notes:,} notes: expected at most {MAX_NOTES:,}.", _HINT)
    resolution, parts, rounded = _on_ticks(file.resolution, parts)
    frame = _frame(resolution, parts)
    texts = _Texts(parts, file.format)
    tracks, repairs = tracks_of(parts, resolution, frame.length, texts.names)
    # A note that was given an end may end after the file does.
    length = max(frame.length, *(int(track.end.max()) for track in tracks))
    score = replace(frame, length=length, tracks=tuple(tracks), title=texts.title, artist=texts.artist)
    return score, repairs + Repairs(rounded=rounded, text=texts.foreign)


def comment_of(source: Path | bytes) -> str:
    """The comment that `write_midi` put into a MIDI file, or its bytes; empty where there is none.

    Raises:
        DataError: it is no such file, or is damaged.
    """
    for chunk in events.chunks(_bytes(source)).tracks[:1]:
        part = events.parsed(chunk)
        for event in part.metas(events.TEXT):
            data = part.payload(event)
            if data.startswith(_COMMENT):
                return data[len(_COMMENT) :].decode(errors="replace")
    return ""


def write_midi(score: Score, path: Path | None = None, comment: str = "") -> bytes:
    """The bytes of a MIDI file of type 1, one of its tracks for each of the score's; also into `path`, if given.

    `read_midi` reads the same score, but for tracks without notes.

    Args:
        comment: text about the file, which `comment_of` reads.

    Raises:
        DataError: a rest is longer than a MIDI file can say, 268,435,455 ticks.
        OutputError: `path` cannot be written.
    """
    if score.length > 0x0FFFFFFF:
        raise DataError("The score is too long for a MIDI file: expected at most 268,435,455 ticks.")
    melodic = itertools.count()
    chunks = [_conductor(score, comment)]
    for track in score.tracks:
        chunks.append(_chunk(track, 0 if track.is_drum else next(melodic), score.length))
    data = events.assembled(score.resolution, chunks)
    if path is not None:
        durable.make_folder(path.parent)
        durable.write_bytes(path, data)
    return data


# ---- Reading


def _bytes(source: Path | bytes) -> bytes:
    data = source if isinstance(source, bytes) else _read(source)
    if len(data) > events.MAX_BYTES:
        raise DataError(f"The MIDI file is too large: expected at most {events.MAX_BYTES >> 20} MiB.", _HINT)
    return data


def _read(path: Path) -> bytes:
    """A file's bytes; of one that is too large, as many as show it."""
    try:
        # A pipe would be waited for, and a device has no end.
        if not path.is_file():
            raise DataError(f"{path} is not a file.", "Check the path.")
        with path.open("rb") as file:
            return file.read(events.MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from error


def _on_ticks(division: int, parts: list[Events]) -> tuple[int, list[Events], int]:
    """A resolution that a score may have, the events in its ticks, and how many of them do not lie there exactly."""
    resolution = division * STEPS // math.gcd(division, STEPS)
    if resolution > MAX_RESOLUTION:
        resolution = min(max(round(division / STEPS), 1) * STEPS, MAX_RESOLUTION)
    if resolution == division:
        return resolution, parts, 0
    moved, rounded = [], 0
    for part in parts:
        tick, rest = np.divmod(2 * part.tick * resolution + division, 2 * division)
        moved.append(replace(part, tick=tick))
        rounded += int((rest != division).sum())
    return resolution, moved, rounded


def _frame(resolution: int, parts: Sequence[Events]) -> Score:
    """The score without its notes: how long, how fast, and in which metres."""
    length = max((int(part.tick[-1]) for part in parts if len(part.tick)), default=0)
    if length > MAX_QUARTERS * resolution or length > 0x0FFFFFFF:
        raise DataError(
            f"The MIDI file lasts {length / resolution:,.0f} quarter notes: expected at most {MAX_QUARTERS:,}.", _HINT
        )
    tempos, metres = [np.array([[0, TEMPO]])], [np.array([[0, *METRE]])]
    for part in parts:
        tempos.append(_tempos(part))
        metres.append(_metres(part))
    frame = Score(resolution, length, (), _in_order(tempos, length), _in_order(metres, length))
    if frame.duration > 3600 * MAX_HOURS:
        raise DataError(f"The MIDI file lasts {frame.duration / 3600:,.1f} hours: expected at most {MAX_HOURS}.", _HINT)
    return frame


def _in_order(lists: list[Ints], length: int) -> Ints:
    found = np.concatenate(lists)
    return latest(found[np.argsort(found[:, 0], kind="stable")], length)


def _tempos(part: Events) -> Ints:
    """Its tempo events [n, 2]."""
    chosen = (part.status == events.META) & (part.first == events.SET_TEMPO)
    place, raw = part.place[chosen], np.frombuffer(part.data, np.uint8).astype(np.int64)
    if (part.size[chosen] != 3).any():
        raise DataError("A tempo in the MIDI file is damaged: expected three bytes.", _HINT)
    tempo = raw[place] << 16 | raw[place + 1] << 8 | raw[place + 2]
    if (tempo == 0).any():
        raise DataError("0 is not a valid tempo: expected 1 or more microseconds per quarter note.", _HINT)
    return np.stack([part.tick[chosen], tempo], axis=1)


def _metres(part: Events) -> Ints:
    """Its metres [n, 3]."""
    found = []
    for event in part.metas(events.TIME_SIGNATURE):
        data = part.payload(event)
        if len(data) < 2:
            raise DataError("A time signature in the MIDI file is damaged: expected four bytes.", _HINT)
        if not data[0] or data[1] >= len(DENOMINATORS):
            raise DataError(
                f"{data[0]}/2^{data[1]} is not a valid time signature: expected 1 beat or more of 1/1 to "
                f"1/{DENOMINATORS[-1]}.",
                _HINT,
            )
        found.append((int(part.tick[event]), data[0], 1 << data[1]))
    return np.array(found, np.int64).reshape(-1, 3)


class _Texts:
    """The title, the artist, and the names of the tracks."""

    def __init__(self, parts: Sequence[Events], format: int) -> None:
        self.foreign = 0
        self.title, self.artist = "", ""
        self.names = [self._first(part, events.NAME) for part in parts]
        # What is called the name of the first track is the whole file's, if the track only conducts or is the only one.
        if self.names and (format == 0 or not strikes(parts[0]).any()):
            self.title, self.names[0] = self.names[0], ""
        for part in parts:
            for event in part.metas(events.TEXT):
                self._text(part.payload(event))

    def _text(self, data: bytes) -> None:
        if data.startswith(_ARTIST.encode()) and not self.artist:
            self.artist = self._decoded(data[len(_ARTIST) :])
        elif data.startswith(b"@T"):  # of karaoke files: the title, then who sings it
            if not self.title:
                self.title = self._decoded(data[2:])
            elif not self.artist:
                self.artist = self._decoded(data[2:])

    def _first(self, part: Events, kind: int) -> str:
        found = part.metas(kind)
        return self._decoded(part.payload(found[0])) if found else ""

    def _decoded(self, data: bytes) -> str:
        """Text in whatever coding it is, on one line."""
        data = data[:_LONGEST_TEXT]
        try:
            text = data.decode()
        except UnicodeDecodeError:
            self.foreign += 1
            text = _guessed(data)
        return " ".join(text.replace("\0", " ").split())


def _guessed(data: bytes) -> str:
    """Shift-JIS where that makes Japanese, else Latin-1 with Windows' additions."""
    for coding, sense in (("cp932", _JAPANESE), ("cp1252", _ANYTHING)):
        try:
            text = data.decode(coding)
        except UnicodeDecodeError:
            continue
        # An accented letter and its neighbour can make one kanji by chance, hardly two in a row.
        if sense.search(text):
            return text
    return data.decode("latin-1")


# ---- Writing


def _conductor(score: Score, comment: str) -> bytes:
    """The first chunk: title, artist, comment, tempos, metres."""
    opening = events.meta_event(events.NAME, score.title.encode()) if score.title else b""
    if score.artist:
        opening += events.meta_event(events.TEXT, f"{_ARTIST}{score.artist}".encode())
    if comment:
        opening += events.meta_event(events.TEXT, _COMMENT + comment.encode())
    tempo, beats = score.tempos[:, 1], score.metres
    messages = np.zeros((len(tempo) + len(beats), 7), np.int64)
    messages[:, 0] = events.META
    messages[: len(tempo), 1:3] = events.SET_TEMPO, 3
    messages[: len(tempo), 3:6] = np.stack([tempo >> 16, tempo >> 8 & 255, tempo & 255], axis=1)
    messages[len(tempo) :, 1:3] = events.TIME_SIGNATURE, 4
    messages[len(tempo) :, 3] = beats[:, 1]
    messages[len(tempo) :, 4] = np.log2(beats[:, 2]).astype(np.int64)
    messages[len(tempo) :, 5:] = 24, 8  # MIDI clocks a click of the metronome, and 1/32 a quarter
    tick = np.concatenate([score.tempos[:, 0], beats[:, 0]])
    sizes = np.repeat([6, 7], [len(tempo), len(beats)])
    order = np.argsort(tick, kind="stable")
    return events.track_bytes(tick[order], messages[order].astype(np.uint8), sizes[order], score.length, opening)


def _chunk(track: Track, index: int, length: int) -> bytes:
    """One track.

    Args:
        index: among the tracks that have a channel of their own.
    """
    port, channel = (0, DRUMS) if track.is_drum else (index // len(_MELODIC), _MELODIC[index % len(_MELODIC)])
    opening = events.meta_event(events.NAME, track.name.encode()) if track.name else b""
    if port:
        opening += events.meta_event(events.PORT, bytes([port]))
    opening += bytes([0, events.PROGRAM | channel, track.program])

    # In the order in which they must come at one tick.
    down, up = track.pedals.T
    pedal = np.full(len(down), PEDAL)
    groups = [
        (track.end, events.NOTE_OFF, track.pitch, np.full(len(track), 64)),
        (up, events.CONTROL, pedal, np.zeros_like(pedal)),
        (down, events.CONTROL, pedal, np.full_like(pedal, 127)),
        (track.start, events.NOTE_ON, track.pitch, track.velocity),
    ]
    tick = np.concatenate([ticks for ticks, _, _, _ in groups])
    messages = np.concatenate(
        [np.stack([np.full_like(first, kind | channel), first, second], axis=1) for _, kind, first, second in groups]
    )
    order = np.argsort(tick, kind="stable")
    sizes = np.full(len(tick), 3)
    return events.track_bytes(tick[order], messages[order].astype(np.uint8), sizes, length, opening)
