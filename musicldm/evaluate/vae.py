"""How good is a VAE: what it makes of music that it has not seen, and of what kind its latents are.

Shapes: C channels, T samples, D latent channels, L latent frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from musicldm.codecs.posterior import DiagonalGaussian
from musicldm.codecs.vae.model import VAE
from musicldm.codecs.windows import Reader, decode_long, decode_pieces, encode_long
from musicldm.core.errors import DataError
from musicldm.core.progress import Progress, silent
from musicldm.core.seeding import derive
from musicldm.evaluate.estimates import Estimate, bootstrap
from musicldm.evaluate.metrics import Judge, Reconstruction, mel_distance
from musicldm.evaluate.sounds import Sound, Splits, is_prepared, music_in
from musicldm.latents.statistics import LatentStatistics, Moments
from musicldm.media.audio.loudness import LoudnessMeter

NOISE = 0.1
"""Of a channel's spread: what is added to latents to see how decoding bears it."""
DEAD = 0.01
"""An inactive channel is one whose posterior's mean varies by less than this (Burda, Grosse & Salakhutdinov 2016)."""

_WINDOW_SECONDS = 30.0
_EXCERPTS, _EXCERPT_SECONDS = 32, 10.0  # on which the noise is tried: what is held in memory


@dataclass(frozen=True)
class TrackResult:
    """How near one track came back."""

    name: str
    figures: Reconstruction
    loudness: float | None
    """LU that the reconstruction is louder; None where either is below the meter's gate."""


@dataclass(frozen=True)
class ChannelResult:
    """One latent channel over all tracks."""

    channel: int
    kl: float
    """Of the posterior to N(0, 1), in nats for each number."""
    spread: float
    """Of what a denoiser would be given: of the posterior's mean and its variance together."""
    used: float
    """The variance of the posterior's mean as a share of all variance."""
    is_dead: bool
    """See `DEAD`."""


@dataclass(frozen=True)
class NoiseResult:
    """How decoding bears noise of `NOISE` spreads: mel distances to the original, over excerpts."""

    excerpts: int
    seconds: float
    clean: Estimate
    """Without it."""
    noisy: Estimate
    moved: Estimate
    """From the one decoding to the other."""


@dataclass(frozen=True)
class VAEResult:
    """What `evaluate vae` found."""

    vae: str
    vae_hash: str
    data: str
    """What it was tried on."""
    share: float
    """Numbers of the latent for each number of the waveform."""
    seconds: float
    """Of all tracks."""
    overall: dict[str, Estimate]
    """Means over tracks, each counting alike, of the figures of `Reconstruction` and of `loudness` (its magnitude)."""
    tracks: tuple[TrackResult, ...]
    channels: tuple[ChannelResult, ...]
    noise: NoiseResult
    left_out: dict[str, str]
    """Tracks that could not be used, and why."""

    @property
    def dead(self) -> tuple[int, ...]:
        """The channels that say nothing."""
        return tuple(each.channel for each in self.channels if each.is_dead)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"dead": list(self.dead)}


