"""Headers, segments and tracks may gain fields: what a reader does not know it passes over, and keeps where it can."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from musicldm.latents import rewriting
from musicldm.latents.dataset import LatentDataset
from musicldm.latents.examine import info, verify
from musicldm.latents.schema import SegmentTable, TrackEntry, crc_of_json
from musicldm.latents.store import LatentStore
from musicldm.latents.table import INDEX
from tests.latents.latent_toys import HEADER, SMALL, check_whole, filled, latents, pieces, track
from tests.toys import full

EXTRA = {"language": "en", "tempo": {"bpm": 120.5}, "extra": [1, 2]}


def extend(file: Path, change: dict[str, Any], rows: dict[str, Any] | None = None) -> None:
    """Have a zarr.json as a later release would write it, with further attributes and a checksum of all."""
    metadata = json.loads(file.read_text(encoding="utf-8"))
    attributes = metadata["attributes"] | change
    if rows:
        attributes["tracks"] = [row | rows for row in attributes["tracks"]]
        attributes["moments"] |= {"skewness": [0.0] * HEADER.channels}
    del attributes["crc32c"]
    metadata["attributes"] = attributes | {"crc32c": crc_of_json(attributes)}
    file.write_text(json.dumps(metadata, ensure_ascii=False), encoding="utf-8")


@pytest.fixture
def later(tmp_path: Path) -> Path:
    """A store of eight tracks in as many segments, by a release that says more everywhere."""
    store = filled(tmp_path / "store", *range(20, 28), max_tracks=1)
    extend(store.path / "zarr.json", {"text_encoder": "t5", "segments_are": "nested"})
    for segment in store.segments:
        extend(store.path / "parts" / segment.id / "zarr.json", {"codebook": 7, "tags": ["a"]}, EXTRA)
    return store.path


def test_a_store_with_fields_of_a_later_release_is_a_store(later: Path) -> None:
    store = LatentStore.open(later)
    assert store.header == HEADER
    assert check_whole(store) == list(range(8))
    assert verify(store) == []
    assert info(store).tracks == 8
    assert full(LatentDataset(store, 8).batch(0, 4)).latents.shape == (4, HEADER.channels, 8)
    assert all(entry.extra == EXTRA for entry in store.tracks)
    assert store.tracks[0].key == HEADER.key("sound 0")


def test_what_is_not_known_of_a_track_outlives_rewriting_and_the_index(
    later: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "_MANY_SMALL_SEGMENTS", 2)
    store = LatentStore.open(later)
    with store.writer(**SMALL) as writer:
        writer.append(track(8, 30), pieces(latents(8, 30)))
    assert store.prune({store.tracks[0].key}) == 1
    assert store.compact() > 1
    store.write_index()
    assert (later / INDEX).exists()
    for opened in (store, LatentStore.open(later)):
        assert check_whole(opened) == list(range(1, 9))
        assert [entry.extra for entry in opened.tracks] == [EXTRA] * 7 + [{}]
    assert verify(LatentStore.open(later)) == []


def test_rows_and_tables_are_what_release_0_1_reads(tmp_path: Path) -> None:
    """It took every field of a row for one of its own, so that a store which both write must not gain any."""
    store = filled(tmp_path / "store", 20)
    attributes = json.loads((store.path / "parts" / store.segments[0].id / "zarr.json").read_text())["attributes"]
    assert set(attributes["tracks"][0]) == {
        *("samples", "content", "split", "artist", "title", "provenance", "folder", "source"),
        *("offset", "frames", "seconds", "key", "checksum", "loss"),
    }
    table = {"format", "frames", "chunk_frames", "shard_frames", "sizes", "moments", "replaces", "tracks", "crc32c"}
    assert set(attributes) == table


def test_a_table_and_a_row_come_back_as_they_were(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 20)
    (entry,), (segment,) = store.tracks, store.segments
    for extra in ({}, EXTRA):
        row = replace(entry, extra=extra).to_dict()
        assert row == entry.to_dict() | extra
        assert TrackEntry.from_dict(entry.segment, row) == replace(entry, extra=extra)
    back = SegmentTable.from_dict(segment.to_dict() | {"codebook": 7})
    assert back.to_dict() == segment.to_dict()
