"""The crawl from end to end: `plan` asks who recorded what and what is there already, `fetch` gets the rest.

Every song is recorded in the catalog as soon as it is had or given up, so a crawl can stop at any moment; the next one
goes on with what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from musicldm import __version__
from musicldm.crawl.catalog import FAILED, FETCHED, NO_MATCH, Artist, Track, is_fetched, open_catalog
from musicldm.crawl.musicbrainz import MusicBrainz
from musicldm.crawl.settings import CrawlSettings
from musicldm.crawl.youtube import THRESHOLD, TOOL, Candidate, Download, YouTube
from musicldm.durable import TEMPORARY, cannot_write, flush, make_folder
from musicldm.errors import NetworkError, NotFoundError
from musicldm.progress import Progress, silent

_PATIENCE = 3  # so many songs in a row lost to the network, and it is down


@dataclass(frozen=True)
class Plan:
    """What a crawl is about to do in the folder `out`."""

    out: Path
    artists: tuple[Artist, ...]
    unknown: tuple[NotFoundError, ...]
    """One sentence and hint for each name that nobody has."""
    tracks: tuple[Track, ...]
    """Every song asked for, each once."""
    present: frozenset[str]
    """The recordings among them that an earlier crawl has fetched."""

    @property
    def missing(self) -> list[Track]:
        return [track for track in self.tracks if track.recording not in self.present]


@dataclass(frozen=True)
class Outcome:
    """The catalog records that a crawl has written."""

    fetched: tuple[dict[str, Any], ...]
    left_out: tuple[dict[str, Any], ...]
    """Each with its `reason`."""


def plan(
    names: Iterable[str],
    out: Path,
    settings: CrawlSettings,
    limit: int | None = None,
    progress: Progress = silent,
) -> Plan:
    """Find the artists and their songs, and see what `out` has already. Writes nothing.

    Args:
        limit: at most so many songs of each artist, the earliest first.

    Raises:
        NotFoundError: MusicBrainz knows none of the names.
        NetworkError: MusicBrainz does not answer.
    """
    service = MusicBrainz(settings)
    artists: dict[str, Artist] = {}
    unknown: list[NotFoundError] = []
    for name in dict.fromkeys(names):
        try:
            artist = service.find_artist(name)
        except NotFoundError as error:
            unknown.append(error)
        else:
            artists[artist.id] = artist
    if not artists:
        raise _nobody(unknown)
    tracks: dict[str, Track] = {}  # by recording: a song that two of the artists share is fetched once
    for artist in artists.values():
        for track in service.tracks(artist, progress)[:limit]:
            tracks.setdefault(track.recording, track)
    records = open_catalog(out).records
    present = frozenset(recording for recording in tracks if is_fetched(records.get(recording), out))
    return Plan(out, tuple(artists.values()), tuple(unknown), tuple(tracks.values()), present)


def _nobody(unknown: list[NotFoundError]) -> NotFoundError:
    if len(unknown) == 1:
        return unknown[0]
    return NotFoundError(" ".join(error.message for error in unknown), " ".join(error.hint for error in unknown))


def fetch(plan: Plan, settings: CrawlSettings, progress: Progress = silent) -> Outcome:
    """Fetch what is missing, song by song, each into its place and into the catalog. `progress` counts songs.

    A song that cannot be had is recorded with the reason, and tried again by the next crawl.

    Raises:
        NetworkError: YouTube has stopped answering.
        OutputError: the folder cannot be written, or the disk is full.
    """
    make_folder(plan.out)
    folder = make_folder(plan.out / f"{TEMPORARY}youtube")
    catalog = open_catalog(plan.out)
    fetched: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    missing, lost = plan.missing, 0
    with YouTube(folder, settings) as youtube:
        for number, track in enumerate(missing):
            progress(number, len(missing), track.name)
            record, error = _attempt(youtube, track, plan.out)
            catalog.append(record)
            (fetched if record["status"] == FETCHED else left_out).append(record)
            lost = lost + 1 if isinstance(error, NetworkError) else 0
            if lost == _PATIENCE:
                hint = "Check the network connection and run the same command again; what was fetched is kept."
                raise NetworkError(f"{lost} songs in a row were lost to the network. {record['reason']}", hint)
    with suppress(OSError):  # parts of broken downloads stay, to be taken up again
        folder.rmdir()
    return Outcome(tuple(fetched), tuple(left_out))


def _attempt(youtube: YouTube, track: Track, out: Path) -> tuple[dict[str, Any], Exception | None]:
    """Try to get one song. The catalog record says how far that came; the error is what stopped it, if one did."""
    record: dict[str, Any] = {
        "recording": track.recording,
        "status": NO_MATCH,
        "path": None,
        "artist": track.artist.name,
        "title": track.title,
        "seconds": track.seconds,
        "score": None,
        "chosen": None,
        "runner_up": None,
        "provenance": _provenance(track),
        "reason": "",
    }
    try:
        best, runner_up, *_ = [*youtube.search(track), None, None]
        record["score"] = best.score if best else None
        if best is None or best.score < THRESHOLD:
            record["runner_up"] = _summary(best)
            record["reason"] = _why_none(best)
            return record, None
        record |= {"chosen": _summary(best), "runner_up": _summary(runner_up)}
        download = youtube.fetch(best)
        path = track.stem().with_name(track.stem().name + download.file.suffix)
        _move(download.file, out / path)
    except (NotFoundError, NetworkError) as error:
        return record | {"status": FAILED, "reason": error.message}, error
    record |= {"status": FETCHED, "path": path.as_posix(), "seconds": download.seconds or track.seconds}
    record["provenance"] |= _source(best, download)
    return record, None


def _why_none(best: Candidate | None) -> str:
    if best is None:
        return "YouTube finds nothing."
    length = "of unknown length" if best.seconds is None else f"{best.seconds:g} s"
    return f"Nothing fits: the best, {best.title!r} ({length}), scores {best.score:g}, and {THRESHOLD:g} is needed."


def _summary(candidate: Candidate | None) -> dict[str, Any] | None:
    return asdict(candidate) if candidate else None


def _provenance(track: Track) -> dict[str, Any]:
    """What MusicBrainz says of the recording."""
    return {
        "musicbrainz": {"recording": track.recording, "artist": track.artist.id, "release": track.release_id},
        "isrcs": list(track.isrcs),
        "release": track.release,
        "year": track.year,
        "recording_seconds": track.seconds,
    }


def _source(candidate: Candidate, download: Download) -> dict[str, Any]:
    """What the source says of the file."""
    return {
        "source": "youtube",
        "source_id": candidate.id,
        "source_url": candidate.url,
        "source_title": download.title,
        "channel": download.channel,
        "licence": download.licence,
        "fetched_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "tool": f"musicldm {__version__}, {TOOL}",
    }


def _move(file: Path, target: Path) -> None:
    """Put a finished download into its place, durably; the name appears only when the file is whole."""
    make_folder(target.parent)
    try:
        flush(file)
        os.replace(file, target)
        flush(target.parent)
    except OSError as error:
        raise cannot_write(target, error) from error