def evaluate_vae(vae: VAE, data: Path, split: Splits = "heldout", progress: Progress = silent) -> VAEResult:
    """Take every track of `data` through the VAE, by its posterior's mode, in memory that one track's length bounds.

    Args:
        data: a prepared folder, or any folder of audio files, which are all taken and brought to the VAE's rate.
        split: which tracks of a prepared folder.

    Raises:
        DataError: there is nothing to try it on, or the VAE makes no numbers.
    """
    config = vae.config
    sounds = music_in(data, config.sample_rate, config.audio_channels, split)
    tracks, left_out, excerpts = [], {}, []
    latents = _Latents(config.latent_channels)
    every = -(-len(sounds) // _EXCERPTS)
    for number, sound in enumerate(sounds):
        progress(number, len(sounds), sound.name)
        try:
            with sound.opened() as (samples, read):
                tracks.append(_track(vae, sound, samples, read, latents))
                if number % every == 0:
                    length = min(samples, round(_EXCERPT_SECONDS * config.sample_rate))
                    excerpts.append(read((samples - length) // 2, (samples - length) // 2 + length))
        except DataError as error:
            left_out[sound.name] = error.message
    if not tracks:
        name, reason = next(iter(left_out.items()))
        raise DataError(f"No track of {data} can be used; {name}: {reason}", "See --split, or name another folder.")
    return VAEResult(
        vae=vae.name,
        vae_hash=vae.weights_hash,
        data=f"{data}, {split} tracks" if is_prepared(data) else str(data),
        share=1 / config.compression,
        seconds=sum(track.figures.seconds for track in tracks),
        overall=_overall(tracks),
        tracks=tuple(tracks),
        channels=latents.channels(),
        noise=_noise(vae, excerpts, latents.statistics()),
        left_out=left_out,
    )


def _track(vae: VAE, sound: Sound, samples: int, read: Reader, latents: _Latents) -> TrackResult:
    """One track there and back; its posterior goes into `latents`."""
    config = vae.config
    judge, done = Judge(config.sample_rate), 0
    meters = [LoudnessMeter(config.sample_rate, config.audio_channels) for _ in range(2)]
    window = round(_WINDOW_SECONDS * config.frame_rate)
    frames = -(-samples // config.hop)
    means = latents.passing(encode_long(vae, read, samples, window))
    for piece in decode_pieces(vae, means, frames, window):
        made = piece[:, : samples - done]
        if not made.isfinite().all():
            raise DataError("The VAE makes values that are no numbers of it.", "Take another VAE.")
        original = read(done, done + made.shape[-1])
        judge.add(original, made)
        for meter, audio in zip(meters, (original, made), strict=True):
            meter.add(audio.numpy())
        done += made.shape[-1]
    before, after = (meter.integrated() for meter in meters)
    loudness = None if before is None or after is None else after - before
    return TrackResult(sound.name, judge.result(), loudness)


def _overall(tracks: list[TrackResult]) -> dict[str, Estimate]:
    names = "si_sdr", "stft", "mel", "study", "silence", "study_to_silence"
    overall = {name: bootstrap([getattr(track.figures, name) for track in tracks]) for name in names}
    return overall | {"loudness": bootstrap([t.loudness if t.loudness is None else abs(t.loudness) for t in tracks])}


class _Latents:
    """Sums over the posteriors of all tracks."""

    def __init__(self, channels: int) -> None:
        self._moments = Moments.none(channels)
        self._kl = torch.zeros(channels, dtype=torch.float64)

    def passing(self, pieces: Iterator[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
        """The means as they pass, [D, l]."""
        for mean, logvar in pieces:
            self._moments += Moments.of(mean.T.numpy(), logvar.T.numpy())
            self._kl += DiagonalGaussian(mean[None], logvar[None]).kl_per_element()[0].double().sum(dim=1)
            yield mean

    def statistics(self) -> LatentStatistics:
        return LatentStatistics.from_moments(self._moments)

    def channels(self) -> tuple[ChannelResult, ...]:
        count = self._moments.count
        of_mean, of_posterior = self._moments.squares / count, self._moments.variances / count
        spreads = self.statistics().std
        return tuple(
            ChannelResult(
                channel=channel,
                kl=float(self._kl[channel]) / count,
                spread=spreads[channel],
                used=float(of_mean[channel] / max(of_mean[channel] + of_posterior[channel], 1e-30)),
                is_dead=bool(of_mean[channel] < DEAD),
            )
            for channel in range(len(of_mean))
        )


def _noise(vae: VAE, excerpts: list[Tensor], statistics: LatentStatistics) -> NoiseResult:
    """Decode excerpts with noise and without."""
    rate = vae.config.sample_rate
    figures: dict[str, list[float | None]] = {"clean": [], "noisy": [], "moved": []}
    spread = torch.tensor(statistics.std)[:, None]
    for number, audio in enumerate(excerpts):
        samples = audio.shape[-1]
        pieces = encode_long(vae, lambda a, b, audio=audio: audio[:, a:b], samples)  # type: ignore[misc]
        z = torch.cat([mean for mean, _ in pieces], dim=1)
        generator = torch.Generator().manual_seed(derive("noise", number))
        there = NOISE * spread * torch.randn(z.shape, generator=generator)
        clean, noisy = (torch.cat(list(decode_long(vae, each)), dim=1)[:, :samples] for each in (z, z + there))
        for name, pair in (("clean", (audio, clean)), ("noisy", (audio, noisy)), ("moved", (clean, noisy))):
            figures[name].append(mel_distance(*pair, rate).item())
    seconds = sum(audio.shape[-1] for audio in excerpts) / rate
    return NoiseResult(len(excerpts), seconds, **{name: bootstrap(values) for name, values in figures.items()})
