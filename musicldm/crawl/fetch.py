"""Fetch the songs that are missing, several at a time, and record each in the catalog.

Every song is recorded as soon as it is fetched or given up, so a crawl can stop at any moment; the next one continues
with what is missing.
"""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from musicldm.core.durable import TEMPORARY, Journal, is_journal, locked, make_folder
from musicldm.core.errors import BlockedError, NetworkError, OutputError
from musicldm.core.guard import Guard, refusal
from musicldm.core.progress import Progress, silent
from musicldm.core.reading import sha256
from musicldm.crawl.attempt import Claims, Result, attempt
from musicldm.crawl.catalog import (
    CATALOG,
    FAILED,
    FETCHED,
    MISSING,
    NO_MATCH,
    REFUSED,
    UNLICENSED,
    Track,
    is_fetched,
    open_catalog,
)
from musicldm.crawl.pace import Pace, Stopped, take
from musicldm.crawl.plan import Plan, states_of
from musicldm.crawl.settings import CrawlSettings
from musicldm.crawl.youtube import YouTube

_KINDS = {".m4a", ".mp4", ".webm", ".opus", ".ogg", ".mp3", ".3gp"}  # of files that YouTube may have for a song
_PATIENCE = 3  # songs lost in a row, times `jobs`, after which the network counts as down


@dataclass(frozen=True)
class Outcome:
    """The result of a crawl."""

    plan: Plan
    """As it was when the crawl began."""
    fetched: tuple[dict[str, Any], ...]
    """The catalog records of the songs that it fetched."""
    left_out: tuple[dict[str, Any], ...]
    """The records of the songs that it tried and could not fetch, each with its `reason`."""
    kept: tuple[dict[str, Any], ...]
    """The records of songs that an earlier crawl gave up and this one did not try."""
    stopped: NetworkError | None
    """Why it ended before all songs were tried."""
    fruitless: int = 0
    """The most searches in a row that found nothing at all, not even what does not fit."""

    def counts(self) -> list[dict[str, Any]]:
        """For each artist, the number of songs by result: "present", "fetched" or another status of the catalog."""
        now = {record["recording"]: record["status"] for record in (*self.fetched, *self.left_out, *self.kept)}
        now |= {track.recording: "present" for track in self.plan.present}
        rows = []
        for artist in self.plan.artists:
            own = [track for track in self.plan.tracks if track.artist.id == artist.id]
            states = Counter(now.get(track.recording, MISSING) for track in own)
            names = (FETCHED, "present", NO_MATCH, REFUSED, UNLICENSED, FAILED, MISSING)
            rows.append({"artist": artist.name, "songs": len(own), **{name: states[name] for name in names}})
        return rows


def check_catalog(out: Path, overwrite: bool = False) -> None:
    """See that there is no other file under the name of the catalog; with `overwrite`, it makes way.

    Raises:
        OutputError: there is, or it cannot be removed.
    """
    Guard(lambda path: is_journal(path, "recording", "status"), overwrite).clear(out / CATALOG)


def check_songs(plan: Plan, overwrite: bool = False) -> None:
    """See that no song would replace a file that no crawl has fetched, or that was changed since.

    Raises:
        OutputError: one would.
    """
    records = open_catalog(plan.out).records
    foreign = []
    for track in () if overwrite else plan.missing:
        stem = plan.out / track.stem()
        record = records.get(track.recording)
        # By the stem: which kind of file it will be shows only once it is fetched.
        for file in sorted(stem.parent.iterdir()) if stem.parent.is_dir() else ():
            named_so = file.name.startswith(f"{stem.name}.") and file.suffix in _KINDS
            if named_so and not _is_ours(file, record, plan.out):
                foreign.append(file)
    if foreign:
        raise refusal(foreign)


def _is_ours(file: Path, record: Mapping[str, Any] | None, out: Path) -> bool:
    """Whether a file is the one that its record says was fetched; records of release 0.1 have no hash of it."""
    if record is None or record["status"] != FETCHED or out / record["path"] != file or not file.is_file():
        return False
    return record.get("sha256") in (None, sha256(file))


