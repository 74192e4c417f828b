"""Is it a copy of my data? The nearest training passage of a sound, and whether held-out music ever comes so near.

A passage is about four seconds as log-mel levels, [FRAMES, BANDS]. Each band counts from its own mean, so level and
colour do not matter, and nothing lower than DEPTH below the loudest does. A passage is then a point on the sphere:
of unit length along the first DIMENSIONS principal axes of the training passages, each axis scaled to unit spread. The
similarity of two passages is the cosine between them.

The training passages are taken from the store's own latents, decoded once: every STRIDE frames (half a second). Those
of a sound that is asked about begin at every frame (64 ms), so a copy needs to keep to no grid. The search is exact.

How near is near? Held-out tracks of the same store say it: their similarities, in stretches as long as the sound, are
what music reaches that the model has never seen. Shapes: C channels, T samples, D latent channels.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from musicldm.codecs.vae.model import VAE
from musicldm.codecs.windows import decode_long, decode_pieces
from musicldm.core import durable
from musicldm.core.errors import DataError, MusicLDMError, OutputError, UsageError
from musicldm.core.progress import Progress, silent
from musicldm.evaluate.sounds import Sound, files_in
from musicldm.latents.codec import header_of, read_codec
from musicldm.latents.store import LatentStore, TrackEntry
from musicldm.media.audio.mel import hop, log_mel

Levels = NDArray[np.float16]
"""Frames of log-mel power, [n, BANDS]."""
Vectors = NDArray[np.float32]
Verdict = Literal["copied", "close", "new"]

COPIED = 0.85
"""Similarity beyond which a passage counts as copied, where held-out music does not come so near itself. Of passages of
piano music, 99 % of copies lay beyond it, whatever was done to them, and of held-out ones none:
`benchmarks/memorisation.py`."""
BEYOND = 0.995
"""Share of held-out stretches that lie below whatever is called copied."""
USUAL = 0.95
"""Share of held-out stretches that lie below whatever is called close."""

BANDS = 32
FRAMES = 31
"""In a passage."""
STRIDE = 8
"""Frames from one training passage to the next."""
DIMENSIONS = 128
DEPTH = 5.0
"""In levels, which are natural logarithms of power: 22 dB."""
CALIBRATION = 3600.0
"""Seconds of held-out music that are looked at, at most."""

_FRAME = 0.064  # seconds from one frame to the next, about
_SPAN = 2 * FRAMES - 1  # frames that a passage reaches over, since it takes every second: each hears two frames' time
_QUIET = -3.0  # of log power, some 60 dB below a tone at full scale
_LOUD = 0.75 * DEPTH, 0.75  # so near the loudest for such a share of its frames: else music stops in the passage
_STILL = 0.2  # root mean square of levels about their bands' means: a tone that is merely held
_LEARNT = 8192  # passages that the axes are learnt of
_BLOCK = 2048  # passages that are looked at together
_SEARCHED = 8192  # training passages that these are held against at once
_ROUND = 128  # latent frames: with every other length of a window, the allocator's memory would grow
_FOLDER = "passages-1"  # the number changes with what a passage is


@dataclass(frozen=True)
class Match:
    """A sound and the training passage that it comes nearest to."""

    sound: str
    verdict: Verdict
    """`copied`: nearer than COPIED and than BEYOND of the held-out stretches; `close`: nearer than USUAL of them."""
    similarity: float
    """A cosine: 1 is the same."""
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
    """The track's in the store."""
    close_above: float
    """What this sound's similarity would have to exceed, given its length …"""
    copied_above: float
    stretches: int
    """Held-out stretches as long as the sound, which these come from."""
    as_near: int
    """How many of them come as near to the training music as this sound."""


