"""The crawl from end to end: `plan` asks who recorded what and what is there already, `fetch` gets the rest.

Every song is recorded in the catalog as soon as it is had or given up, so a crawl can stop at any moment; the next one
goes on with what is missing.
"""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from musicldm import __version__
from musicldm.core.durable import TEMPORARY, Journal, flush, locked, make_folder, move
from musicldm.core.errors import (
    BlockedError,
    MusicLDMError,
    NetworkError,
    NotFoundError,
    NotNowError,
    RefusedError,
    UsageError,
)
from musicldm.core.progress import Progress, silent
from musicldm.crawl.catalog import (
    FAILED,
    FETCHED,
    MISSING,
    NO_MATCH,
    REFUSED,
    UNLICENSED,
    Artist,
    Track,
    Wishes,
    distinct,
    is_cc,
    is_fetched,
    open_catalog,
    songs,
    state,
)
from musicldm.crawl.musicbrainz import MusicBrainz
from musicldm.crawl.pace import Pace, Stopped, take
from musicldm.crawl.settings import CrawlSettings
from musicldm.crawl.youtube import THRESHOLD, TOOL, Candidate, Video, YouTube, candidate

_PATIENCE = 3  # so many songs in a row lost to the network, times `jobs`, and it is down
_ATTEMPTS = 3  # so many videos that fit are asked for, where the first are refused


@dataclass(frozen=True)
class Plan:
    """What a crawl is about to do in the folder `out`."""

    out: Path
    wishes: Wishes
    artists: tuple[Artist, ...]
    unknown: tuple[MusicLDMError, ...]
    """One sentence and hint for each name that nobody has, or several, or whose songs MusicBrainz did not tell."""
    songless: tuple[Artist, ...]
    """The artists who are credited on no recording of an official release."""
    tracks: tuple[Track, ...]
    """Every song asked for, each once."""
    others: Mapping[str, int]
    """How many songs of these artists are not asked for, by kind: live, too short …"""
    states: Mapping[str, str]
    """For each recording among the tracks, what an earlier crawl has left in the catalog, as `catalog.state` says."""
    unlicensed: int
    """How many songs are there that the wishes would not take now, for their licence."""

    @property
    def missing(self) -> list[Track]:
        return [track for track in self.tracks if self.states[track.recording] == MISSING]

    @property
    def present(self) -> list[Track]:
        return [track for track in self.tracks if self.states[track.recording] == FETCHED]


@dataclass(frozen=True)
class Outcome:
    """What a crawl has come to."""

    plan: Plan
    """As it was when the crawl began."""
    fetched: tuple[dict[str, Any], ...]
    """The catalog records of the songs that it fetched."""
    left_out: tuple[dict[str, Any], ...]
    """The records of the songs that it tried and could not have, each with its `reason`."""
    kept: tuple[dict[str, Any], ...]
    """The records of songs that an earlier crawl gave up and this one did not try."""
    stopped: NetworkError | None
    """Why it ended before all songs were tried."""
    fruitless: int = 0
    """The most searches in a row that found nothing at all, not even what does not fit."""

    def counts(self) -> list[dict[str, Any]]:
        """For each artist, how many songs came to what: "present", "fetched" or another status of the catalog."""
        now = {record["recording"]: record["status"] for record in (*self.fetched, *self.left_out, *self.kept)}
        now |= {track.recording: "present" for track in self.plan.present}
        rows = []
        for artist in self.plan.artists:
            own = [track for track in self.plan.tracks if track.artist.id == artist.id]
            states = Counter(now.get(track.recording, MISSING) for track in own)
            names = (FETCHED, "present", NO_MATCH, REFUSED, UNLICENSED, FAILED, MISSING)
            rows.append({"artist": artist.name, "songs": len(own), **{name: states[name] for name in names}})
        return rows


def plan(
    names: Iterable[str],
    out: Path,
    settings: CrawlSettings,
    wishes: Wishes | None = None,
    progress: Progress = silent,
) -> Plan:
    """Find the artists and their songs, and see what `out` has already. Writes nothing.

    An artist whom the network loses is left out, as one is whom nobody knows.

    Raises:
        NotFoundError: none of the names leads to an artist.
        NetworkError: MusicBrainz does not answer, for two names in a row or for any of them.
        UsageError: a recording to override is none of these artists', or is a song that stands there already.
    """
    wishes = wishes or Wishes()
    service = MusicBrainz(settings)
    found: dict[Artist, list[Track]] = {}
    unknown: list[MusicLDMError] = []
    lost = False
    for name in dict.fromkeys(names):
        try:
            artist = service.find_artist(name)
            if artist.id not in {known.id for known in found}:
                found[artist] = service.tracks(artist, progress)
            lost = False
        except NotFoundError as error:
            unknown.append(error)
        except NetworkError as error:
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
        own, rest = songs(recordings, wishes, fetched)
        others += rest
        for track in own:
            tracks.setdefault(track.recording, track)
    lost = any(isinstance(error, NetworkError) for error in unknown)  # who knows what those have recorded
    for recording in () if lost else wishes.overrides.keys() - tracks.keys():
        raise _not_to_override(recording, found, tracks.values())
    states = _states(tracks.values(), records, out, wishes)
    there = [records[track.recording] for track in tracks.values() if states[track.recording] == FETCHED]
    unlicensed = sum(wishes.only_cc and not is_cc(record["provenance"].get("licence")) for record in there)
    return Plan(
        out=out,
        wishes=wishes,
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
        f"{recording} is no recording of {', '.join(artist.name for artist in found)}.",
        "--override takes a recording's id, as catalog.jsonl and --dry-run --json have it.",
    )


