"""Prepared audio + a codec -> a latent store. Done again, it does only what is missing.

Tracks may be encoded in many processes (`latents.encoders`); only this one writes.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from musicldm.codecs.base import Codec
from musicldm.core.bundle import TrainingFacts
from musicldm.core.devices import pick_device
from musicldm.core.errors import DataError
from musicldm.core.names import folded
from musicldm.core.progress import Progress, silent
from musicldm.latents.codec import has_codec, header_of, write_codec
from musicldm.latents.encoders import READERS, Arrays, EncodeOptions, encode_tracks
from musicldm.latents.schema import StoreHeader, Track
from musicldm.latents.store import LatentStore
from musicldm.media.audio import resampled
from musicldm.media.manifest import PreparedTrack, read_tracks
from musicldm.media.medium import hours_and_beats


@dataclass(frozen=True)
class EncodeSummary:
    """How a run of `encode` ended."""

    encoded: int
    """Tracks added in this run."""
    encoded_hours: float
    """Of music, as it is played."""
    skipped: int
    """Tracks that were there before."""
    tracks: int
    """In the store now."""
    hours: float | None
    """Of all these; None of notes, whose latents know beats alone."""
    beats: int | None
    """Likewise of notes."""
    bytes: int
    """The store's size on disk."""
    left_out: dict[str, str] = field(default_factory=dict)
    """The path below the data folder -> the reason."""
    vanished: list[str] = field(default_factory=list)
    """Paths below the data folder of tracks in the store that the folder has no more, or not with that sound."""
    pruned: int = 0
    """Tracks dropped from the store because they had vanished."""
    converted: dict[str, int] = field(default_factory=dict)
    """The form of tracks, such as "44100 Hz, 2 channels" -> how many were converted from it in this run."""
    relabelled: int = 0
    """Tracks in the store whose artist is another one in the data folder now; the store keeps the first."""


def encode(
    data: Path,
    store_path: Path | str,
    codec: Codec,
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

    A track that does not fit the codec, or whose file is gone or was changed, is left out by name; the rest goes on.
    Interrupted at any moment, the store keeps every track that was complete. Where there is nothing to do, no audio is
    read and the codec stays where it is.

    Args:
        data: the folder that `musicldm preprocess` made.
        store_path: a store to add to, or where to make one: a folder or a URL. It keeps a copy of the codec.
        codec: moved to the device, where there is one.
        window_seconds: audio encoded at once.
        progress: called with seconds of audio.
        devices: names as `pick_device` takes them. None: where the codec is. Several (one may be named twice): a
            process for each, and a track's latents in memory for each.
        cluster: address of a Dask scheduler, whose workers see the same folders; each takes the first of `devices`, by
            default the best that it has.
        readers, batch_size, precision: see `EncodeOptions`. The store's keys do not depend on the precision: "32" gives
            the same latents anywhere, within 1e-4 of whole tracks; any other is written into the tracks' provenance.
        keep_bits: see `StoreHeader.keep_bits`; None: as the store has it, and uncompressed in a new one.
        prune: drop from the store what has vanished from `data`.
        resample: encode tracks of other rates and channels than the codec's too.

    Raises:
        DataError: no prepared tracks, or none that could be used; or the store is damaged.
        MismatchError: the store was made with another codec, or compressed otherwise.
        OutputError: the store cannot be written, or with `prune`, another run is writing it; what was committed stays.
        UsageError: no such device or precision, or no address of a cluster.
        NetworkError: the cluster cannot be reached.
        MusicLDMError: a device's memory does not hold a single window.
    """
    header = replace(header_of(codec), keep_bits=keep_bits)
    tracks = _prepared(data, codec, header, resample)
    left_out = {name: reason for name, track in tracks.items() if (reason := _misfit(track, header))}
    if len(left_out) == len(tracks):
        raise _none_usable(data, left_out)
    # Not before something is known to fit: a wrong folder or codec should leave no empty store behind.
    store = _opened(store_path, header, codec)
    work = _compare(store, data, tracks, left_out)
    options = EncodeOptions(max(1, round(window_seconds * header.frame_rate)), batch_size, readers, precision)
    encoded, seconds = _add(store, data, work, codec, options, devices, cluster, progress) if work.todo else (0, 0.0)
    if not encoded and not work.skipped:
        raise _none_usable(data, work.left_out)
    pruned = store.prune(set(work.vanished.values())) if prune and work.vanished else 0
    store.compact()
    return _summary(store, work, encoded, seconds, pruned)


def pick_devices(name: str) -> list[str]:
    """The devices that a person means by one name: `auto` is all GPUs of the machine, where it has any.

    Raises:
        UsageError: no such device on this machine.
    """
    if name == "auto" and torch.cuda.device_count() > 1:
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [str(pick_device(name))]


# ---- What there is to do -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Work:
    """What there is to do, and what is found out on the way. Tracks are named by their paths below the data folder."""

    todo: dict[str, PreparedTrack]
    skipped: int
    """Tracks that are in the store already."""
    left_out: dict[str, str]
    """Name -> reason."""
    vanished: dict[str, str]
    """Name -> key, of tracks that came from the same data folder, which has them no more, or not with that sound."""
    relabelled: int
    """See `EncodeSummary`."""


def _prepared(data: Path, codec: Codec, header: StoreHeader, resample: bool) -> dict[str, PreparedTrack]:
    """The tracks of a data folder by name, in the splits in which the codec saw them.

    What a codec was trained on can no longer be held out.
    """
    found = read_tracks(data, header.medium)
    if resample and header.medium == "audio":
        found = resampled.fit(found, header.rate, header.media_channels)
    facts = codec.facts.get("codec", TrainingFacts())
    seen = {track.content: track.split for track in facts.tracks}
    return {_name(track, data): replace(track, split=seen.get(track.content, track.split)) for track in found}


def _name(track: PreparedTrack, data: Path) -> str:
    return track.path.relative_to(data.resolve()).as_posix()


def _folder(data: Path) -> str:
    """A data folder's name in the store, which must not tell of the machine."""
    return hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:16]