def fetch(plan: Plan, settings: CrawlSettings, progress: Progress = silent, overwrite: bool = False) -> Outcome:
    """Fetch the missing songs, `settings.jobs` at a time, and record them in the catalog.

    A song that cannot be fetched is recorded with the reason. One that the network lost is tried again by the next
    crawl; one that has no match, or is refused, only where `selection.retry` says so. `progress` counts songs.

    Raises:
        OutputError: the folder cannot be written, another crawl writes there, the disk is full, or a song would replace
            a file that no crawl has fetched, without `overwrite`.
        ConfigError: the cookie file is not one.
    """
    make_folder(plan.out)
    with locked(plan.out):
        check_catalog(plan.out, overwrite)
        check_songs(plan, overwrite)
        catalog = open_catalog(plan.out)
        # Another crawl may have come between the plan and the lock.
        plan = replace(plan, states=states_of(plan.tracks, catalog.records, plan.out, plan.selection))
        # Inside of the output folder, so that a finished download gets its name by a rename and not by a copy.
        folder = make_folder(plan.out / f"{TEMPORARY}youtube")
        fetched: list[dict[str, Any]] = []
        left_out: list[dict[str, Any]] = []
        stopped: NetworkError | None = None
        lost = empty = fruitless = 0
        # One hiccup of the network loses as many songs as are being fetched at that moment.
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
                _keep(result, catalog, plan.out, overwrite)
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
            shutil.rmtree(folder, ignore_errors=True)  # leftovers of an earlier crawl
        else:  # interrupted downloads stay, to be resumed
            with suppress(OSError):
                folder.rmdir()
    kept = tuple(catalog.records[recording] for recording, was in plan.states.items() if was not in (MISSING, FETCHED))
    return Outcome(plan, tuple(fetched), tuple(left_out), kept, stopped, fruitless)


@contextmanager
def _crew(
    plan: Plan, videos: Mapping[str, str], folder: Path, settings: CrawlSettings
) -> Iterator[queue.SimpleQueue[Result | BaseException]]:
    """Threads that work on the missing songs; the result of each arrives in the queue.

    Daemon threads: those of concurrent.futures would delay Ctrl-C until each server has answered.
    """
    todo: queue.SimpleQueue[Track] = queue.SimpleQueue()
    for track in plan.missing:
        todo.put(track)
    done: queue.SimpleQueue[Result | BaseException] = queue.SimpleQueue()
    pace = Pace()
    claims = Claims(videos, pace)

    def work(youtube: YouTube) -> None:
        # Closed by its own thread: to close a connection that another thread reads from would wait for its server.
        with youtube, suppress(queue.Empty, Stopped):
            while not pace.stop.is_set():
                track = todo.get_nowait()
                try:
                    done.put(attempt(youtube, track, plan.selection, claims))
                except Stopped:
                    raise
                except BaseException as error:
                    pace.stop.set()
                    done.put(error)

    # Here and not in the threads, so that a bad cookie file is an error before any song.
    clients = [YouTube(folder, settings, pace) for _ in range(min(settings.jobs, len(plan.missing)))]
    threads = [threading.Thread(target=work, args=(client,), daemon=True) for client in clients]
    try:
        for thread in threads:
            thread.start()
        yield done
    finally:  # at once where a thread waits for its turn; one that waits for a server ends with the process
        pace.stop.set()
        deadline = time.monotonic() + 1
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def _videos_of(records: Mapping[str, dict[str, Any]], plan: Plan) -> dict[str, str]:
    """Video -> the recording that has it, or is to have it: no two songs are the same video."""
    videos = {
        video: recording
        for recording, record in records.items()
        if is_fetched(record, plan.out) and (video := record.get("provenance", {}).get("source_id"))
    }
    return videos | {video: recording for recording, video in plan.selection.overrides.items()}


def _keep(result: Result, catalog: Journal, out: Path, overwrite: bool) -> None:
    """Record the result of a song in the catalog, then move its file to its final name.

    In this order a kill leaves no second file beside the one that the next crawl fetches, and no file under another
    one's record. It leaves a record without a file, which counts as missing, and the download, which is resumed.
    """
    record = result.record
    old = catalog.records.get(record["recording"])
    there = out / old["path"] if old is not None and is_fetched(old, out) else None  # to be overridden
    if result.file is None:
        if there is None:  # else the song stays, and so does its record
            catalog.append(record)
        return
    target = out / record["path"]
    guard = Guard(lambda path: _is_ours(path, old, out), overwrite)
    guard.check(target)
    if there is not None and not guard.is_foreign(there):
        there.unlink()
    catalog.append(record)
    make_folder(target.parent)
    try:
        guard.commit(result.file, target)
    except OutputError as error:  # or a file that came in between would count as the song
        catalog.append(record | {"status": FAILED, "path": None, "reason": error.message})
        raise
