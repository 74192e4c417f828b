"""docs/latent-store.md is all that it takes to read a store: its program runs, and its tables miss no word."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from musicldm.latents.schema import SegmentTable, StoreHeader, TrackEntry
from musicldm.latents.statistics import Moments
from musicldm.latents.store import LatentStore
from tests.latents.latent_toys import HEADER, SMALL, filled, latents, pieces, track

PAGE = (Path(__file__).parents[2] / "docs" / "latent-store.md").read_text(encoding="utf-8")

SAVE = """
import sys
assert not [name for name in sys.modules if name.startswith("musicldm")]
arrays = {f"{name} {number}": array for name, pair in latents.items() for number, array in enumerate(pair)}
np.savez("read.npz", average=average, spread=spread, **arrays)
"""


@pytest.mark.parametrize("keep_bits", [None, 9])
def test_the_program_on_the_page_reads_a_store_without_us(tmp_path: Path, keep_bits: int | None) -> None:
    (tmp_path / "data").mkdir()
    store = LatentStore.create(tmp_path / "data" / "latents.zarr", replace(HEADER, keep_bits=keep_bits))
    with store.writer(**SMALL, max_tracks=2) as writer:
        for number, length in enumerate([20, 70, 5, 33, 9]):
            split = "heldout" if number == 3 else "train"
            writer.append(track(number, length, split), pieces(latents(number, length)))
    reader = LatentStore.open(store.path)  # so that what is replaced stays
    assert store.prune({store.tracks[2].key}) == 1
    assert len(list((reader.path / "parts").iterdir())) > len(store.segments) + 1
    with store.writer(**SMALL) as writer:
        writer.append(replace(track(6, 40), source="0.wav"), pieces(latents(6, 40)))  # new sound in an old file
        writer.append(replace(track(1, 70), source="elsewhere.wav"), pieces(latents(1, 70)))  # the same twice
    (store.path / "parts" / "20261121T160000000000-1a2b3c4d" / "mean").mkdir(parents=True)  # a writer was killed

    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    command = [sys.executable, "-W", "ignore", "-c", program + SAVE]
    subprocess.run(command, cwd=tmp_path, check=True)
    read = dict(np.load(tmp_path / "read.npz"))

    store = LatentStore.open(store.path)
    assert sorted(entry.provenance["source"] for entry in store.tracks) == [1, 3, 4, 6]
    statistics = store.statistics()
    np.testing.assert_allclose(read.pop("average"), statistics.mean, rtol=1e-10)
    np.testing.assert_allclose(read.pop("std"), statistics.std, rtol=1e-10)
    for entry in store.tracks:
        for number, array in enumerate(store.read(entry)):
            np.testing.assert_array_equal(read.pop(f"{entry.name} {number}"), array)
    assert not read, "no more than we read"


def test_the_tables_have_every_word() -> None:
    store, segment, a_track = (
        PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0] for name in ("The store", "A segment", "A track")
    )
    for section, kind, others in (
        (store, StoreHeader, {"format", "crc32c"}),
        (segment, SegmentTable, {"format", "crc32c", "tracks"}),
        (a_track, TrackEntry, set()),
    ):
        table = [line for line in section.splitlines() if line.startswith("| `")]
        words = {word for line in table for word in re.findall(r"`(\w+)`", line.split("|")[1])}
        fields = {field.name for field in dataclasses.fields(kind)} - {"id", "segment", "extra"}
        assert words == fields | others
    for field in dataclasses.fields(Moments):
        assert f"`{field.name}`" in segment


def test_a_shard_is_what_the_page_says_byte_by_byte(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 20, 30)
    segment = store.segments[0]
    per_shard = segment.shard_frames // segment.chunk_frames
    given = np.concatenate([latents(0, 20)[0], latents(1, 30)[0]]).astype("<f2")
    for frame in (0, 19, 20, 31, 32, 49):
        shard, within = divmod(frame, segment.shard_frames)
        data = (store.path / "parts" / segment.id / "mean" / "c" / str(shard) / "0").read_bytes()
        assert len(data) == segment.sizes["mean"][shard]
        chunk, row = divmod(within, segment.chunk_frames)
        index = np.frombuffer(data[-16 * per_shard - 4 : -4], "<u8").reshape(per_shard, 2)
        assert google_crc32c.value(data[-16 * per_shard - 4 : -4]) == int.from_bytes(data[-4:], "little")
        offset, length = index[chunk].tolist()
        chunk_bytes, crc = data[offset : offset + length - 4], data[offset + length - 4 : offset + length]
        assert google_crc32c.value(chunk_bytes) == int.from_bytes(crc, "little")
        np.testing.assert_array_equal(np.frombuffer(chunk_bytes, "<f2").reshape(-1, 3)[row], given[frame])