def _states(tracks: Iterable[Track], records: Mapping[str, Any], out: Path, wishes: Wishes) -> dict[str, str]:
    return {track.recording: state(track, records.get(track.recording), out, wishes) for track in tracks}


def fetch(plan: Plan, settings: CrawlSettings, progress: Progress = silent) -> Outcome:
    """Fetch what is missing, `settings.jobs` songs at a time, each into its place and into the catalog.

    A song that cannot be had is recorded with the reason. One that the network lost is tried again by the next crawl;
    one that has no match, or is refused, only where the wishes say so. `progress` counts songs.

    Raises:
        OutputError: the folder cannot be written, another crawl writes there, or the disk is full.
        ConfigError: the file of cookies is none.
    """
    make_folder(plan.out)
    with locked(plan.out):
        catalog = open_catalog(plan.out)
        # Another crawl may have come between the plan and the lock.
        plan = replace(plan, states=_states(plan.tracks, catalog.records, plan.out, plan.wishes))
        folder = make_folder(plan.out / f"{TEMPORARY}youtube")
        fetched: list[dict[str, Any]] = []
        left_out: list[dict[str, Any]] = []
        stopped: NetworkError | None = None
        lost = empty = fruitless = 0
        total, patience = len(plan.missing), _PATIENCE * settings.jobs
        progress(0, total, "")
        with _crew(plan, _videos_of(catalog.records, plan), folder, settings) as done:
            for number in range(1, total + 1):
                result = take(done)
                if isinstance(result, BlockedError):
                    stopped = result
                    break
                if isinstance(result, BaseException):
                    raise result
                _keep(result, catalog, plan.out)
                record = result.record
                (left_out if result.file is None else fetched).append(record)
                progress(number, total, f"{record['artist']} – {record['title']}")
                empty = empty + 1 if result.empty else 0
                fruitless = max(fruitless, empty)
                lost = lost + 1 if result.lost else 0
                if lost == patience:
                    hint = "Check the network connection and run the same command again; what was fetched is kept."
                    stopped = NetworkError(f"{lost} songs in a row were lost to the network. {record['reason']}", hint)
                    break
        if stopped is None and not any(record["status"] == FAILED for record in left_out):
            shutil.rmtree(folder, ignore_errors=True)  # what an earlier crawl began and nobody wants any more
        else:  # parts of broken downloads stay, to be taken up again
            with suppress(OSError):
                folder.rmdir()
    kept = tuple(catalog.records[recording] for recording, was in plan.states.items() if was not in (MISSING, FETCHED))
    return Outcome(plan, tuple(fetched), tuple(left_out), kept, stopped, fruitless)


@dataclass(frozen=True)
class _Result:
    record: dict[str, Any]
    file: Path | None = None
    """The finished download, not yet in its place."""
    lost: bool = False
    """It was lost to the network."""
    empty: bool = False
    """The search found nothing at all."""


class _TakenError(RefusedError):
    pass


class _Claims:
    """Which recording has which video: no two songs are the same one.

    Who asks for a video that another thread is about to fetch waits for what comes of that.
    """

    def __init__(self, owners: Mapping[str, str], pace: Pace) -> None:
        self._owners = dict(owners)
        self._pace = pace
        self._trying: set[str] = set()
        self._changed = threading.Condition()

    @contextmanager
    def claim(self, video: str, recording: str) -> Iterator[None]:
        """Have the video to oneself for the block, and for good where the block comes to its end.

        Raises:
            _TakenError: it is another recording already.
            Stopped: the crawl ends.
        """
        with self._changed:
            while video in self._trying:
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


@contextmanager
def _crew(
    plan: Plan, videos: Mapping[str, str], folder: Path, settings: CrawlSettings
) -> Iterator[queue.SimpleQueue[_Result | BaseException]]:
    """Threads at work on the missing songs; what becomes of each song arrives in the queue.

    Daemons, since those of concurrent.futures would hold up Ctrl-C until each server has answered.
    """
    todo: queue.SimpleQueue[Track] = queue.SimpleQueue()
    for track in plan.missing:
        todo.put(track)
    done: queue.SimpleQueue[_Result | BaseException] = queue.SimpleQueue()
    pace = Pace()
    claims = _Claims(videos, pace)

    def work(youtube: YouTube) -> None:
        # Closed by its own thread: to close what another one reads from would wait for that server.
        with youtube, suppress(queue.Empty, Stopped):
            while not pace.stop.is_set():
                track = todo.get_nowait()
                try:
                    done.put(_attempt(youtube, track, plan.wishes, claims))
                except Stopped:
                    raise
                except BaseException as error:
                    pace.stop.set()
                    done.put(error)

    clients = [YouTube(folder, settings, pace) for _ in range(min(settings.jobs, len(plan.missing)))]
    threads = [threading.Thread(target=work, args=(client,), daemon=True) for client in clients]
    try:
        for thread in threads:
            thread.start()
        yield done
    finally:  # at once for those that wait for a turn; who waits for a server is left to end with the process
        pace.stop.set()
        deadline = time.monotonic() + 1
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def _videos_of(records: Mapping[str, dict[str, Any]], plan: Plan) -> dict[str, str]:
    """Video -> the recording that has it, or is to have it: no two songs are the same video."""
    videos = {
        record["provenance"]["source_id"]: recording
        for recording, record in records.items()
        if is_fetched(record, plan.out) and "source_id" in record["provenance"]
    }
    return videos | {video: recording for recording, video in plan.wishes.overrides.items()}


