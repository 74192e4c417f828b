"""The latent store: what goes in comes out, by our reader and by plain zarr."""

from __future__ import annotations

import json
import math
import pickle
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from musicldm.core import durable
from musicldm.core.errors import DataError, MismatchError, OutputError, UsageError
from musicldm.latents.store import LatentStore
from tests.latents.latent_toys import HEADER, SMALL, Limits, Pair, check_whole, filled, latents, pieces, track

# ---- Round trips -----------------------------------------------------------------------------------------------------


def test_tracks_that_cross_chunks_and_shards_come_back_as_they_were(tmp_path: Path) -> None:
    lengths = [1, 7, 8, 9, 31, 32, 33, 100, 5]
    store = filled(tmp_path / "store", *lengths)
    assert check_whole(store) == list(range(len(lengths)))
    assert [entry.frames for entry in store.tracks] == lengths
    entry = store.tracks[7]
    assert entry.seconds == entry.samples / HEADER.rate == 3.99
    assert (entry.artist, entry.title, entry.split) == ("Artist", "Title 7", "train")


def test_any_stretch_of_a_track_can_be_read(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 13, 70)
    entry, (mean, logvar) = store.tracks[1], latents(1, 70)
    for start in range(0, 70, 3):
        for stop in range(start, 71, 7):
            read = store.read(entry, start, stop)
            np.testing.assert_array_equal(read[0], mean[start:stop].astype(np.float16))
            np.testing.assert_array_equal(read[1], logvar[start:stop].astype(np.float16))
    for start, stop in ((-1, 3), (5, 4), (0, 71)):
        with pytest.raises(UsageError, match="outside"):
            store.read(entry, start, stop)


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=6),
    cut=st.integers(1, 40),
    chunk=st.integers(1, 16),
    chunks=st.integers(1, 5),
    max_tracks=st.integers(1, 4),
)
def test_round_trip(lengths: list[int], cut: int, chunk: int, chunks: int, max_tracks: int) -> None:
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(durable, "flush"):  # hundreds of fsyncs for nothing
        store = LatentStore.create(Path(folder, "store"), HEADER)
        with store.writer(chunk, chunk * chunks, max_tracks) as writer:
            for number, length in enumerate(lengths):
                writer.append(track(number, length), pieces(latents(number, length), cut))
        assert check_whole(LatentStore.open(store.path)) == list(range(len(lengths)))


def test_plain_zarr_reads_a_track_and_all_that_is_known_of_it(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 20, 50)
    root: Any = zarr.open_group(tmp_path / "store", mode="r")
    assert (root.attrs["rate"], root.attrs["hop"], root.attrs["codec_name"]) == (100, 4, "toy")
    mean, logvar = latents(1, 50)
    entry = store.tracks[1]
    np.testing.assert_array_equal(
        root[f"parts/{entry.segment}/mean"][entry.offset : entry.offset + entry.frames], mean.astype(np.float16)
    )
    # The same, by walking through the hierarchy.
    ((_, segment),) = root["parts"].groups()
    about = segment.attrs["tracks"][1]
    stop = about["offset"] + about["frames"]
    np.testing.assert_array_equal(segment["logvar"][about["offset"] : stop], logvar.astype(np.float16))
    assert (about["artist"], about["provenance"], about["samples"]) == ("Artist", {"source": 1}, 199)
    rows = np.stack([segment["mean"][about["offset"] : stop], segment["logvar"][about["offset"] : stop]], axis=1)
    assert about["checksum"] == f"{google_crc32c.value(rows.tobytes()):08x}"


def test_arrays_are_raw_float16_in_few_full_shards(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 70)  # 9 chunks of 8: 3 shards of 3 rather than 4 + 4 + 1
    folder = tmp_path / "store" / "parts" / store.tracks[0].segment / "mean"
    about = json.loads((folder / "zarr.json").read_text())
    assert (about["data_type"], about["dimension_names"]) == ("float16", ["frame", "channel"])
    assert about["chunk_grid"]["configuration"]["chunk_shape"] == [24, 3]
    (sharding,) = about["codecs"]
    assert [codec["name"] for codec in sharding["configuration"]["codecs"]] == ["bytes", "crc32c"]
    shards = sorted(folder.glob("c/*/0"))
    assert [file.stat().st_size for file in shards] == [3 * (8 * 3 * 2 + 4) + 3 * 16 + 4] * 3


