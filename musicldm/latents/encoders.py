"""Tracks through a codec: on one device in this process, in a process for each of several devices, or on a cluster.

On one device, one stream of windows runs over all tracks (`codecs.windows.encode_many`), and the pieces of a track come
as they are made. Elsewhere each process encodes one track at a time from beginning to end and sends its latents here.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from musicldm.codecs.base import Codec, codec_of
from musicldm.codecs.windows import Reader, encode_many
from musicldm.core.devices import pick_device, pick_precision
from musicldm.core.errors import BundleError, DataError, MismatchError, MusicLDMError, UsageError
from musicldm.core.jobs import CORES, run_each, run_on_cluster
from musicldm.latents.codec import read_codec
from musicldm.latents.listing import header_in
from musicldm.latents.snapshot import Snapshot
from musicldm.latents.storage import storage_at
from musicldm.media.manifest import PreparedTrack

READERS = min(CORES, 8)
"""Threads that read audio ahead. Not processes: libsndfile lets others run while it decodes, and a process would have
to send what it read, which takes longer than reading (benchmarks/encode.py)."""

Arrays: TypeAlias = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""Mean and log-variance, time-major as in the store: [l, D]."""


@dataclass(frozen=True)
class EncodeOptions:
    """How tracks go through the codec: what changes no latents, or by rounding only."""

    window_frames: int
    """Latent frames encoded at once."""
    batch_size: int | None = None
    """Windows that go through the codec at once; None: what the device is fastest with."""
    readers: int = READERS
    """Threads that read audio ahead, in each process."""
    precision: str = "32"
    """As `pick_precision` takes it."""


@dataclass(frozen=True)
class EncodedTrack:
    """A track on its way into the store."""

    name: str
    precision: str
    """The one that was used."""
    pieces: Iterator[Arrays]
    """In order. They raise a DataError where this track cannot be encoded."""


def encode_tracks(
    codec: Codec,
    tracks: Mapping[str, PreparedTrack],
    options: EncodeOptions,
    store: str,
    devices: Sequence[str],
    cluster: str,
) -> Generator[EncodedTrack, None, None]:
    """Encode tracks by name, in order; the pieces of each are to be taken before the next is asked for.

    Args:
        store: where other processes find the codec: the store, as they know it.
        devices: as in `encode.encode`.
        cluster: address of a Dask scheduler.

    Raises:
        UsageError, MismatchError, BundleError: no track can be encoded.
        NetworkError: the cluster cannot be reached.
    """
    if not cluster and len(devices) < 2:
        if devices:
            codec.to(pick_device(devices[0]))
        yield from _encode_here(codec, tracks, options)
        return

    tasks = [_Task(name, track, store, codec.spec.codec_hash, options) for name, track in tracks.items()]
    # A cluster's workers know how many threads they may use; of this machine, every process gets an equal share.
    if cluster:
        outcomes = run_on_cluster(
            functools.partial(_encode_track, devices[0] if devices else "auto", 0), tasks, cluster
        )
    else:
        threads = max(1, CORES // len(devices))
        outcomes = run_each([functools.partial(_encode_track, device, threads) for device in devices], tasks)
    with closing(outcomes):
        for task, outcome in outcomes:
            if isinstance(outcome, (BundleError, MismatchError, UsageError)):
                raise outcome  # no fault of this track
            used = options.precision if isinstance(outcome, Exception) else outcome.precision
            yield EncodedTrack(task.name, used, _pieces_of(outcome))


# ---- In this process -----------------------------------------------------------------------------------------------


def _encode_here(
    codec: Codec, tracks: Mapping[str, PreparedTrack], options: EncodeOptions
) -> Generator[EncodedTrack, None, None]:
    precision = pick_precision(options.precision, codec.device)
    names = list(tracks)
    sources = ((track.length, _reader(track)) for track in tracks.values())
    many = encode_many(codec, sources, options.window_frames, options.batch_size, options.readers, precision)
    # Its reading threads end here, too, where the caller stops before the last track.
    with closing(many):
        for number, pieces in many:
            rows = ((mean.T.numpy(), logvar.T.numpy()) for mean, logvar in pieces)
            yield EncodedTrack(names[number], precision, rows)


def _reader(track: PreparedTrack) -> Reader:
    def read(start: int, stop: int) -> Tensor:
        return torch.from_numpy(track.read(start, stop))

    return read


# ---- In other processes --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    name: str
    track: PreparedTrack
    store: str
    """Where the copy of the codec is."""
    codec_hash: str
    options: EncodeOptions


@dataclass(frozen=True)
class _Latents:
    """Of a whole track, rounded as the store rounds them."""

    mean: npt.NDArray[np.float16]
    logvar: npt.NDArray[np.float16]
    """[L, D]."""
    precision: str


def _encode_track(device: str, threads: int, task: _Task) -> _Latents:
    """Encode one track. `threads`: of torch, on a CPU; 0 leaves them as they are."""
    if threads and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    codec = _loaded(task.store, task.codec_hash, device)
    with closing(_encode_here(codec, {task.name: task.track}, task.options)) as tracks:
        encoded = next(tracks)
        # Rounded here, so that only half the bytes have to be sent to the process that writes.
        means, logvars = zip(*((_rounded(mean), _rounded(logvar)) for mean, logvar in encoded.pieces), strict=True)
    return _Latents(np.concatenate(means), np.concatenate(logvars), encoded.precision)


def _rounded(latents: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):  # the store refuses what is not finite
        return latents.astype(np.float16)


def _pieces_of(outcome: _Latents | Exception, length: int = 65536) -> Iterator[Arrays]:
    """The track that a task returned, a piece at a time; or its error as a DataError."""
    if isinstance(outcome, DataError):
        raise outcome
    if isinstance(outcome, MusicLDMError):
        raise DataError(outcome.message, outcome.hint) from outcome
    if isinstance(outcome, Exception):
        raise DataError(f"{type(outcome).__name__}: {outcome}") from outcome
    for start in range(0, len(outcome.mean), length):
        yield outcome.mean[start : start + length], outcome.logvar[start : start + length]


@functools.lru_cache(maxsize=1)  # a process encodes with one codec, and many tracks
def _loaded(store: str, codec_hash: str, device: str) -> Codec:
    storage = storage_at(store)
    header = header_in(storage)
    if header.codec_hash != codec_hash:  # the folder was replaced meanwhile
        raise MismatchError(f"{store} is no longer the store that this run writes to.", "Start it again.")
    return codec_of(read_codec(Snapshot(storage, header))).to(pick_device(device))
