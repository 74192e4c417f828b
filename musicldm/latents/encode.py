"""Prepared waveforms + a VAE -> a latent store. Done again, it does only what is missing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from musicldm import bundle
from musicldm.audio import files
from musicldm.audio.manifest import PreparedTrack, read_tracks
from musicldm.bundle import Bundle
from musicldm.errors import DataError, UsageError
from musicldm.latents.store import METADATA, LatentStore, StoreHeader, Track
from musicldm.progress import Progress, silent
from musicldm.vae.model import VAE, Reader
from musicldm.vae.windows import encode_long

VAE_COPY = "vae"  # in the store's folder


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


def encode(
    data: Path, store_path: Path, vae: VAE, window_seconds: float = 30.0, progress: Progress = silent
) -> EncodeSummary:
    """Encode every prepared track of `data` that is not yet in the store, in memory bounded by the window.

    A track that does not fit the VAE, or whose file is gone or was changed, is left out by name; the rest goes on.
    Interrupted at any moment, the store keeps every track that was complete.

    Args:
        data: the folder that `musicldm preprocess` made.
        store_path: a store to add to, or where to make one; it keeps a copy of the VAE in the folder `VAE_COPY`, so
            that whoever has the latents can decode them.
        vae: on the device that it shall run on.
        window_seconds: audio encoded at once.
        progress: called with seconds of audio.

    Raises:
        DataError: no prepared tracks, or none that could be used; or the store is damaged.
        MismatchError: the store was made with another VAE.
        OutputError: the store cannot be written; what was committed stays.
    """
    header = header_of(vae)
    tracks = {_name(track, data): track for track in _obeying(vae, read_tracks(data))}
    left_out = {name: reason for name, track in tracks.items() if (reason := _misfit(track, header))}
    if len(left_out) == len(tracks):
        raise _none_usable(data, left_out)
    store = LatentStore.open(store_path) if (store_path / METADATA).exists() else LatentStore.create(store_path, header)
    store.require(header)
    if not (store.path / VAE_COPY / bundle.INDEX).exists():
        bundle.write(store.path / VAE_COPY, Bundle(vae.name, {"vae": vae.part()}, vae.facts))

    there = {entry.key: entry for entry in store.tracks}
    todo: dict[str, PreparedTrack] = {}
    skipped = 0
    for name, track in tracks.items():
        if name in left_out:
            continue
        entry = there.get(header.key(track.content))
        if entry is None:
            todo[name] = track
        elif entry.split != track.split:
            left_out[name] = f"The store has it as {entry.split!r}, now it is {track.split!r}; a new store would obey."
        else:
            skipped += 1

    window_frames = max(1, round(window_seconds * header.sample_rate / header.hop))
    total = sum(track.seconds for track in todo.values())
    done = encoded_seconds = 0.0
    encoded = 0
    with store.writer() as writer:
        for name, track in todo.items():
            pieces = _pieces(vae, track, window_frames, _from(done, total, name, progress))
            try:
                writer.append(_described(track, data), pieces)
            except DataError as error:
                left_out[name] = error.message
            else:
                encoded += 1
                encoded_seconds += track.seconds
            done += track.seconds
            progress(done, total, name)
    if not encoded and not skipped:
        raise _none_usable(data, left_out)
    return EncodeSummary(
        encoded=encoded,
        encoded_hours=encoded_seconds / 3600,
        skipped=skipped,
        tracks=len(store.tracks),
        hours=sum(entry.seconds for entry in store.tracks) / 3600,
        bytes=store.bytes,
        left_out=left_out,
    )


def header_of(vae: VAE) -> StoreHeader:
    """The header of a store that this VAE's latents may stand in.

    Raises:
        UsageError: the VAE was never saved, so that nothing tells it from another.
    """
    if not vae.weights_hash:
        raise UsageError("This VAE has no hash of its weights.", "Save it in a bundle and load it from there.")
    config = vae.config
    return StoreHeader(
        sample_rate=config.sample_rate,
        hop=config.hop,
        channels=config.latent_channels,
        audio_channels=config.audio_channels,
        vae_hash=vae.weights_hash,
        vae_name=vae.name,
    )


def _name(track: PreparedTrack, data: Path) -> str:
    return track.path.relative_to(data.resolve()).as_posix()


def _misfit(track: PreparedTrack, header: StoreHeader) -> str:
    """Why the VAE cannot take a track; empty where it can."""
    if track.sample_rate != header.sample_rate:
        return f"It has {track.sample_rate} samples a second, and the VAE takes {header.sample_rate}."
    if track.channels != header.audio_channels:
        return f"It has {track.channels} channel(s), and the VAE takes {header.audio_channels}."
    return ""


def _none_usable(data: Path, left_out: dict[str, str]) -> DataError:
    name, reason = next(iter(left_out.items()))
    hint = "Prepare the audio for this VAE with musicldm preprocess, or name another VAE."
    return DataError(f"None of the {len(left_out)} tracks in {data} could be encoded. {name}: {reason}", hint)


def _obeying(vae: VAE, tracks: list[PreparedTrack]) -> list[PreparedTrack]:
    """The tracks in the splits in which the VAE saw them: what it was trained on can no longer be held out."""
    seen = {track["content"]: track["split"] for track in vae.facts.get("vae", {}).get("tracks", [])}
    return [replace(track, split=seen.get(track.content, track.split)) for track in tracks]


def _described(track: PreparedTrack, data: Path) -> Track:
    return Track(
        **{field: getattr(track, field) for field in ("samples", "content", "split", "artist", "title", "provenance")},
        folder=hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:16],
        source=_name(track, data),
    )


def _pieces(
    vae: VAE, track: PreparedTrack, window_frames: int, report: Callable[[float], None]
) -> Iterator[tuple[files.Floats, files.Floats]]:
    """The VAE's pieces [D, l] as the time-major [l, D] of the store; reports the seconds of the track that are done."""
    frames = 0
    for mean, logvar in encode_long(vae, _reader(track), track.samples, window_frames):
        yield mean.T.numpy(), logvar.T.numpy()
        frames += mean.shape[1]
        report(min(frames * vae.config.hop / track.sample_rate, track.seconds))


def _from(done: float, total: float, name: str, progress: Progress) -> Callable[[float], None]:
    """One track's progress as that of all, of which `done` seconds came before."""
    return lambda seconds: progress(done + seconds, total, name)


def _reader(track: PreparedTrack) -> Reader:
    return lambda start, stop: torch.from_numpy(track.read(start, stop))
