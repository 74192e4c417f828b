"""A folder of audio files of any kind to waveforms of one kind: nested folders in, a mirrored tree and a manifest out.

Workers turn one file each into one waveform under a temporary name. The coordinator alone gives it its own name and
writes the manifest, and a track is done when its line is there. The outputs depend on the sources and the settings
only: not on the order in which workers finish, nor on how often the work was cut off and begun again.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from musicldm import durable
from musicldm.audio.manifest import MANIFEST, Split, open_manifest
from musicldm.audio.prepare import Prepared, PrepareSettings, prepare
from musicldm.errors import DataError, MusicLDMError, OutputError, UsageError
from musicldm.jobs import run_all, run_on_cluster
from musicldm.progress import Progress, silent

CATALOG = "catalog.jsonl"  # the crawl's journal, beside the audio that it fetched

_HELDOUT_ONE_IN = 20
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
        ledger = _Ledger(source, out, settings)
        status = out.stat()
        tasks = ledger.plan(_walk(source, seen={(status.st_dev, status.st_ino)}))
        if not tasks and not ledger.skipped:
            raise DataError(f"There are no audio files in {source}.")
        done = ledger.skipped
        found = done + len(tasks)
        progress(done, found)
        outcomes = (
            run_on_cluster(_work, tasks, cluster, time_limit) if cluster else run_all(_work, tasks, jobs, time_limit)
        )
        try:
            with closing(outcomes):
                for task, outcome in outcomes:
                    ledger.commit(task, outcome)
                    done += 1
                    progress(done, found, task.name)
        finally:
            _sweep(out)
        ledger.hold_out()

    summary = ledger.summary(found)
    if not summary.tracks:
        reasons = " ".join(f"{name}: {reason}" for name, reason in list(summary.failed.items())[:3])
        raise DataError(f"No file in {source} could be used.", f"{reasons} All reasons are in {out / MANIFEST}.")
    return summary


def _sweep(out: Path) -> None:
    """Remove what workers that were killed have left unfinished."""
    for leftover in out.rglob(f"{durable.TEMPORARY}*"):
        leftover.unlink(missing_ok=True)


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


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
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
            yield from _walk(path, seen)
        elif path.suffix.lower() not in _NOT_AUDIO:
            yield path


class _Ledger:
    """The manifest under one run: what is done, what remains, and which track goes where."""

    def __init__(self, source: Path, out: Path, settings: PrepareSettings) -> None:
        self.source = source
        self.out = out
        self.settings = settings
        self.journal = open_manifest(out)
        # The first in the alphabet wins among equals, so that the order of finishing does not matter.
        self.kept: dict[str, str] = {}  # content -> source
        for name, record in sorted(self.journal.records.items()):
            if record["status"] != "done":
                continue
            if _size(out / record["path"]) != record["bytes"]:
                self.journal.append(record | {"status": "failed", "reason": "Its waveform is gone, or was changed."})
            elif self.kept.setdefault(record["content"], name) != name:  # a kill came between keeping and dropping
                self._drop(record, self.kept[record["content"]])
        self.heldout = {record["content"] for record in self.journal.records.values() if record["split"] == "heldout"}
        self.catalog = _read_catalog(source)
        self.skipped = 0
        self.tried: list[str] = []
        self.failed: dict[str, str] = {}

    # Before the work.

    def plan(self, files: Iterator[Path]) -> list[_Task]:
        """The tasks that remain; what needs none counts as skipped."""
        paths = {_utf8(path.relative_to(self.source)): path for path in files}
        self._refuse_orphans(set(paths))
        targets = self._targets(list(paths))
        sources = {name: source for name, path in paths.items() if (source := _look(path)) is not _NO_FILE}
        changed = {name for name, source in sources.items() if not self._is_done(name, source)}
        shared = {record["content"] for record in self.journal.records.values() if record["status"] == "duplicate"}
        tasks = []
        for name, source in sources.items():
            record = self.journal.records.get(name)
            known = ""
            if record and name in changed and self._is_current(record) and record["content"] not in shared:
                known = record["source_sha256"]
            elif record and name not in changed and self.kept[record["content"]] not in changed:
                self.skipped += 1
                continue
            tasks.append(_Task(name, paths[name], source, self.out / targets[name], self.settings, known))
        # What will be made anew keeps nobody out meanwhile, in whatever order the workers finish.
        for task in tasks:
            if not task.known:
                self._set_aside(self.journal.records.get(task.name))
        return tasks

    def _is_done(self, name: str, source: _Source | None) -> bool:
        record = self.journal.records.get(name)
        return record is not None and self._is_current(record) and record["source_file"] == _as_dict(source)

    def _is_current(self, record: dict[str, Any]) -> bool:
        """Whether a record stands for an output as this run would make it, if its source is still the same."""
        made = record["status"] in ("done", "duplicate") and record["content"] in self.kept
        return made and record["settings"] == asdict(self.settings)

    def _refuse_orphans(self, names: set[str]) -> None:
        """Tracks whose source is gone stay, unless they are of another kind than this run's and cannot be made anew."""
        for name, record in sorted(self.journal.records.items()):
            if name not in names and record["status"] == "done" and record["settings"] != asdict(self.settings):
                reason = "Its source is gone, and it was prepared with other settings."
                self._set_aside(record)
                self.journal.append(record | {"status": "failed", "reason": reason})
                self.failed[name] = reason

    def _targets(self, names: list[str]) -> dict[str, str]:
        """Where each source's output goes: its own name, and its suffix kept where another has that name."""
        suffix = f".{self.settings.format}"
        targets = {
            name: self.journal.records[name]["path"]
            for name in names
            if name in self.journal.records and self.journal.records[name]["path"].endswith(suffix)
        }
        taken = {record["path"] for record in self.journal.records.values()}
        for name in names:
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
            self.skipped += 1
            return
        self.tried.append(task.name)
        if before:
            self._retire(before)
        record: dict[str, Any] = {
            "source": task.name,
            "source_file": _as_dict(task.source),
            "source_sha256": None,
            "settings": asdict(self.settings),
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

    def _set_aside(self, record: dict[str, Any] | None) -> None:
        if record and self.kept.get(record["content"]) == record["source"]:
            del self.kept[record["content"]]

    def _retire(self, record: dict[str, Any]) -> None:
        """The former version of an output counts no more, and goes."""
        self._set_aside(record)
        if record["status"] == "done":
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
            "content": prepared.content,
            "split": self._split(prepared.content),
            "artist": artist,
            "title": title,
            "provenance": provenance,
        }
        rival = self.kept.get(prepared.content)
        if rival is not None and rival < task.name:
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
        folder = place.parent.name or self.source.resolve().name
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

    def summary(self, found: int) -> Summary:
        tracks = self._tracks()
        records = [self.journal.records[name] for name in self.tried]
        prepared = [record for record in records if record["status"] == "done"]
        wanted = self.settings.loudness
        return Summary(
            files=found,
            prepared=len(prepared),
            skipped=self.skipped,
            tracks=len(tracks),
            heldout=sum(record["split"] == "heldout" for record in tracks),
            hours=sum(record["seconds"] for record in tracks) / 3600,
            prepared_hours=sum(record["seconds"] for record in prepared) / 3600,
            quieter=sum(wanted is not None and (record["loudness"] or -70) < wanted - 0.1 for record in prepared),
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