def test_silence_is_stored_and_not_implied(tmp_path: Path) -> None:
    store = LatentStore.create(tmp_path / "store", HEADER)
    nothing = np.zeros((16, 3), np.float32)
    with store.writer(**SMALL) as writer:
        writer.append(track(0, 16), [(nothing, nothing)])
    (entry,) = LatentStore.open(store.path).tracks
    np.testing.assert_array_equal(store.read(entry), np.zeros((2, 16, 3)))


def test_a_store_travels_to_another_process_without_its_maps(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 60, 500)
    size = len(pickle.dumps(store))
    check_whole(store)
    assert len(pickle.dumps(store)) < size + 100
    check_whole(pickle.loads(pickle.dumps(store)))


# ---- Commits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "tracks_in_parts"),
    [
        ({}, [4, 1]),  # 32 frames make a shard
        ({"max_tracks": 2}, [2, 2, 1]),
        ({"max_seconds": 0.0}, [1, 1, 1, 1, 1]),
        ({"shard_frames": 64}, [5]),
    ],
)
def test_an_open_part_is_committed_in_time(tmp_path: Path, limits: Limits, tracks_in_parts: list[int]) -> None:
    store = filled(tmp_path / "store", 10, 10, 10, 10, 10, **limits)
    segments = [entry.segment for entry in store.tracks]
    assert segments == sorted(segments)
    assert [segments.count(segment) for segment in sorted(set(segments))] == tracks_in_parts
    assert check_whole(store) == [0, 1, 2, 3, 4]


def test_a_long_track_does_not_keep_finished_ones_waiting(tmp_path: Path) -> None:
    store = LatentStore.create(tmp_path / "store", HEADER)
    seen: list[int] = []

    def slowly(number: int, frames: int) -> Iterator[Pair]:
        for piece in pieces(latents(number, frames), 10):
            seen.append(len(LatentStore.open(store.path).tracks))
            time.sleep(0.05)
            yield piece

    with store.writer(**SMALL, max_seconds=0.2) as writer:
        writer.append(track(0, 9), pieces(latents(0, 9)))
        writer.append(track(1, 100), slowly(1, 100))
        writer.append(track(2, 12), pieces(latents(2, 12)))
    assert seen[0] == 0, "the first track waits for company"
    assert seen[-1] == 1, "but not for all of the second"
    assert check_whole(LatentStore.open(store.path)) == [0, 1, 2]


def test_a_reader_has_a_snapshot_and_the_writers_store_sees_its_own_commits(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 40)
    reader = LatentStore.open(store.path)
    with store.writer(**SMALL) as writer:
        writer.append(track(1, 40), pieces(latents(1, 40)))
        assert check_whole(store) == [0, 1]
        assert check_whole(reader) == [0]
        assert check_whole(LatentStore.open(store.path)) == [0, 1]


def test_two_writers_side_by_side(tmp_path: Path) -> None:
    store = LatentStore.create(tmp_path / "store", HEADER)
    other = LatentStore.open(store.path)
    with store.writer(**SMALL) as one, other.writer(**SMALL) as two:
        for number in range(0, 8, 2):
            one.append(track(number, 20), pieces(latents(number, 20)))
            two.append(track(number + 1, 20), pieces(latents(number + 1, 20)))
    assert sorted(check_whole(LatentStore.open(store.path))) == list(range(8))


def test_a_track_that_two_writers_raced_over_counts_once(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 20, 30)
    alone = store.statistics()
    other = LatentStore.open(store.path)
    with other.writer(**SMALL) as writer:
        writer.append(track(1, 30), pieces(latents(1, 30)))
    store = LatentStore.open(store.path)
    assert check_whole(store) == [0, 1]
    assert store.statistics() == alone


