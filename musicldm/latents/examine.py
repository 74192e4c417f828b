"""What a latent store holds, whether it is whole, and how its channels are doing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import google_crc32c
import numpy as np

from musicldm.core.errors import DataError
from musicldm.core.names import counted
from musicldm.core.progress import Progress, silent
from musicldm.core.reading import parse_json
from musicldm.latents.schema import ARRAYS, METADATA, SEGMENTS, TrackEntry, read_segment
from musicldm.latents.statistics import DEAD_STD, Moments
from musicldm.latents.store import LatentStore
from musicldm.media.medium import hours_and_beats

# ---- What is in it --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds."""

    tracks: int
    hours: float | None
    """None of notes, whose latents know beats alone."""
    beats: int | None
    """Likewise of notes."""
    heldout: int
    """Tracks of these that no training sees."""
    artists: int
    segments: int
    bytes: int
    """Of all files, the copy of the codec included."""
    codec: str
    """The kind of codec that made it."""
    codec_name: str
    codec_hash: str
    medium: str
    rate: int
    """Samples in a second of audio, or steps in a beat of notes."""
    media_channels: int
    hop: int
    channels: int
    frames_a_second: float
    keep_bits: int | None
    """Bits of each mantissa kept by compression; None where there is none."""
    saved: float
    """The fraction of the raw latents' bytes that compression saved."""
    loss_db: float | None
    """The energy of what rounding took off the means, relative to their variance; None for float16's own alone."""
    licences: dict[str, int]
    """Each licence as the sources state it -> tracks; "not stated" for the rest."""
    replaced: int
    """Tracks that wait for `prune`: another version of the same file has come since."""


def info(store: LatentStore) -> StoreInfo:
    """Look at the tables alone."""
    header, tracks = store.header, store.tracks
    columns = tracks.columns
    frames = sum(segment.frames for segment in store.segments)
    # Two arrays, two bytes a number.
    raw = 2 * 2 * frames * header.channels
    stored = sum(sum(sizes) for segment in store.segments for sizes in segment.sizes.values())
    entries = list(tracks)
    licences = Counter(str(entry.provenance.get("licence") or "not stated") for entry in entries)
    hours, beats = hours_and_beats(header.medium, float(columns["samples"].sum()) / header.rate)
    loss_db = None
    moments = store.moments() if header.keep_bits is not None else Moments.none(header.channels)
    if moments.count:
        variance = moments.squares.sum() / moments.count
        loss = sum(entry.loss for entry in entries) / max(1, int(columns["frames"].sum()))
        # The floors give a number where nothing was lost or nothing varies.
        loss_db = float(10 * np.log10(max(loss, 1e-30) / max(variance, 1e-30)))
    return StoreInfo(
        tracks=len(tracks),
        hours=hours,
        beats=beats,
        heldout=int(columns["heldout"].sum()),
        artists=sum(bool(name) for name in counted(tracks.artist_of_each())),
        segments=len(store.segments),
        bytes=store.bytes,
        codec=header.codec,
        codec_name=header.codec_name,
        codec_hash=header.codec_hash,
        medium=header.medium,
        rate=header.rate,
        media_channels=header.media_channels,
        hop=header.hop,
        channels=header.channels,
        frames_a_second=header.frame_rate,
        keep_bits=header.keep_bits,
        saved=1 - stored / raw if raw and header.keep_bits is not None else 0.0,
        loss_db=loss_db,
        licences=dict(licences.most_common()),
        replaced=store.replaced,
    )


# ---- Is it whole? ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """Something in a store that is not as it was written."""

    reason: str
    """A sentence that names the file or the track."""
    track: str = ""
    """The track's name, where it is one's fault."""
    key: str = ""
    """The track's key."""


def verify(store: LatentStore, progress: Progress = silent) -> list[Fault]:
    """Compare all of a store with the checksums that it was written with.

    Each chunk is read and its crc32c compared, each track's frames against the track's own, each segment's table and
    moments against its latents, and the arrays' metadata, which other readers of zarr need.

    Args:
        store: opened with `skip_broken`, if the faults of whole segments are to be in the list too.
        progress: called with the frames read.
    """
    faults = [Fault(reason) for reason in store.broken.values()]
    total = sum(segment.frames for segment in store.segments)
    done = 0
    for segment, table in zip(store.segments, store.tables(), strict=True):
        faults += [Fault(reason) for reason in _metadata_faults(store, segment.id)]
        moments = Moments.none(store.header.channels)
        whole = True
        for entry in table:
            fault, of_track = _track_fault(store, entry)
            if fault:
                faults.append(fault)
                whole = False
            elif entry.split == "train":
                moments += of_track
            done += entry.frames
            progress(done, total, entry.name)
        if whole and not _close(moments, segment.moments):
            faults.append(
                Fault(f"The moments in {store.path}/{SEGMENTS}/{segment.id}/{METADATA} do not fit its latents.")
            )
    return faults


