"""What a store tells of itself: `info`, `verify`, `stats`, and training around what is broken."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from musicldm.core.errors import DataError
from musicldm.latents import examine
from musicldm.latents.dataset import LatentDataset
from musicldm.latents.store import LatentStore
from tests.latents.latent_toys import HEADER, SMALL, filled, latents, pieces, track
from tests.toys import Command, Pipeline


def files_of(path: Path) -> list[Path]:
    """All files that are the store's content: no locks, no index."""
    return sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))


def shard(store: LatentStore, name: str = "mean", number: int = 0) -> Path:
    return store.path / "parts" / store.segments[0].id / name / "c" / str(number) / "0"


def flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 0x10
    file.write_bytes(data)


def test_info_counts_what_is_there(tmp_path: Path) -> None:
    store = LatentStore.create(tmp_path / "store", HEADER)
    with store.writer(**SMALL) as writer:
        for number, (artist, split, licence) in enumerate(
            [("A", "train", "CC0"), ("B", "heldout", "CC0"), ("A", "train", "")]
        ):
            given = replace(track(number, 40, split), artist=artist, provenance={"licence": licence})
            writer.append(given, pieces(latents(number, 40)))
    with store.writer(**SMALL) as writer:  # a new version of the first
        writer.append(replace(track(7, 20), source="0.wav", artist="A"), pieces(latents(7, 20)))
    found = examine.info(LatentStore.open(store.path))
    assert (found.tracks, found.heldout, found.artists, found.segments, found.replaced) == (3, 1, 2, 4, 1)
    assert found.hours == pytest.approx((159 + 159 + 79) / 100 / 3600)
    assert found.licences == {"not stated": 2, "CC0": 1}
    assert found.bytes == sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file())
    assert (found.keep_bits, found.saved, found.loss_db) == (None, 0.0, None)


def test_info_states_what_compression_saves_and_loses(tmp_path: Path) -> None:
    store = LatentStore.create(tmp_path / "store", replace(HEADER, keep_bits=3))
    mean, logvar = latents(0, 4000)
    with store.writer(chunk_frames=1000, shard_frames=4000) as writer:
        writer.append(track(0, 4000), [(mean, logvar)])
    found = examine.info(LatentStore.open(store.path))
    kept, _ = store.read(store.tracks[0])
    loss = np.square(kept.astype(np.float64) - mean).sum() / (mean.size / 3) / np.var(mean, axis=0).sum()
    assert found.loss_db == pytest.approx(10 * np.log10(loss), abs=0.1)
    assert found.loss_db is not None
    assert -40 < found.loss_db < -25  # 3 bits: 2⁻⁴ at most, a third of its square on average
    stored = sum(file.stat().st_size for file in store.path.glob("parts/*/*/c/*/*"))
    assert found.saved == pytest.approx(1 - stored / (2 * 2 * mean.size))
    assert found.saved > 0.3


def test_a_whole_store_has_no_faults(tmp_path: Path) -> None:
    filled(tmp_path / "store", 40, 9, 77)
    seen: list[tuple[float, float | None]] = []
    store = LatentStore.open(tmp_path / "store")
    assert examine.verify(store, lambda done, total, text="": seen.append((done, total))) == []
    assert seen[-1] == (126, 126)