def test_memory_is_bounded_by_a_shard_and_not_by_the_track(tmp_path: Path) -> None:
    header = replace(HEADER, channels=32)
    store = LatentStore.create(tmp_path / "store", header)
    piece = np.ones((1000, 32), np.float32)
    with store.writer(chunk_frames=256, shard_frames=4096, max_tracks=1) as writer:
        writer.append(track(0, 1000), [(piece, piece)])  # zarr is loaded at the first commit
        tracemalloc.start()
        try:
            writer.append(track(1, 200_000), ((piece, piece) for _ in range(200)))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 8e6, "the track has 51 MB in float32 and 26 MB on disk"
    assert store.tracks[1].frames == 200_000
    assert not list(store.path.glob(".tmp-*"))


# ---- Tracks that do not make it --------------------------------------------------------------------------------------


def test_an_exception_in_the_middle_of_a_track_drops_that_track_only(tmp_path: Path) -> None:
    store = LatentStore.create(tmp_path / "store", HEADER)

    def broken() -> Iterator[Pair]:
        yield from pieces(latents(1, 50))
        raise RuntimeError("the decoder stopped")

    with store.writer(**SMALL) as writer:
        writer.append(track(0, 20), pieces(latents(0, 20)))
        with pytest.raises(RuntimeError, match="decoder"):
            writer.append(track(1, 60), broken())
        writer.append(track(2, 20), pieces(latents(2, 20)))
    assert check_whole(LatentStore.open(store.path)) == [0, 2]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_leaving_the_block_by_an_exception_commits_what_is_complete(
    tmp_path: Path, interruption: type[BaseException]
) -> None:
    store = LatentStore.create(tmp_path / "store", HEADER)

    def interrupted() -> Iterator[Pair]:
        yield from pieces(latents(1, 10))
        raise interruption

    with pytest.raises(interruption), store.writer(**SMALL) as writer:
        writer.append(track(0, 20), pieces(latents(0, 20)))
        writer.append(track(1, 20), interrupted())
    assert check_whole(LatentStore.open(store.path)) == [0]


@pytest.mark.parametrize("frames", [0, 19, 21])
def test_a_track_with_too_few_or_too_many_frames_is_refused(tmp_path: Path, frames: int) -> None:
    store = LatentStore.create(tmp_path / "store", HEADER)
    with store.writer(**SMALL) as writer, pytest.raises(DataError, match=f"Title 3 has {frames} .* 20 were expected"):
        writer.append(track(3, 20), pieces(latents(3, frames)))
    assert len(LatentStore.open(store.path).tracks) == 0


@pytest.mark.parametrize(
    ("value", "where", "sentence"),
    [
        (math.nan, 0, "not all finite"),
        (math.inf, 0, "not all finite"),
        (-math.inf, 1, "not all finite"),
        (70_000.0, 0, r"too large to store: up to 7e\+04"),  # infinite as float16
        (100.0, 1, "too large to store"),  # exp(100) is infinite as float32
    ],
)
def test_latents_that_are_no_numbers_are_refused_by_name(
    tmp_path: Path, value: float, where: int, sentence: str
) -> None:
    store = LatentStore.create(tmp_path / "store", HEADER)
    pair = latents(1, 20)
    pair[where][13, 2] = value
    with store.writer(**SMALL) as writer:
        writer.append(track(0, 20), pieces(latents(0, 20)))
        with pytest.raises(DataError, match=f"Artist – Title 1 are {sentence}"):
            writer.append(track(1, 20), pieces(pair))
    assert check_whole(LatentStore.open(store.path)) == [0]


def test_latents_of_another_shape_are_a_wrong_call(tmp_path: Path) -> None:
    store = LatentStore.create(tmp_path / "store", HEADER)
    with store.writer(**SMALL) as writer, pytest.raises(UsageError, match=r"\[l, 3\]"):
        writer.append(track(0, 20), [(np.zeros((20, 4)), np.zeros((20, 4)))])
    with pytest.raises(UsageError, match="chunks"), store.writer(chunk_frames=8, shard_frames=20):
        pass


# ---- What is no store, or not this one -------------------------------------------------------------------------------


def test_what_is_no_store_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no latent store at"):
        LatentStore.open(tmp_path / "nowhere")
    (tmp_path / "file").write_text("hello")
    with pytest.raises(DataError, match="is a file"):
        LatentStore.open(tmp_path / "file")
    with pytest.raises(DataError, match="is not a latent store") as caught:
        LatentStore.open(tmp_path)
    assert "musicldm encode" in caught.value.hint
    zarr.create_group(tmp_path / "other")
    with pytest.raises(DataError, match="is a zarr group, but not a latent store"):
        LatentStore.open(tmp_path / "other")