def _attempt(youtube: YouTube, track: Track, wishes: Wishes, claims: _Claims) -> _Result:
    """Try to get one song. The record says how far that came.

    Raises:
        BlockedError: YouTube has shut us out; the song counts as not tried.
        OutputError: the folder cannot be written, or the disk is full.
    """
    record: dict[str, Any] = {
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
        "override": track.recording in wishes.overrides,
        "provenance": _provenance(track),
        "reason": "",
    }
    try:
        if record["override"]:
            found = fits = [Candidate(wishes.overrides[track.recording], track.title, "", None, 0.0)]
        else:
            found = youtube.search(track)
            fits = [one for one in found if one.score >= THRESHOLD]
        if track.seconds is None and not record["override"]:  # measured by the video, then
            asked = [one for one in fits if wishes.min_seconds <= (one.seconds or 0.0) <= wishes.max_seconds]
            if fits and not asked:
                seconds = fits[0].seconds
                reason = f"{fits[0].title!r} lasts {seconds:g} s, which is not asked for."
                return _Result(record | {"runner_up": _summary(fits[0]), "unasked_seconds": seconds, "reason": reason})
            fits = asked
        if not fits:
            best = found[0] if found else None
            record |= {"score": best.score if best else None, "runner_up": _summary(best), "reason": _why_none(best)}
            return _Result(record, empty=best is None)
        refusals: list[tuple[str, str]] = []  # status and reason
        for chosen in fits[:_ATTEMPTS]:
            record |= {
                "score": chosen.score,
                "chosen": _summary(chosen),
                "runner_up": _summary(next((one for one in found if one is not chosen), None)),
            }
            try:
                with claims.claim(chosen.id, track.recording):
                    return _take(youtube, track, chosen, wishes, record)
            except _TakenError as error:
                refusals.append((NO_MATCH, f"{chosen.title!r}: {error.message}"))
            except _UnlicensedError as error:
                refusals.append((UNLICENSED, error.message))
            except NotNowError as error:
                refusals.append((FAILED, error.message))
            except RefusedError as error:
                refusals.append((REFUSED, error.message))
        status = max((status for status, _ in refusals), key=(NO_MATCH, REFUSED, UNLICENSED, FAILED).index)
        return _Result(record | {"status": status, "reason": "; ".join(reason for _, reason in refusals)})
    except BlockedError:
        raise
    except NetworkError as error:
        return _Result(record | {"status": FAILED, "reason": error.message}, lost=True)


class _UnlicensedError(RefusedError):
    pass


def _take(youtube: YouTube, track: Track, chosen: Candidate, wishes: Wishes, record: dict[str, Any]) -> _Result:
    """Download the chosen video and complete the record of its track."""
    video = youtube.look(chosen)
    if record["override"]:
        weighed = candidate(track, video.id, video.title, video.channel, video.seconds)
        record |= {"score": weighed.score, "chosen": _summary(weighed)}
    if wishes.only_cc and not is_cc(video.licence):
        said = f"the source says {video.licence!r}" if video.licence else "the source names no licence"
        raise _UnlicensedError(f"{video.title!r} is not marked as Creative Commons: {said}")
    file = youtube.download(video)
    flush(file)
    path = track.stem().with_name(track.stem().name + file.suffix)
    record |= {"status": FETCHED, "path": path.as_posix(), "seconds": video.seconds or track.seconds}
    record["provenance"] |= _source(chosen, video)
    return _Result(record, file)


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


def _keep(result: _Result, catalog: Journal, out: Path) -> None:
    """Put what became of a song into the catalog, and its file into its place.

    In this order a kill leaves no file beside the one that the next crawl fetches, and none under another's record: it
    leaves a record without a file, which counts as missing, and the download, which is taken up again.
    """
    record = result.record
    old = catalog.records.get(record["recording"])
    there = out / old["path"] if old is not None and is_fetched(old, out) else None  # to be overridden
    if result.file is None:
        if there is None:  # else the song stays, and so does its record
            catalog.append(record)
        return
    if there is not None:
        there.unlink()
    catalog.append(record)
    target = out / record["path"]
    make_folder(target.parent)
    move(result.file, target)
