"""Prepared waveforms + a VAE -> a latent store. Done again, it does only what is missing.

On one device, one stream of windows runs over all tracks (`vae.windows.encode_many`), and the store takes up its pieces
as they come. On several devices, or on a cluster, each process encodes one track at a time from beginning to end and
sends its latents here. Either way only this process writes.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from musicldm.codecs.base import Codec
from musicldm.codecs.vae.model import VAE
from musicldm.codecs.windows import Reader, encode_many
from musicldm.core import bundle
from musicldm.core.bundle import Bundle
from musicldm.core.devices import pick_device, pick_precision
from musicldm.core.errors import BundleError, DataError, MismatchError, MusicLDMError, UsageError
from musicldm.core.jobs import CORES, run_each, run_on_cluster
from musicldm.core.progress import Progress, silent
from musicldm.latents.schema import StoreHeader, Track
from musicldm.latents.storage import place_at
from musicldm.latents.store import LatentStore
from musicldm.media.audio import resampled
from musicldm.media.audio.manifest import PreparedTrack, read_tracks

VAE_COPY = "vae"  # in the store's folder

READERS = min(CORES, 8)
"""Threads that read audio ahead. Not processes: libsndfile lets others run while it decodes, and a process would have
to send what it read, which takes longer than reading (benchmarks/encode.py)."""


@dataclass(frozen=True)
class EncodeSummary:
    """How a run of `encode` ended."""

    encoded: int
    """Tracks added in this run."""
    encoded_hours: float
    skipped: int
    """Tracks that were there before."""
    tracks: int
    """In the store now."""
    hours: float
    """Of all these."""
    bytes: int
    """The store's size on disk."""
    left_out: dict[str, str] = field(default_factory=dict)
    """The path below the data folder -> the reason."""
    vanished: list[str] = field(default_factory=list)
    """Paths below the data folder of tracks in the store that the folder has no more, or not with that sound."""
    pruned: int = 0
    """Tracks dropped from the store because they had vanished."""


def encode(
    data: Path,
    store_path: Path | str,
    vae: VAE,
    window_seconds: float = 30.0,
    progress: Progress = silent,
    *,
    devices: Sequence[str] = (),
    cluster: str = "",
    readers: int = READERS,
    batch_size: int | None = None,
    precision: str = "32",
    keep_bits: int | None = None,
    prune: bool = False,
    resample: bool = False,
) -> EncodeSummary:
    """Encode every prepared track of `data` that is not yet in the store, in memory bounded by the window.

    A track that does not fit the VAE, or whose file is gone or was changed, is left out by name; the rest goes on.
    Interrupted at any moment, the store keeps every track that was complete. Where there is nothing to do, no audio is
    read and the VAE stays where it is.

    Args:
        data: the folder that `musicldm preprocess` made.
        store_path: a store to add to, or where to make one: a folder or a URL. It keeps a copy of the VAE in the
            folder `VAE_COPY`, so that whoever has the latents can decode them.
        vae: moved to the device, where there is one.
        window_seconds: audio encoded at once.
        progress: called with seconds of audio.
        devices: names as `pick_device` takes them. None: where the VAE is. Several (one may be named twice): a process
            for each, and a track's latents in memory for each.
        cluster: address of a Dask scheduler, whose workers see the same folders; each takes the first of `devices`, by
            default the best that it has.
        readers: threads that read audio ahead, in each process.
        batch_size: windows that go through the VAE at once; None: what the device is fastest with.
        precision: as `pick_precision` takes it. The store's keys do not tell it: "32" gives the same latents anywhere,
            within 1e-4 of whole tracks; what others gave is written into the tracks' provenance.
        keep_bits: see `StoreHeader.keep_bits`; None: as the store has it, and uncompressed in a new one.
        prune: drop from the store what has vanished from `data`.
        resample: encode tracks of other rates and channels than the VAE's too.

    Raises:
        DataError: no prepared tracks, or none that could be used; or the store is damaged.
        MismatchError: the store was made with another VAE, or compressed otherwise.
        OutputError: the store cannot be written, or with `prune`, another run is writing it; what was committed stays.
        UsageError: no such device or precision, or no address of a cluster.
        NetworkError: the cluster cannot be reached.
        MusicLDMError: a device's memory does not hold a single window.
    """
    header = header_of(vae)
    found = read_tracks(data)
    if resample:
        found = resampled.fit(found, header.sample_rate, header.audio_channels)
    tracks = {_name(track, data): track for track in _obeying(vae, found)}
    left_out = {name: reason for name, track in tracks.items() if (reason := _misfit(track, header))}
    if len(left_out) == len(tracks):
        raise _none_usable(data, left_out)
    if LatentStore.exists(store_path):
        store = LatentStore.open(store_path)
        store.require(header if keep_bits is None else replace(header, keep_bits=keep_bits))
    else:
        store = LatentStore.create(store_path, replace(header, keep_bits=keep_bits))
    if not store.has(f"{VAE_COPY}/{bundle.INDEX}"):
        with store.adding(VAE_COPY, bundle.INDEX) as folder:
            bundle.write(folder, Bundle(vae.name, {"codec": vae.component()}, vae.facts))

    splits, vanished = _compare(store, data, tracks)
    todo: dict[str, PreparedTrack] = {}
    skipped = 0
    for name, track in tracks.items():
        if name in left_out:
            continue
        split = splits.get(header.key(track.content))
        if split is None:
            todo[name] = track
        elif split != track.split:
            left_out[name] = f"The store has it as {split!r}, now it is {track.split!r}; a new store would obey."
        else:
            skipped += 1

    how = _How(max(1, round(window_seconds * header.sample_rate / header.hop)), batch_size, readers, precision)
    place = str(store_path if store.is_remote else store.path.absolute())  # as workers elsewhere know it
    total = sum(track.seconds for track in todo.values())
    done = encoded_seconds = 0.0
    encoded = 0
    if todo:
        with store.writer() as writer, closing(_encoded(vae, todo, how, place, devices, cluster)) as outcomes:
            for name, used, pieces in outcomes:
                track = todo[name]
                report = functools.partial(progress, total=total, text=name)
                reported = _reporting(pieces, done, track.seconds, header.hop / header.sample_rate, report)
                try:
                    writer.append(_described(track, data, used), reported)
                except DataError as error:
                    left_out[name] = error.message
                else:
                    encoded += 1
                    encoded_seconds += track.seconds
                    vanished.pop(name, None)  # the new sound has taken the place of the old
                done += track.seconds
                progress(done, total, name)
    if not encoded and not skipped:
        raise _none_usable(data, left_out)

    pruned = store.prune(set(vanished.values())) if prune and vanished else 0
    store.compact()
    return EncodeSummary(
        encoded=encoded,
        encoded_hours=encoded_seconds / 3600,
        skipped=skipped,
        tracks=len(store.tracks),
        hours=store.tracks.columns["samples"].sum().item() / header.sample_rate / 3600,
        bytes=store.bytes,
        left_out=left_out,
        vanished=sorted(vanished),
        pruned=pruned,
    )


