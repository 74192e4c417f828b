"""Audio files of any kind to waveforms of one kind: nested folders in, a mirrored tree of WAV and a manifest out.

Workers each turn one file into one WAV; the coordinator alone writes the manifest, and a track is done when its line is
there. The outputs depend on the sources and the settings only: not on the order in which workers finish, nor on how
often the work was cut off and begun again.
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

import numpy as np

from musicldm import durable
from musicldm.audio import files
from musicldm.audio.manifest import MANIFEST, Split, open_manifest
from musicldm.errors import ConfigError, DataError, MusicLDMError, OutputError, UsageError
from musicldm.jobs import run_all
from musicldm.progress import Progress, silent

CATALOG = "catalog.jsonl"  # the crawl's journal, beside the audio that it fetched

_HELDOUT_ONE_IN = 20
_SHORTEST = 0.1  # seconds
_SILENT = 1e-5  # peak; -100 dBFS
_LARGEST = (1 << 32) - 4096  # bytes that a WAV's 32-bit sizes can count, less room for its header

# Companions of music that are certainly none. All else is tried, and what fails is named.
_NOT_AUDIO = set(
    ".avif .bmp .cue .csv .db .gif .htm .html .ini .jpeg .jpg .json .jsonl .log .lrc .m3u .m3u8 .md .nfo .part .pdf"
    " .pls .png .py .rtf .sfv .srt .svg .tif .tiff .toml .torrent .txt .url .vtt .webp .xml .yaml .yml .ytdl".split()
)


@dataclass(frozen=True)
class PrepareSettings:
    """What every output has in common."""

    sample_rate: int = 16000
    bit_depth: int = 16
    """8, 16 or 24; the first two under triangular dither."""
    channels: int = 1
    """1 or 2."""

    def __post_init__(self) -> None:
        if not 1000 <= self.sample_rate <= 384000:
            raise ConfigError(f"The sample rate cannot be {self.sample_rate} Hz.", "Choose one from 1000 to 384000.")
        if self.bit_depth not in files.BIT_DEPTHS:
            raise ConfigError(f"The bit depth cannot be {self.bit_depth}.", "Choose 8, 16 or 24.")
        if self.channels not in (1, 2):
            raise ConfigError(f"There cannot be {self.channels} channels.", "Choose 1 or 2.")


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
    duplicates: dict[str, str] = field(default_factory=dict)
    """Source -> the source with the same audio that was kept."""
    failed: dict[str, str] = field(default_factory=dict)
    """Source -> reason."""


def preprocess(
    source: Path, out: Path, settings: PrepareSettings, jobs: int = 1, progress: Progress = silent
) -> Summary:
    """Turn every audio file under `source` into a WAV under `out`; what is done already is skipped.

    Raises:
        DataError: `source` is no folder, or there is nothing usable in it.
        UsageError: `source` lies inside `out`.
        OutputError: `out` cannot be written; what was done stays done.
    """
    if not source.is_dir():
        raise DataError(f"There is no folder {source}.", "Name the folder that holds the audio files.")
    if source.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"The output {out} would hold the input {source}.", "Choose another folder for the output.")
    durable.make_folder(out)
    for unfinished in out.rglob(f"{durable.TEMPORARY}*"):  # of a run that was killed
        unfinished.unlink(missing_ok=True)

    ledger = _Ledger(source, out, settings)
    status = out.stat()
    tasks, skipped = ledger.plan(_walk(source, seen={(status.st_dev, status.st_ino)}))
    found = len(tasks) + skipped
    if not found:
        raise DataError(f"There are no audio files in {source}.")
    done = skipped
    progress(done, found)
    with closing(run_all(_attempt, tasks, jobs)) as outcomes:
        for task, outcome in outcomes:
            ledger.commit(task, outcome)
            done += 1
            progress(done, found, task.name)
    ledger.hold_out()

    summary = ledger.summary(found, skipped, tasks)
    if not summary.tracks:
        reasons = " ".join(f"{name}: {reason}" for name, reason in list(summary.failed.items())[:3])
        raise DataError(f"No file in {source} could be used.", f"{reasons} All reasons are in {out / MANIFEST}.")
    return summary


# ---- In the workers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    name: str
    """The source's path below the input folder, in UTF-8; the key in the manifest."""
    source: Path
    target: Path
    size: int
    mtime_ns: int
    settings: PrepareSettings