def _metadata_faults(store: LatentStore, segment: str) -> list[str]:
    faults = []
    try:
        metadata = store.storage.read(f"{SEGMENTS}/{segment}/{METADATA}")
        read_segment(segment, metadata, str(store.path), store.header.channels)
    except (DataError, FileNotFoundError) as error:
        faults.append(str(error))
    for name in ARRAYS:
        array = store.array(segment, name)
        if not array.sizes:  # a segment without tracks has no arrays
            continue
        file = f"{array.name}/{METADATA}"
        try:
            form = parse_json(store.storage.read(file))
            fits = form["shape"] == list(array.shape) and form["data_type"] == "float16"
        except (ValueError, KeyError, TypeError, FileNotFoundError):
            fits = False
        if not fits:
            faults.append(f"{store.path}/{file} is not the metadata of its array: other readers of zarr need it.")
    return faults


def _track_fault(store: LatentStore, entry: TrackEntry) -> tuple[Fault | None, Moments]:
    checksum, moments = 0, Moments.none(store.header.channels)
    try:
        for pair in store.pieces(entry):
            # In the order of the writer's spool: of each frame the mean, then the log-variance.
            checksum = google_crc32c.extend(checksum, np.stack(pair, axis=1).tobytes())
            moments += Moments.of(*pair)
    except DataError as error:
        return Fault(error.message, entry.name, entry.key), moments
    if f"{checksum:08x}" != entry.checksum:
        return Fault(f"The latents of {entry.name} are not those that were written.", entry.name, entry.key), moments
    return None, moments


def _close(one: Moments, other: Moments) -> bool:
    # Not equal to the last bit, which depends on how the frames were grouped when they were summed.
    return one.count == other.count and all(
        np.allclose(a, b, rtol=1e-6, atol=1e-9)
        for a, b in ((one.mean, other.mean), (one.squares, other.squares), (one.variances, other.variances))
    )


# ---- How are its channels? ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChannelStatistics:
    """One latent channel over all training tracks."""

    channel: int
    mean: float
    std: float
    """The standard deviation of what a generator is given: of the posterior's mean and its variance together."""
    used: float
    """The variance of the posterior's mean as a fraction of all variance: 1 says all, 0 says nothing."""
    largest: float
    """How many standard deviations the farthest value lies from the mean."""
    warnings: tuple[str, ...]


def channel_statistics(store: LatentStore, progress: Progress = silent) -> list[ChannelStatistics]:
    """The standard deviation of every channel, and what looks wrong with it. One pass over all latents.

    Raises:
        DataError: no training tracks, or damaged ones.
    """
    statistics, moments = store.statistics(), store.moments()
    mean = np.array(statistics.mean)
    largest = np.zeros(len(mean))
    tracks = [entry for entry in store.tracks if entry.split == "train"]
    total, done = sum(entry.frames for entry in tracks), 0
    for entry in tracks:
        for values, _ in store.pieces(entry):
            largest = np.maximum(largest, np.abs(values - mean).max(axis=0))
        done += entry.frames
        progress(done, total, entry.name)
    of_mean, of_posterior = moments.squares / moments.count, moments.variances / moments.count
    used = of_mean / np.maximum(of_mean + of_posterior, 1e-30)
    return [
        ChannelStatistics(
            channel=channel,
            mean=float(mean[channel]),
            std=statistics.std[channel],
            used=float(used[channel]),
            largest=float(largest[channel] / statistics.std[channel]),
            warnings=channel_warnings(
                statistics.std[channel], used[channel], largest[channel] / statistics.std[channel]
            ),
        )
        for channel in range(len(mean))
    ]


def channel_warnings(std: float, used: float, largest: float = 0.0) -> tuple[str, ...]:
    """What looks wrong with a channel of this standard deviation, this fraction in use, this largest value (in std)."""
    # 0.01: an inactive unit, as Burda, Grosse & Salakhutdinov (2016) count them, of a prior of unit variance.
    found = []
    if std < DEAD_STD:
        found.append("dead: it hardly changes")
    elif used < 0.01:
        found.append("collapsed: the posterior says nothing about the sound")
    elif not 0.1 <= std <= 10:
        found.append("its standard deviation is far from 1")
    if largest > 20:
        found.append("outliers")
    return tuple(found)
