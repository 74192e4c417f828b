"""How good is a codec: its reconstructions of music that it has not seen, and the statistics of its latents.

Shapes: C channels, T samples, D latent channels, L latent frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from musicldm.codecs.base import Codec
from musicldm.codecs.posterior import DiagonalGaussian
from musicldm.codecs.windows import Reader, decode_long, decode_pieces, encode_long, reconstruct
from musicldm.core.errors import DataError
from musicldm.core.progress import Progress, silent
from musicldm.core.seeding import derive
from musicldm.evaluate.estimates import Estimate, bootstrap
from musicldm.evaluate.metrics import Comparison, Reconstruction, mel_distance
from musicldm.evaluate.notes import OnsetScore, onset_score
from musicldm.evaluate.sounds import Sound, Splits, is_prepared, music_in, require_audio
from musicldm.evaluate.transcription import Transcriber, transcribe_audio
from musicldm.latents.statistics import LatentStatistics, Moments
from musicldm.media.audio.loudness import LoudnessMeter

NOISE = 0.1
"""In standard deviations of a channel: what is added to latents to see how well decoding tolerates it."""
DEAD = 0.01
"""An inactive channel is one whose posterior's mean varies by less than this (Burda, Grosse & Salakhutdinov 2016)."""

NOTE_SECONDS = 30.0
"""From the middle of each track, in which notes are compared: transcribing takes as long as playing."""

_WINDOW_SECONDS = 30.0
_EXCERPTS, _EXCERPT_SECONDS = 32, 10.0  # on which the noise is tried; they are held in memory
_FIGURES = "mel", "mel_to_silence", "stft", "si_sdr", "l1", "l1_of_silence", "l1_to_silence"


@dataclass(frozen=True)
class TrackResult:
    """How well one track was reconstructed."""

    name: str
    figures: Reconstruction
    loudness: float | None
    """LU by which the reconstruction is louder; None where either is below the meter's gate."""
    notes: OnsetScore | None
    """The notes of the original that are heard in the reconstruction, over `NOTE_SECONDS`; None without transcriber."""


@dataclass(frozen=True)
class ChannelResult:
    """One latent channel over all tracks."""

    channel: int
    kl: float
    """Of the posterior to N(0, 1), in nats per element."""
    std: float
    """Of the latents that a generator would be trained on: drawn from the posterior, not its mean."""
    used: float
    """The variance of the posterior's mean as a fraction of all variance."""
    is_dead: bool
    """See `DEAD`."""


@dataclass(frozen=True)
class NoiseResult:
    """How well decoding tolerates noise of `NOISE` standard deviations: mel distances over excerpts."""

    excerpts: int
    seconds: float
    clean: Estimate
    """From the original to the plain reconstruction."""
    noisy: Estimate
    """From the original to the noisy one."""
    moved: Estimate
    """From the plain reconstruction to the noisy one."""


@dataclass(frozen=True)
class CodecResult:
    """What `evaluate vae` found."""

    codec: str
    codec_hash: str
    data: str
    """What it was measured on."""
    keeps_phase: bool
    """See `Codec.keeps_phase`; where it is not, the metrics that compare sample by sample are None."""
    transcriber: str | None
    """By which notes were compared."""
    relative_size: float
    """Elements of the latents for each element of the waveform."""
    seconds: float
    """Of all tracks."""
    overall: dict[str, Estimate]
    """Means over tracks, with equal weights, of the metrics of `Reconstruction`, of the magnitude of `loudness`, and of
    the F1, precision and recall of note onsets."""
    tracks: tuple[TrackResult, ...]
    channels: tuple[ChannelResult, ...]
    noise: NoiseResult
    left_out: dict[str, str]
    """Tracks that could not be used, and why."""

    @property
    def dead(self) -> tuple[int, ...]:
        """The channels that carry no information."""
        return tuple(each.channel for each in self.channels if each.is_dead)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"dead": list(self.dead)}


