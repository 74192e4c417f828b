"""What the crawl looks for and what it keeps: artists, tracks, and the names they get on disk.

The catalog itself is `catalog.jsonl` in the output folder: one JSON object a line, keyed by recording, the last line
of a recording wins. `fetched` records have a `path` relative to the folder, by which later steps find provenance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from musicldm.core.config import from_dict
from musicldm.core.durable import Journal
from musicldm.core.filenames import portable
from musicldm.core.reading import inside
from musicldm.crawl.titles import song_title, title_words

CATALOG = "catalog.jsonl"
_LONGEST = 180  # bytes of a name; file systems take 255, and the recording's id and an extension come on top

# What became of a song.
FETCHED = "fetched"  # the file is there, under `path`
NO_MATCH = "no-match"  # the source has nothing that fits
REFUSED = "refused"  # it has, but refuses; `reason` says why
UNLICENSED = "unlicensed"  # it has, but not under the requested licence
FAILED = "failed"  # the network failed, or it is not out yet; the next crawl tries again
MISSING = "missing"  # not tried yet: never in the catalog

Role = Literal["performer", "credited", "composer"]
"""What an artist is to a recording: the performer, on releases of theirs; credited, on anybody's; or the composer."""

INCLUDABLE = frozenset({"live", "remix", "compilation", "demo", "talk"})  # left out unless included


@dataclass(frozen=True)
class Artist:
    """An artist as MusicBrainz knows it; `note` distinguishes it from others of the same name."""

    id: str
    name: str
    note: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Track:
    """One recording of an artist, as it stands on one official release."""

    recording: str
    """The MusicBrainz id of the recording."""
    title: str
    artist: Artist
    seconds: float | None
    isrcs: tuple[str, ...] = ()
    release: str = ""
    """The title of the release."""
    release_id: str = ""
    year: int | None = None
    """When that release came out."""
    marks: frozenset[str] = frozenset()
    """What it is beside a plain song: live, remix, acoustic …, or on a compilation."""

    @property
    def name(self) -> str:
        return f"{self.artist.name} – {self.title}"

    def stem(self) -> Path:
        """`<Artist>/<Title> [<the recording's id>]`: where its file belongs, without the extension.

        With the whole id, no two recordings have one name, on whatever file system.
        """
        # Not with_suffix later on: titles have dots of their own.
        artist, title, recording = (portable(each, _LONGEST) for each in (self.artist.name, self.title, self.recording))
        return Path(artist, f"{title} [{recording}]")


@dataclass(frozen=True)
class Selection:
    """Which songs a crawl is to fetch."""

    include: frozenset[str] = frozenset()
    """Of INCLUDABLE, what to take as well."""
    limit: int | None = None
    """At most so many songs of each artist, the earliest first."""
    min_seconds: float = 0.0
    max_seconds: float = float("inf")
    retry: frozenset[str] = frozenset()
    """What an earlier crawl gave up and this one tries again, of NO_MATCH, REFUSED and UNLICENSED."""
    overrides: Mapping[str, str] = field(default_factory=dict)
    """Recording -> the id of the video to take for it, whatever its score."""
    only_cc: bool = False
    """Take only what the source marks as Creative Commons."""
    role: Role = "performer"
    """What the artists are to the songs."""


@dataclass(frozen=True)
class _Provenance:
    """What is read of a record's provenance."""

    source_id: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class _Record:
    """What is read of a catalog's record."""

    recording: str
    status: str
    artist: str
    title: str
    reason: str
    path: str | None = None
    unasked_seconds: float | None = None
    provenance: _Provenance = _Provenance()


def open_catalog(out: Path) -> Journal:
    """The catalog of the folder `out`, empty where there is none yet.

    Raises:
        DataError: a record is not one that a crawl writes, or names a file outside of the folder.
    """

    def check(record: dict[str, Any]) -> None:
        read = from_dict(_Record, record, unknown="pass over")
        if read.status == FETCHED or read.path is not None:
            inside(out, read.path)

    return Journal(out / CATALOG, "recording", check)


