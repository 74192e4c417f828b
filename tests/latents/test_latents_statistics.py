"""Latent statistics: one pass that merges, against two passes over everything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from musicldm.core.errors import DataError
from musicldm.latents.statistics import SMALLEST_STD, LatentStatistics, Moments
from musicldm.latents.store import LatentStore
from tests.latents.latent_toys import HEADER, SMALL, filled, latents, pieces, track


def two_passes(lengths: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread over all frames of the tracks at once, from the numbers as stored."""
    pairs = [latents(number, frames) for number, frames in lengths.items()]
    mean, logvar = (np.concatenate(side).astype(np.float16).astype(np.float64) for side in zip(*pairs, strict=True))
    return mean.mean(axis=0), np.sqrt(mean.var(axis=0) + np.exp(logvar).mean(axis=0))


def test_statistics_agree_with_two_passes_over_the_training_tracks(tmp_path: Path) -> None:
    store = LatentStore.create(tmp_path / "store", HEADER)
    lengths = {number: 1 + 37 * number % 90 for number in range(30)}
    with store.writer(**SMALL) as writer:
        for number, frames in lengths.items():
            split = "heldout" if number % 5 == 0 else "train"
            writer.append(track(number, frames, split), pieces(latents(number, frames), 7))
    statistics = LatentStore.open(store.path).statistics()
    trained = {number: frames for number, frames in lengths.items() if number % 5}
    mean, std = two_passes(trained)
    assert statistics.count == sum(trained.values())
    np.testing.assert_allclose(statistics.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(statistics.std, std, rtol=1e-10)
    assert statistics == store.statistics()  # the same from memory as from disk, bit for bit


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_moments_merge_in_any_grouping_and_order(lengths: list[int], shuffler: object) -> None:
    pairs = [[side.astype(np.float16) for side in latents(number, frames)] for number, frames in enumerate(lengths)]
    whole = Moments.of(*(np.concatenate(side) for side in zip(*pairs, strict=True)))
    shuffler.shuffle(pairs)  # type: ignore[attr-defined]
    merged = sum((Moments.of(*pair) for pair in pairs), Moments.none(HEADER.channels))
    assert merged.count == whole.count == sum(lengths)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(merged.squares, whole.squares, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(merged.variances, whole.variances, rtol=1e-10)


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    pairs = [[(60_000 + 32 * side).astype(np.float16) for side in latents(number, 500)] for number in range(5)]
    far = [(mean, np.full_like(mean, -14)) for mean, _ in pairs]
    merged = LatentStatistics.from_moments(sum((Moments.of(*pair) for pair in far), Moments.none(3)))
    everything = np.concatenate([mean for mean, _ in far]).astype(np.float64)
    expected = np.sqrt(everything.var(axis=0) + np.exp(-14.0))
    np.testing.assert_allclose(merged.std, expected, rtol=1e-10)


def test_raw_latents_become_normalised_ones_and_return() -> None:
    mean, logvar = (side.astype(np.float16) for side in latents(0, 5000))
    statistics = LatentStatistics.from_moments(Moments.of(mean, logvar))
    drawn = torch.from_numpy(mean).float() + torch.exp(torch.from_numpy(logvar).float() / 2) * torch.randn(5000, 3)
    raw = drawn.T.expand(2, 3, 5000)
    normalised = statistics.normalise(raw)
    assert normalised.dtype == torch.float32
    torch.testing.assert_close(normalised.mean(dim=(0, 2)), torch.zeros(3), atol=0.05, rtol=0)
    torch.testing.assert_close(normalised.std(dim=(0, 2)), torch.ones(3), atol=0.05, rtol=0)
    torch.testing.assert_close(statistics.denormalise(normalised), raw)
    torch.testing.assert_close(statistics.normalise(raw[0]), normalised[0])


def test_a_dead_channel_has_a_spread_all_the_same() -> None:
    dead = np.full((10, 2), 3, np.float16), np.full((10, 2), -60, np.float16)
    statistics = LatentStatistics.from_moments(Moments.of(*dead))
    assert statistics.std == (SMALLEST_STD, SMALLEST_STD)
    assert statistics.normalise(torch.full((1, 2, 4), 3.0)).abs().max() == 0


def test_statistics_travel_as_json(tmp_path: Path) -> None:
    statistics = filled(tmp_path / "store", 20).statistics()
    assert LatentStatistics.from_dict(statistics.to_dict()) == statistics
    for damage in ({"mean": "?"}, {"std": [1.0]}, {"std": [1.0, 0.0, 1.0]}, {"count": None}):
        with pytest.raises(DataError, match="damaged"):
            LatentStatistics.from_dict(statistics.to_dict() | damage)
    with pytest.raises(DataError, match="damaged"):
        LatentStatistics.from_dict({})


def test_no_training_tracks_no_statistics(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training tracks"):
        filled(tmp_path / "store", 20, split="heldout").statistics()
