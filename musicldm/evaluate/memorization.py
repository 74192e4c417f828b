"""Is it a copy of my data? The nearest training passage of a sound, and whether held-out music ever comes as close.

Sounds are compared passage by passage, some four seconds each (see `passages`), and the similarity of two passages is a
cosine (see `passage_index`). The training passages come from the store's own latents, decoded once, one every STRIDE
frames (half a second). Those of the sound in question begin at every frame (64 ms), so a copy is found at any offset.
The search is exact.

How close is close? Held-out tracks of the same store tell: their similarities, over stretches as long as the sound, are
those of music that the model has never seen. Shapes: C channels, T samples, D latent channels.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from musicldm.codecs.base import Codec
from musicldm.codecs.windows import decode_long, decode_pieces
from musicldm.core import durable
from musicldm.core.errors import DataError, OutputError, UsageError
from musicldm.core.progress import Progress, silent
from musicldm.evaluate.passage_index import PassageIndex, TrackFrames
from musicldm.evaluate.passages import NO_LEVELS, SPAN, STRIDE, Levels, Vectors, count_passages, levels
from musicldm.evaluate.sounds import Sound, files_in
from musicldm.evaluate.stores import codec_for, require_codec
from musicldm.latents.store import LatentStore, TrackEntry

Verdict = Literal["copied", "close", "new"]

COPIED = 0.85
"""Similarity beyond which a passage counts as copied, unless held-out music itself comes as close. Of passages of piano
music, 99 % of copies lay beyond it, however they were disturbed, and no held-out ones: `benchmarks/memorization.py`."""
BEYOND = 0.995
"""Fraction of held-out stretches that lie below whatever is called copied."""
TYPICAL = 0.95
"""Fraction of held-out stretches that lie below whatever is called close."""

_ROUND = 128  # latent frames: with every other length of a window, the allocator's RAM would grow
_FOLDER = "passages-1"  # the number changes with what a passage is


@dataclass(frozen=True)
class Match:
    """A sound and the training passage that is most similar to it."""

    sound: str
    verdict: Verdict
    """`copied`: above COPIED and above BEYOND of the held-out stretches; `close`: above TYPICAL of them."""
    similarity: float
    """A cosine: 1 is identical."""
    start: float
    """Seconds into the sound at which its passage begins."""
    seconds: float
    """Of the passage."""
    track: str
    """Artist and title."""
    at: float
    """Seconds into the track."""
    source: str
    """The track's file, below its data folder."""
    licence: str
    key: str
    """The track's key in the store."""
    close_above: float
    """What this sound's similarity would have to exceed, given its length …"""
    copied_above: float
    stretches: int
    """Held-out stretches as long as the sound, from which these two come."""
    as_near: int
    """How many of them come as close to the training music as this sound."""


@dataclass(frozen=True)
class MemorizationResult:
    """What `evaluate memory` found."""

    store: str
    matches: tuple[Match, ...]
    """The most similar first."""
    left_out: dict[str, str]
    """Sounds that could not be judged, and why."""
    passages: int
    """Training passages that were searched."""
    hours: float
    heldout_tracks: int
    """By which the verdicts are calibrated …"""
    heldout_hours: float
    heldout_median: float
    """Similarity of single held-out passages to the training music …"""
    heldout_highest: float

    @property
    def counts(self) -> dict[str, int]:
        """How often each verdict was given."""
        given = Counter(match.verdict for match in self.matches)
        return {verdict: given[verdict] for verdict in ("copied", "close", "new")}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"counts": self.counts, **asdict(self)}


