"""What the crawl looks for and what it keeps: artists, tracks, and the names they get on disk.

The catalog itself is `catalog.jsonl` in the output folder: one JSON object a line, keyed by recording, the last line
of a recording wins. `fetched` records have a `path` relative to the folder, by which later steps find provenance.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musicldm.durable import Journal

CATALOG = "catalog.jsonl"

FETCHED = "fetched"  # the file is there, under `path`
NO_MATCH = "no-match"  # the source has nothing that fits
FAILED = "failed"  # it was found but could not be had; `reason` says why


@dataclass(frozen=True)
class Artist:
    """An artist as MusicBrainz knows it; `note` tells it from others of the same name."""

    id: str
    name: str
    note: str = ""


@dataclass(frozen=True)
class Track:
    """One recording of an artist, with the first official release that it is known from."""

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

    @property
    def name(self) -> str:
        return f"{self.artist.name} – {self.title}"

    def stem(self) -> Path:
        """`<Artist>/<Title> [<first 8 of the recording's id>]`: where its file belongs, without the extension."""
        # Not with_suffix later on: titles have dots of their own.
        return Path(safe_name(self.artist.name), f"{safe_name(self.title)} [{safe_name(self.recording[:8])}]")


def open_catalog(out: Path) -> Journal:
    """The catalog of the folder `out`, empty where there is none yet."""
    return Journal(out / CATALOG, "recording")


def is_fetched(record: dict[str, Any] | None, out: Path) -> bool:
    """Whether a catalog record says that a file was fetched, and the file is still there."""
    return record is not None and record["status"] == FETCHED and (out / record["path"]).is_file()


def distinct(tracks: Iterable[Track], within: float = 3.0) -> list[Track]:
    """Each song once, the first of its kind.

    The same recording, or the same title with a length that differs by at most `within` seconds (or is unknown),
    counts as the same song.
    """
    chosen: dict[str, Track] = {}
    lengths: dict[tuple[str, ...], list[float | None]] = {}
    for track in tracks:
        known = lengths.setdefault(words(track.title), [])
        if track.recording in chosen or any(_near(track.seconds, seconds, within) for seconds in known):
            continue
        known.append(track.seconds)
        chosen[track.recording] = track
    return list(chosen.values())


def _near(a: float | None, b: float | None, within: float) -> bool:
    return a is None or b is None or abs(a - b) <= within


def words(text: str) -> tuple[str, ...]:
    """The words of a name or title for comparing: no case, accents, apostrophes or punctuation.

    A text of signs alone, as some bands have for a name, is one word.
    """
    plain = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(c for c in plain if not "\u0300" <= c <= "\u036f" and c not in "'’‘`´")
    return tuple(re.findall(r"[^\W_]+", plain)) or (text.casefold().strip(),)


_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # devices, to Windows
_LONGEST = 180  # bytes; file systems take 255, and the recording's id, an extension and ".part" come on top


def safe_name(text: str) -> str:
    """`text` as the name of one file or folder on any system: it names neither another folder nor a hidden file."""
    name = unicodedata.normalize("NFC", text)
    name = "".join("_" if c in '/\\:*?"<>|' or unicodedata.category(c) in ("Cc", "Cs") else c for c in name)
    name = name.encode()[:_LONGEST].decode(errors="ignore")
    name = name.lstrip(". ").rstrip(". ")
    return f"_{name}" if not name or _RESERVED.fullmatch(name) else name