def _misfit(track: PreparedTrack, header: StoreHeader) -> str:
    """Why a track cannot be taken, by what can be seen without reading it; empty where it can."""
    if track.rate != header.rate:
        return f"It has {track.rate} samples a second, and the codec takes {header.rate}."
    if track.channels != header.media_channels:
        return f"It has {track.channels} channel(s), and the codec takes {header.media_channels}."
    if not track.length:
        return "It is empty."
    try:
        track.check()
    except DataError as error:
        return error.message
    return ""


def _none_usable(data: Path, left_out: dict[str, str]) -> DataError:
    name, reason = next(iter(left_out.items()))
    hint = "Prepare the audio for this codec with musicldm preprocess, or name another codec."
    return DataError(f"None of the {len(left_out)} tracks in {data} could be encoded. {name}: {reason}", hint)


def _opened(path: Path | str, header: StoreHeader, codec: Codec) -> LatentStore:
    """The store for latents under this header, with a copy of the codec; made where there is none."""
    if LatentStore.exists(path):
        store = LatentStore.open(path)
        store.require(header)
    else:
        store = LatentStore.create(path, header)
    if not has_codec(store):
        write_codec(store, codec)
    return store


def _compare(store: LatentStore, data: Path, tracks: dict[str, PreparedTrack], left_out: dict[str, str]) -> _Work:
    """What is missing in the store, and what is in there too much."""
    wanted = {store.header.key(track.content): track for track in tracks.values()}
    folder, relabelled = _folder(data), 0
    splits, vanished = dict[str, str](), dict[str, str]()
    for entry in store.tracks:
        if entry.key in wanted:
            splits[entry.key] = entry.split
            relabelled += folded(entry.artist) != folded(wanted[entry.key].artist)
        elif entry.folder == folder:
            # A store may hold the tracks of several data folders; those of the others have not vanished.
            vanished[entry.source] = entry.key
    todo: dict[str, PreparedTrack] = {}
    skipped, left_out = 0, dict(left_out)
    for name, track in tracks.items():
        if name in left_out:
            continue
        split = splits.get(store.header.key(track.content))
        if split is None:
            todo[name] = track
        elif split != track.split:
            left_out[name] = f"The store has it as {split!r}, now it is {track.split!r}; a new store would take that."
        else:
            skipped += 1
    return _Work(todo, skipped, left_out, vanished, relabelled)


# ---- Doing it ------------------------------------------------------------------------------------------------------


def _add(
    store: LatentStore,
    data: Path,
    work: _Work,
    codec: Codec,
    options: EncodeOptions,
    devices: Sequence[str],
    cluster: str,
    progress: Progress,
) -> tuple[int, float]:
    """Encode what is missing; how many tracks and seconds that were. Whatever fails joins `work.left_out`."""
    location = str(store.storage if store.is_remote else store.path.absolute())  # as workers elsewhere know it
    total = sum(track.seconds for track in work.todo.values())
    done = encoded_seconds = 0.0
    encoded = 0
    encoding = encode_tracks(codec, work.todo, options, location, devices, cluster)
    with store.writer() as writer, closing(encoding) as outcomes:
        for outcome in outcomes:
            name, track = outcome.name, work.todo[outcome.name]
            report = functools.partial(progress, total=total, text=name)
            pieces = _reporting(outcome.pieces, done, track.seconds, store.header.frame_rate, report)
            try:
                writer.append(_described(track, data, outcome.precision), pieces)
            except DataError as error:
                work.left_out[name] = error.message
            else:
                encoded += 1
                encoded_seconds += track.seconds
                work.vanished.pop(name, None)  # the new sound has taken the place of the old
            done += track.seconds
            progress(done, total, name)
    return encoded, encoded_seconds


def _described(track: PreparedTrack, data: Path, precision: str) -> Track:
    """A prepared track as the store knows it."""
    rounded = {} if precision == "32" else {"precision": precision}
    return Track(
        samples=track.length,
        content=track.content,
        split=track.split,
        artist=track.artist,
        title=track.title,
        provenance=track.provenance | rounded,
        folder=_folder(data),
        source=_name(track, data),
    )


def _reporting(
    pieces: Iterator[Arrays], done: float, seconds: float, frame_rate: float, report: Callable[[float], None]
) -> Iterator[Arrays]:
    """The pieces of a track of `seconds`; with each, reports the seconds done, of which `done` came before."""
    frames = 0
    for mean, logvar in pieces:
        yield mean, logvar
        frames += len(mean)
        # The last frame may reach beyond the end of the track.
        report(done + min(frames / frame_rate, seconds))


def _summary(store: LatentStore, work: _Work, encoded: int, seconds: float, pruned: int) -> EncodeSummary:
    length = store.tracks.columns["samples"].sum().item() / store.header.rate
    hours, beats = hours_and_beats(store.header.medium, length)
    return EncodeSummary(
        encoded=encoded,
        encoded_hours=seconds / 3600,
        skipped=work.skipped,
        tracks=len(store.tracks),
        hours=hours,
        beats=beats,
        bytes=store.bytes,
        left_out=work.left_out,
        vanished=sorted(work.vanished),
        pruned=pruned,
        converted=resampled.converted(track for name, track in work.todo.items() if name not in work.left_out),
        relabelled=work.relabelled,
    )
