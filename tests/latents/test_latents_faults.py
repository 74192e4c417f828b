"""The latent store under damage: nothing committed is lost, and nothing broken is accepted."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from latent_toys import SMALL, check_whole, filled, latents, pieces, track

from musicldm import durable
from musicldm.errors import DataError, OutputError
from musicldm.latents.store import LatentStore


def shard_of(store: LatentStore, name: str = "mean", number: int = 0) -> Path:
    return store.path / "parts" / store.tracks[0].part / name / "c" / str(number) / "0"


def test_no_flipped_byte_of_a_shard_passes(tmp_path: Path) -> None:
    file = shard_of(filled(tmp_path / "store", 20, 10))
    good = file.read_bytes()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 0x10
        file.write_bytes(bad)
        with pytest.raises(DataError, match=r"mean/c/0/0 is damaged: .*changed"):
            check_whole(LatentStore.open(tmp_path / "store"))
    file.write_bytes(good)
    check_whole(LatentStore.open(tmp_path / "store"))


def test_a_shard_cut_short_anywhere_is_named_when_the_store_is_opened(tmp_path: Path) -> None:
    file = shard_of(filled(tmp_path / "store", 40), "logvar", number=1)
    size = file.stat().st_size
    for length in range(size - 1, -1, -13):
        os.truncate(file, length)
        with pytest.raises(DataError, match=rf"logvar/c/1/0 is damaged: it has {length} bytes instead of {size}"):
            LatentStore.open(tmp_path / "store")


@pytest.mark.parametrize("name", ["mean", "logvar"])
def test_a_missing_chunk_file_is_an_error_and_not_zeros(tmp_path: Path, name: str) -> None:
    file = shard_of(filled(tmp_path / "store", 40), name)
    file.unlink()
    with pytest.raises(DataError, match=f"{name}/c/0/0 is damaged: it is missing") as caught:
        LatentStore.open(tmp_path / "store")
    assert "encode again" in caught.value.hint


def test_a_chunk_missing_from_the_index_is_an_error_and_not_zeros(tmp_path: Path) -> None:
    file = shard_of(filled(tmp_path / "store", 32))
    data = bytearray(file.read_bytes())
    index = np.frombuffer(bytes(data[-68:-4]), "<u8").copy()
    index[4:6] = 2**64 - 1  # how zarr says that a chunk was never written
    data[-68:] = index.tobytes() + google_crc32c.value(index.tobytes()).to_bytes(4, "little")
    file.write_bytes(data)
    store = LatentStore.open(tmp_path / "store")
    store.read(store.tracks[0], 0, 16)
    with pytest.raises(DataError, match="chunk 2 is missing"):
        store.read(store.tracks[0], 0, 17)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: text.replace('"frames": 20', '"frames": 21'),
        lambda text: text.replace("Title 1", "Title l"),
        lambda text: json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}),
    ],
)
def test_a_damaged_track_table_is_named(tmp_path: Path, damage: Callable[[str], str]) -> None:
    store = filled(tmp_path / "store", 20, 10)
    file = store.path / "parts" / store.tracks[0].part / "zarr.json"
    file.write_text(damage(file.read_text()))
    with pytest.raises(DataError, match=f"{store.tracks[0].part}/zarr.json is damaged"):
        LatentStore.open(store.path)


@pytest.mark.parametrize("text", ["", "[]", '{"attributes": {"format": "musicldm-latents", "schema": 1}}'])
def test_a_damaged_root_is_named(tmp_path: Path, text: str) -> None:
    store = filled(tmp_path / "store", 20)
    (store.path / "zarr.json").write_text(text)
    with pytest.raises(DataError, match=r"store/zarr.json is damaged"):
        LatentStore.open(store.path)


def test_a_part_without_its_metadata_is_not_seen(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 40, 40)
    first, second = (entry.part for entry in store.tracks)
    (store.path / "parts" / first / "zarr.json").unlink()
    store = LatentStore.open(store.path)
    assert check_whole(store) == [1]
    assert store.statistics().count == 40
    with store.writer(**SMALL) as writer:
        writer.append(track(0, 40), pieces(latents(0, 40)))
    assert check_whole(LatentStore.open(store.path)) == [1, 0]
    assert store.tracks[0].part == second


def test_a_full_disk_is_said_in_a_sentence_and_what_was_committed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path / "store", 40)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with store.writer(**SMALL) as writer, pytest.raises(OutputError, match="No space left"):
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", full)
            writer.append(track(1, 20), pieces(latents(1, 20)))
    with pytest.raises(OutputError, match="No space left"), store.writer(**SMALL) as writer:
        writer.append(track(1, 20), pieces(latents(1, 20)))
        monkeypatch.setattr(os, "fsync", full)
    monkeypatch.undo()
    assert len(list((tmp_path / "store" / "parts").iterdir())) == 2  # one part, and the group's own metadata
    assert check_whole(LatentStore.open(store.path)) == [0]


def test_everything_is_on_the_disk_before_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    fsync = durable.flush

    def watched(path: Path) -> None:
        part = next((folder for folder in (path, *path.parents) if folder.parent.name == "parts"), None)
        flushed.append(path)
        fsync(path)
        if part and path.parent == part and path.name.startswith(durable.TEMPORARY):  # about to be renamed
            others = {store, part.parent, part, *part.rglob("*")} - {path}
            assert others <= set(flushed)
            assert not (part / "zarr.json").exists()

    monkeypatch.setattr(durable, "flush", watched)
    store = tmp_path / "store"
    part = store / "parts" / filled(store, 40).tracks[0].part
    assert flushed[-1] == part, "the name of the metadata itself"
    assert {tmp_path, part / "mean" / "c" / "1" / "0", part / "logvar" / "zarr.json"} <= set(flushed)


ENDLESS_WRITER = """
import signal, sys
from itertools import count
from latent_toys import SMALL, latents, pieces, track
from musicldm.latents.store import LatentStore
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
store = LatentStore.open(sys.argv[1])
with store.writer(**SMALL, max_tracks=3) as writer:
    for number in count(len(store.tracks)):
        frames = 5 + 17 * number % 60
        writer.append(track(number, frames), pieces(latents(number, frames)))
        print(number + 1, len(store.tracks), flush=True)
"""


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_a_writer_can_be_struck_at_any_moment(tmp_path: Path, blow: signal.Signals) -> None:
    store = filled(tmp_path / "store")
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", ENDLESS_WRITER, str(store.path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        )
        with writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(12)]
            time.sleep(random.uniform(0, 0.05))
            writer.send_signal(blow)
            lines += writer.stdout.readlines()
        appended, committed = map(int, lines[-1].split())
        numbers = check_whole(LatentStore.open(store.path))
        assert numbers == list(range(len(numbers))), "in order, each once and whole"
        # Ctrl-C commits all that is complete; kill -9 loses the open part of at most three.
        assert len(numbers) >= (committed if blow == signal.SIGKILL else appended)
    store = LatentStore.open(store.path)
    assert store.statistics().count == sum(entry.frames for entry in store.tracks) > 100
    assert not list(store.path.glob(".tmp-*"))
