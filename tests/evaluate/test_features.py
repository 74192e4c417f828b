"""What the features see, and what they do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from musicldm.evaluate.features import drawn_latents, latent_textures, mel_frames, stored_textures
from musicldm.evaluate.frechet import Gaussian, frechet_distance
from musicldm.latents.store import LatentStore, StoreHeader, Track

RATE = 25.0  # frames a second


def music(seconds: int, seed: int, inertia: float = 0.9) -> torch.Tensor:
    """Latents [3, L] of unit variance that move slowly: xₜ = inertia·xₜ₋₁ + noise, louder in every other second."""
    noise = np.random.default_rng(seed).normal(size=(3, seconds * int(RATE)))
    z = np.zeros_like(noise)
    for i in range(1, noise.shape[1]):
        z[:, i] = inertia * z[:, i - 1] + np.sqrt(1 - inertia**2) * noise[:, i]
    return torch.from_numpy(z * np.where(np.arange(z.shape[1]) // RATE % 2, 1.3, 0.5)).float()


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return frechet_distance(*(Gaussian.of([latent_textures(z, RATE)]) for z in (a, b)))


def test_mel_frames_tell_music_from_noise() -> None:
    time = torch.arange(32000) / 16000
    chords = [
        torch.stack([torch.sin(2 * torch.pi * f * time) for f in chord]).sum(dim=0, keepdim=True) * 0.1
        for chord in ((220, 277, 330), (196, 247, 294))
    ]
    noise = torch.randn(1, 32000, generator=torch.Generator().manual_seed(0)) * 0.1
    first, second, other = (Gaussian.of([mel_frames(waveform, 16000)]) for waveform in (*chords, noise))
    assert frechet_distance(first, second) < 0.2 * frechet_distance(first, other)


def test_a_texture_is_what_it_says() -> None:
    z = music(3, seed=0)
    textures = latent_textures(z[:, : int(2.9 * RATE)], RATE)
    assert textures.shape == (2, 9)
    assert textures.dtype == np.float64
    second = z[:, 25:50].double().numpy()
    std = np.sqrt(second.var(axis=1) + 0.01)
    change = np.sqrt((np.diff(second, axis=1) ** 2).mean(axis=1) + 0.01)
    np.testing.assert_allclose(textures[1, :3], second.mean(axis=1))
    np.testing.assert_allclose(textures[1, 3:6], np.log(std))
    np.testing.assert_allclose(textures[1, 6:], np.log(change / std))
    assert latent_textures(torch.zeros(3, 20), RATE).shape == (0, 9)
    assert np.isfinite(latent_textures(torch.zeros(3, 50), RATE)).all()


def test_textures_see_time_where_frames_see_none() -> None:
    original, other = music(400, seed=1), music(400, seed=2)
    order = torch.randperm(original.shape[1], generator=torch.Generator().manual_seed(0))
    blocks = [original[:, start : start + 25] for start in range(0, original.shape[1], 25)]
    within = torch.cat([block[:, order[order < 25]] for block in blocks], dim=1)
    frames = [Gaussian.of([z.T.double().numpy()]) for z in (original, original[:, order])]
    assert frechet_distance(*frames) == pytest.approx(0, abs=1e-9)
    near = distance(original, other)
    assert distance(original, original[:, order]) > 5 * near
    assert distance(original, within) > 5 * near  # only the order within seconds
    assert distance(original, original.repeat_interleave(2, dim=1)) > 5 * near  # half the speed
    assert distance(original, 0.7 * original) > 5 * near


def store(path: Path, logvar: float, *lengths: int) -> tuple[LatentStore, list[npt.NDArray[np.float16]]]:
    """Tracks of so many frames, and the means of their posteriors, [frames, D]."""
    made = LatentStore.create(path, StoreHeader(100, 4, 3, 1, "5eed" * 16, "toy"))
    means = [np.random.default_rng(n).normal(2, 3, (length, 3)).astype(np.float16) for n, length in enumerate(lengths)]
    with made.writer() as writer:
        for number, mean in enumerate(means):
            about = Track(4 * len(mean), f"sound {number}", "train", "Artist", "Title", {}, "f01d", f"{number}.wav")
            writer.append(about, [(mean, np.full_like(mean, logvar))])
    return LatentStore.open(path), means


def test_stored_tracks_give_the_textures_of_the_whole(tmp_path: Path) -> None:
    """Though they are read a minute at a time; the posterior is so narrow that the draw is its mean."""
    there, means = store(tmp_path / "z.zarr", -20.0, 2 * 60 * 25 + 40, 20, 30)
    statistics = there.statistics()
    read = np.concatenate(list(stored_textures(there, statistics, there.tracks)))
    whole = [statistics.normalise(torch.from_numpy(mean.astype(np.float32)).T) for mean in means]
    wanted = np.concatenate([latent_textures(z, RATE) for z in whole])
    assert len(read) == 121 + 0 + 1
    np.testing.assert_allclose(read, wanted, atol=0.01)


def test_stored_latents_are_drawn_as_they_are_trained_on(tmp_path: Path) -> None:
    there, means = store(tmp_path / "z.zarr", 2.0, 2000)
    entry, statistics = there.tracks[0], there.statistics()
    z = drawn_latents(there, statistics, entry, 0, 2000)
    raw = statistics.denormalise(z).T.numpy() - means[0].astype(np.float32)
    assert raw.std() == pytest.approx(np.exp(1.0), rel=0.05)
    assert z.std() == pytest.approx(1, rel=0.05)
    torch.testing.assert_close(z, drawn_latents(there, statistics, entry, 0, 2000), rtol=0, atol=0)
