"""A folder of audio files of any kind to waveforms of one kind: nested folders in, a mirrored tree and a manifest out.

Workers turn one file each into one waveform under a temporary name. The coordinator alone gives it its own name and
writes the manifest, and a track is done when its line is there. The outputs depend on the sources and the settings
only: not on the order in which workers finish, nor on how often the work was cut off and begun again.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from musicldm.core import durable
from musicldm.core.errors import DataError, MusicLDMError, OutputError, UsageError
from musicldm.core.jobs import run_all, run_on_cluster
from musicldm.core.progress import Progress, silent
from musicldm.media.audio.manifest import MANIFEST, Split, open_manifest
from musicldm.media.audio.prepare import Prepared, PrepareSettings, prepare

CATALOG = "catalog.jsonl"  # the crawl's journal, beside the audio that it fetched

_HELDOUT_ONE_IN = 20
_UNFINISHED = re.escape(durable.TEMPORARY) + r"[0-9a-f]{8}\.(wav|flac)"
_LONGEST_NAME = 240  # bytes; file systems take 255

# Companions of music that are certainly none. All else is tried, and what fails is named.
_NOT_AUDIO = set(
    ".avif .bmp .cue .csv .db .gif .htm .html .ini .jpeg .jpg .json .jsonl .log .lrc .m3u .m3u8 .md .nfo .part .pdf"
    " .pls .png .py .rtf .sfv .srt .svg .tif .tiff .toml .torrent .txt .url .vtt .webp .xml .yaml .yml .ytdl".split()
)


@dataclass(frozen=True)
class Summary:
    """How a run of `preprocess` ended."""

    files: int
    """Sources found, whatever came of them."""
    prepared: int
    """Done in this run."""
    skipped: int
    """Done before."""
    tracks: int
    """Usable now."""
    heldout: int
    """Of these, kept from training."""
    hours: float
    """Of all usable tracks."""
    prepared_hours: float
    """Of those done in this run."""
    quieter: int
    """Of those done in this run, left below the loudness that was asked for, since their peak would have clipped."""
    duplicates: dict[str, str] = field(default_factory=dict)
    """Source -> the source with the same audio that was kept."""
    failed: dict[str, str] = field(default_factory=dict)
    """Source -> reason."""


def preprocess(
    source: Path,
    out: Path,
    settings: PrepareSettings,
    jobs: int = 1,
    progress: Progress = silent,
    time_limit: float = 600,
    cluster: str = "",
) -> Summary:
    """Turn every audio file under `source` into a waveform under `out`; what is done already is skipped.

    Args:
        jobs: worker processes on this machine.
        time_limit: seconds after which a file is given up.
        cluster: address of a Dask scheduler, whose workers see the same folders; they take the place of `jobs`.

    Raises:
        DataError: `source` is no folder, or there is nothing usable in it.
        UsageError: `source` lies inside `out`.
        OutputError: `out` cannot be written, or another run is writing there; what was done stays done.
        NetworkError: the cluster cannot be reached.
    """
    source, out = source.absolute(), out.absolute()  # as workers elsewhere know them
    if not source.is_dir():
        raise DataError(f"There is no folder {source}.", "Name the folder that holds the audio files.")
    if source.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"The output {out} would hold the input {source}.", "Choose another folder for the output.")
    with durable.locked(durable.make_folder(out)):
        _sweep(out)
        status = out.stat()
        files = list(walk(source, seen={(status.st_dev, status.st_ino)}))
        ledger = _Ledger(source, out, settings, files)
        if not ledger.sources:
            raise DataError(f"There are no audio files in {source}.")
        tasks = ledger.plan()
        found = len(ledger.sources)
        while tasks:
            done = found - len(tasks)
            progress(done, found)
            outcomes = (
                run_on_cluster(_work, tasks, cluster, time_limit)
                if cluster
                else run_all(_work, tasks, jobs, time_limit)
            )
            try:
                with closing(outcomes):
                    for task, outcome in outcomes:
                        ledger.commit(task, outcome)
                        done += 1
                        progress(done, found, task.name)
            finally:
                _sweep(out)
            tasks = ledger.widows()
        ledger.hold_out()

    summary = ledger.summary()
    if not summary.tracks:
        reasons = " ".join(f"{name}: {reason}" for name, reason in list(summary.failed.items())[:3])
        raise DataError(f"No file in {source} could be used.", f"{reasons} All reasons are in {out / MANIFEST}.")
    return summary


def _sweep(out: Path) -> None:
    """Remove what workers that were killed have left unfinished."""
    for leftover in out.rglob(f"{durable.TEMPORARY}*"):
        if re.fullmatch(_UNFINISHED, leftover.name):
            with suppress(OSError):
                leftover.unlink()


# ---- In the workers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """A file as the file system describes it: as long as this stays the same, nobody has touched it."""

    size: int
    mtime_ns: int
    ctime_ns: int


_NO_FILE = _Source(-1, -1, -1)


@dataclass(frozen=True)
class _Task:
    name: str
    """The source's path below the input folder, in UTF-8; the key in the manifest."""
    path: Path
    source: _Source | None
    """None where there is nothing behind the name."""
    target: Path
    settings: PrepareSettings
    known: str
    """SHA-256 of the source from which the present output was made; empty where it must be made anew in any case."""


