"""How predictable latents are in time: whether a generator of them has anything to learn.

A generator makes a frame that fits its neighbours. Where frames have nothing to do with their neighbours, because the
latents follow the waveform's phase, say, there is nothing to fit, and its music is haze however long it trains. Three
figures tell beforehand:

- *change*: mean (z[t+1] − z[t])² over twice the variance. 1 is white noise, 0 stands still (von Neumann 1941; half the
  Durbin-Watson statistic).
- *R²* of a frame from the `LAGS` frames before it, by least squares, fitted on some tracks and scored on others. 0 is
  white noise, and it can be less. It also sees what moves fast and regularly. Each channel is predicted from itself
  alone: from all channels together even latents that follow the phase are predictable (R² 0.44 where the channels'
  own past gives 0.02), for a linear map can turn the phase of a held partial on, which is nothing that one hears.
- the *spectrum*: what fraction of the variance lies in which band of modulation frequency (Welch 1967).

All are of raw latents z drawn from their posteriors, because draws are what a generator sees: a posterior as wide as
its means vary is half noise. None depends on a channel's mean or scale. Those of a whole store are averages over its
channels, which a generator, too, sees at equal variance; dead channels are left out.

Shapes: N crops, L frames, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from musicldm.latents.statistics import DEAD_STD
from musicldm.latents.store import LatentStore
from musicldm.media.medium import Medium

Floats = npt.NDArray[np.float32] | npt.NDArray[np.float64]

LAGS = 4
"""Frames from which the next is predicted."""
WHITE_CHANGE, WHITE_R2 = 0.8, 0.2
"""Latents that change more, and are predicted worse, are nearly white.

On 24 piano pieces, a codec that keeps the phase has 0.93 and 0.00 at 31 frames a second; 32 principal components of
log magnitudes have 0.06 and 0.91 at that rate, 0.27 and 0.57 at 8 frames a second, random projections 0.42 and 0.37.
"""
SMOOTHER = "Train a codec whose latents are smooth in time, such as train-vae --codec spectrum, and encode again."
"""What to do about latents that are nearly white."""

# What is looked at of a store: some seconds from each of many tracks, read in a fraction of a second.
_CROPS = 128
_CROP_FRAMES = 256
_NUMBERS = 1 << 21  # in all crops together; of very wide latents there are fewer crops
_SHORTEST = 4 * LAGS  # frames of a crop that still say something


@dataclass(frozen=True)
class Predictability:
    """How predictable a channel is from frame to frame, or all of them on average."""

    change: float
    """From frame to frame, as a fraction of white noise's."""
    r2: float | None
    """Of a frame from those before it; None where there is only one crop, so that nothing is left to score it on."""
    spectrum: tuple[float, ...]
    """The fraction of the variance in each of the bands."""

    @property
    def nearly_white(self) -> bool:
        """Whether a generator will find next to nothing to learn."""
        return self.change > WHITE_CHANGE and self.r2 is not None and self.r2 < WHITE_R2

    def __str__(self) -> str:
        r2 = "" if self.r2 is None else f", R² of a frame from the {LAGS} before it {self.r2:z.2f}"
        return f"change from frame to frame {self.change:.2f} of white noise's{r2}"


@dataclass(frozen=True)
class StorePredictability:
    """The figures of a store."""

    channels: tuple[Predictability | None, ...]
    """D; None for a dead one."""
    mean: Predictability
    """Over all channels that are not dead."""
    bands: tuple[float, ...]
    """The frequencies that divide the bands: one more than there are bands, in Hz (of notes: in cycles a beat)."""
    frames: int
    """How many were looked at."""
    medium: Medium = "audio"

    @property
    def warning(self) -> str:
        """What is wrong with latents that are nearly white; empty where they are not."""
        # From beat to beat notes change as they will, and that is no fault of a codec.
        if not self.mean.nearly_white or self.medium == "notes":
            return ""
        return (
            f"The latents are nearly white noise in time ({self.mean}): a generator finds next to nothing to learn in "
            "them. They may follow the waveform's phase."
        )

    @property
    def white_noise(self) -> Predictability:
        """What white noise would have."""
        return Predictability(1.0, 0.0, tuple((np.diff(self.bands) / self.bands[-1]).tolist()))