@dataclass(frozen=True)
class MemoryResult:
    """What came of all sounds."""

    store: str
    matches: tuple[Match, ...]
    """The nearest first."""
    left_out: dict[str, str]
    """Sounds that could not be judged, and why."""
    passages: int
    """Of training music that were searched."""
    hours: float
    heldout_tracks: int
    """That the verdicts are measured by …"""
    heldout_hours: float
    heldout_median: float
    """Similarity of one held-out passage to the training music …"""
    heldout_highest: float

    @property
    def counts(self) -> dict[str, int]:
        """How often each verdict was given."""
        given = Counter(match.verdict for match in self.matches)
        return {verdict: given[verdict] for verdict in ("copied", "close", "new")}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"counts": self.counts, **asdict(self)}


def evaluate_memory(
    out: Sequence[Path],
    store_path: Path | str,
    vae: VAE | None = None,
    *,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> MemoryResult:
    """Find the nearest training passage of each sound, and say whether it is a copy.

    Args:
        out: audio files of any kind, or folders of them.
        store_path: the latents that the model was trained on.
        vae: theirs; None: the copy that the store keeps.
        cache: where what is found out about the store is kept; None: in the store's folder.
        device: where latents are decoded.
        progress: called with seconds of the store's music, then with sounds.

    Raises:
        DataError: no sound that can be judged, no training or held-out track, or the store is damaged.
        MismatchError: the VAE is not the store's.
        UsageError: a store in a bucket, and no cache.
        OutputError: the cache cannot be written.
    """
    store = LatentStore.open(store_path)
    header = store.header
    sounds = files_in(out, header.rate, header.media_channels)
    memory = Memory.of(store, vae, cache=cache, device=device, progress=progress)
    matches, left_out = [], {}
    for number, sound in enumerate(sounds):
        progress(number, len(sounds), sound.name)
        try:
            matches.append(memory.match(sound))
        except DataError as error:
            left_out[sound.name] = error.message
    if not matches:
        name, reason = next(iter(left_out.items()))
        raise DataError(f"None of {len(sounds)} sounds can be judged; {name}: {reason}", "Name longer or louder ones.")
    return MemoryResult(
        store=str(store_path),
        matches=tuple(sorted(matches, key=lambda match: -match.similarity)),
        left_out=left_out,
        passages=memory.passages,
        hours=memory.hours,
        heldout_tracks=len(memory.heldout),
        heldout_hours=memory.heldout_hours,
        heldout_median=float(np.median(np.concatenate(memory.heldout))),
        heldout_highest=float(max(series.max() for series in memory.heldout)),
    )


class Memory:
    """The training passages of a store, to be searched, in memory that does not grow with their number.

    Attributes:
        passages: how many there are.
        hours: of training music.
        heldout: of each held-out track, how near each of its passages comes to the training music.
        heldout_hours: of those.
    """

    def __init__(self, store: LatentStore, frames: _Frames, index: _Index) -> None:
        self.store = store
        self._frames, self._index = frames, index
        self._tracks = store.tracks.chosen(~store.tracks.columns["heldout"])
        self._ends = np.cumsum([_passages(frames.count(entry.key), STRIDE) for entry in self._tracks])
        self.passages = len(index.vectors)
        self.hours = float(self._tracks.columns["samples"].sum()) / store.header.rate / 3600
        self.heldout = [series[series >= 0] for series in index.heldout if (series >= 0).any()]
        self.heldout_hours = sum(map(len, self.heldout)) * frames.seconds / 3600

    @classmethod
    def of(
        cls,
        store: LatentStore,
        vae: VAE | None = None,
        *,
        cache: Path | None = None,
        device: torch.device | str = "cpu",
        progress: Progress = silent,
    ) -> Memory:
        """Decode what of the store is not in the cache yet, track by track, and learn what is usual in it.

        Interrupted, it goes on from the last whole track. For the arguments and errors see `evaluate_memory`.
        """
        if vae is not None:
            store.require(header_of(vae))
        if cache is None and store.is_remote:
            raise UsageError(f"{store.path} is in a bucket.", "Name a folder for what is found out: --cache FOLDER.")
        try:
            folder = durable.make_folder((cache or store.path) / _FOLDER)
        except OutputError as error:
            raise OutputError(error.message, "Name a folder that can be written: --cache FOLDER.") from error
        frames = _Frames(folder, store.header.rate)
        missing = [entry for entry in store.tracks if entry.key not in frames]
        digest = _digest(store)
        index = None if missing else _Index.read(folder, digest)
        if index is None:
            with durable.locked(folder):
                if missing:
                    frames.add(missing, _decoder(store, vae, device), progress)
                index = _Index.make(folder, digest, store, frames, progress)
        memory = cls(store, frames, index)
        if not memory.heldout:
            raise DataError(
                f"No held-out track of {store.path} is long enough to tell what is near and what is far.",
                "musicldm preprocess holds out one track in twenty: encode all that it made.",
            )
        return memory

    def match(self, sound: Sound) -> Match:
        """The training passage that a sound comes nearest to.

        Raises:
            DataError: the sound cannot be read, is shorter than a passage, or nothing happens in it.
        """
        rate = sound.sample_rate
        with sound.opened() as (samples, read):
            pieces = (read(start, min(start + 30 * rate, samples)) for start in range(0, samples, 30 * rate))
            frames = np.concatenate([_NO_LEVELS, *levels(pieces, rate)])
        if len(frames) < _SPAN:
            least = f"{(_SPAN + 4) * self._frames.seconds:.1f} s"
            raise DataError(f"It is {samples / rate:.2f} s long; {least} is the least.")
        similarities, rows = self.nearest(frames)
        best = int(similarities.argmax())
        if similarities[best] < 0:
            raise DataError("It is silent, or so still that there is nothing to recognise.")
        row = int(rows[best])
        number = int(np.searchsorted(self._ends, row, side="right"))
        entry = self._tracks[number]
        first = int(self._ends[number - 1]) if number else 0
        usual = self.usual(len(similarities))
        similarity = float(similarities[best])
        close_above = float(np.quantile(usual, USUAL))
        copied_above = max(COPIED, float(np.quantile(usual, BEYOND)))
        return Match(
            sound=sound.name,
            verdict="copied" if similarity > copied_above else "close" if similarity > close_above else "new",
            similarity=similarity,
            start=best * self._frames.seconds,
            seconds=(_SPAN + 1) * self._frames.seconds,
            track=entry.name,
            at=(row - first) * STRIDE * self._frames.seconds,
            source=entry.source,
            licence=str(entry.provenance.get("licence") or ""),
            key=entry.key,
            close_above=close_above,
            copied_above=copied_above,
            stretches=len(usual),
            as_near=int((usual >= similarity).sum()),
        )

    def nearest(self, frames: Levels) -> tuple[Vectors, NDArray[np.int64]]:
        """Of the passages that begin at every frame: the highest similarity to a training passage, and its number.

        The similarity is -1 where there is nothing to recognise.
        """
        return self._index.nearest(frames)

    def usual(self, passages: int) -> Vectors:
        """The highest similarity in each held-out stretch of so many passages; of a shorter track, in all of it."""
        stretches = []
        for series in self.heldout:
            count = max(1, len(series) // passages)
            stretches += [part.max() for part in np.array_split(series, count)]
        return np.array(stretches, np.float32)


def training_passage(store: LatentStore, vae: VAE, match: Match) -> Tensor:
    """The training passage of a match, to be heard beside the sound's own: [C, T].

    Raises:
        DataError: the store no longer has that track, or it is damaged.
    """
    entry = next((entry for entry in store.tracks if entry.key == match.key), None)
    if entry is None:
        raise DataError(f"{store.path} no longer has {match.track}.", "Run musicldm evaluate memory again.")
    start = int(match.at * store.header.frame_rate)
    stop = min(entry.frames, start + round(match.seconds * store.header.frame_rate))
    mean, _ = store.read(entry, start, stop)
    return torch.cat(list(decode_long(vae, torch.from_numpy(mean.astype(np.float32)).T)), dim=1)


# ---- From sound to passages ----------------------------------------------------------------------------------------

_NO_LEVELS: Levels = np.empty((0, BANDS), np.float16)


def levels(sound: Iterable[Tensor], sample_rate: int) -> Iterator[Levels]:
    """The frames of a sound that comes in pieces [C, n] of any length: [n, BANDS].

    A frame is the log of the mel power in two successive steps of about 64 ms; another begins with every step. Only
    what lies wholly in the sound is one.
    """
    width = hop(sample_rate)
    every = max(1, round(_FRAME * sample_rate / width))
    step, reach = every * width, (2 * every + 3) * width
    held = torch.empty(0)
    for piece in sound:
        held = torch.cat([held, piece.mean(dim=0).float()])
        if (count := (len(held) - reach) // step + 1) > 0:
            # The first two and the last two windows lie half beyond the ends.
            mel = log_mel(held[: (count - 1) * step + reach], sample_rate, 2 * BANDS)[:, 2:-2].exp()
            power = mel.reshape(BANDS, 2, count + 1, every).mean(dim=(1, 3))
            yield ((power[:, 1:] + power[:, :-1]) / 2).log().T.half().numpy()
            held = held[count * step :].clone()


def frame_seconds(sample_rate: int) -> float:
    """From one frame of `levels` to the next."""
    width = hop(sample_rate)
    return max(1, round(_FRAME * sample_rate / width)) * width / sample_rate


def _passages(frames: int, step: int) -> int:
    """How many begin in so many frames."""
    return max(0, (frames - _SPAN) // step + 1)


def _described(frames: Levels, step: int) -> Iterator[tuple[Vectors, NDArray[np.bool_]]]:
    """Passages every `step` frames, block by block: [m, FRAMES · BANDS], and whether they can be recognised, [m]."""
    if len(frames) < _SPAN:
        return
    views = sliding_window_view(frames, _SPAN, axis=0)[::step, :, ::2]  # [passages, BANDS, FRAMES]
    for start in range(0, len(views), _BLOCK):
        level = views[start : start + _BLOCK].astype(np.float32)
        loudest = level.max(axis=(1, 2), keepdims=True)
        below, share = _LOUD
        goes_on = (level.max(axis=1) > loudest[:, 0] - below).mean(axis=1) >= share
        np.maximum(level, loudest - DEPTH, out=level)
        level -= level.mean(axis=2, keepdims=True)
        moves = np.sqrt(np.square(level).mean(axis=(1, 2))) > _STILL
        yield level.reshape(len(level), -1), goes_on & moves & (loudest[:, 0, 0] > _QUIET)


# ---- What is known of a store --------------------------------------------------------------------------------------


class _Frames:
    """The frames of a store's tracks, as the VAE gives them back: one file, and a journal of what lies where.

    Only ever appended to; what the journal does not name was being written when its writer was killed.
    """

    def __init__(self, folder: Path, sample_rate: int) -> None:
        self.seconds = frame_seconds(sample_rate)
        self._path = folder / "frames"
        self._rate = sample_rate
        self._journal = durable.Journal(folder / "frames.jsonl", key="key")
        self._size = self._path.stat().st_size if self._path.exists() else 0

    def __contains__(self, key: str) -> bool:
        record = self._journal.records.get(key)
        return record is not None and _bytes(record["stop"]) <= self._size  # else the file was cut short

    def of(self, key: str) -> Levels:
        """The frames of a track, [n, BANDS], mapped."""
        if not (count := self.count(key)):
            return _NO_LEVELS
        start = self._journal.records[key]["start"]
        return np.memmap(self._path, np.float16, "r", _bytes(start), (count, BANDS))

    def count(self, key: str) -> int:
        """How many a track has."""
        record = self._journal.records[key]
        return int(record["stop"] - record["start"])

    def add(
        self, tracks: Sequence[TrackEntry], decoded: Callable[[TrackEntry], Iterator[Tensor]], progress: Progress
    ) -> None:
        """Decode tracks; each is there once it is whole.

        Raises:
            DataError: a chunk of the store is missing or was changed on disk; the file is named.
            OutputError: the disk is full.
        """
        total, done = sum(entry.seconds for entry in tracks), 0.0
        end = max((record["stop"] for key, record in self._journal.records.items() if key in self), default=0)
        for entry in tracks:
            progress(done, total, entry.name)
            start = end
            try:
                with self._path.open("r+b" if self._path.exists() else "w+b") as file:
                    file.seek(_bytes(start))
                    for piece in levels(decoded(entry), self._rate):
                        file.write(piece.tobytes())
                        end += len(piece)
                durable.flush(self._path)
            except OSError as error:
                raise error if isinstance(error, MusicLDMError) else durable.cannot_write(self._path, error) from error
            self._size = self._path.stat().st_size
            self._journal.append({"key": entry.key, "start": start, "stop": end})
            done += entry.seconds


@dataclass(frozen=True)
class _Index:
    """The training passages of a store as vectors, and how near its held-out tracks come to them."""

    vectors: NDArray[np.float16]
    """[passages, K], of unit length; mapped."""
    mean: Vectors
    """[FRAMES · BANDS], and the axes [FRAMES · BANDS, K]: see the module's head."""
    axes: Vectors
    heldout: list[Vectors]
    """Of each track that was looked at, as `nearest` gives it."""

    @classmethod
    def read(cls, folder: Path, digest: str) -> _Index | None:
        """What is in the folder for a store of these tracks, if it is whole."""
        try:
            vectors = np.load(folder / f"{digest}.npy", mmap_mode="r")
            with np.load(folder / f"{digest}.npz") as rest:
                parts = np.split(rest["heldout"], np.cumsum(rest["lengths"])[:-1])
                return cls(vectors, rest["mean"], rest["axes"], parts)
        except (OSError, EOFError, ValueError, KeyError, BadZipFile):
            return None

    @classmethod
    def make(cls, folder: Path, digest: str, store: LatentStore, frames: _Frames, progress: Progress) -> _Index:
        """Learn the axes, and put in place first the vectors, then the rest, which is the commit.

        Raises:
            DataError: no training track is as long as a passage.
            OutputError: the folder cannot be written.
        """
        held = store.tracks.columns["heldout"]
        keys = [entry.key for entry in store.tracks.chosen(~held)]
        count = sum(_passages(frames.count(key), STRIDE) for key in keys)
        if not count:
            raise DataError(f"No training track of {store.path} is as long as a passage.", "Encode longer tracks.")
        mean, axes = _axes(_some(map(frames.of, keys), max(1, count // _LEARNT)))
        try:
            with durable.replacing(folder / f"{digest}.npy") as temporary:
                shape = count, axes.shape[1]
                # A file object, since for a path NumPy insists on its own suffix.
                with temporary.open("wb") as file:
                    np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
                    for number, key in enumerate(keys):
                        progress(number, len(keys), "indexing")
                        for vectors, _ in _described(frames.of(key), STRIDE):
                            file.write(_on_sphere(vectors, mean, axes).astype("<f2").tobytes())
        except OSError as error:
            raise durable.cannot_write(folder, error) from error
        index = cls(np.load(folder / f"{digest}.npy", mmap_mode="r"), mean, axes, [])
        heldout: list[Vectors] = []
        for entry in _as_far_as(store.tracks.chosen(held), CALIBRATION):
            progress(len(heldout), int(held.sum()), "looking at held-out tracks")
            heldout.append(index.nearest(frames.of(entry.key)[: int(CALIBRATION / frames.seconds)])[0])
        written = io.BytesIO()
        joined = np.concatenate([np.empty(0, np.float32), *heldout])
        np.savez(written, mean=mean, axes=axes, heldout=joined, lengths=np.array([len(each) for each in heldout], int))
        durable.write_bytes(folder / f"{digest}.npz", written.getvalue())
        for old in folder.glob("*.np[yz]"):  # of the store as it was before
            if not old.name.startswith(digest):
                old.unlink(missing_ok=True)
        return replace(index, heldout=heldout)

    def nearest(self, frames: Levels) -> tuple[Vectors, NDArray[np.int64]]:
        """See `Memory.nearest`."""
        similarities, numbers = [np.empty(0, np.float32)], [np.empty(0, np.int64)]
        for vectors, known in _described(frames, 1):
            best, where = np.full(len(vectors), -1, np.float32), np.zeros(len(vectors), np.int64)
            best[known], where[known] = self._search(_on_sphere(vectors[known], self.mean, self.axes))
            similarities.append(best)
            numbers.append(where)
        return np.concatenate(similarities), np.concatenate(numbers)

    def _search(self, queries: Vectors) -> tuple[Vectors, NDArray[np.int64]]:
        best, where = np.full(len(queries), -1, np.float32), np.zeros(len(queries), np.int64)
        for start in range(0, len(self.vectors), _SEARCHED):
            similarity = queries @ self.vectors[start : start + _SEARCHED].astype(np.float32).T
            nearest = similarity.argmax(axis=1)
            value = similarity[np.arange(len(queries)), nearest]
            where = np.where(value > best, start + nearest, where)
            best = np.maximum(value, best)
        return best, where


def _some(tracks: Iterable[Levels], every: int) -> Vectors:
    """One in so many of all training passages, [m, FRAMES · BANDS]."""
    chosen, phase = [], 0
    for frames in tracks:
        for vectors, _ in _described(frames[STRIDE * phase :], STRIDE * every):
            chosen.append(vectors)
        phase = (phase - _passages(len(frames), STRIDE)) % every
    return np.concatenate(chosen)


def _axes(vectors: Vectors) -> tuple[Vectors, Vectors]:
    """The mean of some passages, and their principal axes over the spread along each."""
    mean: Vectors = vectors.mean(axis=0, dtype=np.float32)
    apart = vectors - mean
    variances, directions = np.linalg.eigh(apart.T @ apart / len(apart))
    kept = np.flatnonzero(variances > 1e-4 * variances[-1])[-DIMENSIONS:]
    return mean, (directions[:, kept] / np.sqrt(variances[kept])).astype(np.float32)


def _on_sphere(vectors: Vectors, mean: Vectors, axes: Vectors) -> Vectors:
    """Passages [m, FRAMES · BANDS] along the axes, and of unit length: [m, K]."""
    points = (vectors - mean) @ axes
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    return np.asarray(points / np.maximum(lengths, 1e-6), np.float32)


def _as_far_as(tracks: Iterable[TrackEntry], seconds: float) -> Iterator[TrackEntry]:
    """Tracks in the order of their keys, which is none, until there is so much of them."""
    passed = 0.0
    for entry in sorted(tracks, key=lambda entry: entry.key):
        if passed >= seconds:
            return
        yield entry
        passed += entry.seconds


def _bytes(frames: int) -> int:
    return frames * BANDS * 2


def _digest(store: LatentStore) -> str:
    """Of which tracks a store has, in which order, and which of them are held out."""
    names = (f"{entry.key} {entry.split}" for entry in store.tracks)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _decoder(
    store: LatentStore, vae: VAE | None, device: torch.device | str
) -> Callable[[TrackEntry], Iterator[Tensor]]:
    """What gives a track's sound in pieces [C, n], by its posterior's mode."""
    if vae is None:
        vae = VAE.from_bundle(read_codec(store))
        store.require(header_of(vae))
    model = vae.to(device)

    def means(entry: TrackEntry, more: int) -> Iterator[Tensor]:
        for mean, _ in store.pieces(entry):
            z = torch.from_numpy(mean.astype(np.float32)).T
            yield z
        yield z[:, -1:].expand(-1, more)

    def decoded(entry: TrackEntry) -> Iterator[Tensor]:
        frames = -(-entry.frames // _ROUND) * _ROUND
        left = entry.samples
        for piece in decode_pieces(model, means(entry, frames - entry.frames), frames):
            yield piece[:, :left]
            left = max(0, left - piece.shape[1])

    return decoded
