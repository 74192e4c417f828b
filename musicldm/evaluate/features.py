"""Features: a sound as one vector for each short piece of it, [N, F] in float64. Distances compare sets of these.

Shapes: C channels, T samples, D latent channels, L latent frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from musicldm.core.seeding import derive
from musicldm.latents.statistics import LatentStatistics
from musicldm.latents.store import LatentStore, TrackEntry
from musicldm.media.audio.mel import hop, log_mel

Floats = NDArray[np.float64]

WINDOW = 1.0
"""Seconds of a texture."""

_QUIET = 0.1  # in standard deviations of a channel: else a second of silence, at -inf, would outweigh all others
_BANDS = 32  # of a mel texture: so few that a few minutes of sound have a covariance of full rank
_PIECE = 60  # textures that are computed at once


def mel_frames(waveform: Tensor, sample_rate: int) -> Floats:
    """The log-mel frames of a waveform [C, T], channels averaged: [frames, 64], a frame every 16 ms at 16 kHz.

    They capture level and timbre, and nothing of how one frame follows another.
    """
    frames: Floats = log_mel(waveform.mean(dim=0), sample_rate).T.cpu().double().numpy()
    return frames


def mel_textures(waveform: Tensor, sample_rate: int) -> Floats:
    """The textures of a waveform's log-mel frames, as `latent_textures` makes them: [C, T] to [seconds, 3·32].

    Level and timbre of each second, how much each band changes in it and how fast: so the order of frames counts.
    """
    frames = log_mel(waveform.mean(dim=0), sample_rate, _BANDS)
    return latent_textures(frames, sample_rate / hop(sample_rate))


def latent_textures(z: Tensor, frame_rate: float) -> Floats:
    """Normalised latents [D, L] as textures, one for each whole second, side by side: [seconds, 3·D].

    Of each channel the mean, ln s, and ln (d/s), s being the standard deviation of the second's frames and d the root
    mean square of the difference of neighbours (the square root of Hjorth's activity, and his mobility: Hjorth 1970;
    statistics over windows of a second are the texture windows of Tzanetakis & Cook 2002). Both s² and d² are counted
    from 0.1² up.

    So they capture how large each channel is and how fast it changes, and how these vary together from second to
    second: white noise of the right mean and covariance is far away, as is music that is smoothed or at another speed.
    They do not capture the order of the seconds, nor that a sound is played backwards.
    """
    # Two frames at least, since the change is a difference of neighbours.
    window = max(2, round(WINDOW * frame_rate))
    count = z.shape[-1] // window
    seconds = z[:, : count * window].cpu().double().reshape(len(z), count, window)
    mean = seconds.mean(dim=2, keepdim=True)
    activity = (seconds - mean).square().mean(dim=2) + _QUIET**2
    change = seconds.diff(dim=2).square().mean(dim=2) + _QUIET**2
    parts = mean[..., 0], activity.log() / 2, (change / activity).log() / 2
    textures: Floats = torch.cat(parts).T.numpy()
    return textures


def drawn_latents(store: LatentStore, statistics: LatentStatistics, entry: TrackEntry, start: int, stop: int) -> Tensor:
    """Frames start to stop of a stored track as a generator is trained on them: drawn from the posterior, normalised.

    A function of its arguments: [D, stop - start].

    Raises:
        DataError: a chunk is missing or was changed on disk; the file is named.
        UsageError: the frames lie outside of the track.
    """
    mean, logvar = (torch.from_numpy(each.astype(np.float32)).T for each in store.read(entry, start, stop))
    # By track and place, so that the draw depends neither on the order nor on what else is measured.
    generator = torch.Generator().manual_seed(derive(entry.key, start))
    raw = mean + (logvar / 2).exp() * torch.randn(mean.shape, generator=generator)
    return statistics.normalise(raw)


def stored_textures(
    store: LatentStore, statistics: LatentStatistics, entries: Iterable[TrackEntry]
) -> Iterator[Floats]:
    """The textures of whole tracks of a store, a minute at a time; raises as `drawn_latents` does."""
    # A whole number of textures, so that none lies across two pieces.
    piece = _PIECE * max(2, round(WINDOW * store.header.frame_rate))
    for entry in entries:
        for start in range(0, entry.frames, piece):
            z = drawn_latents(store, statistics, entry, start, min(start + piece, entry.frames))
            yield latent_textures(z, store.header.frame_rate)
