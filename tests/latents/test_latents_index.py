"""The index of a store with many tracks: it saves reading the segments' metadata, and changes nothing else."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from musicldm.core.errors import DataError, OutputError
from musicldm.latents import store as store_module
from musicldm.latents.statistics import LatentStatistics
from musicldm.latents.storage import Folder
from musicldm.latents.store import LatentStore, TrackEntry
from tests.latents.latent_toys import HEADER, SMALL, check_whole, filled, latents, pieces, track

LENGTHS = [20, 3, 40, 15, 8, 9, 33, 1]


@pytest.fixture
def indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store whose index has all of its segments."""
    monkeypatch.setattr(store_module, "_MANY_TRACKS", 4)
    path = filled(tmp_path / "store", *LENGTHS, max_tracks=2).path
    assert (path / "index").exists()
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The segments' metadata files that are read."""
    names: list[str] = []
    read_all = Folder.read_all

    def watched(self: Folder, wanted: list[str]) -> list[bytes | None]:
        names.extend(wanted)
        return read_all(self, wanted)

    monkeypatch.setattr(Folder, "read_all", watched)
    return names


def seen(path: Path) -> tuple[list[TrackEntry], LatentStatistics]:
    """All that a store says, its values checked."""
    store = LatentStore.open(path)
    check_whole(store)
    return list(store.tracks), store.statistics()


def without(path: Path) -> tuple[list[TrackEntry], LatentStatistics]:
    """The same of a copy without an index."""
    copy = path.with_name("copy")
    shutil.copytree(path, copy, ignore=shutil.ignore_patterns("index"))
    try:
        return seen(copy)
    finally:
        shutil.rmtree(copy)


def append(path: Path, *numbers: int) -> None:
    with LatentStore.open(path).writer(**SMALL) as writer:
        for number in numbers:
            writer.append(track(number, 12), pieces(latents(number, 12)))


def test_parts_in_the_index_are_not_read(indexed: Path, asked: list[str]) -> None:
    assert seen(indexed) == without(indexed)
    assert len(asked) == len(set(asked)) == len(LatentStore.open(indexed).segments), "those were of the copy"


def test_few_tracks_have_no_index(tmp_path: Path) -> None:
    assert not (filled(tmp_path / "store", 20, 3).path / "index").exists()


def test_parts_that_came_after_the_index_are_read(indexed: Path, asked: list[str]) -> None:
    written = (indexed / "index").stat().st_mtime_ns
    append(indexed, 8, 9)
    assert (indexed / "index").stat().st_mtime_ns == written, "two tracks are not worth writing it anew"
    del asked[:]
    store = LatentStore.open(indexed)
    assert check_whole(store) == list(range(10))
    assert asked == [f"parts/{store.tracks[8].segment}/zarr.json"]
    assert seen(indexed) == without(indexed)
    append(indexed, 10, 11)
    assert (indexed / "index").stat().st_mtime_ns > written, "four are"
    del asked[:]
    assert check_whole(LatentStore.open(indexed)) == list(range(12))
    assert not asked


