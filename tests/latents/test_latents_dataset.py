"""Crops for training: a pure function of seed and step, fair to every frame."""

from __future__ import annotations

import pickle
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from musicldm.conditions.base import ConditionConfig
from musicldm.core.errors import DataError
from musicldm.core.padded import Padded
from musicldm.latents.dataset import Crops, LatentBatch, LatentDataset
from musicldm.latents.examine import info
from musicldm.latents.store import LatentStore
from tests.latents.latent_toys import HEADER, SMALL, filled, latents, pieces, track
from tests.toys import full


def numbered(path: Path, *frames: int) -> LatentStore:
    """A store in which the first channel of the mean counts all frames, and the posterior has next to no spread."""
    store = LatentStore.create(path, HEADER)
    begin = 0
    with store.writer(**SMALL) as writer:
        for number, length in enumerate(frames):
            count = np.tile(np.arange(begin, begin + length, dtype=np.float32)[:, None], (1, 3))
            writer.append(track(number, length), [(count, np.full_like(count, -30))])
            begin += length
    return store


def start(crops: Crops) -> torch.Tensor:
    return crops.start


def total(crops: Crops) -> torch.Tensor:
    return crops.total


def letter(crops: Crops) -> torch.Tensor:
    """The first of the artist's name."""
    return torch.tensor([ord(name[0]) for name in crops.artists])


def frame(crops: Crops) -> torch.Tensor:
    """Where each crop begins; sees to it that the table of tracks has a track of that artist for it."""
    for number, artist in zip(crops.numbers.tolist(), crops.artists, strict=True):
        assert crops.tracks[number].artist == artist and crops.tracks[number].frames >= crops.frames
    return torch.from_numpy(crops.first)


READERS = {"start": start, "total": total, "letter": letter, "frame": frame}


def check_equal(one: LatentBatch, other: LatentBatch) -> None:
    assert torch.equal(one.latents, other.latents)
    assert one.conditions.keys() == other.conditions.keys() == READERS.keys()
    assert all(torch.equal(one.conditions[name], other.conditions[name]) for name in READERS)


def first_frames(dataset: LatentDataset, batch: torch.Tensor) -> npt.NDArray[np.int32]:
    """Which frame each crop begins with; sees to it that the rest follows on."""
    count = dataset.statistics.denormalise(batch)[:, 0]
    torch.testing.assert_close(count.diff(dim=-1), torch.ones_like(count[:, 1:]), atol=1e-3, rtol=0)
    frames: npt.NDArray[np.int32] = count[:, 0].round().int().numpy()
    return frames


def test_a_batch_is_a_pure_function_of_seed_and_step(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 40, 90, 20)
    dataset = LatentDataset(store, crop_frames=12, seed=7)
    batch = full(dataset.batch(3, 5)).latents
    assert batch.shape == (5, 3, 12)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous()
    torch.manual_seed(99)
    np.random.seed(99)
    dataset.batch(4, 5)
    again = LatentDataset(LatentStore.open(store.path), crop_frames=12, seed=7)
    assert torch.equal(full(again.batch(3, 5)).latents, batch)
    assert torch.equal(full(pickle.loads(pickle.dumps(dataset)).batch(3, 5)).latents, batch)
    assert not torch.equal(full(dataset.batch(4, 5)).latents, batch)
    assert not torch.equal(full(LatentDataset(store, crop_frames=12, seed=8).batch(3, 5)).latents, batch)
    assert full(LatentDataset(store, crop_frames=12, seed=-1).batch(0, 1)).latents.isfinite().all()


def test_parts_of_a_batch_make_up_the_whole_and_can_be_named(tmp_path: Path) -> None:
    plain = LatentDataset(numbered(tmp_path / "store", 40, 90), crop_frames=12, seed=7)
    dataset = plain.with_conditions(READERS)
    whole = full(dataset.batch(3, 6))
    micro_batches = [full(dataset.batch(3, 6, slice(first, first + 2))) for first in (0, 2, 4)]
    assert torch.equal(torch.cat([some.latents for some in micro_batches]), whole.latents)
    assert whole.conditions.keys() == READERS.keys()
    for name, values in whole.conditions.items():
        assert torch.equal(torch.cat([some.conditions[name] for some in micro_batches]), values)
    names = dataset.describe(3, 6)
    for name, frame in zip(names, first_frames(dataset, whole.latents).tolist(), strict=True):
        number, frame = (0, frame) if frame < 40 else (1, frame - 40)
        entry = next(entry for entry in dataset.tracks if entry.frames == (40, 90)[number])
        assert name == f"{entry.artist}/{entry.title} at {frame / HEADER.frame_rate:.1f} s"