@dataclass(frozen=True)
class _Finished:
    sha256: str
    """Of the source."""
    file: Path | None
    """The output under its temporary name; None where the source is still the known one."""
    prepared: Prepared | None


def _work(task: _Task) -> _Finished:
    digest = _digest(task.path)
    if digest == task.known:
        return _Finished(digest, None, None)
    durable.make_folder(task.target.parent)
    file = durable.unfinished(task.target)
    return _Finished(digest, file, prepare(task.path, file, task.settings))


def _digest(path: Path) -> str:
    """SHA-256 of a file. It also tells a disk's error, which decoders take for the end of the file."""
    try:
        if path.is_dir():
            os.listdir(path)  # a folder comes here only because it could not be listed
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"It cannot be read: {error.strerror or error}.") from error


# ---- In the coordinator --------------------------------------------------------------------------------------------


def walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Every file below that may hold audio, in a fixed order; no folder twice (`seen`), so links lead in no circle."""
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        yield folder  # a task that will fail and say why
        return
    for name in names:
        path = folder / name
        if name.startswith("."):
            continue
        if os.path.isdir(path):
            yield from walk(path, seen)
        elif path.suffix.lower() not in _NOT_AUDIO:
            yield path


class _Ledger:
    """The manifest under one run: what is done, what remains, and which track goes where."""

    def __init__(self, source: Path, out: Path, settings: PrepareSettings, files: list[Path]) -> None:
        self.source = source
        self.out = out
        self.settings = settings
        self.paths: dict[str, Path] = {}
        self.sources: dict[str, _Source | None] = {}
        for path in files:
            if (found := _look(path)) is not _NO_FILE:
                name = _utf8(path.relative_to(source))
                while name in self.paths:  # spelled alike, though their bytes differ
                    name += "_"
                self.paths[name], self.sources[name] = path, found
        self.tried: dict[str, None] = {}
        self.failed: dict[str, str] = {}
        if not self.sources:
            return  # a wrong folder, or a disk that is not there: not a word in the manifest
        self.journal = open_manifest(out)
        self.catalog = _read_catalog(source)
        self._take_stock()
        self.targets = self._targets()
        self.heldout = {record["content"] for record in self.journal.records.values() if record["split"] == "heldout"}

    # Before the work.

    def _take_stock(self) -> None:
        """See which of the tracks that the manifest tells of are there, and fit to stand beside those of this run."""
        self.kept: dict[str, str] = {}  # content -> source
        # Among equals, one that has a source wins, then the first in the alphabet: not the first to be finished.
        for name, record in sorted(
            self.journal.records.items(), key=lambda item: (item[0] not in self.sources, item[0])
        ):
            if record["status"] not in ("done", "stale"):
                continue
            size = _size(self.out / record["path"])
            if size is None or size != record.get("bytes", size):
                self.journal.append(record | {"status": "failed", "reason": "Its waveform is gone, or was changed."})
            elif name not in self.sources and not self._has_our_shape(record):
                # It cannot be made anew. With the settings it had, it comes back.
                reason = "Its source is gone, and it was prepared with other settings."
                self.failed[name] = reason
                if record["status"] == "done":
                    self.journal.append(record | {"status": "stale", "reason": reason})
            elif self.kept.setdefault(record["content"], name) != name:  # a kill came between keeping and dropping
                self._drop(record, self.kept[record["content"]])
            elif record["status"] == "stale":
                self.journal.append(record | {"status": "done", "reason": ""})

    def plan(self) -> list[_Task]:
        """The tasks that remain."""
        tasks = []
        for name, source in self.sources.items():
            record = self.journal.records.get(name)
            known = ""
            if record and self._is_current(record):
                if record["source_file"] == _as_dict(source):
                    continue
                known = record["source_sha256"]
            tasks.append(self._task(name, known))
        return tasks

    def widows(self) -> list[_Task]:
        """Tasks for duplicates of which the one that was kept has changed meanwhile."""
        records = [self.journal.records.get(name) for name in self.sources]
        lost = [r for r in records if r and r["status"] == "duplicate" and r["content"] not in self.kept]
        return [self._task(record["source"]) for record in lost]

    def _task(self, name: str, known: str = "") -> _Task:
        target = self.out / self.targets[name]
        return _Task(name, self.paths[name], self.sources[name], target, self.settings, known)

    def _is_current(self, record: dict[str, Any]) -> bool:
        """Whether a record stands for an output as this run would make it, if its source is still the same."""
        made = record["status"] in ("done", "duplicate") and record["content"] in self.kept
        return made and self._has_our_shape(record) and not self.settings.refusal(record["samples"], record["silent"])

    def _has_our_shape(self, record: dict[str, Any]) -> bool:
        return bool(record["settings"] == self.settings.shaping())

    def _targets(self) -> dict[str, str]:
        """Where each source's output goes: its own name, and its suffix kept where another has that name."""
        suffix = f".{self.settings.format}"
        records = self.journal.records
        targets = {
            name: records[name]["path"]
            for name in self.sources
            if name in records and records[name]["path"].endswith(suffix)
        }
        taken = {record["path"] for record in records.values()}
        taken |= {str(folder) for name in (*self.sources, *taken) for folder in PurePosixPath(name).parents}
        for name in self.sources:
            if name not in targets:
                path = PurePosixPath(name)
                target = _fitting(path.with_suffix(suffix))
                if target in taken:
                    target = _fitting(path.with_name(path.name + suffix))
                while target in taken:
                    target = f"{target.removesuffix(suffix)}_{suffix}"
                targets[name] = target
                taken.add(target)
        return targets

    # While it goes on.

    def commit(self, task: _Task, outcome: _Finished | Exception) -> None:
        """Give an output its name, and write down what became of its source."""
        if isinstance(outcome, OutputError):
            raise outcome  # a full disk is no fault of this file, and the next would meet it too
        before = self.journal.records.get(task.name)
        if before and isinstance(outcome, _Finished) and not outcome.file:
            self.journal.append(before | {"source_file": _as_dict(task.source)})
            return
        self.tried[task.name] = None
        self.failed.pop(task.name, None)
        if before:
            self._retire(before)
        record: dict[str, Any] = {
            "source": task.name,
            "source_file": _as_dict(task.source),
            "source_sha256": None,
            "settings": self.settings.shaping(),
            "status": "failed",
            "reason": "",
            "path": task.target.relative_to(self.out).as_posix(),
            "split": None,
            "content": None,
        }
        if isinstance(outcome, Exception):
            expected = isinstance(outcome, MusicLDMError)
            record["reason"] = str(outcome) if expected else f"{type(outcome).__name__}: {outcome}"
            self.journal.append(record)
            self.failed[task.name] = record["reason"]
        elif outcome.file and outcome.prepared:
            self._commit_output(task, record, outcome.sha256, outcome.file, outcome.prepared)

    def _retire(self, record: dict[str, Any]) -> None:
        """The former version of an output counts no more, and goes."""
        if self.kept.get(record["content"]) == record["source"]:
            del self.kept[record["content"]]
            self.journal.append(record | {"status": "failed", "reason": "It was about to be made anew."})
        (self.out / record["path"]).unlink(missing_ok=True)

    def _commit_output(self, task: _Task, record: dict[str, Any], sha256: str, file: Path, prepared: Prepared) -> None:
        size = _size(file)
        if size is None:
            raise OutputError(
                f"What a worker has written to {file.parent} is not to be seen here.",
                "All machines of a cluster must see the input and the output under the same paths.",
            )
        artist, title, provenance = self._describe(task, prepared)
        record |= {
            "source_sha256": sha256,
            "status": "done",
            "bytes": size,
            "samples": prepared.samples,
            "seconds": round(prepared.samples / self.settings.sample_rate, 3),
            "sample_rate": self.settings.sample_rate,
            "channels": self.settings.channels,
            "peak": round(prepared.peak, 6),
            "loudness": None if prepared.loudness is None else round(prepared.loudness, 2),
            "clipped": prepared.clipped,
            "silent": prepared.silent,
            "offset": round(prepared.offset, 6),
            "gain": round(prepared.gain, 2),
            "held_back": prepared.held_back,
            "content": prepared.content,
            "split": self._split(prepared.content),
            "artist": artist,
            "title": title,
            "provenance": provenance,
        }
        rival = self.kept.get(prepared.content)
        if rival is not None and (rival not in self.sources, rival) < (False, task.name):
            file.unlink()
            self._drop(record, rival)
            return
        durable.move(file, task.target)
        self.journal.append(record)
        self.kept[prepared.content] = task.name
        if rival is not None:
            self._drop(self.journal.records[rival], task.name)

    def _drop(self, record: dict[str, Any], keeper: str) -> None:
        """A duplicate, of which `keeper` is kept."""
        (self.out / record["path"]).unlink(missing_ok=True)
        self.journal.append(record | {"status": "duplicate", "reason": f"The same audio as {keeper}."})

    def _describe(self, task: _Task, prepared: Prepared) -> tuple[str, str, dict[str, Any]]:
        """Artist, title and provenance: the crawl knows best, then the file's tags, then its place."""
        crawled = self.catalog.get(task.name, {})
        place = PurePosixPath(task.name)
        folder = place.parent.name or _utf8(Path(self.source.resolve().name))
        artist = crawled.get("artist") or prepared.artist or folder
        title = crawled.get("title") or prepared.title or place.stem
        return artist, title, crawled.get("provenance") or {}

    # The split.

    def _split(self, content: str) -> Split:
        return "heldout" if content in self.heldout or int(content, 16) % _HELDOUT_ONE_IN == 0 else "train"

    def hold_out(self) -> None:
        """See to it that at least one track is for training and, of two or more, at least one is held out."""
        tracks = sorted(self._tracks(), key=lambda record: str(record["content"]))
        splits = {record["split"] for record in tracks}
        if len(tracks) > 1 and splits == {"train"}:
            self.journal.append(tracks[0] | {"split": "heldout"})
        elif splits == {"heldout"}:
            self.journal.append(tracks[-1] | {"split": "train"})

    # At the end.

    def _tracks(self) -> list[dict[str, Any]]:
        return [self.journal.records[name] for name in self.kept.values()]

    def summary(self) -> Summary:
        tracks = self._tracks()
        records = [self.journal.records[name] for name in self.tried]
        prepared = [record for record in records if record["status"] == "done"]
        return Summary(
            files=len(self.sources),
            prepared=len(prepared),
            skipped=len(self.sources) - len(self.tried),
            tracks=len(tracks),
            heldout=sum(record["split"] == "heldout" for record in tracks),
            hours=sum(record["seconds"] for record in tracks) / 3600,
            prepared_hours=sum(record["seconds"] for record in prepared) / 3600,
            quieter=sum(record["held_back"] for record in prepared),
            duplicates={r["source"]: self.kept[r["content"]] for r in records if r["status"] == "duplicate"},
            failed=self.failed,
        )


