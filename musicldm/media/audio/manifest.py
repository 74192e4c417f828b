"""What `musicldm preprocess` leaves behind: a folder of waveforms and their manifest."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from musicldm.core.config import Between, Count, Hash, Positive, from_dict
from musicldm.core.durable import Journal, is_journal
from musicldm.core.errors import DataError
from musicldm.core.reading import inside
from musicldm.media.audio import files

MANIFEST = "manifest.jsonl"

Split = Literal["train", "heldout"]

_AGAIN = "Run musicldm preprocess again."


@dataclass(frozen=True)
class PreparedTrack:
    """One waveform, ready for the models."""

    path: Path
    """Absolute."""
    sample_rate: int
    channels: int
    samples: int
    """Per channel."""
    content: str
    """SHA-256 of the decoded sound and of the settings that shaped it: same content, same samples."""
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

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate

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
        """Samples `start` to `stop`, float32 [C, stop - start].

        Raises:
            DataError: the file is gone, or is not the one that was prepared.
        """
        beyond = 1 if stop == self.samples else 0  # there must be nothing after the end
        audio = files.read(self.path, start, stop + beyond)
        if audio.shape != (self.channels, stop - start):
            raise DataError(f"{self.path} was changed since it was prepared.", _AGAIN)
        return audio


@dataclass(frozen=True)
class _Track:
    """The record of a waveform, as far as models read it."""

    status: Literal["done", "stale", "duplicate"]
    path: str
    content: Hash
    split: Split
    sample_rate: Annotated[int, Between(1, 10_000_000)]
    channels: Annotated[int, Between(1, 64)]
    samples: Count
    artist: str
    title: str
    provenance: dict[str, Any]
    bytes: Count | None = None


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

    return Journal(folder / MANIFEST, "source", check)


def is_manifest(path: Path) -> bool:
    """Whether a file is a manifest of ours; other programs call theirs so, too."""
    return is_journal(path, "source", "status", "path")


def read_tracks(folder: Path) -> list[PreparedTrack]:
    """The prepared tracks of `folder`, sorted by path.

    Raises:
        DataError: no manifest, or no track in it.
    """
    hint = f"Prepare audio files first: musicldm preprocess IN {folder}"
    if not (folder / MANIFEST).is_file():
        raise DataError(f"There are no prepared waveforms in {folder}.", hint)

    def check(record: dict[str, Any]) -> None:
        if record.get("status") == "done":
            inside(folder, from_dict(_Track, record, unknown="pass over").path)

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
            **{
                key: record[key]
                for key in ("sample_rate", "channels", "samples", "content", "split", "artist", "title")
            },
            provenance=record["provenance"],
            bytes=record.get("bytes"),
            mono_from=record.get("mono_from"),
        )
        for record in records
    ]
    return sorted(tracks, key=lambda track: track.path)