@dataclass(frozen=True)
class Prepared:
    """What is known of one WAV when it has been written."""

    samples: int
    peak: float
    content: str
    artist: str
    title: str


def prepare_file(source: Path, target: Path, settings: PrepareSettings) -> Prepared:
    """Decode, resample, mix, dither and write one file, in little memory however long it is.

    Raises:
        DataError: `source` is no usable audio.
        OutputError: `target` cannot be written.
    """
    info = files.probe(source)
    dithered = settings.bit_depth < 24
    shape = (settings.sample_rate, settings.channels, settings.bit_depth)
    content = hashlib.sha256(repr(shape).encode())
    samples, peak = 0, 0.0
    durable.make_folder(target.parent)
    with (
        durable.replacing(target) as temporary,
        files.wav_writer(temporary, *shape) as append,
    ):
        for block in files.decode(source, settings.sample_rate, settings.channels):
            samples += block.shape[1]
            peak = max(peak, float(np.abs(block).max()))
            if samples * settings.channels * settings.bit_depth // 8 > _LARGEST:
                raise DataError("It is longer than a WAV file can be.")
            # All sound so far seeds this block's dither: chance enough, and yet the same on every run.
            content.update(np.ascontiguousarray(block).tobytes())
            chance = np.random.Generator(np.random.PCG64(int.from_bytes(content.digest()))) if dithered else None
            append(files.quantise(block, settings.bit_depth, chance))
        if samples < _SHORTEST * settings.sample_rate:
            raise DataError(f"It is too short: {samples / settings.sample_rate:.3f} s.")
        if peak < _SILENT:
            raise DataError("It is silent from end to end.")
    return Prepared(samples, peak, content.hexdigest(), info.artist, info.title)


