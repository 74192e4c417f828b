"""Segments written anew: to drop tracks, or to merge small ones. And the garbage that this and killed writers leave.

A rewritten segment names those that it stands for. They are out of the store from its commit on, and are deleted when
nobody has the store open.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from math import inf
from typing import TYPE_CHECKING

from musicldm.core import durable
from musicldm.core.errors import OutputError
from musicldm.latents.locks import writers_lock
from musicldm.latents.schema import METADATA, SEGMENTS, SegmentTable, TrackEntry
from musicldm.latents.storage import Folder
from musicldm.latents.writer import SEGMENT_TIME, StoreWriter

if TYPE_CHECKING:
    from musicldm.latents.store import LatentStore

# Segments as `compact` makes them: 18 hours at 16 frames a second, 67 MB in each array at 32 channels.
_LARGE_SEGMENT = 1 << 20
_MANY_SMALL_SEGMENTS = 8

# Object storage has no locks. What has no metadata after so long has no writer either.
_GARBAGE_AFTER = timedelta(days=1)


def prune(store: LatentStore, keys: Collection[str]) -> int:
    """See `LatentStore.prune`."""
    if store.is_remote:
        what = f"{store.storage} is not a folder on this machine; tracks cannot be dropped there."
        raise OutputError(what, "Drop them from a copy in a folder, and put that in its place.")
    with _alone(store) as alone:
        if not alone:
            raise OutputError(f"Another run is writing to {store.storage}.", "Wait until it is done.")
        # Only under the lock: until then others may have been writing.
        store.refresh()
        dropped = 0
        everything, listed = store.everything, store.tracks  # with every segment that is rewritten these change
        for number, segment in enumerate(everything.segments):
            rows = listed.rows_of(number)
            kept = [entry for entry in rows if entry.key not in keys]
            dropped += len(rows) - len(kept)
            if len(kept) < len(everything.rows_of(number)):
                _rewrite(store, [segment], kept)
        sweep(store)
        store.save_index()
    return dropped


def compact(store: LatentStore) -> int:
    """See `LatentStore.compact`."""
    merged = 0
    with _alone(store) as alone:
        if not alone:
            return 0
        store.refresh()
        for group in _groups([segment for segment in store.segments if segment.frames < _LARGE_SEGMENT // 2]):
            numbers = [store.segments.index(segment) for segment in group]
            _rewrite(store, group, [entry for number in numbers for entry in store.tracks.rows_of(number)])
            merged += len(group)
        sweep(store)
        store.save_index()
    return merged


@contextmanager
def writing(store: LatentStore) -> Iterator[None]:
    """Be one of the writers; nobody rewrites meanwhile.

    Raises:
        OutputError: the store cannot be written.
    """
    lock = writers_lock(store.storage)
    with closing(lock):
        # Whoever happens to be alone cleans up. The step down to the shared lock is not atomic; where a rewriter slips
        # in between, `share` waits for it.
        if lock.take():
            sweep(store)
        lock.share()
        yield


@contextmanager
def _alone(store: LatentStore) -> Iterator[bool]:
    """Be the only writer, where that can be had. Object storage has no locks, so there it never can."""
    lock = writers_lock(store.storage)
    with closing(lock):
        yield isinstance(store.storage, Folder) and lock.take()


def sweep(store: LatentStore) -> None:
    """Delete what killed writers have left and what rewriting has replaced. Nobody writes meanwhile."""
    storage = store.storage
    names = storage.folders(SEGMENTS)
    committed = storage.sizes([f"{SEGMENTS}/{name}/{METADATA}" for name in names])
    # What has no name of ours is somebody's own.
    garbage = [name for name, size in zip(names, committed, strict=True) if size is None and _begun(name)]
    if isinstance(storage, Folder):
        for folder in (storage.path, storage.path / SEGMENTS):
            for file in folder.glob(f"{durable.TEMPORARY}*"):
                with suppress(OSError):
                    file.unlink()
    else:
        garbage = [name for name in garbage if _is_old(name)]
    replaced = {old for segment in store.segments for old in segment.replaces}.intersection(names)
    for name in garbage:
        storage.remove(f"{SEGMENTS}/{name}")
    with store.lease.alone() as nobody_reads:
        for name in replaced if nobody_reads else ():
            storage.remove(f"{SEGMENTS}/{name}")


def _rewrite(store: LatentStore, segments: Sequence[SegmentTable], kept: Sequence[TrackEntry]) -> None:
    """Write one segment that stands for others and has only these tracks of theirs."""
    there = set(store.storage.folders(SEGMENTS))
    # What they replaced may still lie there, and would come back once they are deleted.
    replaces = [each.id for each in segments] + [old for each in segments for old in each.replaces if old in there]
    chunk_frames = max(segment.chunk_frames for segment in segments)
    # 64 chunks to a file, as writers have by default. No other limits: the new segment stands for all of the old ones,
    # so it cannot be committed in parts.
    limits = chunk_frames, 64 * chunk_frames, inf, inf, inf
    with StoreWriter(store.storage, store.header, store.add_segment, *limits, replaces) as writer:
        for entry in kept:
            writer.append(entry, store.pieces(entry))
        if not kept:
            writer.commit_nothing()


def _groups(small: list[SegmentTable]) -> Iterator[list[SegmentTable]]:
    """Successive segments to be merged: as many as make a large one, or else many."""
    group: list[SegmentTable] = []
    for segment in small:
        group.append(segment)
        if sum(member.frames for member in group) >= _LARGE_SEGMENT:
            yield group
            group = []
    # Every run of encode leaves a few small segments. To merge so few each time would rewrite the same tracks over and
    # over.
    if len(group) >= _MANY_SMALL_SEGMENTS:
        yield group


def _begun(segment: str) -> datetime | None:
    """When a segment was begun; None where the name of the folder is not one of ours."""
    try:
        return datetime.strptime(segment.split("-")[0], SEGMENT_TIME).replace(tzinfo=UTC)
    except ValueError:
        return None


def _is_old(segment: str) -> bool:
    """Whether a segment was begun so long ago that its writer, if it had one still, would have committed it."""
    when = _begun(segment)
    return when is not None and datetime.now(UTC) - when > _GARBAGE_AFTER
