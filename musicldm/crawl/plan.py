"""What a crawl is about to do: who recorded what, which of it is selected, and what is there already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musicldm.core.errors import MusicLDMError, NetworkError, NotFoundError, UsageError
from musicldm.core.names import distinct_names
from musicldm.core.progress import Progress, silent
from musicldm.crawl.catalog import (
    FETCHED,
    MISSING,
    Artist,
    Selection,
    Track,
    distinct,
    is_cc,
    is_fetched,
    open_catalog,
    songs,
    state,
)
from musicldm.crawl.musicbrainz import MusicBrainz
from musicldm.crawl.settings import CrawlSettings


@dataclass(frozen=True)
class Plan:
    """What a crawl is about to do in the folder `out`."""

    out: Path
    selection: Selection
    artists: tuple[Artist, ...]
    unknown: tuple[MusicLDMError, ...]
    """One error for each name that is unknown, ambiguous, or whose songs could not be listed."""
    songless: tuple[Artist, ...]
    """The artists who are credited on no recording of an official release."""
    tracks: tuple[Track, ...]
    """Every selected song, each once."""
    others: Mapping[str, int]
    """How many songs of these artists are not selected, by kind: live, too short …"""
    states: Mapping[str, str]
    """For each recording among the tracks, what an earlier crawl has left in the catalog, as `catalog.state` says."""
    unlicensed: int
    """How many songs on disk the selection would not take now, for their licence."""

    @property
    def missing(self) -> list[Track]:
        return [track for track in self.tracks if self.states[track.recording] == MISSING]

    @property
    def present(self) -> list[Track]:
        return [track for track in self.tracks if self.states[track.recording] == FETCHED]


def plan_crawl(
    names: Iterable[str],
    out: Path,
    settings: CrawlSettings,
    selection: Selection | None = None,
    progress: Progress = silent,
) -> Plan:
    """Find the artists and their songs, and see what `out` has already. Writes nothing.

    An artist whom the network loses is left out, as one is whom nobody knows.

    Raises:
        NotFoundError: none of the names leads to an artist.
        NetworkError: MusicBrainz does not answer, for two names in a row or for any of them.
        UsageError: a recording to override is none of these artists', or is a song that stands there already.
    """
    selection = selection or Selection()
    service = MusicBrainz(settings)
    found: dict[Artist, list[Track]] = {}
    unknown: list[MusicLDMError] = []
    lost = False
    for name in distinct_names(names):
        try:
            artist = service.find_artist(name)
            if artist.id not in {known.id for known in found}:
                found[artist] = service.tracks(artist, progress, selection.role)
            lost = False
        except NotFoundError as error:
            unknown.append(error)
        except NetworkError as error:
            # One answer may be lost by chance. After two in a row it is the network, and the rest would only wait for
            # it.
            if lost:
                raise
            lost = True
            unknown.append(NetworkError(f"{name} is left out: {error.message}", error.hint))
    if not found:
        raise _nobody(unknown)
    records = open_catalog(out).records
    fetched = {recording for recording, record in records.items() if is_fetched(record, out)}
    tracks: dict[str, Track] = {}  # by recording: a song that two of the artists share is fetched once
    others: Counter[str] = Counter()
    for recordings in found.values():
        own, rest = songs(recordings, selection, fetched)
        others += rest
        for track in own:
            tracks.setdefault(track.recording, track)
    lost = any(isinstance(error, NetworkError) for error in unknown)  # who knows what those have recorded
    for recording in () if lost else selection.overrides.keys() - tracks.keys():
        raise _not_to_override(recording, found, tracks.values())
    states = states_of(tracks.values(), records, out, selection)
    there = [records[track.recording] for track in tracks.values() if states[track.recording] == FETCHED]
    unlicensed = sum(selection.only_cc and not is_cc(record.get("provenance", {}).get("licence")) for record in there)
    return Plan(
        out=out,
        selection=selection,
        artists=tuple(found),
        unknown=tuple(unknown),
        songless=tuple(artist for artist, recordings in found.items() if not recordings),
        tracks=tuple(tracks.values()),
        others=others,
        states=states,
        unlicensed=unlicensed,
    )


def _nobody(unknown: list[MusicLDMError]) -> MusicLDMError:
    if len(unknown) == 1:
        return unknown[0]
    kind = next((NetworkError for error in unknown if isinstance(error, NetworkError)), NotFoundError)
    return kind(" ".join(error.message for error in unknown), "\n".join(error.hint for error in unknown))


def _not_to_override(recording: str, found: Mapping[Artist, list[Track]], taken: Iterable[Track]) -> UsageError:
    for track in (track for recordings in found.values() for track in recordings if track.recording == recording):
        for twin in taken:
            if len(distinct([twin, track])) == 1:
                return UsageError(
                    f"{recording} is the same song as {twin.recording}, {twin.name}.", "Override that one instead."
                )
    return UsageError(
        f"{recording} is not a recording by {', '.join(artist.name for artist in found)}.",
        "--override takes a recording's id, as catalog.jsonl and --dry-run --json have it.",
    )


def states_of(tracks: Iterable[Track], records: Mapping[str, Any], out: Path, selection: Selection) -> dict[str, str]:
    return {track.recording: state(track, records.get(track.recording), out, selection) for track in tracks}