def header_of(codec: Codec) -> StoreHeader:
    """The header of a store that this codec's latents may stand in.

    Raises:
        UsageError: the codec was never saved, so that nothing tells it from another.
    """
    spec = codec.spec
    if not spec.codec_hash:
        raise UsageError("This codec has no hash of its weights.", "Save it in a bundle and load it from there.")
    return StoreHeader(
        sample_rate=spec.rate,
        hop=spec.hop,
        channels=spec.channels,
        audio_channels=spec.media_channels,
        vae_hash=spec.codec_hash,
        vae_name=codec.name,
    )


def pick_devices(name: str) -> list[str]:
    """The devices that a person means by one name: `auto` is all GPUs of the machine, where it has any.

    Raises:
        UsageError: no such device on this machine.
    """
    if name == "auto" and torch.cuda.device_count() > 1:
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [str(pick_device(name))]


# ---- What there is to do -------------------------------------------------------------------------------------------


def _name(track: PreparedTrack, data: Path) -> str:
    return track.path.relative_to(data.resolve()).as_posix()


def _folder(data: Path) -> str:
    """A data folder's name in the store, which must not tell of the machine."""
    return hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:16]


def _misfit(track: PreparedTrack, header: StoreHeader) -> str:
    """Why a track cannot be taken, by what can be seen without reading it; empty where it can."""
    if track.sample_rate != header.sample_rate:
        return f"It has {track.sample_rate} samples a second, and the VAE takes {header.sample_rate}."
    if track.channels != header.audio_channels:
        return f"It has {track.channels} channel(s), and the VAE takes {header.audio_channels}."
    if not track.samples:
        return "It has no samples."
    try:
        track.check()
    except DataError as error:
        return error.message
    return ""


def _none_usable(data: Path, left_out: dict[str, str]) -> DataError:
    name, reason = next(iter(left_out.items()))
    hint = "Prepare the audio for this VAE with musicldm preprocess, or name another VAE."
    return DataError(f"None of the {len(left_out)} tracks in {data} could be encoded. {name}: {reason}", hint)


def _obeying(vae: VAE, tracks: list[PreparedTrack]) -> list[PreparedTrack]:
    """The tracks in the splits in which the VAE saw them: what it was trained on can no longer be held out."""
    known = vae.facts.get("codec", bundle.TrainingFacts())
    seen = {track.content: track.split for track in known.tracks}
    return [replace(track, split=seen.get(track.content, track.split)) for track in tracks]


def _described(track: PreparedTrack, data: Path, precision: str) -> Track:
    same = {field: getattr(track, field) for field in ("samples", "content", "split", "artist", "title")}
    rounded = {} if precision == "32" else {"precision": precision}
    return Track(**same, provenance=track.provenance | rounded, folder=_folder(data), source=_name(track, data))


def _compare(store: LatentStore, data: Path, tracks: dict[str, PreparedTrack]) -> tuple[dict[str, str], dict[str, str]]:
    """By key, the splits of those tracks that are in the store; by name, the keys of those that have vanished.

    These came from `data`, and there they are no more, or not with that sound.
    """
    wanted = {store.header.key(track.content) for track in tracks.values()}
    folder = _folder(data)
    splits, vanished = {}, {}
    for entry in store.tracks:
        if entry.key in wanted:
            splits[entry.key] = entry.split
        elif entry.folder == folder:
            vanished[entry.source] = entry.key
    return splits, vanished


