"""What `musicldm preprocess` leaves behind: a folder of waveforms, of MIDI files, or of both, and their manifest."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from musicldm.core.config import Between, Count, Hash, Positive, from_dict
from musicldm.core.durable import Journal, is_journal
from musicldm.core.errors import DataError
from musicldm.core.reading import inside
from musicldm.media.audio import files
from musicldm.media.medium import Medium
from musicldm.media.notes import files as scores
from musicldm.media.notes.midi import MAX_HOURS, MAX_QUARTERS
from musicldm.media.notes.roll import Channels
from musicldm.media.notes.score import STEPS

MANIFEST = "manifest.jsonl"

Split = Literal["train", "heldout"]

_AGAIN = "Run musicldm preprocess again."


@dataclass(frozen=True)
class PreparedTrack:
    """One waveform or one score, ready for the models."""

    path: Path
    """Absolute."""
    medium: Medium
    rate: int
    """Units in a second of audio (samples), or in a quarter of notes (steps)."""
    channels: int
    """C. Of audio: 1 mono, 2 stereo; of notes: the rows of a roll."""
    length: int
    """In units."""
    seconds: float
    content: str
    """SHA-256 of what is in it and of the settings that shaped it: same content, same samples or notes."""
    split: Split
    """Held-out tracks are used by no training at any stage."""
    artist: str
    title: str
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where it came from and under what licence, as the crawl recorded it."""
    bytes: int | None = None
    """The file's size; None where the manifest is of an earlier version, which did not record it."""
    mono_from: int | None = None
    """Of two channels that cancel each other, the one that stands for both in mono; None where their mean does."""

    def check(self) -> None:
        """Check that the file is there with its recorded size, without reading it.

        Raises:
            DataError: it is gone, or is not the one that was prepared.
        """
        try:
            size = self.path.stat().st_size
        except OSError as error:
            raise DataError(f"Cannot read {self.path}: {error.strerror}.", _AGAIN) from error
        if self.bytes not in (None, size):
            raise DataError(f"{self.path} was changed since it was prepared.", _AGAIN)

    def read(self, start: int, stop: int) -> files.Floats:
        """Units `start` to `stop`, float32 [C, stop - start]: a waveform, or a roll.

        Raises:
            DataError: the file is gone, or is not the one that was prepared.
        """
        if self.medium == "notes":
            media = scores.read(self.path, self.length, start, stop)
        else:
            beyond = 1 if stop == self.length else 0  # there must be nothing after the end
            media = files.read(self.path, start, stop + beyond)
        if media is None or media.shape != (self.channels, stop - start):
            raise DataError(f"{self.path} was changed since it was prepared.", _AGAIN)
        return media


@dataclass(frozen=True)
class _Track:
    """The record of a track, as far as models read it."""

    status: Literal["done", "stale", "duplicate"]
    path: str
    content: Hash
    split: Split
    artist: str
    title: str
    provenance: dict[str, Any]
    medium: Medium = "audio"
    """Which earlier releases do not name."""
    bytes: Count | None = None


@dataclass(frozen=True)
class _Waveform:
    """What the record of a waveform adds."""

    sample_rate: Annotated[int, Between(1, 10_000_000)]
    channels: Annotated[int, Between(1, 64)]
    samples: Count
    mono_from: Annotated[int, Between(0, 63)] | None = None

    def form(self) -> dict[str, Any]:
        """The fields of a `PreparedTrack` that it decides."""
        return {
            "rate": self.sample_rate,
            "channels": self.channels,
            "length": self.samples,
            "seconds": self.samples / self.sample_rate,
            "mono_from": self.mono_from,
        }


@dataclass(frozen=True)
class _Score:
    """What the record of a score adds."""

    steps: Annotated[int, Between(1, MAX_QUARTERS * STEPS)]
    seconds: Annotated[float, Between(0, 3600 * MAX_HOURS)]

    def form(self) -> dict[str, Any]:
        """The fields of a `PreparedTrack` that it decides."""
        return {"rate": STEPS, "channels": Channels.COUNT, "length": self.steps, "seconds": self.seconds}


@dataclass(frozen=True)
class _SourceFile:
    """See `sources.SourceFile`."""

    size: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True)
class _Source:
    """The record of a source file, whatever became of it, as far as `preprocess` reads it."""

    source: str
    path: str
    status: str
    split: Split | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    source_file: _SourceFile | None = None
    content: Hash | None = None
    source_sha256: Hash | None = None
    reason: str = ""


@dataclass(frozen=True)
class _Output:
    """What such a record adds once there was an output."""

    seconds: Positive
    silent: bool = False
    held_back: bool = False


def medium_of(record: dict[str, Any]) -> Medium:
    """Of a track's record; earlier releases knew audio only."""
    return "notes" if record.get("medium") == "notes" else "audio"


def _form(record: dict[str, Any]) -> dict[str, Any]:
    """What a record says of a track's form, checked; see `_Waveform.form`."""
    kind: type[_Waveform | _Score] = _Score if medium_of(record) == "notes" else _Waveform
    return from_dict(kind, record, unknown="pass over").form()


def open_manifest(folder: Path) -> Journal:
    """The journal of `folder`, one record for each source file.

    Raises:
        DataError: a record is not one that `preprocess` writes, or names a file outside of the folder.
    """

    def check(record: dict[str, Any]) -> None:
        inside(folder, from_dict(_Source, record, unknown="pass over").path)
        if record["status"] in ("done", "stale", "duplicate"):
            from_dict(_Track, record, unknown="pass over")
            from_dict(_Output, record, unknown="pass over")
            _form(record)

    return Journal(folder / MANIFEST, "source", check)


def is_manifest(path: Path) -> bool:
    """Whether a file is a manifest of ours; other programs call theirs so, too."""
    return is_journal(path, "source", "status", "path")


def read_tracks(folder: Path, medium: Medium | None = None) -> list[PreparedTrack]:
    """The prepared tracks of `folder`, sorted by path.

    Args:
        medium: only those of this one.

    Raises:
        DataError: no manifest, or no such track in it.
    """
    hint = f"Prepare music first: musicldm preprocess IN {folder}"
    if not (folder / MANIFEST).is_file():
        raise DataError(f"There is no prepared music in {folder}.", hint)

    def check(record: dict[str, Any]) -> None:
        if record.get("status") == "done":
            inside(folder, from_dict(_Track, record, unknown="pass over").path)
            _form(record)

    records = [
        record
        for record in Journal(folder / MANIFEST, "source", check).records.values()
        if record.get("status") == "done"
    ]
    if not records:
        raise DataError(f"{folder / MANIFEST} lists no usable track.", hint)
    # Absolute, since tracks travel to processes that may have another working directory.
    root = folder.resolve()
    tracks = [
        PreparedTrack(
            path=root / record["path"],
            medium=medium_of(record),
            **{key: record[key] for key in ("content", "split", "artist", "title")},
            **_form(record),
            provenance=record["provenance"],
            bytes=record.get("bytes"),
        )
        for record in records
    ]
    chosen = [track for track in tracks if medium in (None, track.medium)]
    if not chosen:
        other = "notes" if medium == "audio" else "audio"
        raise DataError(f"{folder} holds {other} only, no {medium}.", f"Name a folder with prepared {medium}.")
    return sorted(chosen, key=lambda track: track.path)
