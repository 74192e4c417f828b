r"""The tracks of a store as a table: numeric columns for all of them, and the rest of a track when it is needed.

The segments' metadata has all of it, but a million tracks are half a gigabyte of JSON. So a store may have a file
`index` beside its segments, which is mapped and not read:

    "musicldm-index\n", the length of the next piece as uint64, and the crc32c of that piece as uint64
    JSON: the tables of the segments, the artists' names, the number of rows, and whether all of them count
    the columns (`COLUMNS`), at a multiple of 64
    the tracks as JSON, one after another

It is derived: made anew from the segments whenever it does not fit them.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Annotated, Any, overload

import google_crc32c
import numpy as np
import numpy.typing as npt

from musicldm.core.config import Between, from_dict
from musicldm.core.errors import DataError
from musicldm.core.reading import parse_json
from musicldm.latents.schema import SegmentTable, TrackEntry
from musicldm.latents.storage import Bytes

INDEX = "index"
_MAGIC = b"musicldm-index\n"

COLUMNS = np.dtype(
    [
        # 64 bits are enough: among a million tracks the chance that any two keys agree in them is 3 in 10⁸.
        ("key", "<u8"),  # the first 64 bits of the track's key
        ("home", "<u8"),  # a hash of its folder and source; 0 where it has none
        ("segment", "<u4"),  # which of the segments
        ("artist", "<u4"),  # which of the artists
        ("offset", "<u8"),
        ("frames", "<u8"),
        ("samples", "<u8"),
        ("heldout", "?"),
        ("json", "<u8"),  # where the rest begins, and how long it is
        ("length", "<u4"),
        ("crc", "<u4"),  # of that
    ]
)
Columns = npt.NDArray[np.void]


@dataclass(frozen=True)
class TrackTable(Sequence[TrackEntry]):
    """Tracks of a store, in the order of their segments' names (the time of the commit) and of their offsets.

    Also a `Sequence` of all that is known of each track.
    """

    segments: list[SegmentTable]
    artists: list[str]
    columns: Columns
    """One row for each track; see `COLUMNS`."""
    text: list[tuple[int, Bytes]]
    """The tracks as JSON, in pieces: the number at which it begins, counted through all, and the bytes."""
    all_count: bool = False
    """Whether it is known that `counting` leaves nothing out."""
    origin: str = INDEX
    """The file that it was read from, for sentences."""

    @classmethod
    def of(cls, segments: Iterable[tuple[SegmentTable, list[dict[str, Any]]]]) -> TrackTable:
        """The table of these segments and their tracks, all of them."""
        tables, artists, rows = [], dict[str, int](), []
        text = bytearray()
        for number, (table, tracks) in enumerate(segments):
            tables.append(table)
            for track in tracks:
                data = json.dumps(track, ensure_ascii=False).encode()
                home = f"{track['folder']}/{track['source']}"
                rows.append(
                    (
                        int(track["key"][:16], 16),
                        _hash(home) if home != "/" else 0,
                        number,
                        artists.setdefault(track["artist"], len(artists)),
                        track["offset"],
                        track["frames"],
                        track["samples"],
                        track["split"] == "heldout",
                        len(text),
                        len(data),
                        google_crc32c.value(data),
                    )
                )
                text += data
        return cls(tables, list(artists), np.array(rows, COLUMNS), [(0, np.frombuffer(bytes(text), np.uint8))])

    # ---- What is in it ----

    def __len__(self) -> int:
        return len(self.columns)

    @overload
    def __getitem__(self, row: int) -> TrackEntry: ...
    @overload
    def __getitem__(self, row: slice) -> TrackTable: ...
    def __getitem__(self, row: int | slice) -> TrackEntry | TrackTable:
        if isinstance(row, slice):
            return replace(self, columns=self.columns[row])
        segment = self.segments[self.columns[row]["segment"]]
        try:
            entry = TrackEntry.from_dict(segment.id, parse_json(self._json(row)))
            if entry.offset + entry.frames <= segment.frames:
                return entry
        except (ValueError, AttributeError) as error:
            if isinstance(error, DataError):
                raise
        raise self._damaged()

    def __iter__(self) -> Iterator[TrackEntry]:
        return (self[row] for row in range(len(self)))

    # A dataclass would compare the arrays, whose truth value is an error. Nobody needs more than identity.
    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    # ---- Other tables made of it ----

    def chosen(self, rows: npt.NDArray[Any]) -> TrackTable:
        """Some of the tracks, by their numbers or as one boolean for each."""
        return replace(self, columns=self.columns[rows], all_count=self.all_count)

    def artist_of_each(self) -> list[str]:
        """The artist of each track, as it was spelled when the track was encoded."""
        return [self.artists[number] for number in self.columns["artist"].tolist()]

    def counts(self) -> dict[str, int]:
        """The number of tracks in each segment."""
        counts = np.bincount(self.columns["segment"], minlength=len(self.segments))
        return {segment.id: count for segment, count in zip(self.segments, counts.tolist(), strict=True)}

    def rows_of(self, segment: int) -> TrackTable:
        """The tracks in one of the segments."""
        start, stop = np.searchsorted(self.columns["segment"], [segment, segment + 1])
        return self[start:stop]

    def of_segments(self, ids: Collection[str]) -> TrackTable:
        """What is in some of the segments."""
        kept = [number for number, segment in enumerate(self.segments) if segment.id in ids]
        # The usual case, in which the mapped columns are not copied.
        if len(kept) == len(self.segments):
            return self
        numbers = np.zeros(len(self.segments), "<u4")
        numbers[kept] = np.arange(len(kept))
        columns = self.columns[np.isin(self.columns["segment"], kept)]
        columns["segment"] = numbers[columns["segment"]]
        return replace(self, segments=[self.segments[number] for number in kept], columns=columns)

    def and_those(self, other: TrackTable) -> TrackTable:
        """The tracks of both, which have no segment in common."""
        if not other.segments:
            return self
        shift = sum(len(piece) for _, piece in self.text)
        artists = {name: number for number, name in enumerate(self.artists)}
        their_artists = [artists.setdefault(name, len(artists)) for name in other.artists]
        theirs = other.columns.copy()
        theirs["segment"] += len(self.segments)
        theirs["artist"] = np.array(their_artists, "<u4")[theirs["artist"]]
        theirs["json"] += shift
        segments = self.segments + other.segments
        order = sorted(range(len(segments)), key=lambda number: segments[number].id)
        columns = np.concatenate([self.columns, theirs])
        if order != list(range(len(segments))):
            columns["segment"] = np.argsort(order).astype("<u4")[columns["segment"]]
            columns = columns[np.argsort(columns["segment"], kind="stable")]
        text = self.text + [(shift + begin, piece) for begin, piece in other.text]
        return TrackTable([segments[number] for number in order], list(artists), columns, text, origin=self.origin)

    def counting(self) -> TrackTable:
        """The tracks that count: of the same file only the latest, and of the same key only the first."""
        if self.all_count:
            return self
        homes, keys = self.columns["home"], self.columns["key"]
        # np.unique returns where a value occurs first; backwards, that is where it occurs last.
        at_home = np.flatnonzero(homes)[::-1]
        _, latest = np.unique(homes[at_home], return_index=True)
        counts = homes == 0
        counts[at_home[latest]] = True
        rows = np.flatnonzero(counts)
        _, first = np.unique(keys[rows], return_index=True)
        return self if len(first) == len(self) else self.chosen(np.sort(rows[first]))

    # ---- The file ----

    def to_bytes(self) -> bytes:
        """The index of a store that has these segments."""
        columns = self.columns.copy()
        lengths = columns["length"].astype("<u8")
        columns["json"] = np.cumsum(lengths) - lengths
        rows = [self._json(row) for row in range(len(self))]
        facts = {
            "parts": [segment.to_dict() for segment in self.segments],
            "artists": self.artists,
            "rows": len(self),
            "crc": google_crc32c.value(columns.tobytes()),
            # Found out once, when the index is written: to find out takes sorting all tracks, and opening should not.
            "all_count": len(self.counting()) == len(self),
        }
        head = json.dumps(facts).encode()
        # Aligned, the mapped columns can be used where they lie.
        begin = _MAGIC + np.array([len(head), google_crc32c.value(head)], "<u8").tobytes() + head
        return b"".join([begin, bytes(-len(begin) % 64), columns.tobytes(), *rows])

    @classmethod
    def from_bytes(cls, data: Bytes, origin: str, channels: int) -> TrackTable | None:
        """The table in an index, and whether all of its tracks count; None where it is cut short or was changed.

        Args:
            channels: of the store.
        """
        begin = len(_MAGIC) + 16
        if data[: len(_MAGIC)].tobytes() != _MAGIC or len(data) < begin:
            return None
        length, crc = np.frombuffer(data[len(_MAGIC) : begin].tobytes(), "<u8").tolist()
        text = data[begin : begin + length].tobytes()
        if google_crc32c.value(text) != crc:
            return None
        # Anybody can make a checksum fit, so what is in it is checked all the same.
        try:
            head = from_dict(_Head, parse_json(text), unknown="pass over")
            segments = [SegmentTable.from_dict(segment) for segment in head.parts]
            for segment in segments:
                segment.check_tracks([], channels)
        except (ValueError, AttributeError):
            return None
        start = begin + length + -(begin + length) % 64
        stop = start + head.rows * COLUMNS.itemsize
        raw = data[start:stop]
        if len(raw) != stop - start or google_crc32c.value(raw.tobytes()) != head.crc:
            return None
        table = cls(segments, head.artists, raw.view(COLUMNS), [(0, data[stop:])], head.all_count, origin)
        return table if table._fits() else None

    def _fits(self) -> bool:
        """Whether every row is about a segment, an artist, frames and text that are there."""
        columns = self.columns
        if not len(columns):
            return True
        if columns["segment"].max() >= len(self.segments) or columns["artist"].max() >= len(self.artists):
            return False
        frames = np.array([segment.frames for segment in self.segments], "<u8")[columns["segment"]]
        length = columns["length"].astype("<u8")
        there = len(self.text[0][1])
        # Compared by what is left, since sums of 64 bits would overflow. The segments are in order, by which the rows
        # of one are found.
        return bool(
            (columns["frames"] <= frames).all()
            and (columns["offset"] <= frames - columns["frames"]).all()
            and (length <= there).all()
            and (columns["json"] <= there - length).all()
            and (np.diff(columns["segment"].astype(np.int64)) >= 0).all()
            and (columns["samples"] < 1 << 48).all()
        )

    def _damaged(self) -> DataError:
        return DataError(f"{self.origin} is damaged: a track in it was changed.", "Delete that file; it is derived.")

    def _json(self, row: int) -> bytes:
        columns = self.columns[row]
        start, length = int(columns["json"]), int(columns["length"])
        begin, piece = self.text[bisect_right(self.text, start, key=itemgetter(0)) - 1]
        data = piece[start - begin : start - begin + length].tobytes()
        # Checked when a track is asked for. To check all on opening would read the whole file, which the index is there
        # to avoid.
        if google_crc32c.value(data) != columns["crc"]:
            raise self._damaged()
        return data


@dataclass(frozen=True)
class _Head:
    """What an index says of itself."""

    parts: list[dict[str, Any]]
    artists: list[str]
    rows: Annotated[int, Between(0, 1 << 32)]
    crc: int
    all_count: bool


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