# ---- Encoding ------------------------------------------------------------------------------------------------------

Arrays = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""Mean and log-variance, time-major as in the store: [l, D]."""


@dataclass(frozen=True)
class _How:
    """What makes no other latents, or as good as none."""

    window_frames: int
    batch_size: int | None
    readers: int
    precision: str


def _encoded(
    vae: VAE, tracks: dict[str, PreparedTrack], how: _How, place: str, devices: Sequence[str], cluster: str
) -> Generator[tuple[str, str, Iterator[Arrays]], None, None]:
    """Each track's name, the precision it was encoded with, and its pieces; these raise the track's DataError."""
    if not cluster and len(devices) < 2:
        if devices:
            vae.to(pick_device(devices[0]))
        yield from _encoded_here(vae, tracks, how)
        return

    tasks = [_Task(name, track, place, vae.weights_hash, how) for name, track in tracks.items()]
    # A cluster's workers know how many threads they may use; of this machine, every process gets its share.
    if cluster:
        outcomes = run_on_cluster(
            functools.partial(_encode_track, devices[0] if devices else "auto", 0), tasks, cluster
        )
    else:
        share = max(1, CORES // len(devices))
        outcomes = run_each([functools.partial(_encode_track, device, share) for device in devices], tasks)
    with closing(outcomes):
        for task, outcome in outcomes:
            if isinstance(outcome, (BundleError, MismatchError, UsageError)):
                raise outcome  # no fault of this track
            used = how.precision if isinstance(outcome, Exception) else outcome.precision
            yield task.name, used, _pieces_of(outcome)


def _encoded_here(
    vae: VAE, tracks: dict[str, PreparedTrack], how: _How
) -> Generator[tuple[str, str, Iterator[Arrays]], None, None]:
    precision = pick_precision(how.precision, next(vae.parameters()).device)
    names = list(tracks)
    sources = ((track.samples, _reader(track)) for track in tracks.values())
    many = encode_many(vae, sources, how.window_frames, how.batch_size, how.readers, precision)
    with closing(many):
        for number, pieces in many:
            yield names[number], precision, ((mean.T.numpy(), logvar.T.numpy()) for mean, logvar in pieces)


def _reader(track: PreparedTrack) -> Reader:
    def read(start: int, stop: int) -> Tensor:
        return torch.from_numpy(track.read(start, stop))

    return read


def _reporting(
    pieces: Iterator[Arrays], done: float, seconds: float, seconds_a_frame: float, report: Callable[[float], None]
) -> Iterator[Arrays]:
    """The pieces of a track of `seconds`; with each, reports the seconds done, of which `done` came before."""
    frames = 0
    for mean, logvar in pieces:
        yield mean, logvar
        frames += len(mean)
        report(done + min(frames * seconds_a_frame, seconds))


# ---- In other processes --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    name: str
    track: PreparedTrack
    store: str
    """Where the copy of the VAE is."""
    vae_hash: str
    how: _How


@dataclass(frozen=True)
class _Encoded:
    """A whole track, rounded as the store rounds it."""

    mean: npt.NDArray[np.float16]
    logvar: npt.NDArray[np.float16]
    """[L, D]."""
    precision: str


def _encode_track(device: str, threads: int, task: _Task) -> _Encoded:
    """Encode one track. `threads`: of torch, on a CPU; 0 leaves them as they are."""
    if threads and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    vae = _loaded(task.store, task.vae_hash, device)
    with closing(_encoded_here(vae, {task.name: task.track}, task.how)) as tracks:
        _, precision, pieces = next(tracks)
        means, logvars = zip(*((_rounded(mean), _rounded(logvar)) for mean, logvar in pieces), strict=True)
    return _Encoded(np.concatenate(means), np.concatenate(logvars), precision)


def _rounded(latents: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):  # the store refuses what is not finite
        return latents.astype(np.float16)


def _pieces_of(outcome: _Encoded | Exception, length: int = 65536) -> Iterator[Arrays]:
    """The track that a task returned, a piece at a time; or its error as a DataError."""
    if isinstance(outcome, DataError):
        raise outcome
    if isinstance(outcome, MusicLDMError):
        raise DataError(outcome.message, outcome.hint) from outcome
    if isinstance(outcome, Exception):
        raise DataError(f"{type(outcome).__name__}: {outcome}") from outcome
    for start in range(0, len(outcome.mean), length):
        yield outcome.mean[start : start + length], outcome.logvar[start : start + length]


@functools.lru_cache(maxsize=1)  # a process encodes with one VAE, and many tracks
def _loaded(store: str, weights_hash: str, device: str) -> VAE:
    with place_at(store).reading(VAE_COPY) as folder:
        vae = VAE.load(folder, pick_device(device))
    if vae.weights_hash != weights_hash:
        raise MismatchError(f"{store}/{VAE_COPY} is not the VAE that the store was made with.", "Copy the store again.")
    return vae
