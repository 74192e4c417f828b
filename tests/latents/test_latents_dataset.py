"""Crops for training: a pure function of seed and step, fair to every frame."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from latent_toys import HEADER, SMALL, filled, latents, track

from musicldm.errors import DataError
from musicldm.latents.dataset import LatentDataset
from musicldm.latents.store import LatentStore


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


def first_frames(dataset: LatentDataset, batch: torch.Tensor) -> np.ndarray:
    """Which frame each crop begins with; sees to it that the rest follows on."""
    count = dataset.statistics.denormalise(batch)[:, 0]
    torch.testing.assert_close(count.diff(dim=-1), torch.ones_like(count[:, 1:]), atol=1e-3, rtol=0)
    return count[:, 0].round().int().numpy()


def test_a_batch_is_a_pure_function_of_seed_and_step(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 40, 90, 20)
    dataset = LatentDataset(store, crop_frames=12, seed=7)
    batch = dataset.batch(3, 5)
    assert batch.shape == (5, 3, 12)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous()
    torch.manual_seed(99)
    np.random.seed(99)
    dataset.batch(4, 5)
    again = LatentDataset(LatentStore.open(store.path), crop_frames=12, seed=7)
    assert torch.equal(again.batch(3, 5), batch)
    assert torch.equal(pickle.loads(pickle.dumps(dataset)).batch(3, 5), batch)
    assert not torch.equal(dataset.batch(4, 5), batch)
    assert not torch.equal(LatentDataset(store, crop_frames=12, seed=8).batch(3, 5), batch)
    assert LatentDataset(store, crop_frames=12, seed=-1).batch(0, 1).isfinite().all()


def test_crops_are_uniform_over_frames_and_not_over_tracks(tmp_path: Path) -> None:
    dataset = LatentDataset(numbered(tmp_path / "store", 20, 110, 8, 7), crop_frames=8)
    firsts = np.concatenate([first_frames(dataset, dataset.batch(step, 500)) for step in range(40)])
    possible = [*range(0, 13), *range(20, 123), 130]
    counts = np.array([np.sum(firsts == frame) for frame in possible])
    assert counts.sum() == len(firsts), "a crop never crosses from one track into the next"
    expected = len(firsts) / len(possible)
    chi_squared = np.sum((counts - expected) ** 2 / expected)
    assert chi_squared < 173, "116 degrees of freedom: 99.95 % lie below"


def test_the_posterior_is_drawn_and_normalised(tmp_path: Path) -> None:
    dataset = LatentDataset(filled(tmp_path / "store", 300, 500), crop_frames=16)
    batch = torch.cat([dataset.batch(step, 200) for step in range(5)])
    torch.testing.assert_close(batch.mean(dim=(0, 2)), torch.zeros(3), atol=0.05, rtol=0)
    torch.testing.assert_close(batch.std(dim=(0, 2)), torch.ones(3), atol=0.05, rtol=0)


def test_the_noise_is_the_posteriors(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 16)  # one crop is the whole track
    dataset = LatentDataset(store, crop_frames=16)
    mean, logvar = (torch.from_numpy(side.astype(np.float16)).float() for side in latents(0, 16))
    raw = dataset.statistics.denormalise(dataset.batch(0, 5000)).transpose(1, 2)
    noise = (raw - mean) / torch.exp(logvar / 2)
    torch.testing.assert_close(noise.mean(dim=0), torch.zeros(16, 3), atol=0.08, rtol=0)
    torch.testing.assert_close(noise.std(dim=0), torch.ones(16, 3), atol=0.06, rtol=0)


def test_a_fixed_batch_is_evenly_spaced_posterior_means(tmp_path: Path) -> None:
    dataset = LatentDataset(numbered(tmp_path / "store", 107, 57), crop_frames=8)
    batch = dataset.fixed_batch(6)
    assert first_frames(dataset, batch).tolist() == [12, 37, 62, 87, 119, 144]
    assert torch.equal(dataset.fixed_batch(6), batch)

    store = filled(tmp_path / "other", 16)
    dataset = LatentDataset(store, crop_frames=16)
    mean, _ = store.read(store.tracks[0])
    expected = dataset.statistics.normalise(torch.from_numpy(mean).float().T[None])
    torch.testing.assert_close(dataset.fixed_batch(1), expected)


def test_splits_keep_apart_and_statistics_are_of_the_training_tracks(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 40, 40)
    with store.writer(**SMALL) as writer:
        writer.append(track(2, 30, "heldout"), [latents(2, 30)])
    heldout = LatentDataset(store, crop_frames=10, split="heldout")
    assert [entry.title for entry in heldout.tracks] == ["Title 2"]
    assert heldout.statistics == LatentDataset(store, crop_frames=10).statistics
    assert heldout.statistics.count == 80


def test_tracks_shorter_than_a_crop_are_left_out_and_counted(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 9, 10, 11, 3)
    dataset = LatentDataset(store, crop_frames=10)
    assert [entry.frames for entry in dataset.tracks] == [10, 11]
    assert dataset.left_out == 2
    assert dataset.seconds == pytest.approx(21 * 4 / 100, abs=0.03)
    with pytest.raises(DataError, match="crop of 12 frames; the longest has 11") as caught:
        LatentDataset(store, crop_frames=12)
    assert "0.4 seconds" in caught.value.hint


def test_nothing_to_read_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tracks of the split 'train'"):
        LatentDataset(filled(tmp_path / "empty"), crop_frames=4)
    with pytest.raises(DataError, match="no tracks of the split 'heldout'"):
        LatentDataset(filled(tmp_path / "store", 20), crop_frames=4, split="heldout")