def predictability(store: LatentStore, seed: int = 0) -> StorePredictability | None:
    """Measure a seeded sample of a store's training tracks: at most 128 crops of 256 frames, however large it is.

    Returns:
        None where there is nothing to measure: tracks are shorter than 16 frames, or all channels dead or not finite.

    Raises:
        DataError: the latents of a crop are damaged.
    """
    sample = _sample(store, np.random.default_rng(seed))
    found = None if sample is None else measure(*sample, store.header.frame_rate)
    return None if found is None else replace(found, medium=store.header.medium)


def measure(z: Floats, tracks: npt.NDArray[np.int64], frame_rate: float) -> StorePredictability | None:
    """The figures of crops; None where all channels are dead or not finite.

    Args:
        z: raw latents [N, L, D].
        tracks: which track each crop is from, [N].
        frame_rate: frames a second, or a beat.
    """
    std, bands = z.std(axis=(0, 1), dtype=np.float64), octaves(frame_rate)
    live = np.isfinite(std) & (std > DEAD_STD)
    if not live.any():
        return None
    z = z[..., live]
    changes, r2s, spectra = change(z), r2_of_next(z, halves(tracks)), spectrum(z, frame_rate, bands)
    found = iter([_figures(*each) for each in zip(changes, r2s, spectra, strict=True)])
    return StorePredictability(
        channels=tuple(next(found) if alive else None for alive in live.tolist()),
        mean=_figures(changes.mean(), r2s.mean(), spectra.mean(axis=0)),
        bands=bands,
        frames=z.shape[0] * z.shape[1],
    )


def _figures(change: float, r2: float, spectrum: npt.NDArray[np.float64]) -> Predictability:
    return Predictability(float(change), None if np.isnan(r2) else float(r2), tuple(spectrum.tolist()))


# ---- The three figures -----------------------------------------------------------------------------------------------


def change(z: Floats) -> npt.NDArray[np.float64]:
    """Mean (z[t+1] − z[t])² over twice the variance, [D], of crops [N, L, D]: 1 − a for AR(1) with coefficient a."""
    # About the mean of all crops, not of each: what is slower than a crop is the most predictable of all.
    squares: npt.NDArray[np.float64] = np.square(np.diff(z, axis=1)).mean(axis=(0, 1), dtype=np.float64)
    return squares / (2 * _variance(z))


