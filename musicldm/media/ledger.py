"""The manifest under one run of `preprocess`: what is done, what remains, and which track goes where.

Only the coordinator writes it; workers see tasks and answer with results.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from musicldm.core import durable
from musicldm.core.config import from_dict
from musicldm.core.errors import DataError, MusicLDMError, OutputError
from musicldm.core.guard import Guard, refusal
from musicldm.core.names import merged
from musicldm.media.artists import ArtistRule, Whose
from musicldm.media.audio.forms import form
from musicldm.media.audio.prepare import Prepared, PrepareSettings
from musicldm.media.manifest import Split, medium_of, open_manifest
from musicldm.media.medium import Medium
from musicldm.media.naming import targets
from musicldm.media.notes.midi import is_midi
from musicldm.media.notes.prepare import NoteSettings, PreparedScore
from musicldm.media.sources import NO_FILE, SourceFile, digest, look, utf8
from musicldm.media.summary import Summary
from musicldm.media.takes import TakeError

CATALOG = "catalog.jsonl"  # the crawl's journal, beside the audio that it fetched

_HELDOUT_ONE_IN = 20
_SUSPICIOUS = 1e-3  # peak; -60 dBFS


@dataclass(frozen=True)
class Settings:
    """How files of each medium are prepared."""

    audio: PrepareSettings
    notes: NoteSettings

    def of(self, medium: Medium) -> PrepareSettings | NoteSettings:
        """Those of one medium."""
        return self.notes if medium == "notes" else self.audio


@dataclass(frozen=True)
class Task:
    name: str
    """The source's path below the input folder, in UTF-8; the key in the manifest."""
    path: Path
    source: SourceFile | None
    """None where the name leads to nothing, as a broken link does."""
    target: Path
    settings: PrepareSettings | NoteSettings
    known: str
    """SHA-256 of the source from which the present output was made; empty where it must be made again in any case."""


@dataclass(frozen=True)
class Output:
    file: Path
    """Under its temporary name."""
    sha256: str


@dataclass(frozen=True)
class Finished:
    sha256: str
    """Of the source."""
    output: Output | None
    """None where the source is still the known one."""
    prepared: Prepared | PreparedScore | None


