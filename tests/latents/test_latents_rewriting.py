"""Prune and compact: what they drop, what they keep, and whom they wait for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from musicldm.core import durable
from musicldm.latents import store as store_module
from musicldm.latents.store import LatentStore
from tests.latents.disasters import leftovers
from tests.latents.latent_toys import HEADER, SMALL, check_whole, filled, latents, pieces, track


def keys(*numbers: int) -> set[str]:
    return {HEADER.key(f"sound {number}") for number in numbers}


def segment_folders(store: LatentStore) -> list[str]:
    return sorted(folder.name for folder in (store.path / "parts").iterdir() if folder.is_dir())


def test_pruned_tracks_are_gone_and_their_space_is_given_back(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 20, 10, 40, 15, 5, 9, max_tracks=2)
    size = store.bytes
    others = [entry for entry in store.tracks if entry.provenance["source"] not in (0, 4, 5)]
    assert store.prune(keys(0, 4, 5, 77)) == 3
    assert sorted(check_whole(store)) == [1, 2, 3]
    store = LatentStore.open(store.path)
    assert sorted(check_whole(store)) == [1, 2, 3]
    assert segment_folders(store) == sorted({segment.id for segment in store.segments})
    assert store.bytes < size
    wanted = np.concatenate([latents(entry.provenance["source"], entry.frames)[0] for entry in others])
    np.testing.assert_allclose(store.statistics().mean, wanted.astype(np.float16).mean(axis=0, dtype=float), rtol=1e-10)
    moved = {entry.key: replace(entry, segment="", offset=0) for entry in store.tracks}
    assert moved == {entry.key: replace(entry, segment="", offset=0) for entry in others}
    assert store.prune(keys(0, 4, 5, 77)) == 0


def test_a_store_may_be_emptied_and_filled_again(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 20, 10)
    assert store.prune(keys(0, 1)) == 2
    assert len(LatentStore.open(store.path).tracks) == 0
    with store.writer(**SMALL) as writer:
        writer.append(track(1, 10), pieces(latents(1, 10)))
    assert check_whole(LatentStore.open(store.path)) == [1]


def test_the_new_sound_of_a_file_takes_the_place_of_the_old_one_for_good(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 20, 10)
    old = store.statistics()
    with store.writer(**SMALL) as writer:
        writer.append(replace(track(7, 30), source="0.wav"), pieces(latents(7, 30)))
    store = LatentStore.open(store.path)
    assert check_whole(store) == [1, 7]
    assert (old.count, store.statistics().count) == (30, 40)
    assert store.prune(keys(7)) == 1
    assert check_whole(LatentStore.open(store.path)) == [1], "the old sound does not come back"
    assert LatentStore.open(store.path).statistics().count == 10


def test_compacting_merges_small_parts_and_leaves_large_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path / "store", *[30] * 6, *[3] * 8, max_tracks=1)
    assert store.compact() == 14
    assert len(store.segments) == 1
    assert sorted(check_whole(store)) == list(range(14))
    assert store.compact() == 0

    monkeypatch.setattr(store_module, "_LARGE_PART", 60)
    store = filled(tmp_path / "other", *[30] * 6, *[3] * 7, max_tracks=1)
    assert store.compact() == 0, "30 frames are half of a large segment, and seven small ones are not many"
    with store.writer(**SMALL, max_tracks=1) as writer:
        writer.append(track(13, 3), pieces(latents(13, 3)))
    before = store.statistics()
    assert store.compact() == 8
    assert sorted(segment.frames for segment in store.segments) == [24] + [30] * 6
    store = LatentStore.open(store.path)
    assert sorted(check_whole(store)) == list(range(14))
    np.testing.assert_allclose(store.statistics().std, before.std, rtol=1e-10)
    assert segment_folders(store) == sorted(segment.id for segment in store.segments)


def test_what_someone_reads_is_deleted_by_the_next_who_finds_nobody(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 20, 10)
    reader = LatentStore.open(store.path)
    old = segment_folders(store)
    store.prune(keys(0))
    assert check_whole(reader) == [0, 1]
    assert set(old) < set(segment_folders(store))
    with store.writer(**SMALL):
        pass
    assert check_whole(reader) == [0, 1]
    reader.refresh()
    assert check_whole(reader) == [1]
    del reader
    with store.writer(**SMALL):
        pass
    assert segment_folders(store) == [segment.id for segment in store.segments]
    assert not list(leftovers(store.path))


def test_nobody_sweeps_while_the_index_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path / "store", 20, 10, 5, max_tracks=1)
    monkeypatch.setattr(store_module, "_MANY_TRACKS", 1)
    write_index, alone = LatentStore.write_index, []

    def watched(self: LatentStore) -> None:
        other = durable.Lock(store.path / durable.LOCK)
        alone.append(other.take())
        other.close()
        write_index(self)

    monkeypatch.setattr(LatentStore, "write_index", watched)
    with store.writer(**SMALL) as writer:
        writer.append(track(3, 10), pieces(latents(3, 10)))
    store.prune(keys(0))
    monkeypatch.setattr(store_module, "_MANY_SMALL_PARTS", 2)
    store.compact()
    assert alone == [False] * 3, "the lock is held, so that no temporary file is swept away"
