"""One song: from its candidates to a finished download, and the catalog record of the result."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from musicldm import __version__
from musicldm.core.durable import flush
from musicldm.core.errors import BlockedError, NetworkError, NotNowError, RefusedError
from musicldm.core.reading import sha256
from musicldm.crawl.catalog import FAILED, FETCHED, NO_MATCH, REFUSED, UNLICENSED, Selection, Track, is_cc
from musicldm.crawl.matching import THRESHOLD, Candidate, scored
from musicldm.crawl.pace import Pace
from musicldm.crawl.youtube import TOOL, Video, YouTube

_ATTEMPTS = 3  # matching videos to try where the first ones are refused


@dataclass(frozen=True)
class Result:
    record: dict[str, Any]
    file: Path | None = None
    """The finished download, still under its temporary name."""
    lost: bool = False
    """It was lost to the network."""
    empty: bool = False
    """The search found nothing at all."""


def attempt(youtube: YouTube, track: Track, selection: Selection, claims: Claims) -> Result:
    """Try to fetch one song. The record holds the result, whatever it is.

    Raises:
        BlockedError: YouTube has blocked us; the song counts as not tried.
        OutputError: the folder cannot be written, or the disk is full.
    """
    record = _new_record(track, override=track.recording in selection.overrides)
    try:
        if record["override"]:
            found = fits = [Candidate(selection.overrides[track.recording], track.title, "", None, 0.0)]
        else:
            found = youtube.search(track)
            fits = [one for one in found if one.score >= THRESHOLD]
        if track.seconds is None and not record["override"]:  # its length is then the video's
            selected = [one for one in fits if selection.min_seconds <= (one.seconds or 0.0) <= selection.max_seconds]
            if fits and not selected:
                seconds = fits[0].seconds
                reason = f"{fits[0].title!r} lasts {seconds:g} s, outside the length limits."
                return Result(record | {"runner_up": _summary(fits[0]), "unasked_seconds": seconds, "reason": reason})
            fits = selected
        if not fits:
            best = found[0] if found else None
            record |= {"score": best.score if best else None, "runner_up": _summary(best), "reason": _why_none(best)}
            return Result(record, empty=best is None)
        return _take_first(youtube, track, found, fits[:_ATTEMPTS], selection, claims, record)
    except BlockedError:
        raise
    except NetworkError as error:
        return Result(record | {"status": FAILED, "reason": error.message}, lost=True)


def _new_record(track: Track, override: bool) -> dict[str, Any]:
    """The catalog record of a song for which nothing has been found yet."""
    return {
        "recording": track.recording,
        "status": NO_MATCH,
        "path": None,
        "artist": track.artist.name,
        "title": track.title,
        "seconds": track.seconds,
        "marks": sorted(track.marks),
        "score": None,
        "chosen": None,
        "runner_up": None,
        "override": override,
        "provenance": _provenance(track),
        "reason": "",
    }


def _take_first(
    youtube: YouTube,
    track: Track,
    found: list[Candidate],
    fits: list[Candidate],
    selection: Selection,
    claims: Claims,
    record: dict[str, Any],
) -> Result:
    """Download the first of the matching videos that can be had; where none can, record why."""
    refusals: list[tuple[str, str]] = []  # status and reason
    for chosen in fits:
        record |= {
            "score": chosen.score,
            "chosen": _summary(chosen),
            "runner_up": _summary(next((one for one in found if one is not chosen), None)),
        }
        try:
            with claims.claim(chosen.id, track.recording):
                return _take(youtube, track, chosen, selection, record)
        except _TakenError as error:
            refusals.append((NO_MATCH, f"{chosen.title!r}: {error.message}"))
        except _UnlicensedError as error:
            refusals.append((UNLICENSED, error.message))
        except NotNowError as error:
            refusals.append((FAILED, error.message))
        except RefusedError as error:
            refusals.append((REFUSED, error.message))
    # The most hopeful of the statuses decides when the song is tried again.
    status = max((status for status, _ in refusals), key=(NO_MATCH, REFUSED, UNLICENSED, FAILED).index)
    return Result(record | {"status": status, "reason": "; ".join(reason for _, reason in refusals)})


class _UnlicensedError(RefusedError):
    pass


class _TakenError(RefusedError):
    pass


def _take(youtube: YouTube, track: Track, chosen: Candidate, selection: Selection, record: dict[str, Any]) -> Result:
    """Download the chosen video and complete the record of its track."""
    video = youtube.inspect(chosen)
    if record["override"]:
        best = scored(track, video.id, video.title, video.channel, video.seconds)
        record |= {"score": best.score, "chosen": _summary(best)}
    if selection.only_cc and not is_cc(video.licence):
        said = f"the source says {video.licence!r}" if video.licence else "the source names no licence"
        raise _UnlicensedError(f"{video.title!r} is not marked as Creative Commons: {said}")
    file = youtube.download(video)
    # On the disk before the catalog says so: after a power cut no record may stand for half a file.
    flush(file)
    path = track.stem().with_name(track.stem().name + file.suffix)
    seconds = video.seconds or track.seconds
    record |= {"status": FETCHED, "path": path.as_posix(), "seconds": seconds, "sha256": sha256(file)}
    record["provenance"] |= _source(chosen, video)
    return Result(record, file)


def _why_none(best: Candidate | None) -> str:
    if best is None:
        return "YouTube finds nothing."
    about = "of unknown length" if best.seconds is None else f"{best.seconds:g} s"
    about = ", ".join([about, *best.marks])
    return f"Nothing fits: the best, {best.title!r} ({about}), scores {best.score:g}, and {THRESHOLD:g} is needed."


def _summary(candidate: Candidate | None) -> dict[str, Any] | None:
    return asdict(candidate) | {"marks": list(candidate.marks)} if candidate else None


def _provenance(track: Track) -> dict[str, Any]:
    """What MusicBrainz says of the recording."""
    return {
        "musicbrainz": {"recording": track.recording, "artist": track.artist.id, "release": track.release_id},
        "isrcs": list(track.isrcs),
        "release": track.release,
        "year": track.year,
        "recording_seconds": track.seconds,
    }


def _source(chosen: Candidate, video: Video) -> dict[str, Any]:
    """What the source says of the file."""
    return {
        "source": "youtube",
        "source_id": video.id,
        "source_url": chosen.url,
        "source_title": video.title,
        "channel": video.channel,
        "licence": video.licence,
        "fetched_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "tool": f"musicldm {__version__}, {TOOL}",
    }


class Claims:
    """Which recording has which video: no two songs are the same one.

    A thread that claims a video which another is fetching waits for the result.
    """

    def __init__(self, owners: Mapping[str, str], pace: Pace) -> None:
        self._owners = dict(owners)
        self._pace = pace
        self._trying: set[str] = set()
        self._changed = threading.Condition()

    @contextmanager
    def claim(self, video: str, recording: str) -> Iterator[None]:
        """Hold the video for the block, and for good where the block ends without an error.

        Raises:
            _TakenError: it is another recording already.
            Stopped: the crawl ends.
        """
        with self._changed:
            while video in self._trying:
                # With a time-out, since nobody notifies at the end of a crawl; `sleep(0)` then raises Stopped.
                self._changed.wait(0.1)
                self._pace.sleep(0)
            owner = self._owners.get(video, recording)
            if owner != recording:
                raise _TakenError(f"it is already the recording {owner}")
            self._trying.add(video)
        try:
            yield
            self._owners[video] = recording
        finally:
            with self._changed:
                self._trying.remove(video)
                self._changed.notify_all()
