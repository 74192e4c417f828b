"""The audio that is measured: prepared tracks and files of any kind behind one interface, and pieces of them.

Shapes: C channels, T samples; audio is float32 [C, T].
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from musicldm.codecs.base import Codec
from musicldm.codecs.windows import Reader
from musicldm.core.errors import DataError, UsageError
from musicldm.media.audio import resampled
from musicldm.media.audio.decode import decode, probe
from musicldm.media.audio.mixing import mixers
from musicldm.media.audio.spool import Spool
from musicldm.media.manifest import MANIFEST, PreparedTrack, read_tracks
from musicldm.media.medium import Medium
from musicldm.media.sources import walk

Splits = Literal["train", "heldout", "all"]


def require_audio(codec: Codec) -> None:
    """See that a codec is of audio, which is all that is measured here.

    Raises:
        UsageError: it is not.
    """
    if codec.spec.medium != "audio":
        raise UsageError(f"The codec {codec.name!r} encodes {codec.spec.medium}, not audio.", "Give a codec of audio.")


@dataclass(frozen=True)
class Sound:
    """A track or a file, read at one rate with one number of channels."""

    name: str
    source: PreparedTrack | Path
    sample_rate: int
    channels: int

    @property
    def seconds(self) -> float:
        """Its length, as the file states it where it does; 0 where it cannot be read."""
        if isinstance(self.source, PreparedTrack):
            return self.source.seconds
        try:
            if (stated := probe(self.source).seconds) is not None:
                return stated
            with self.opened() as (samples, _):
                return samples / self.sample_rate
        except DataError:
            return 0.0

    def at_own_rate(self) -> Sound:
        """A file at its own rate and with its own channels, at most two; a prepared track stays as it is.

        Raises:
            DataError: it cannot be read.
        """
        if isinstance(self.source, PreparedTrack):
            return self
        info = probe(self.source)
        return replace(self, sample_rate=info.sample_rate, channels=min(2, info.channels))

    @contextmanager
    def opened(self) -> Iterator[tuple[int, Reader]]:
        """A context with the number of samples and a function that reads them, in bounded memory.

        Raises:
            DataError: it cannot be used; the message does not name it.
        """
        if isinstance(self.source, PreparedTrack):
            track = self.source
            yield track.length, lambda start, stop: torch.from_numpy(track.read(start, stop))
            return
        with Spool(self.channels, Path(tempfile.gettempdir())) as spool:
            # Decoded to its end before anything is read: a fault of the file shows only there.
            for mixer in mixers(self.channels):
                spool.clear()
                for block in decode(self.source, self.sample_rate, self.channels, mixer):
                    spool.append(block)
            if not spool.samples:
                raise DataError("There is no audio in it.")
            yield spool.samples, lambda start, stop: torch.from_numpy(spool.read(start, stop))

    def whole(self) -> Tensor:
        """All of it, [C, T]; raises as `opened` does."""
        with self.opened() as (samples, read):
            return read(0, samples)


def is_prepared(folder: Path) -> bool:
    """Whether `musicldm preprocess` made it."""
    return (folder / MANIFEST).is_file()


def in_split(folder: Path, medium: Medium, split: Splits) -> list[PreparedTrack]:
    """The tracks of a split of a prepared folder.

    Raises:
        DataError: there are none.
    """
    tracks = read_tracks(folder, medium)
    chosen = [track for track in tracks if split in (track.split, "all")]
    if not chosen:
        others = ", ".join(sorted({track.split for track in tracks}))
        raise DataError(
            f"{folder} has no track of the split {split}.", f"It has: {others}. Choose another, or --split all."
        )
    return chosen


def music_in(folder: Path, sample_rate: int, channels: int, split: Splits) -> list[Sound]:
    """The tracks of a split of a prepared folder, or all audio files of any other folder.

    Raises:
        DataError: no such folder, nothing in it, or nothing in that split.
    """
    if not is_prepared(folder):
        return files_in([folder], sample_rate, channels)
    chosen = in_split(folder, "audio", split)
    root = folder.resolve()
    return [
        Sound(track.path.relative_to(root).as_posix(), track, sample_rate, channels)
        for track in resampled.fit(chosen, sample_rate, channels)
    ]


def files_in(places: Sequence[Path], sample_rate: int, channels: int) -> list[Sound]:
    """Audio files as named, and all files below the folders that are named.

    Raises:
        DataError: there are none, or a place does not exist.
    """
    sounds = []
    for place in places:
        if not place.exists():
            raise DataError(f"There is nothing at {place}.", "Give audio files, or a folder with some.")
        files = walk(place, set()) if place.is_dir() else [place]
        for file in files:
            name = str(file) if len(places) > 1 else file.relative_to(place).as_posix() if place.is_dir() else file.name
            sounds.append(Sound(name, file, sample_rate, channels))
    if not sounds:
        raise DataError(f"There are no audio files in {', '.join(map(str, places))}.", "Give a folder with some.")
    return sounds


def rate_of(places: Iterable[Path], default: int = 16000) -> int:
    """The sample rate of the first prepared track, or file that can be read."""
    for place in places:
        if place.is_dir() and is_prepared(place):
            return read_tracks(place, "audio")[0].rate
        for file in walk(place, set()) if place.is_dir() else [place]:
            try:
                return probe(file).sample_rate
            except DataError:
                continue
    return default


@dataclass(frozen=True)
class Piece:
    """Some seconds of a track, or all of it."""

    name: str
    track: str
    audio: Tensor
    """[C, T]."""
    latents: Tensor | None = None
    """Raw, [D, L], where they are known."""


def evenly(lengths: Sequence[float], piece: float, count: int) -> list[tuple[int, float]]:
    """Where to take `count` pieces of one length from tracks of these lengths: evenly, without overlap.

    Fewer where there is no room for so many. Returns the index of each track and the start in it, in order.
    """
    # Without the small number, rounding could take the last piece from a track that has exactly enough room.
    rooms = [int(length / piece + 1e-9) for length in lengths]
    ends = np.cumsum([0, *rooms])
    places = []
    for place in ((2 * np.arange(min(count, ends[-1])) + 1) * ends[-1] // (2 * min(count, ends[-1]) or 1)).tolist():
        number = int(np.searchsorted(ends, place, side="right")) - 1
        spare = lengths[number] - rooms[number] * piece  # goes between the pieces
        within = place - int(ends[number])
        places.append((number, within * piece + spare * (within + 1) / (rooms[number] + 1)))
    return places


def pieces_of(
    sounds: Sequence[Sound], lengths: Sequence[float], seconds: float, count: int, left_out: dict[str, str]
) -> Iterator[Piece]:
    """Pieces of so many seconds, placed by `evenly` in sounds of these lengths.

    Args:
        left_out: receives the name of each sound that cannot be read, with the reason.
    """
    places = evenly(lengths, seconds, count)
    for number, sound in enumerate(sounds):
        starts = [start for n, start in places if n == number]
        if not starts:
            continue
        try:
            with sound.opened() as (samples, read):
                length = round(seconds * sound.sample_rate)
                for start in starts:
                    # Lengths are what files state, and some state too much: a piece moves to the left, or is left out.
                    first = min(round(start * sound.sample_rate), samples - length)
                    if first >= 0:
                        yield Piece(f"{sound.name} {first}", sound.name, read(first, first + length))
        except DataError as error:
            left_out[sound.name] = error.message