def test_a_store_is_made_only_where_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    LatentStore.create(tmp_path / "empty", HEADER)
    with pytest.raises(OutputError, match="already holds a zarr"):
        LatentStore.create(tmp_path / "empty", HEADER)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="is not empty"):
        LatentStore.create(tmp_path / "full", HEADER)
    with pytest.raises(OutputError, match=r"letter\.txt"):
        LatentStore.create(tmp_path / "full" / "letter.txt", HEADER)


def test_a_store_of_the_future_is_refused(tmp_path: Path) -> None:
    file = filled(tmp_path / "store", 20).path / "zarr.json"
    about = json.loads(file.read_text())
    about["attributes"]["schema"] = 3
    file.write_text(json.dumps(about))
    with pytest.raises(MismatchError, match=r"has schema 3; this musicldm knows 2\.") as caught:
        LatentStore.open(tmp_path / "store")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"codec_hash": "beef" * 16, "codec_name": "drums"},
            r"'toy' \(5eed5eed\), not with 'drums' \(beefbeef\)",
        ),
        ({"rate": 44100}, "100 samples a second, not with 44100"),
        ({"hop": 8}, "4 samples a frame, not with 8"),
        ({"channels": 5}, "3 latent channels, not with 5"),
        ({"media_channels": 2}, "1 audio channels, not with 2"),
    ],
)
def test_latents_that_were_made_otherwise_are_refused(tmp_path: Path, change: dict[str, object], sentence: str) -> None:
    store = LatentStore.create(tmp_path / "store", HEADER)
    store.require(replace(HEADER, codec_name="renamed"))
    with pytest.raises(MismatchError, match=sentence):
        store.require(replace(HEADER, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("schema", [1, 2])
def test_a_key_changes_with_the_codec_and_the_content_and_nothing_else(schema: int) -> None:
    header = replace(HEADER, schema=schema)
    key = header.key("sound")
    assert key != header.key("noise")
    assert key != replace(header, codec_hash="beef" * 16).key("sound")
    assert key == replace(header, codec_name="renamed", keep_bits=3).key("sound")
    # Schema 1 hashed these too. Now the codec's hash alone stands for them: it is of weights and configuration.
    for other in (
        replace(header, rate=44100),
        replace(header, hop=8),
        replace(header, channels=5),
        replace(header, media_channels=2),
    ):
        assert (key != other.key("sound")) == (schema == 1)


def test_keys_of_both_schemas_are_what_they_always_were() -> None:
    old = replace(HEADER, codec="vae", schema=1)
    assert old.key("sound") == "6d7d6176edd64135a17879ecaa0768ea3636e9e6ca35ddad6435fb32b9eaf570"
    assert HEADER.key("sound") == "d65ef4f57df28221056dc6674def36ca27c5c4a422db961931a1f6ef3a28f87e"


def test_a_folder_of_somebody_else_is_no_garbage(tmp_path: Path) -> None:
    """Only what has a segment's name can have been left by a killed writer."""
    store = filled(tmp_path / "store", 20)
    mine = store.path / "parts" / "listening notes"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    killed = store.path / "parts" / "20200101T000000000000-0123abcd"
    killed.mkdir()
    with store.writer(**SMALL):
        pass
    assert (mine / "notes.txt").read_text() == "mine" and not killed.exists()


def test_where_a_store_can_go_is_known_before_there_is_one(tmp_path: Path) -> None:
    LatentStore.check_target(tmp_path / "new" / "store")
    LatentStore.check_target(filled(tmp_path / "store", 20).path)
    LatentStore.check_target("s3://bucket/store")
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    zarr.create_array(tmp_path / "zarr", shape=(1,), dtype="u1")
    for name, kind, sentence in (
        ("file", OutputError, "is not a folder"),
        ("other", OutputError, "is not empty"),
        ("zarr", DataError, "zarr"),
    ):
        with pytest.raises(kind, match=sentence):
            LatentStore.check_target(tmp_path / name)
