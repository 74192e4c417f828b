"""What is in a store at this moment: its header, its committed segments and their tracks."""

from __future__ import annotations

from typing import Any

import numpy as np

from musicldm.core.errors import DataError, MusicLDMError
from musicldm.latents.schema import (
    METADATA,
    NAME_A_STORE,
    SEGMENTS,
    SegmentTable,
    StoreHeader,
    damaged,
    read_header,
    read_segment,
)
from musicldm.latents.storage import Folder, Storage
from musicldm.latents.table import INDEX, TrackTable


def header_in(storage: Storage) -> StoreHeader:
    """The header of the store that is there.

    Raises:
        DataError: there is none, or a damaged one.
        MismatchError: a store of a newer schema.
    """
    try:
        data = storage.read(METADATA)
    except (FileNotFoundError, NotADirectoryError):
        what = f"There is no latent store at {storage}."
        if isinstance(storage, Folder) and storage.path.exists():
            what = f"{storage} is {'a file, not a' if storage.path.is_file() else 'not a'} latent store."
        raise DataError(what, NAME_A_STORE) from None
    except OSError as error:
        # Errors of ours may be OSErrors, too; those have their sentence already.
        if isinstance(error, MusicLDMError):
            raise
        raise DataError(f"{storage} cannot be read: {error.strerror}.", "Check its permissions.") from error
    return read_header(data, str(storage))


def tracks_in(
    storage: Storage, header: StoreHeader, index: TrackTable, skip_broken: bool
) -> tuple[TrackTable, dict[str, str]]:
    """The tracks of the segments that are in a store, and the segments that are broken with the reason.

    Args:
        index: the table in the store's index; only what it lacks is read from the segments.
        skip_broken: leave out broken segments.

    Raises:
        DataError: without `skip_broken`, a segment is broken; the file is named.
    """
    names = storage.folders(SEGMENTS)
    known = {segment.id for segment in index.segments}
    unknown = [name for name in names if name not in known]
    new, broken = _new_segments(storage, header.channels, unknown, skip_broken)
    replaced = {old for segment in [*index.segments, *(segment for segment, _ in new)] for old in segment.replaces}
    table = index.of_segments(set(names) - replaced).and_those(
        TrackTable.of((segment, rows) for segment, rows in new if segment.id not in replaced)
    )
    faults, gone = _missing_files(storage, table, known)
    for segment, fault in faults.items():
        if not skip_broken:
            raise fault
        broken.setdefault(segment, fault.message)
    return table.of_segments({segment.id for segment in table.segments} - broken.keys() - gone), broken


def _new_segments(
    storage: Storage, channels: int, names: list[str], skip_broken: bool
) -> tuple[list[tuple[SegmentTable, list[dict[str, Any]]]], dict[str, str]]:
    """The tables of these segments with their tracks, and the broken ones with the reason."""
    new, broken = [], dict[str, str]()
    metadata = storage.read_all([f"{SEGMENTS}/{name}/{METADATA}" for name in names])
    for name, data in zip(names, metadata, strict=True):
        if data is not None:  # else it is the garbage of a killed writer, or being written
            try:
                new.append(read_segment(name, data, str(storage), channels))
            except DataError as error:
                if not skip_broken:
                    raise
                broken[name] = error.message
    return new, broken


def _missing_files(storage: Storage, table: TrackTable, known: set[str]) -> tuple[dict[str, DataError], set[str]]:
    """The first fault of each segment whose files are not there in full, and the segments that are gone altogether.

    Args:
        known: the segments that stand in the index; whether they are still there has not been seen yet.
    """
    expected = {
        f"{SEGMENTS}/{segment.id}/{name}/c/{shard}/0": size
        for segment in table.segments
        for name, sizes in segment.sizes.items()
        for shard, size in enumerate(sizes)
    }
    commits = {f"{SEGMENTS}/{segment.id}/{METADATA}": segment.id for segment in table.segments if segment.id in known}
    sizes = dict(zip([*expected, *commits], storage.sizes([*expected, *commits]), strict=True))
    # Not a fault: since the index was written, someone may have rewritten the segment and deleted it.
    gone = {segment for name, segment in commits.items() if sizes[name] is None}  # or is just being deleted
    faults: dict[str, DataError] = {}
    for name, size in expected.items():
        segment = name.split("/")[1]
        if (found := sizes[name]) != size and segment not in gone and segment not in faults:
            reason = "it is missing" if found is None else f"it has {found:,} bytes instead of {size:,}"
            faults[segment] = damaged(str(storage), name, reason)
    return faults, gone


def index_in(storage: Storage, channels: int) -> TrackTable:
    """The table in the index; an empty one where there is none that is whole and fits a store of so many channels."""
    try:
        data = storage.map(INDEX) if isinstance(storage, Folder) else np.frombuffer(storage.read(INDEX), np.uint8)
    except (OSError, ValueError):
        data = np.empty(0, np.uint8)
    return TrackTable.from_bytes(data, f"{storage}/{INDEX}", channels) or TrackTable.of([])