def is_fetched(record: dict[str, Any] | None, out: Path) -> bool:
    """Whether a catalog record says that a file was fetched, and the file is still there."""
    return record is not None and record["status"] == FETCHED and (out / record["path"]).is_file()


def is_cc(licence: str | None) -> bool:
    """Whether a licence, as the source states it, is one of Creative Commons."""
    return "creative commons" in (licence or "").casefold()


def state(track: Track, record: dict[str, Any] | None, out: Path, selection: Selection) -> str:
    """What stands in the catalog about a track; MISSING where this crawl should go for it.

    What the network lost is tried again at once. What the source lacks or refuses today, it will lack tomorrow:
    that is tried again only where `selection.retry` says so.
    """
    if record is None:
        return MISSING
    there = is_fetched(record, out)
    video = selection.overrides.get(track.recording)
    if video is not None:
        return FETCHED if there and record.get("provenance", {}).get("source_id") == video else MISSING
    if there:
        return FETCHED
    seconds = record.get("unasked_seconds")  # of a matching video that was outside the limits of an earlier crawl
    if seconds is not None and selection.min_seconds <= seconds <= selection.max_seconds:
        return MISSING
    kept = {NO_MATCH, REFUSED} | ({UNLICENSED} if selection.only_cc else set())
    status = str(record["status"])
    return status if status in kept - selection.retry else MISSING


def songs(
    tracks: Iterable[Track], selection: Selection, fetched: Collection[str] = ()
) -> tuple[list[Track], Counter[str]]:
    """The selected songs, each once, in the order of the tracks; and how many others there are, by kind.

    A recording that stands on several releases is live, a remix or from a compilation only where all of them are.
    Recordings in `fetched` stand for their song before others do, so that none is fetched twice.
    """

    def unwanted(track: Track) -> frozenset[str]:
        return (track.marks & INCLUDABLE) - selection.include

    def rank(track: Track) -> tuple[bool, bool, bool, bool, int]:
        named, unmeasured = track.recording in selection.overrides, track.seconds is None
        kinds = len(track.marks & INCLUDABLE)
        # False sorts before True, so each of these says what is worse.
        return track.recording not in fetched, not named, bool(unwanted(track)), unmeasured, kinds

    entries = list(tracks)
    order: dict[str, int] = {}
    for track in entries:
        order.setdefault(track.recording, len(order))
    wanted: list[Track] = []
    counted = 0  # those that count against the limit
    others: Counter[str] = Counter()
    for track in sorted(distinct(sorted(entries, key=rank)), key=lambda track: order[track.recording]):
        named = track.recording in selection.overrides
        # A set has no order; the first in the alphabet is the same in every run.
        why_not = min(unwanted(track), default="")
        if track.seconds is not None and not why_not:
            why_not = "too short" if track.seconds < selection.min_seconds else ""
            why_not = "too long" if track.seconds > selection.max_seconds else why_not
        if why_not and not named and track.recording not in fetched:
            others[why_not] += 1
        elif selection.limit is not None and counted >= selection.limit and not named and not why_not:
            others["beyond the limit"] += 1
        else:
            wanted.append(track)
            counted += not why_not
    return wanted, others


def distinct(tracks: Iterable[Track], within: float = 3.0) -> list[Track]:
    """Each song once, the first of its kind.

    The same recording, the same ISRC, or the same title with a length that differs by at most `within` seconds, counts
    as the same song; a recording of unknown length is the same as those of its title that come before it. Title and
    length alone do not make a live take the same as the song.
    """
    chosen: dict[str, Track] = {}
    isrcs: set[str] = set()
    lengths: dict[object, list[float | None]] = {}
    for track in tracks:
        known = lengths.setdefault((title_words(song_title(track.title)), track.marks - {"compilation"}), [])
        twin = any(_near(track.seconds, seconds, within) for seconds in known)
        if track.recording in chosen or twin or isrcs & set(track.isrcs):
            continue
        known.append(track.seconds)
        isrcs |= set(track.isrcs)
        chosen[track.recording] = track
    return list(chosen.values())


def _near(seconds: float | None, known: float | None, within: float) -> bool:
    return seconds is None or (known is not None and abs(seconds - known) <= within)