def evaluate_codec(
    codec: Codec,
    data: Path,
    split: Splits = "heldout",
    progress: Progress = silent,
    transcriber: Transcriber | None = None,
) -> CodecResult:
    """Take every track of `data` through the codec and back by the posterior's mode, in bounded memory.

    Args:
        data: a prepared folder, or any folder of audio files, which are all taken and resampled to the codec's rate.
        split: which tracks of a prepared folder.
        transcriber: compare the notes that it hears in originals and reconstructions.

    Raises:
        DataError: there is nothing to measure it on, or what it decodes is not finite.
        UsageError: the codec is not of audio.
    """
    require_audio(codec)
    spec = codec.spec
    sounds = music_in(data, spec.rate, spec.media_channels, split)
    tracks, left_out, excerpts = [], {}, []
    latents = _Latents(spec.channels)
    # Spread over all tracks, which may be sorted by artist.
    every = -(-len(sounds) // _EXCERPTS)
    for number, sound in enumerate(sounds):
        progress(number, len(sounds), sound.name)
        try:
            with sound.opened() as (samples, read):
                track = _track(codec, sound, samples, read, latents)
                if transcriber is not None:
                    middle = _middle(read, samples, round(NOTE_SECONDS * spec.rate))
                    track = replace(track, notes=_notes(codec, transcriber, middle))
                tracks.append(track)
                if number % every == 0:
                    excerpts.append(_middle(read, samples, round(_EXCERPT_SECONDS * spec.rate)))
        except DataError as error:
            left_out[sound.name] = error.message
    if not tracks:
        name, reason = next(iter(left_out.items()))
        raise DataError(f"No track of {data} can be used; {name}: {reason}", "See --split, or name another folder.")
    return CodecResult(
        codec=codec.name,
        codec_hash=spec.codec_hash,
        data=f"{data}, {split} tracks" if is_prepared(data) else str(data),
        keeps_phase=codec.keeps_phase,
        transcriber=None if transcriber is None else transcriber.name,
        relative_size=1 / spec.compression,
        seconds=sum(track.figures.seconds for track in tracks),
        overall=_overall(tracks),
        tracks=tuple(tracks),
        channels=latents.channels(),
        noise=_noise(codec, excerpts, latents.statistics()),
        left_out=left_out,
    )


def _track(codec: Codec, sound: Sound, samples: int, read: Reader, latents: _Latents) -> TrackResult:
    """One track through the codec and back; its posterior is added to `latents`."""
    spec = codec.spec
    comparison, done = Comparison(spec.rate, keeps_phase=codec.keeps_phase), 0
    meters = [LoudnessMeter(spec.rate, spec.media_channels) for _ in range(2)]
    window = round(_WINDOW_SECONDS * spec.frame_rate)
    means = latents.through(encode_long(codec, read, samples, window))
    for piece in decode_pieces(codec, means, spec.frames(samples), window):
        # The last frame decodes to more than the track has.
        made = piece[:, : samples - done]
        if not made.isfinite().all():
            raise DataError("Its reconstruction is not finite.", "Use another codec.")
        original = read(done, done + made.shape[-1])
        comparison.add(original, made)
        for meter, audio in zip(meters, (original, made), strict=True):
            meter.add(audio.numpy())
        done += made.shape[-1]
    before, after = (meter.integrated() for meter in meters)
    loudness = None if before is None or after is None else after - before
    return TrackResult(sound.name, comparison.result(), loudness, None)


def _middle(read: Reader, samples: int, length: int) -> Tensor:
    """At most so many samples from the middle of a track, since many begin and end in silence."""
    length = min(samples, length)
    first = (samples - length) // 2
    return read(first, first + length)


def _notes(codec: Codec, transcriber: Transcriber, audio: Tensor) -> OnsetScore:
    """How many notes of an excerpt are heard in its reconstruction."""
    made, rate = reconstruct(codec, audio), codec.spec.rate
    return onset_score(transcribe_audio(transcriber, audio, rate), transcribe_audio(transcriber, made, rate))


def _overall(tracks: list[TrackResult]) -> dict[str, Estimate]:
    overall = {name: bootstrap([getattr(track.figures, name) for track in tracks]) for name in _FIGURES}
    overall["loudness"] = bootstrap([t.loudness if t.loudness is None else abs(t.loudness) for t in tracks])
    for name in ("f1", "precision", "recall"):
        overall[f"onset_{name}"] = bootstrap([getattr(t.notes, name) if t.notes else None for t in tracks])
    return overall


class _Latents:
    """Sums over the posteriors of all tracks."""

    def __init__(self, channels: int) -> None:
        self._moments = Moments.none(channels)
        self._kl = torch.zeros(channels, dtype=torch.float64)

    def through(self, pieces: Iterator[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
        """Pass the means on, [D, l], having added mean and variance."""
        for mean, logvar in pieces:
            self._moments += Moments.of(mean.T.numpy(), logvar.T.numpy())
            self._kl += DiagonalGaussian(mean[None], logvar[None]).kl_per_element()[0].double().sum(dim=1)
            yield mean

    def statistics(self) -> LatentStatistics:
        return LatentStatistics.from_moments(self._moments)

    def channels(self) -> tuple[ChannelResult, ...]:
        count = self._moments.count
        of_mean, of_posterior = self._moments.squares / count, self._moments.variances / count
        stds = self.statistics().std
        return tuple(
            ChannelResult(
                channel=channel,
                kl=float(self._kl[channel]) / count,
                std=stds[channel],
                used=float(of_mean[channel] / max(of_mean[channel] + of_posterior[channel], 1e-30)),
                is_dead=bool(of_mean[channel] < DEAD),
            )
            for channel in range(len(of_mean))
        )


def _noise(codec: Codec, excerpts: list[Tensor], statistics: LatentStatistics) -> NoiseResult:
    """Decode excerpts with noise and without."""
    rate = codec.spec.rate
    figures: dict[str, list[float | None]] = {"clean": [], "noisy": [], "moved": []}
    std = torch.tensor(statistics.std)[:, None]
    for number, audio in enumerate(excerpts):
        samples = audio.shape[-1]
        pieces = encode_long(codec, lambda a, b, audio=audio: audio[:, a:b], samples)  # type: ignore[misc]
        z = torch.cat([mean for mean, _ in pieces], dim=1)
        generator = torch.Generator().manual_seed(derive("noise", number))
        noise = NOISE * std * torch.randn(z.shape, generator=generator)
        clean, noisy = (torch.cat(list(decode_long(codec, each)), dim=1)[:, :samples] for each in (z, z + noise))
        for name, pair in (("clean", (audio, clean)), ("noisy", (audio, noisy)), ("moved", (clean, noisy))):
            figures[name].append(mel_distance(*pair, rate).item())
    seconds = sum(audio.shape[-1] for audio in excerpts) / rate
    return NoiseResult(len(excerpts), seconds, **{name: bootstrap(values) for name, values in figures.items()})
