"""Compressed stores: rounded values, read by us, by plain zarr and by tensorstore."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numcodecs import BitRound

from musicldm.core.errors import DataError, UsageError
from musicldm.latents.store import LatentStore
from tests.latents.latent_toys import HEADER, SMALL, Pair, latents, pieces, track

LENGTHS = [20, 70, 1, 33]


def rounded(values: np.ndarray, keep_bits: int) -> np.ndarray:
    """What numcodecs makes of float16 values, by its own decoder."""
    codec = BitRound(keepbits=keep_bits)
    given = values.astype(np.float16)
    kept: np.ndarray = codec.decode(codec.encode(given.copy())).view(np.float16)
    return kept.reshape(values.shape)


def compressed(path: Path, keep_bits: int | None, *lengths: int) -> LatentStore:
    store = LatentStore.create(path, replace(HEADER, keep_bits=keep_bits))
    with store.writer(**SMALL, max_tracks=2) as writer:
        for number, length in enumerate(lengths):
            writer.append(track(number, length), pieces(latents(number, length)))
    return LatentStore.open(path)


@pytest.mark.parametrize("keep_bits", [1, 4, 7, 10])
def test_values_are_rounded_and_nothing_else(tmp_path: Path, keep_bits: int) -> None:
    store = compressed(tmp_path / "store", keep_bits, *LENGTHS)
    root: Any = zarr.open_group(tmp_path / "store", mode="r")
    for number, entry in enumerate(store.tracks):
        given = latents(number, entry.frames)
        stop = entry.offset + entry.frames
        with store.prefetch([(entry.segment, entry.offset, stop)]):
            together = store.read(entry)
        for name, read, at_once, values in zip(("mean", "logvar"), store.read(entry), together, given, strict=True):
            np.testing.assert_array_equal(read, rounded(values, keep_bits))
            np.testing.assert_array_equal(read, at_once)
            np.testing.assert_array_equal(read, root[f"parts/{entry.segment}/{name}"][entry.offset : stop])
            # Round to nearest: off by half of the last bit that is kept, of a number in [2^e, 2^(e+1)).
            np.testing.assert_array_less(
                np.abs(read - values), np.abs(values) * (2.0**-keep_bits / 2 + 2.0**-11) + 1e-7
            )


def test_statistics_are_of_what_is_stored(tmp_path: Path) -> None:
    store = compressed(tmp_path / "store", 3, *LENGTHS)
    mean = np.concatenate([rounded(latents(number, length)[0], 3) for number, length in enumerate(LENGTHS)])
    np.testing.assert_allclose(store.statistics().mean, mean.mean(axis=0, dtype=float), rtol=1e-10)


def test_the_loss_of_each_track_is_recorded_and_survives_rewriting(tmp_path: Path) -> None:
    store = compressed(tmp_path / "store", 3, *LENGTHS)

    def check(store: LatentStore) -> None:
        for entry in store.tracks:
            values = latents(entry.provenance["source"], entry.frames)[0].astype(float)
            assert entry.loss == pytest.approx(np.square(rounded(values, 3) - values).sum(), rel=1e-9)

    check(store)
    assert store.prune({store.tracks[0].key}) == 1
    store = LatentStore.open(store.path)
    assert len(store.tracks) == len(LENGTHS) - 1
    check(store)


def test_fewer_bits_take_less_room(tmp_path: Path) -> None:
    sizes = {}
    for bits in (2, 5, 8, None):
        store = LatentStore.create(tmp_path / f"{bits}", replace(HEADER, keep_bits=bits))
        with store.writer() as writer:  # in a toy's chunks there is nothing to squeeze
            writer.append(track(0, 4096), pieces(latents(0, 4096), 1000))
        sizes[bits] = store.bytes
    assert sizes[2] < 0.5 * sizes[None]
    assert sizes[2] < sizes[5] < sizes[8] < sizes[None]


def test_tensorstore_reads_it_too(tmp_path: Path) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    for keep_bits in (None, 4):
        store = compressed(tmp_path / f"{keep_bits}", keep_bits, *LENGTHS)
        for entry in store.tracks:
            stop = entry.offset + entry.frames
            for name, read in zip(("mean", "logvar"), store.read(entry), strict=True):
                folder = store.path / "parts" / entry.segment / name
                spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}
                array = tensorstore.open(spec).result()
                np.testing.assert_array_equal(array[entry.offset : stop].read().result(), read)


def test_no_flipped_byte_of_a_compressed_shard_passes(tmp_path: Path) -> None:
    store = compressed(tmp_path / "store", 4, 20)
    file = store.path / "parts" / store.tracks[0].segment / "logvar" / "c" / "0" / "0"
    good = file.read_bytes()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 0x10
        file.write_bytes(bad)
        store = LatentStore.open(tmp_path / "store")
        with pytest.raises(DataError, match=r"logvar/c/0/0 is damaged: .*changed"):
            store.read(store.tracks[0])
        with (
            pytest.raises(DataError, match=r"logvar/c/0/0 is damaged: .*changed"),
            store.prefetch([(store.tracks[0].segment, 0, 20)]),
        ):
            pytest.fail("nothing damaged is given out")


@pytest.mark.parametrize("keep_bits", [0, 11, -1])
def test_bits_that_float16_has_not_are_a_wrong_call(tmp_path: Path, keep_bits: int) -> None:
    with pytest.raises(UsageError, match="cannot be kept"):
        LatentStore.create(tmp_path / "store", replace(HEADER, keep_bits=keep_bits))
    assert not (tmp_path / "store").exists()


def test_what_rounding_makes_infinite_is_refused(tmp_path: Path) -> None:
    largest: Pair = (np.full((4, 3), 65504.0, np.float32), np.zeros((4, 3), np.float32))
    store = LatentStore.create(tmp_path / "store", replace(HEADER, keep_bits=3))
    with store.writer(**SMALL) as writer, pytest.raises(DataError, match="Title 0 are too large to store"):
        writer.append(track(0, 4), [largest])