def evaluate_memorization(
    out: Sequence[Path],
    store_path: Path | str,
    codec: Codec | None = None,
    *,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> MemorizationResult:
    """Find the nearest training passage of each sound, and say whether it is a copy.

    Args:
        out: audio files of any kind, or folders of them.
        store_path: the latents that the model was trained on.
        codec: theirs; None: the copy that the store keeps.
        cache: where the index of the store is kept; None: in the store's folder.
        device: where latents are decoded.
        progress: called with seconds of the store's music, then with sounds.

    Raises:
        DataError: no sound that can be judged, no training or held-out track, or the store is damaged.
        MismatchError: the codec is not the store's.
        UsageError: a store in a bucket, and no cache.
        OutputError: the cache cannot be written.
    """
    store = LatentStore.open(store_path)
    header = store.header
    sounds = files_in(out, header.rate, header.media_channels)
    passages = TrainingPassages.of(store, codec, cache=cache, device=device, progress=progress)
    matches, left_out = [], {}
    for number, sound in enumerate(sounds):
        progress(number, len(sounds), sound.name)
        try:
            matches.append(passages.match(sound))
        except DataError as error:
            left_out[sound.name] = error.message
    if not matches:
        name, reason = next(iter(left_out.items()))
        raise DataError(f"None of {len(sounds)} sounds can be judged; {name}: {reason}", "Give longer or louder ones.")
    return MemorizationResult(
        store=str(store_path),
        matches=tuple(sorted(matches, key=lambda match: -match.similarity)),
        left_out=left_out,
        passages=passages.count,
        hours=passages.hours,
        heldout_tracks=len(passages.heldout),
        heldout_hours=passages.heldout_hours,
        heldout_median=float(np.median(np.concatenate(passages.heldout))),
        heldout_highest=float(max(series.max() for series in passages.heldout)),
    )


class TrainingPassages:
    """The training passages of a store, to be searched in memory that does not grow with their number.

    Attributes:
        count: how many there are.
        hours: of training music.
        heldout: the similarity to the training music of each passage of each held-out track.
        heldout_hours: of these.
    """

    def __init__(self, store: LatentStore, frames: TrackFrames, index: PassageIndex) -> None:
        self.store = store
        self._frames, self._index = frames, index
        self._tracks = store.tracks.chosen(~store.tracks.columns["heldout"])
        self._ends = np.cumsum([count_passages(frames.count(entry.key), STRIDE) for entry in self._tracks])
        self.count = len(index.vectors)
        self.hours = float(self._tracks.columns["samples"].sum()) / store.header.rate / 3600
        # Below 0 there was nothing to recognise: silence must not calibrate the verdicts.
        self.heldout = [series[series >= 0] for series in index.heldout if (series >= 0).any()]
        self.heldout_hours = sum(map(len, self.heldout)) * frames.seconds / 3600

    @classmethod
    def of(
        cls,
        store: LatentStore,
        codec: Codec | None = None,
        *,
        cache: Path | None = None,
        device: torch.device | str = "cpu",
        progress: Progress = silent,
    ) -> TrainingPassages:
        """Decode what is not in the cache yet, track by track, and build the index.

        Interrupted, it resumes after the last complete track. For arguments and errors see `evaluate_memorization`.
        """
        if codec is not None:
            require_codec(store, codec)
        if cache is None and store.is_remote:
            raise UsageError(f"{store.path} is in a bucket.", "Give a folder for the index: --cache FOLDER.")
        try:
            folder = durable.make_folder((cache or store.path) / _FOLDER)
        except OutputError as error:
            raise OutputError(error.message, "Give a folder that can be written: --cache FOLDER.") from error
        frames = TrackFrames(folder, store.header.rate)
        missing = [entry for entry in store.tracks if entry.key not in frames]
        digest = _digest(store)
        index = None if missing else PassageIndex.read(folder, digest)
        if index is None:
            # Two runs must not append to the same file of frames.
            with durable.locked(folder):
                if missing:
                    frames.add(missing, _decoder(store, codec_for(store, codec, device)), progress)
                index = PassageIndex.make(folder, digest, store, frames, progress)
        passages = cls(store, frames, index)
        if not passages.heldout:
            raise DataError(
                f"No held-out track of {store.path} is long enough to calibrate with.",
                "musicldm preprocess holds out one track in twenty: encode all that it made.",
            )
        return passages

    def match(self, sound: Sound) -> Match:
        """The training passage that is most similar to a sound.

        Raises:
            DataError: the sound cannot be read, is shorter than a passage, or nothing happens in it.
        """
        rate = sound.sample_rate
        with sound.opened() as (samples, read):
            pieces = (read(start, min(start + 30 * rate, samples)) for start in range(0, samples, 30 * rate))
            frames = np.concatenate([NO_LEVELS, *levels(pieces, rate)])
        if len(frames) < SPAN:
            least = f"{(SPAN + 4) * self._frames.seconds:.1f} s"
            raise DataError(f"It is {samples / rate:.2f} s long; it must be at least {least}.")
        similarities, rows = self.nearest(frames)
        best = int(similarities.argmax())
        if similarities[best] < 0:
            raise DataError("It is silent, or too uniform to be recognised.")
        row = int(rows[best])
        number = int(np.searchsorted(self._ends, row, side="right"))
        entry = self._tracks[number]
        first = int(self._ends[number - 1]) if number else 0
        held_out = self.typical(len(similarities))
        similarity = float(similarities[best])
        close_above = float(np.quantile(held_out, TYPICAL))
        # Music that repeats itself from piece to piece is alike without being copied: held-out tracks raise the bar,
        # and never lower it.
        copied_above = max(COPIED, float(np.quantile(held_out, BEYOND)))
        return Match(
            sound=sound.name,
            verdict="copied" if similarity > copied_above else "close" if similarity > close_above else "new",
            similarity=similarity,
            start=best * self._frames.seconds,
            seconds=(SPAN + 1) * self._frames.seconds,
            track=entry.name,
            at=(row - first) * STRIDE * self._frames.seconds,
            source=entry.source,
            licence=str(entry.provenance.get("licence") or ""),
            key=entry.key,
            close_above=close_above,
            copied_above=copied_above,
            stretches=len(held_out),
            as_near=int((held_out >= similarity).sum()),
        )

    def nearest(self, frames: Levels) -> tuple[Vectors, NDArray[np.int64]]:
        """See `PassageIndex.nearest`."""
        return self._index.nearest(frames)

    def typical(self, passages: int) -> Vectors:
        """The highest similarity in each held-out stretch of so many passages; of a shorter track, in all of it."""
        stretches = []
        for series in self.heldout:
            count = max(1, len(series) // passages)
            # The maximum over more passages is higher: a long sound has to be compared with stretches as long.
            stretches += [part.max() for part in np.array_split(series, count)]
        return np.array(stretches, np.float32)


def training_passage(store: LatentStore, codec: Codec, match: Match) -> Tensor:
    """The audio of a match's training passage, to listen to beside the sound's own: [C, T].

    Raises:
        DataError: the store no longer has that track, or it is damaged.
    """
    entry = next((entry for entry in store.tracks if entry.key == match.key), None)
    if entry is None:
        raise DataError(f"{store.path} no longer has {match.track}.", "Run musicldm evaluate memory again.")
    start = int(match.at * store.header.frame_rate)
    stop = min(entry.frames, start + round(match.seconds * store.header.frame_rate))
    mean, _ = store.read(entry, start, stop)
    return torch.cat(list(decode_long(codec, torch.from_numpy(mean.astype(np.float32)).T)), dim=1)


def _digest(store: LatentStore) -> str:
    """A hash of the tracks of a store, their order, and which of them are held out."""
    names = (f"{entry.key} {entry.split}" for entry in store.tracks)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _decoder(store: LatentStore, codec: Codec) -> Callable[[TrackEntry], Iterator[Tensor]]:
    """A function that gives a track's audio in pieces [C, n], by the posterior's mode."""

    def means(entry: TrackEntry, more: int) -> Iterator[Tensor]:
        for mean, _ in store.pieces(entry):
            z = torch.from_numpy(mean.astype(np.float32)).T
            yield z
        # The last frame again and not zeros, which may be an abrupt change that reaches back; it is cut off below.
        yield z[:, -1:].expand(-1, more)

    def decoded(entry: TrackEntry) -> Iterator[Tensor]:
        frames = -(-entry.frames // _ROUND) * _ROUND
        left = entry.samples
        for piece in decode_pieces(codec, means(entry, frames - entry.frames), frames):
            yield piece[:, :left]
            left = max(0, left - piece.shape[1])

    return decoded
