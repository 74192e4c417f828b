"""The manifest under one run of `preprocess`: what is done, what remains, and which track goes where.

Only the coordinator writes it; workers see tasks and answer with results.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

from musicldm.core import durable, filenames
from musicldm.core.config import from_dict
from musicldm.core.errors import DataError, MusicLDMError, OutputError
from musicldm.core.guard import Guard, refusal
from musicldm.core.names import counted, merged
from musicldm.media.audio.artists import ArtistRule, Whose
from musicldm.media.audio.forms import form
from musicldm.media.audio.manifest import Split, open_manifest
from musicldm.media.audio.prepare import Prepared, PrepareSettings, TakeError
from musicldm.media.audio.sources import NO_FILE, SourceFile, digest, look, utf8

CATALOG = "catalog.jsonl"  # the crawl's journal, beside the audio that it fetched

_HELDOUT_ONE_IN = 20
_SUSPICIOUS = 1e-3  # peak; -60 dBFS
_LONGEST_NAME = 240  # bytes; file systems take 255


@dataclass(frozen=True)
class Summary:
    """The result of a run of `preprocess`."""

    files: int
    """Sources found, usable or not."""
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
    """Of those done in this run, left below the target loudness, since their peaks would have clipped."""
    artists: dict[str, int]
    """Of all usable tracks, the most frequent first; "" stands for nobody known."""
    artists_from: dict[str, int]
    """Of how many tracks the artist comes from the catalog, a tag, a folder, the option; or nobody is known."""
    relabelled: int
    """Tracks of earlier runs that have another artist now."""
    converted: dict[str, int]
    """The form of sources, such as "44100 Hz, 2 channels" -> how many of those done in this run had another form."""
    lowered: dict[str, float]
    """Of those done in this run: source -> the dB by which it was lowered since its peak lay beyond full scale."""
    cancelled: list[str]
    """Of those done in this run, whose channels cancel each other, so that one of them was taken."""
    beyond_header: dict[str, float]
    """Of those done in this run: source -> seconds of its sound that its header does not know of."""
    trimmed_seconds: float
    """Silence that was taken off in this run."""
    takes: list[str] = field(default_factory=list)
    """Sources that are our own takes, and were left out."""
    duplicates: dict[str, str] = field(default_factory=dict)
    """Source -> the source with the same audio that was kept."""
    failed: dict[str, str] = field(default_factory=dict)
    """Source -> reason."""


@dataclass(frozen=True)
class Task:
    name: str
    """The source's path below the input folder, in UTF-8; the key in the manifest."""
    path: Path
    source: SourceFile | None
    """None where the name leads to nothing, as a broken link does."""
    target: Path
    settings: PrepareSettings
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
    prepared: Prepared | None