def _read_catalog(source: Path) -> dict[str, dict[str, Any]]:
    """The crawl's records of what it fetched, by their path below the input folder."""
    records = durable.Journal(source / CATALOG, key="recording").records.values()
    return {PurePosixPath(record["path"]).as_posix(): record for record in records if record.get("status") == "fetched"}


def _utf8(path: Path) -> str:
    """The path as text that any file can hold; bytes of a name that are not UTF-8 are spelled \\xNN."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _look(path: Path) -> _Source | None:
    """What is behind a name: None where there is nothing, _NO_FILE where it is a pipe or a device."""
    try:
        status = path.stat()
    except OSError:
        return None  # a link to nowhere, say: the worker will find the words
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return _NO_FILE  # it might never end
    return _Source(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _as_dict(source: _Source | None) -> dict[str, int] | None:
    return asdict(source) if source else None


def _size(path: Path) -> int | None:
    """In bytes; None where there is no such file."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _fitting(path: PurePosixPath) -> str:
    """The path, its last name shortened where a file system would refuse it."""
    name = path.name.encode()
    if len(name) <= _LONGEST_NAME:
        return str(path)
    short = name[: _LONGEST_NAME - 32].decode(errors="ignore")
    return str(path.with_name(f"{short}~{hashlib.sha256(name).hexdigest()[:8]}{path.suffix}"))