def test_parts_that_went_after_the_index_are_not_in_the_store(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = (indexed / "index").read_bytes()
    store = LatentStore.open(indexed)
    dropped = {HEADER.key(f"sound {number}") for number in (0, 3, 7)}
    monkeypatch.setattr(store_module, "_MANY_SMALL_PARTS", 2)
    reader = LatentStore.open(indexed)  # so that what is replaced stays
    assert store.prune(dropped) == 3
    assert (indexed / "index").read_bytes() != stale
    assert sorted(check_whole(LatentStore.open(indexed))) == [1, 2, 4, 5, 6], "what was replaced is not in the new one"
    for _ in range(2):
        (indexed / "index").write_bytes(stale)
        assert sorted(check_whole(LatentStore.open(indexed))) == [1, 2, 4, 5, 6]
        assert seen(indexed) == without(indexed)
        reader = None  # the second time it is gone
        store.compact()
    assert reader is None and len(LatentStore.open(indexed).segments) == 1


def test_an_index_by_a_writer_who_has_not_seen_all(indexed: Path) -> None:
    one, other = LatentStore.open(indexed), LatentStore.open(indexed)
    with one.writer(**SMALL) as first, other.writer(**SMALL, max_tracks=1) as second:
        second.append(track(8, 12), pieces(latents(8, 12)))
        for number in range(9, 14):
            first.append(track(number, 12), pieces(latents(number, 12)))
    assert 8 not in check_whole(one)
    one.write_index()
    assert check_whole(LatentStore.open(indexed)) == list(range(14)), "in the order of the segments' names"
    assert seen(indexed) == without(indexed)


def test_an_index_of_another_store_makes_no_difference(indexed: Path, tmp_path: Path) -> None:
    other = filled(tmp_path / "other", 5, 6, 7, 8, 9, max_tracks=1)
    shutil.copy(other.path / "index", indexed / "index")
    assert seen(indexed) == without(indexed)
    assert check_whole(LatentStore.open(indexed)) == list(range(8))


def test_a_part_whose_metadata_is_gone_is_gone(indexed: Path) -> None:
    segment = LatentStore.open(indexed).segments[1].id
    (indexed / "parts" / segment / "zarr.json").unlink()
    assert seen(indexed) == without(indexed)
    assert segment not in {entry.segment for entry in LatentStore.open(indexed).tracks}
    append(indexed, 8)  # sweeps
    assert seen(indexed) == without(indexed)


def test_new_content_counts_across_the_border_of_the_index(indexed: Path) -> None:
    with LatentStore.open(indexed).writer(**SMALL) as writer:
        writer.append(replace(track(30, 12), source="0.wav"), pieces(latents(30, 12)))
        writer.append(replace(track(1, 3), title="Once more"), pieces(latents(1, 3)))
    tracks, statistics = seen(indexed)
    assert (tracks, statistics) == without(indexed)
    assert [entry.provenance["source"] for entry in tracks] == [2, 3, 4, 5, 6, 7, 30, 1]
    LatentStore.open(indexed).write_index()  # with rows that do not count
    assert seen(indexed) == (tracks, statistics)


def test_a_damaged_index_is_passed_over_or_named(indexed: Path, full: bool) -> None:
    right, good = seen(indexed), (indexed / "index").read_bytes()
    chance, named = random.Random(0), 0
    begin = good.index(b'{"samples"')  # of the tracks
    for number in range(len(good) if full else 300):
        position = number if full else chance.randrange(len(good))
        bad = bytearray(good)
        bad[position] ^= 1 << chance.randrange(8)
        if number % 3 == 2:
            del bad[position:]
        (indexed / "index").write_bytes(bad)
        try:
            assert seen(indexed) == right
        except DataError as error:
            assert position >= begin, "only what is known of a single track is not verified at once"
            assert f"{indexed}/index is damaged" in error.message and error.hint.startswith("Delete")
            named += 1
    assert named
    (indexed / "index").unlink()
    assert seen(indexed) == right


def test_an_index_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(self: LatentStore) -> None:
        raise OutputError("Cannot write it: No space left on device.")

    monkeypatch.setattr(store_module, "_MANY_TRACKS", 1)
    monkeypatch.setattr(LatentStore, "write_index", full_disk)
    path = filled(tmp_path / "store", 20, 10).path
    assert check_whole(LatentStore.open(path)) == [0, 1]


def test_slices_and_choices_of_an_index_are_tables_too(indexed: Path) -> None:
    table = LatentStore.open(indexed).tracks
    everything = list(table)
    assert list(table[2:5]) == everything[2:5]
    assert list(table.chosen(table.columns["frames"] > 10)) == [entry for entry in everything if entry.frames > 10]
    np.testing.assert_array_equal(table.columns["frames"], LENGTHS)
