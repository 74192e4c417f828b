"""Fréchet distance between Gaussians fitted to two sets of mel frames: near in level, timbre and their spread."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from musicldm.audio.spectrogram import log_mel

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Gaussian:
    """Mean [F] and covariance [F, F] of `count` vectors."""

    mean: Floats
    covariance: Floats
    count: int

    @classmethod
    def fit(cls, vectors: Floats) -> Gaussian:
        """To the rows of `vectors` [N, F]."""
        return cls(vectors.mean(axis=0), np.cov(vectors, rowvar=False), len(vectors))


def mel_gaussian(waveforms: Iterable[torch.Tensor], sample_rate: int) -> Gaussian:
    """The Gaussian of all log-mel frames of waveforms [C, T], channels averaged."""
    frames = [log_mel(waveform.mean(dim=0), sample_rate).T.double() for waveform in waveforms]
    return Gaussian.fit(torch.cat(frames).numpy())


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """‖μa − μb‖² + tr(Σa + Σb − 2·(Σa·Σb)^½)  (Dowson & Landau 1982, eq. 4), in squared units of the vectors."""
    root = _square_root(a.covariance)
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ b.covariance @ root), 0, None)).sum()
    gap = a.mean - b.mean
    return float(gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


def _square_root(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh(matrix)
    root: Floats = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root