def test_crops_are_uniform_over_frames_and_not_over_tracks(tmp_path: Path) -> None:
    dataset = LatentDataset(numbered(tmp_path / "store", 20, 110, 8), crop_frames=8)
    firsts = np.concatenate([first_frames(dataset, full(dataset.batch(step, 500)).latents) for step in range(40)])
    possible = [*range(0, 13), *range(20, 123), 130]
    counts = np.array([np.sum(firsts == frame) for frame in possible])
    assert counts.sum() == len(firsts), "a crop never crosses from one track into the next"
    expected = len(firsts) / len(possible)
    chi_squared = np.sum((counts - expected) ** 2 / expected)
    assert chi_squared < 173, "116 degrees of freedom: 99.95 % lie below"


def test_the_posterior_is_drawn_and_normalised(tmp_path: Path) -> None:
    dataset = LatentDataset(filled(tmp_path / "store", 300, 500), crop_frames=16)
    batch = torch.cat([full(dataset.batch(step, 200)).latents for step in range(5)])
    torch.testing.assert_close(batch.mean(dim=(0, 2)), torch.zeros(3), atol=0.05, rtol=0)
    torch.testing.assert_close(batch.std(dim=(0, 2)), torch.ones(3), atol=0.05, rtol=0)


def test_the_noise_is_the_posteriors(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 16)  # one crop is the whole track
    dataset = LatentDataset(store, crop_frames=16)
    mean, logvar = (torch.from_numpy(side.astype(np.float16)).float() for side in latents(0, 16))
    raw = dataset.statistics.denormalise(full(dataset.batch(0, 5000)).latents).transpose(1, 2)
    noise = (raw - mean) / torch.exp(logvar / 2)
    torch.testing.assert_close(noise.mean(dim=0), torch.zeros(16, 3), atol=0.08, rtol=0)
    torch.testing.assert_close(noise.std(dim=0), torch.ones(16, 3), atol=0.06, rtol=0)


def test_a_fixed_batch_is_evenly_spaced_posterior_means(tmp_path: Path) -> None:
    dataset = LatentDataset(numbered(tmp_path / "store", 107, 57), crop_frames=8).with_conditions(READERS)
    batch = full(dataset.fixed_batch(6))
    assert first_frames(dataset, batch.latents).tolist() == [12, 37, 62, 87, 119, 144]
    begins = [frame / HEADER.frame_rate for frame in (12, 37, 62, 87, 12, 37)]
    assert batch.conditions["start"].tolist() == pytest.approx(begins)
    check_equal(batch, full(dataset.fixed_batch(6)))

    store = filled(tmp_path / "other", 16)
    dataset = LatentDataset(store, crop_frames=16)
    mean, _ = store.read(store.tracks[0])
    expected = dataset.statistics.normalise(torch.from_numpy(mean).float().T[None])
    torch.testing.assert_close(full(dataset.fixed_batch(1)).latents, expected)


def test_a_batch_says_whose_crops_they_are_and_where_they_begin(tmp_path: Path) -> None:
    store = LatentStore.create(tmp_path / "store", HEADER)
    begin = 0
    with store.writer(**SMALL) as writer:
        for number, (artist, length) in enumerate((("Zoë", 30), ("Abba", 50), ("Zoë", 9))):
            count = np.tile(np.arange(begin, begin + length, dtype=np.float32)[:, None], (1, 3))
            writer.append(replace(track(number, length), artist=artist), [(count, np.full_like(count, -30))])
            begin += length
    dataset = LatentDataset(store, crop_frames=8).with_conditions(READERS)
    assert dataset.artists == ["Abba", "Zoë"]
    batch = full(dataset.batch(0, 200))
    first = first_frames(dataset, batch.latents)
    begins, lengths, letters = np.array([0, 30, 80]), np.array([30, 50, 9]), np.array([ord(who) for who in "ZAZ"])
    which = np.searchsorted(begins, first, side="right") - 1
    assert set(which.tolist()) == {0, 1, 2}
    values = batch.conditions
    np.testing.assert_array_equal(values["letter"], letters[which])
    np.testing.assert_allclose(values["start"], (first - begins[which]) * HEADER.hop / HEADER.rate, rtol=1e-6)
    samples = lengths[which] * HEADER.hop - 1
    np.testing.assert_allclose(values["total"], samples / HEADER.rate, rtol=1e-6)
    np.testing.assert_array_equal(values["frame"], first - begins[which])