def test_every_file_cut_off_or_gone_is_found(tmp_path: Path) -> None:
    good = filled(tmp_path / "good", 40, 9).path
    damaged = 0
    for file in files_of(good):
        if file == good / "zarr.json" or file.parent.name == "parts":
            continue  # that is no store any more; or only a group, which nothing hangs on
        for size in (None, 0, file.stat().st_size // 2, file.stat().st_size - 1):
            bad = tmp_path / "bad"
            shutil.rmtree(bad, ignore_errors=True)
            shutil.copytree(good, bad)
            target = bad / file.relative_to(good)
            if size is None:
                target.unlink()
            else:
                target.write_bytes(target.read_bytes()[:size])
            if size is None and target.parent.parent.name == "parts":
                continue  # without its metadata a segment was never committed
            faults = examine.verify(LatentStore.open(bad, skip_broken=True))
            assert any(str(target) in fault.reason for fault in faults), (target, size, faults)
            damaged += 1
    assert damaged >= 4 * 4


def test_verify_names_the_tracks_of_a_damaged_chunk_and_no_others(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 10, 10, 10)
    flip(shard(store, "logvar"), 2 * 8 * 3 + 4 + 5)  # in the second chunk: frames 8 to 15
    faults = examine.verify(LatentStore.open(store.path))
    assert [fault.track for fault in faults] == ["Artist – Title 0", "Artist – Title 1"]
    assert [fault.key for fault in faults] == [entry.key for entry in store.tracks[:2]]
    assert "logvar/c/0/0 is damaged: chunk 1 was changed" in faults[0].reason


def test_verify_sees_a_chunk_that_fits_its_checksum_but_not_its_track(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 8, 8)  # a chunk each
    data = bytearray(shard(store).read_bytes())
    data[0] ^= 1
    data[48:52] = google_crc32c.value(bytes(data[:48])).to_bytes(4, "little")
    shard(store).write_bytes(data)
    faults = examine.verify(LatentStore.open(store.path))
    assert [fault.reason for fault in faults] == ["The latents of Artist – Title 0 are not those that were written."]


def test_channels_that_a_denoiser_cannot_learn_from_are_warned_of(tmp_path: Path) -> None:
    store = LatentStore.create(tmp_path / "store", replace(HEADER, channels=6))
    random = np.random.default_rng(0)
    mean = random.standard_normal((5000, 6))
    logvar = np.full_like(mean, -6)
    mean[:, 1], logvar[:, 1] = 0.5, -20  # dead
    mean[:, 2], logvar[:, 2] = 0.01 * mean[:, 2], 0  # collapsed
    mean[:, 3] *= 40
    mean[123, 4] = 60
    with store.writer() as writer:
        writer.append(track(0, 5000), [(mean, logvar)])
    found = examine.channel_statistics(LatentStore.open(store.path))
    said = [" ".join(each.warnings).split(":")[0] for each in found]
    assert said == ["", "dead", "collapsed", "its standard deviation is far from 1", "outliers", ""]
    assert found[0].mean == pytest.approx(0, abs=0.05)
    assert found[0].std == pytest.approx(1, abs=0.05)
    assert found[2].used == pytest.approx(1e-4, rel=0.1)
    assert found[4].largest == pytest.approx(60 / found[4].std, rel=0.01)


def test_the_command(tmp_path: Path, musicldm: Command) -> None:
    store = filled(tmp_path / "store", 40, 9)
    told = musicldm("latents", "info", store.path)
    assert told.code == 0
    assert "tracks     2, 0.00 h, 0 held out, by 1 artists" in told.out
    assert "toy (toy codec, 5eed5eed)" in told.out
    assert json.loads(musicldm("latents", "info", store.path, "--json").out)["tracks"] == 2
    told = musicldm("latents", "stats", store.path)
    assert (told.code, len(told.out.splitlines())) == (0, 6)
    told = musicldm("latents", "verify", store.path)
    assert (told.code, told.out, told.err) == (0, "", "All 2 tracks are intact.\n")
    flip(shard(store), 3)
    told = musicldm("latents", "verify", store.path)
    assert told.code == 1
    assert "mean/c/0/0 is damaged: chunk 0 was changed." in told.out
    assert [fault["track"] for fault in json.loads(musicldm("latents", "verify", store.path, "--json").out)["faults"]]
    told = musicldm("latents", "info", tmp_path / "nothing")
    assert (told.code, told.out) == (1, "")
    assert "There is no latent store" in told.err


def test_a_dataset_can_do_without_a_part_and_without_a_track(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 40, 40, max_tracks=1)
    shard(store).unlink()
    with pytest.raises(DataError, match="it is missing"):
        LatentStore.open(store.path)
    opened = LatentStore.open(store.path, skip_broken=True)
    assert list(opened.broken) == [store.segments[0].id]
    assert [entry.title for entry in LatentDataset(opened, crop_frames=8).tracks] == ["Title 1"]
    with pytest.raises(DataError, match="no tracks"):
        LatentDataset(opened, crop_frames=8, without={opened.tracks[0].key})


def test_training_refuses_a_damaged_store_or_leaves_the_damage_out(
    pipeline: Pipeline, configs: dict[str, Path], tmp_path: Path, musicldm: Command
) -> None:
    path = shutil.copytree(pipeline.store, tmp_path / "store")
    store = LatentStore.open(path)
    last = max((entry for entry in store.tracks if entry.split == "train"), key=lambda entry: entry.offset)
    segment = next(segment for segment in store.segments if segment.id == last.segment)
    heldout = [entry for entry in store.tracks if entry.split == "heldout"]  # all of them: there is nothing to judge by
    for entry in (last, *heldout):
        flip(path / "parts" / entry.segment / "mean/c/0/0", 2 * entry.offset * store.header.channels + 7)
    assert len(segment.sizes["mean"]) == 1 and heldout
    command = "train-diffusion", path, "--config", configs["ldm"], "--steps", 1, "-o", tmp_path / "run"
    told = musicldm(*command)
    assert told.code == 1
    assert "The store is damaged." in told.err
    assert "--skip-broken" in told.err
    assert not (tmp_path / "run").exists()
    told = musicldm(*command, "--skip-broken")
    assert told.code == 0, told.err
    assert "Left out: " in told.err
