"""The Fréchet distance against SciPy and the closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg

from musicldm.evaluate.frechet import Gaussian, frechet_distance, mel_gaussian


def test_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    a = Gaussian.fit(rng.normal(size=(500, 12)) @ rng.normal(size=(12, 12)))
    b = Gaussian.fit(rng.normal(size=(400, 12)) @ rng.normal(size=(12, 12)) + 1)
    root = linalg.sqrtm(a.covariance @ b.covariance).real
    wanted = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-6)


def test_a_known_move_gives_the_closed_form() -> None:
    identity = Gaussian(np.zeros(5), np.eye(5), 100)
    moved = Gaussian(np.full(5, 2.0), 9 * np.eye(5), 100)
    assert frechet_distance(identity, moved) == pytest.approx(5 * 4 + 5 * (3 - 1) ** 2)
    assert frechet_distance(moved, moved) == pytest.approx(0, abs=1e-9)


def test_a_covariance_of_low_rank_is_no_trouble() -> None:
    flat = Gaussian(np.zeros(4), np.diag([1.0, 0, 0, 0]), 3)
    assert frechet_distance(flat, Gaussian(np.zeros(4), np.zeros((4, 4)), 3)) == pytest.approx(1)


def test_mel_frames_tell_music_from_noise() -> None:
    time = torch.arange(32000) / 16000
    chords = [
        sum(torch.sin(2 * torch.pi * f * time) for f in chord)[None] * 0.1
        for chord in ((220, 277, 330), (196, 247, 294))
    ]
    noise = torch.randn(1, 32000, generator=torch.Generator().manual_seed(0)) * 0.1
    first, second = mel_gaussian(chords[:1], 16000), mel_gaussian(chords[1:], 16000)
    assert frechet_distance(first, second) < 0.2 * frechet_distance(first, mel_gaussian([noise], 16000))