def r2_of_next(z: Floats, half: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """R² of each frame from the `LAGS` frames of its channel before it, [D]: a² for AR(1) with coefficient a.

    Fitted on either half of the crops, scored on the other. NaN where a half is empty.

    Args:
        z: [N, L, D].
        half: which crops belong to the second half, [N].
    """
    if half.all() or not half.any():
        return np.full(z.shape[-1], np.nan)
    errors, total = np.zeros(z.shape[-1]), np.zeros(z.shape[-1])
    for fitted, scored in ((z[half], z[~half]), (z[~half], z[half])):
        mean = fitted.mean(axis=(0, 1), dtype=np.float64).astype(z.dtype)
        weights = _weights(_lagged(fitted - mean))
        target, *before = _lagged(scored - mean)
        for weight, lag in zip(weights.T.astype(z.dtype), before, strict=True):
            target = target - weight * lag
        errors += np.square(target).sum(axis=(0, 1), dtype=np.float64)
        total += _variance(scored[:, LAGS:]) * target.shape[0] * target.shape[1]
    return 1 - errors / total


def _lagged(z: Floats) -> list[Floats]:
    """All frames that have `LAGS` before them, and then those one, two … before: each [N, L - LAGS, D]."""
    return [z[:, LAGS - lag : z.shape[1] - lag] for lag in range(LAGS + 1)]


def _weights(lagged: Sequence[Floats]) -> npt.NDArray[np.float64]:
    """The least-squares weight of each of the frames before, for each channel: [D, LAGS]."""
    products = np.array([[np.einsum("nld,nld->d", one, other, dtype=np.float64) for other in lagged] for one in lagged])
    products = np.moveaxis(products, -1, 0)
    matrix, vector = products[:, 1:, 1:], products[:, 1:, 0]
    # A millionth of the variance, without which a pure tone, which two frames tell all of, has no unique solution.
    ridge = 1e-6 * np.trace(matrix, axis1=1, axis2=2)[:, None, None] * np.eye(LAGS)
    weights: npt.NDArray[np.float64] = np.linalg.solve(matrix + ridge, vector[..., None])[..., 0]
    return weights


def spectrum(z: Floats, frame_rate: float, bands: Sequence[float]) -> npt.NDArray[np.float64]:
    """The fraction of each channel's variance in each band of modulation frequency, [D, bands].

    By Welch's method: the squared spectra of the crops under a Hann window, averaged.

    Args:
        z: crops [N, L, D].
        bands: the frequencies that divide the bands, from 0 to half the frame rate.
    """
    frames = z.shape[1]
    # As in `change`: what is slower than a crop counts, in the lowest band.
    centred = z - z.mean(axis=(0, 1), dtype=np.float64).astype(z.dtype)
    window = np.hanning(frames + 2)[1:-1].astype(z.dtype)[:, None]
    power = np.square(np.abs(np.fft.rfft(centred * window, axis=1))).mean(axis=0, dtype=np.float64)
    # A real signal's other half mirrors this one; 0 and half the frame rate have no mirror image.
    power[1 : (frames + 1) // 2] *= 2
    frequencies = np.fft.rfftfreq(frames, 1 / frame_rate)
    # A frequency on a border belongs to the band above it, half the frame rate to the last one.
    band = np.clip(np.searchsorted(bands, frequencies, side="right") - 1, 0, len(bands) - 2)
    powers = np.stack([power[band == number].sum(axis=0) for number in range(len(bands) - 1)], axis=1)
    fractions: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return fractions


def octaves(frame_rate: float) -> tuple[float, ...]:
    """The frequencies that divide four bands: each of the upper three an octave, the last up to half the frame rate."""
    return (0.0, frame_rate / 16, frame_rate / 8, frame_rate / 4, frame_rate / 2)


def _variance(z: Floats) -> npt.NDArray[np.float64]:
    """Of each channel over all crops, [D]."""
    variance: npt.NDArray[np.float64] = z.var(axis=(0, 1), dtype=np.float64)
    return variance


# ---- The sample ------------------------------------------------------------------------------------------------------


def halves(tracks: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Two halves of some crops, none of whose tracks is in both; of a single track, its earlier and later crops.

    Args:
        tracks: which track each crop is from, [N], in order.
    """
    _, number = np.unique(tracks, return_inverse=True)
    half: npt.NDArray[np.bool_] = np.arange(len(tracks)) >= (len(tracks) + 1) // 2
    return number % 2 == 1 if number.any() else half


def _sample(
    store: LatentStore, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]] | None:
    """Crops of training tracks, drawn from their posteriors, [N, L, D], and their tracks [N]."""
    columns = store.tracks.columns
    columns = columns[~columns["heldout"]]
    if not len(columns):
        return None
    # Half of the tracks at least are as long as this.
    length = int(min(_CROP_FRAMES, np.median(columns["frames"])))
    if length < _SHORTEST:
        return None
    columns = columns[columns["frames"] >= length]
    ends = np.cumsum(columns["frames"].astype(np.int64))
    count = int(min(_CROPS, max(2, _NUMBERS // (length * store.header.channels)), ends[-1] // length))
    # One at a random place in each of `count` equal stretches of all the music.
    places = ((np.arange(count) + rng.random(count)) * (ends[-1] / count)).astype(np.int64)
    tracks = np.searchsorted(ends, places, side="right")
    frames = columns["frames"][tracks].astype(np.int64)
    starts = np.minimum(places - (ends[tracks] - frames), frames - length) + columns["offset"][tracks].astype(np.int64)
    segments = [store.segments[number].id for number in columns["segment"][tracks]]
    wanted = [(name, start, start + length) for name, start in zip(segments, starts.tolist(), strict=True)]
    mean, logvar = np.empty((2, count, length, store.header.channels), np.float32)
    with store.prefetch(wanted):
        for number, (segment, start, stop) in enumerate(wanted):
            store.read_frames(segment, start, stop, (mean[number], logvar[number]))
    return mean + np.exp(0.5 * logvar) * rng.standard_normal(mean.shape, dtype=np.float32), tracks