def _attempt(task: _Task) -> Prepared:
    return prepare_file(task.source, task.target, task.settings)


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
            if not (out / record["path"]).is_file():
                self.journal.append(record | {"status": "failed", "reason": "Its waveform is gone."})
            elif self.kept.setdefault(record["content"], name) != name:  # a kill came between keeping and dropping
                self._drop(record, self.kept[record["content"]])
        self.heldout = {record["content"] for record in self.journal.records.values() if record["split"] == "heldout"}
        self.catalog = _read_catalog(source)

    # Before the work.

    def plan(self, sources: Iterator[Path]) -> tuple[list[_Task], int]:
        """The tasks that remain, and the number of sources that need none."""
        names = {_utf8(path.relative_to(self.source)): path for path in sources}
        targets = self._targets(list(names))
        tasks, skipped = [], 0
        for name, path in names.items():
            try:
                status = path.stat()
                if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                    continue  # a pipe or a device, which might never end
            except OSError:
                size, mtime_ns = -1, -1  # a link to nowhere: the worker will find the words
            else:
                size, mtime_ns = status.st_size, status.st_mtime_ns
            task = _Task(name, path, self.out / targets[name], size, mtime_ns, self.settings)
            if self._is_done(task):
                skipped += 1
            else:
                tasks.append(task)
        return tasks, skipped

    def _targets(self, names: list[str]) -> dict[str, str]:
        """Where each source's WAV goes: its own name with .wav, and its suffix kept where another has that name."""
        targets = {name: self.journal.records[name]["path"] for name in names if name in self.journal.records}
        taken = set(targets.values()) | {record["path"] for record in self.journal.records.values()}
        for name in names:
            if name not in targets:
                short = str(PurePosixPath(name).with_suffix(".wav"))
                target = short if short not in taken else f"{name}.wav"
                while target in taken:
                    target = f"{target[:-4]}_.wav"
                targets[name] = target
                taken.add(target)
        return targets

    def _is_done(self, task: _Task) -> bool:
        record = self.journal.records.get(task.name)
        if record is None or record["status"] == "failed":
            return False
        same = (record["source_size"], record["source_mtime_ns"]) == (task.size, task.mtime_ns)
        return same and record["settings"] == asdict(self.settings) and record["content"] in self.kept

    # While it goes on.

    def commit(self, task: _Task, outcome: Prepared | Exception) -> None:
        """Write down what became of one source."""
        self._forget(task)
        if isinstance(outcome, OutputError):
            raise outcome  # a full disk is no fault of this file, and the next would meet it too
        record: dict[str, Any] = {
            "source": task.name,
            "source_size": task.size,
            "source_mtime_ns": task.mtime_ns,
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
            task.target.unlink(missing_ok=True)  # of an earlier version that was good
            self.journal.append(record)
            return

        artist, title, provenance = self._describe(task, outcome)
        record |= {
            "status": "done",
            "samples": outcome.samples,
            "seconds": round(outcome.samples / self.settings.sample_rate, 3),
            "sample_rate": self.settings.sample_rate,
            "channels": self.settings.channels,
            "peak": round(outcome.peak, 6),
            "content": outcome.content,
            "split": self._split(outcome.content),
            "artist": artist,
            "title": title,
            "provenance": provenance,
        }
        rival = self.kept.get(outcome.content)
        if rival is None:
            self._keep(record)
        elif rival < task.name:
            self._drop(record, rival)
        else:
            self._keep(record)
            self._drop(self.journal.records[rival], task.name)

    def _forget(self, task: _Task) -> None:
        """Its former version counts no more."""
        before = self.journal.records.get(task.name)
        if before and self.kept.get(before["content"]) == task.name:
            del self.kept[before["content"]]

    def _keep(self, record: dict[str, Any]) -> None:
        self.journal.append(record)
        self.kept[record["content"]] = record["source"]

    def _drop(self, record: dict[str, Any], keeper: str) -> None:
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
        """See to it that, of two tracks or more, at least one is held out."""
        tracks = self._tracks()
        if len(tracks) > 1 and all(record["split"] == "train" for record in tracks):
            chosen = min(tracks, key=lambda record: str(record["content"]))
            self.journal.append(chosen | {"split": "heldout"})

    # At the end.

    def _tracks(self) -> list[dict[str, Any]]:
        return [self.journal.records[name] for name in self.kept.values()]

    def summary(self, found: int, skipped: int, tasks: list[_Task]) -> Summary:
        tracks = self._tracks()
        records = [self.journal.records[task.name] for task in tasks]
        prepared = [record for record in records if record["status"] == "done"]
        return Summary(
            files=found,
            prepared=len(prepared),
            skipped=skipped,
            tracks=len(tracks),
            heldout=sum(record["split"] == "heldout" for record in tracks),
            hours=sum(record["seconds"] for record in tracks) / 3600,
            prepared_hours=sum(record["seconds"] for record in prepared) / 3600,
            duplicates={r["source"]: self.kept[r["content"]] for r in records if r["status"] == "duplicate"},
            failed={record["source"]: record["reason"] for record in records if record["status"] == "failed"},
        )


def _read_catalog(source: Path) -> dict[str, dict[str, Any]]:
    """The crawl's records of what it fetched, by their path below the input folder."""
    records = durable.Journal(source / CATALOG, key="recording").records.values()
    return {PurePosixPath(record["path"]).as_posix(): record for record in records if record.get("status") == "fetched"}


def _utf8(path: Path) -> str:
    """The path as text that any file can hold; bytes of a name that are not UTF-8 are spelled \\xNN."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")