def test_one_name_in_several_spellings_is_one_artist_and_nobody_is_none(tmp_path: Path) -> None:
    store = LatentStore.create(tmp_path / "store", HEADER)
    with store.writer(**SMALL) as writer:
        for number, artist in enumerate(("Zoë", "ZOË", "", unicodedata.normalize("NFD", "Zoë"), "Zoë")):
            writer.append(replace(track(number, 20), artist=artist), [latents(number, 20)])
    dataset = LatentDataset(store, 8)
    assert dataset.artists == ["Zoë"] and info(store).artists == 1
    places = full(dataset.with_conditions(ConditionConfig().fitted(dataset).readers()).batch(0, 100)).conditions[
        "artist"
    ]
    assert set(places.tolist()) == {0, -1}


def test_whoever_is_not_trained_on_is_no_artist_of_the_model(tmp_path: Path) -> None:
    """Their embedding would never be trained. The split does not change who is where."""
    store = LatentStore.create(tmp_path / "store", HEADER)
    who = (("Zoë", 30, "train"), ("Held", 30, "heldout"), ("Abba", 20, "train"))
    with store.writer(**SMALL) as writer:
        for number, (artist, length, split) in enumerate((*who, ("Zoë", 30, "heldout"))):
            writer.append(replace(track(number, length, split), artist=artist), [latents(number, length)])
    training, heldout = (LatentDataset(store, 8, split) for split in ("train", "heldout"))
    assert training.artists == heldout.artists == ["Abba", "Zoë"]
    readers = ConditionConfig().fitted(training).readers()
    places = [
        set(full(split.with_conditions(readers).batch(0, 100)).conditions["artist"].tolist())
        for split in (training, heldout)
    ]
    assert places == [{0, 1}, {-1, 1}]


def test_the_order_in_which_tracks_came_does_not_matter(tmp_path: Path) -> None:
    batches = []
    for order in ((0, 1, 2), (2, 0, 1)):
        store = LatentStore.create(tmp_path / str(order), HEADER)
        for number in order:
            with store.writer(**SMALL) as writer:
                writer.append(track(number, 20), [latents(number, 20)])
        batches.append(full(LatentDataset(store, crop_frames=5).batch(0, 30)).latents)
    torch.testing.assert_close(*batches, atol=1e-6, rtol=0)  # the statistics are merged in another order


def test_a_compressed_store_reads_ahead_and_gives_the_same(tmp_path: Path) -> None:
    plain, packed = (LatentStore.create(tmp_path / str(bits), replace(HEADER, keep_bits=bits)) for bits in (None, 10))
    for store in (plain, packed):
        with store.writer(**SMALL) as writer:
            for number in range(3):
                writer.append(track(number, 40), pieces(latents(number, 40)))
    expected = LatentDataset(plain, crop_frames=12).with_conditions(READERS)
    dataset = LatentDataset(packed, crop_frames=12).with_conditions(READERS)
    for step in (0, 1, 2, 5, 8, 11, 3, 3):
        check_equal(full(dataset.batch(step, 4)), full(expected.batch(step, 4)))
    check_equal(full(pickle.loads(pickle.dumps(dataset)).batch(4, 4)), full(expected.batch(4, 4)))


def test_splits_keep_apart_and_statistics_are_of_the_training_tracks(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 40, 40)
    with store.writer(**SMALL) as writer:
        writer.append(track(2, 30, "heldout"), [latents(2, 30)])
    heldout = LatentDataset(store, crop_frames=10, split="heldout")
    assert [entry.title for entry in heldout.tracks] == ["Title 2"]
    assert heldout.statistics == LatentDataset(store, crop_frames=10).statistics
    assert heldout.statistics.count == 80


def test_tracks_shorter_than_a_crop_come_whole(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 9, 10, 11, 3)
    dataset = LatentDataset(store, crop_frames=10)
    assert dataset.short == 2
    assert dataset.seconds == pytest.approx(33 * 4 / 100, abs=0.05)
    batch = dataset.fixed_batch(5)  # as many as there are positions, in the order of the tracks' keys
    assert isinstance(batch, Padded)
    assert sorted(batch.missing.tolist()) == [0, 0, 0, 1, 7]
    raw = dataset.statistics.denormalise(batch.batch.latents).transpose(1, 2)
    found = {}
    for crop, missing in zip(raw, batch.missing.tolist(), strict=True):
        if missing:
            found[10 - missing] = crop[: 10 - missing]
    for number, frames in ((0, 9), (3, 3)):
        torch.testing.assert_close(found[frames], torch.from_numpy(latents(number, frames)[0]), atol=0.02, rtol=0.01)
    whole = LatentDataset(store, crop_frames=3)
    assert not isinstance(whole.batch(0, 8), Padded)


def test_nothing_to_read_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tracks of the split 'train'"):
        LatentDataset(filled(tmp_path / "empty"), crop_frames=4)
    with pytest.raises(DataError, match="no tracks of the split 'heldout'"):
        LatentDataset(filled(tmp_path / "store", 20), crop_frames=4, split="heldout")