class Ledger:
    """The manifest under one run: what is done, what remains, and which track goes where."""

    def __init__(
        self,
        source: Path,
        out: Path,
        settings: PrepareSettings,
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
                self.journal.append(record | {"status": "failed", "reason": "Its waveform is gone, or was changed."})
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
        return Task(name, self.paths[name], self.sources[name], target, self.settings, known)

    def _is_current(self, record: dict[str, Any]) -> bool:
        """Whether a record stands for an output as this run would make it, if its source is still the same."""
        made = record["status"] in ("done", "duplicate") and record["content"] in self.kept
        if record.get("take") and not self.settings.include_takes:
            return False
        if "original" not in record and (record.get("clipped", 0) > 0 or record.get("peak", 1) < _SUSPICIOUS):
            return False  # an earlier release may have clipped it, or let its channels cancel each other
        return made and self._has_our_shape(record) and not self.settings.refusal(record["samples"], record["silent"])

    def _has_our_shape(self, record: dict[str, Any]) -> bool:
        return bool(record.get("settings") == self.settings.shaping())

    def _targets(self) -> dict[str, str]:
        """Where each source's output goes: its own name, as far as it differs from all others on any file system."""
        suffix = f".{self.settings.format}"
        records = self.journal.records
        # Names once given are kept, or a new file could rename the outputs of old ones.
        targets = {
            name: records[name]["path"]
            for name in self.sources
            if name in records and records[name]["path"].endswith(suffix)
        }
        given = [record["path"] for record in records.values()]
        places = {name: filenames.portable_path(name) for name in self.sources}
        # The names of folders, too: beside `a.wav` there may be a folder that is called `a.wav`.
        folders = {folder for path in (*places.values(), *given) for folder in PurePosixPath(path).parents}
        taken = {filenames.key(each) for each in (*given, *folders)}
        for name, place in places.items():
            if name not in targets:
                names = _names(name, place, suffix)
                targets[name] = next(each for each in names if filenames.key(each) not in taken)
                taken.add(filenames.key(targets[name]))
        return targets

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

    def _commit_output(self, task: Task, record: dict[str, Any], output: Output, prepared: Prepared) -> None:
        file, found = output.file, look(output.file)
        if found is None:
            raise OutputError(
                f"What a worker has written to {file.parent} is not visible here.",
                "All machines of a cluster must see the input and the output under the same paths.",
            )
        crawled, original = self._crawled(task.name), asdict(prepared.original)
        tagged, take = original.pop("artist"), original.pop("take")
        whose = self.artists.whose(PurePosixPath(task.name), tagged, crawled.get("artist", ""))
        record |= {
            "status": "done",
            "bytes": found.size,
            "sha256": output.sha256,
            "mtime_ns": found.mtime_ns,
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
            "lowered": round(prepared.lowered, 2),
            "mono_from": prepared.mono_from,
            "trimmed": {place: round(seconds, 3) for place, seconds in asdict(prepared.trimmed).items()},
            "original": original,
            "take": take,
            "content": prepared.content,
            "split": self._split(prepared.content),
            "artist": whose.artist,
            "artist_from": whose.origin,
            "tagged": tagged,
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
        self.journal.append(record | {"status": "duplicate", "reason": f"The same audio as {keeper}."})

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
        tracks = self._tracks()
        records = [self.journal.records[name] for name in self.tried]
        prepared = [record for record in records if record["status"] == "done"]
        originals = [record["original"] for record in prepared]
        forms = Counter(form(original["sample_rate"], original["channels"]) for original in originals)
        forms.pop(form(self.settings.sample_rate, self.settings.channels), None)
        return Summary(
            files=len(self.sources),
            prepared=len(prepared),
            skipped=len(self.sources) - len(self.tried),
            tracks=len(tracks),
            heldout=sum(record["split"] == "heldout" for record in tracks),
            hours=sum(record["seconds"] for record in tracks) / 3600,
            prepared_hours=sum(record["seconds"] for record in prepared) / 3600,
            quieter=sum(record["held_back"] for record in prepared),
            artists=counted(record["artist"] for record in tracks),
            artists_from=dict(Counter(record.get("artist_from", "earlier release") for record in tracks)),
            relabelled=self.relabelled,
            converted=dict(forms.most_common()),
            lowered={record["source"]: record["lowered"] for record in prepared if record["lowered"]},
            cancelled=[record["source"] for record in prepared if record["original"]["cancelled"]],
            beyond_header={
                record["source"]: record["original"]["beyond_header"]
                for record in prepared
                if record["original"]["beyond_header"]
            },
            trimmed_seconds=sum(sum(record["trimmed"].values()) for record in prepared),
            takes=list(self.takes),
            duplicates={r["source"]: self.kept[r["content"]] for r in records if r["status"] == "duplicate"},
            failed=self.failed,
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


def _names(source: str, place: PurePosixPath, suffix: str) -> Iterator[str]:
    """Names for the output of a source, the best first; the last ones no other source can have."""
    yield _fitting(place.with_suffix(suffix))
    yield _fitting(place.with_name(place.name + suffix))
    whole = hashlib.sha256(source.encode()).hexdigest()
    for digits in count(8):
        yield _fitting(place.with_name(f"{place.stem}~{whole[:digits]}{suffix}"))


def _fitting(path: PurePosixPath) -> str:
    """The path, with its last name shortened where a file system would refuse it."""
    name = path.name.encode()
    if len(name) <= _LONGEST_NAME:
        return str(path)
    # With a hash, or long names with the same beginning would become one.
    short = name[: _LONGEST_NAME - 32].decode(errors="ignore")
    return str(path.with_name(f"{short}~{hashlib.sha256(name).hexdigest()[:8]}{path.suffix}"))