class Ledger:
    """The manifest under one run: what is done, what remains, and which track goes where."""

    def __init__(
        self,
        source: Path,
        out: Path,
        settings: Settings,
        files: list[Path],
        artists: ArtistRule,
        overwrite: bool = False,
    ) -> None:
        self.source = source
        self.out = out
        self.settings = settings
        self.overwrite = overwrite
        self.artists = artists
        self.paths: dict[str, Path] = {}
        self.sources: dict[str, SourceFile | None] = {}
        for path in files:
            if (found := look(path)) is not NO_FILE:
                name = utf8(path.relative_to(source))
                while name in self.paths:  # names that differ in bytes alone are spelled alike in UTF-8
                    name += "_"
                self.paths[name], self.sources[name] = path, found
        self.media: dict[str, Medium] = {
            name: "notes" if is_midi(path) else "audio" for name, path in self.paths.items()
        }
        self.tried: dict[str, None] = {}
        self.failed: dict[str, str] = {}
        self.takes: dict[str, None] = {}
        self.relabelled = 0
        if not self.sources:
            return  # a wrong folder or a missing disk must not change the manifest
        self.journal = open_manifest(out)
        self.catalog = _read_catalog(source)
        self._take_stock()
        self.targets = self._targets()
        self.heldout = {
            record["content"] for record in self.journal.records.values() if record.get("split") == "heldout"
        }

    # Before the work

    def _take_stock(self) -> None:
        """Find which of the tracks in the manifest are there, and were prepared with the settings of this run."""
        self.kept: dict[str, str] = {}  # content -> source
        # Among equals, one that has a source wins, then the first in the alphabet: not the first to be finished.
        for name, record in sorted(
            self.journal.records.items(), key=lambda item: (item[0] not in self.sources, item[0])
        ):
            if record["status"] not in ("done", "stale"):
                continue
            if not self._is_ours(record):
                self.journal.append(record | {"status": "failed", "reason": "Its output is gone, or was changed."})
                continue
            found = look(self.out / record["path"])
            if found and "sha256" in record and found.mtime_ns != record.get("mtime_ns"):  # copied
                record = record | {"mtime_ns": found.mtime_ns}  # so that it need not be read again
                self.journal.append(record)
            if name not in self.sources and not self._has_our_shape(record):
                # It cannot be made again; a run with its former settings will list it again.
                reason = "Its source is gone, and it was prepared with other settings."
                self.failed[name] = reason
                if record["status"] == "done":
                    self.journal.append(record | {"status": "stale", "reason": reason})
            elif self.kept.setdefault(record["content"], name) != name:  # a kill came between keeping and dropping
                self._drop(record, self.kept[record["content"]])
            elif record["status"] == "stale":
                self.journal.append(record | {"status": "done", "reason": ""})

    def _is_ours(self, record: dict[str, Any]) -> bool:
        """Whether a record's waveform is there as we wrote it; it is read only where its date is another."""
        path = self.out / record["path"]
        found = look(path)
        if found is None or not path.is_file() or found.size != record.get("bytes", found.size):
            return False
        if "sha256" not in record:  # nor its size, in a manifest of the first version
            return "bytes" in record or record["status"] in ("done", "stale")
        if found.mtime_ns == record.get("mtime_ns"):
            return True
        try:
            return digest(path) == str(record["sha256"])
        except DataError:
            return False

    def _guard(self, name: str) -> Guard:
        """What may be replaced where the output of a source goes: its former version."""

        def ours(path: Path) -> bool:
            record = self.journal.records.get(name)
            return record is not None and self.out / record["path"] == path and self._is_ours(record)

        return Guard(ours, self.overwrite)

    def check(self, tasks: Sequence[Task]) -> None:
        """See that no task would replace what is not ours.

        Raises:
            OutputError: one would.
        """
        foreign = [task.target for task in tasks if self._guard(task.name).is_foreign(task.target)]
        if foreign:
            raise refusal(foreign)

    def plan(self) -> list[Task]:
        """The tasks that remain."""
        tasks = []
        for name, source in self.sources.items():
            record = self.journal.records.get(name)
            known = ""
            if record and self._is_current(record):
                if record["source_file"] == _as_dict(source):
                    continue
                # Touched, yet perhaps not changed: the worker compares the hash before it decodes anything.
                known = record["source_sha256"]
            tasks.append(self._task(name, known))
        return tasks

    def orphaned_duplicates(self) -> list[Task]:
        """Tasks for duplicates whose kept twin has changed since."""
        records = [self.journal.records.get(name) for name in self.sources]
        lost = [r for r in records if r and r["status"] == "duplicate" and r["content"] not in self.kept]
        return [self._task(record["source"]) for record in lost]

    def _task(self, name: str, known: str = "") -> Task:
        target = self.out / self.targets[name]
        settings = self.settings.of(self.media[name])
        return Task(name, self.paths[name], self.sources[name], target, settings, known)

    def _is_current(self, record: dict[str, Any]) -> bool:
        """Whether a record stands for an output as this run would make it, if its source is still the same."""
        made = record["status"] in ("done", "duplicate") and record["content"] in self.kept
        if record.get("take") and not self.settings.audio.include_takes:
            return False
        if "original" not in record and (record.get("clipped", 0) > 0 or record.get("peak", 1) < _SUSPICIOUS):
            return False  # an earlier release may have clipped it, or let its channels cancel each other
        return made and self._has_our_shape(record) and not self.settings.of(medium_of(record)).refuses(record)

    def _has_our_shape(self, record: dict[str, Any]) -> bool:
        return bool(record.get("settings") == self.settings.of(medium_of(record)).shaping())

    def _targets(self) -> dict[str, str]:
        """Where each source's output goes: its own name, as far as it differs from all others on any file system."""
        suffixes = {name: self.settings.of(medium).suffix for name, medium in self.media.items()}
        return targets(suffixes, {name: record["path"] for name, record in self.journal.records.items()})

    # During the work

    def commit(self, task: Task, outcome: Finished | Exception) -> None:
        """Give an output its final name, and record the result of its source."""
        if isinstance(outcome, OutputError):
            raise outcome  # a full disk is not this file's fault, and the next file would meet it too
        before = self.journal.records.get(task.name)
        if before and isinstance(outcome, Finished) and not outcome.output:
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
            "settings": task.settings.shaping(),
            "status": "failed",
            "reason": "",
            "path": task.target.relative_to(self.out).as_posix(),
            "split": None,
            "content": None,
        }
        if isinstance(outcome, Exception):
            expected = isinstance(outcome, MusicLDMError)
            record["reason"] = str(outcome) if expected else f"{type(outcome).__name__}: {outcome}"
            if isinstance(outcome, TakeError):
                self.journal.append(record | {"status": "take"})
                self.takes[task.name] = None
                return
            self.journal.append(record)
            self.failed[task.name] = record["reason"]
        elif outcome.output and outcome.prepared:
            self._commit_output(task, record | {"source_sha256": outcome.sha256}, outcome.output, outcome.prepared)

    def _retire(self, record: dict[str, Any]) -> None:
        """Remove the former version of an output, which counts no more."""
        if self.kept.get(record["content"]) == record["source"]:
            # The record goes before the file: a kill between the two must not leave a record of a file that is gone.
            del self.kept[record["content"]]
            self.journal.append(record | {"status": "failed", "reason": "It was about to be made again."})
        self._remove(record)

    def _remove(self, record: dict[str, Any]) -> None:
        """Remove a record's waveform, if it is the one that we wrote."""
        if self._is_ours(record):
            (self.out / record["path"]).unlink(missing_ok=True)

    def _commit_output(
        self, task: Task, record: dict[str, Any], output: Output, prepared: Prepared | PreparedScore
    ) -> None:
        file, found = output.file, look(output.file)
        if found is None:
            raise OutputError(
                f"What a worker has written to {file.parent} is not visible here.",
                "All machines of a cluster must see the input and the output under the same paths.",
            )
        crawled = self._crawled(task.name)
        whose = self.artists.whose(PurePosixPath(task.name), prepared.artist, crawled.get("artist", ""))
        record |= {
            "status": "done",
            "bytes": found.size,
            "sha256": output.sha256,
            "mtime_ns": found.mtime_ns,
            **prepared.record(),
            "take": prepared.take,
            "content": prepared.content,
            "split": self._split(prepared.content),
            "artist": whose.artist,
            "artist_from": whose.origin,
            "tagged": prepared.artist,
            "title": crawled.get("title") or prepared.title or PurePosixPath(task.name).stem,
            "provenance": crawled.get("provenance") or {},
        }
        rival = self.kept.get(prepared.content)
        # The rule of `_take_stock`. To keep whichever is finished first would differ from run to run.
        if rival is not None and (rival not in self.sources, rival) < (False, task.name):
            file.unlink()
            self._drop(record, rival)
            return
        # First by what the file is known as ours, should a kill follow; then the file; then what others trust.
        self.journal.append(record | {"status": "failed", "reason": "It was about to get its name."})
        self._guard(task.name).commit(file, task.target)
        self.journal.append(record)
        self.kept[prepared.content] = task.name
        # Last, since a kill before this leaves both of them, which `_take_stock` settles.
        if rival is not None:
            self._drop(self.journal.records[rival], task.name)

    def _drop(self, record: dict[str, Any], keeper: str) -> None:
        """Record a duplicate, of which `keeper` is kept, and remove its output."""
        self._remove(record)
        self.journal.append(record | {"status": "duplicate", "reason": f"The same as {keeper}."})

    # The artists

    def _crawled(self, name: str) -> dict[str, Any]:
        """What the crawl's catalog says of a source."""
        return self.catalog.get(unicodedata.normalize("NFC", name), {})

    def label(self) -> None:
        """Give every track whose source is there its artist, by the rule of this run and in one spelling for each."""
        tracks = [record for record in self._tracks() if record["source"] in self.sources]
        whose = {record["source"]: self._whose(record) for record in tracks}
        one = merged(Counter(each.artist for each in whose.values() if each.artist))
        for record in tracks:
            artist, origin = whose[record["source"]]
            artist = one.get(artist, artist)
            if artist != record["artist"] or record.get("artist_from", origin) != origin:
                self.relabelled += artist != record["artist"] and record["source"] not in self.tried
                self.journal.append(record | {"artist": artist, "artist_from": origin})

    def _whose(self, record: dict[str, Any]) -> Whose:
        place = PurePosixPath(record["source"])
        tagged = record.get("tagged")
        if tagged is None:
            # Releases before this field: what is not the name of the folder they found in a tag.
            guess = place.parent.name or utf8(Path(self.source.resolve().name))
            tagged = "" if record["artist"] == guess else record["artist"]
        return self.artists.whose(place, tagged, self._crawled(record["source"]).get("artist", ""))

    # The split

    def _split(self, content: str) -> Split:
        # By the hash, which is as good as a random number and depends neither on the order nor on the other files. What
        # was ever held out stays so, and so do its copies.
        return "heldout" if content in self.heldout or int(content, 16) % _HELDOUT_ONE_IN == 0 else "train"

    def hold_out(self) -> None:
        """Ensure that at least one track is for training and, of two or more, at least one is held out."""
        # By the hash again, so that every run picks the same one.
        tracks = sorted(self._tracks(), key=lambda record: str(record["content"]))
        splits = {record["split"] for record in tracks}
        if len(tracks) > 1 and splits == {"train"}:
            self.journal.append(tracks[0] | {"split": "heldout"})
        elif splits == {"heldout"}:
            self.journal.append(tracks[-1] | {"split": "train"})

    # At the end

    def _tracks(self) -> list[dict[str, Any]]:
        return [self.journal.records[name] for name in self.kept.values()]

    def summary(self) -> Summary:
        """What this run did, and what there is now."""
        return Summary.of(
            tracks=self._tracks(),
            tried=[self.journal.records[name] for name in self.tried],
            kept=self.kept,
            files=len(self.sources),
            relabelled=self.relabelled,
            takes=list(self.takes),
            failed=self.failed,
            form=form(self.settings.audio.sample_rate, self.settings.audio.channels),
        )


def _read_catalog(source: Path) -> dict[str, dict[str, Any]]:
    """The crawl's records of what it fetched, by their path below the input folder."""

    def check(record: dict[str, Any]) -> None:
        if record.get("status") == "fetched":
            from_dict(_Crawled, record, unknown="pass over")

    records = durable.Journal(source / CATALOG, "recording", check).records.values()
    # By composed letters, into which some file systems take names apart.
    return {
        unicodedata.normalize("NFC", PurePosixPath(record["path"]).as_posix()): record
        for record in records
        if record.get("status") == "fetched"
    }


@dataclass(frozen=True)
class _Crawled:
    """What is taken from a record of the crawl's catalog."""

    path: str
    artist: str = ""
    title: str = ""
    provenance: dict[str, Any] | None = None


def _as_dict(source: SourceFile | None) -> dict[str, int] | None:
    return asdict(source) if source else None
