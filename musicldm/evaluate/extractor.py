"""Feature extraction: what a piece of audio is described by when sets of sounds are compared.

Shapes: C channels, T samples, D latent channels; audio is [C, T], latents are raw, [D, L], unless called normalised.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from musicldm.codecs.base import Codec
from musicldm.codecs.windows import decode_long, encode_long
from musicldm.core.seeding import derive
from musicldm.evaluate.clap import Clap
from musicldm.evaluate.excerpts import EXCERPT, excerpt_features
from musicldm.evaluate.features import Floats, latent_textures, mel_textures
from musicldm.evaluate.similarity import overlaps
from musicldm.evaluate.sounds import Piece
from musicldm.latents.statistics import LatentStatistics, Moments
from musicldm.media.audio.decode import resample

_PEAK = 0.98  # of full scale: what would clip is scaled down to this, as samples are


@dataclass(frozen=True)
class PieceFeatures:
    """The features of a piece."""

    name: str
    track: str
    seconds: float
    rms: float
    """Of all channels together, 1 being full scale, at the rate of the spectra."""
    vectors: dict[str, Floats]
    """By embedding, [n, F] each."""
    overlaps: dict[str, list[float]]
    """See `similarity.overlaps`."""
    excerpts: Floats
    """See `excerpts.excerpt_features`."""
    latents: Tensor | None
    """In half precision."""


@dataclass(frozen=True)
class FeatureExtractor:
    """Describes pieces by every embedding that is available.

    Latents are a codec's own, so figures by them say nothing across codecs. Those by spectra do, at one rate.
    """

    sample_rate: int
    """Of the pieces."""
    spectra_rate: int
    """At which spectra are compared; at most that of the pieces."""
    codec: Codec | None
    statistics: LatentStatistics | None
    """The scale of its latents; None where there is no codec."""
    clap: Clap | None

    @property
    def embeddings(self) -> dict[str, str]:
        """Name -> what it is."""
        found = {"mel": f"textures of a second, log-mel frames at {self.spectra_rate} Hz"}
        if self.codec is not None:
            which = self.codec.spec.codec_hash[:8]
            found = {"latent": f"textures of a second, normalised latents of the codec {which}"} | found
        found["excerpts"] = f"statistics of the spectra of {EXCERPT:g} s, whatever the level"
        if self.clap is not None:
            found["CLAP"] = f"{self.clap.name}, 10 s each"
        return found

    def __call__(self, piece: Piece) -> PieceFeatures:
        """Describe a piece; its latents are drawn from the posterior, as those of a store are."""
        vectors, latents = {}, piece.latents
        if self.codec is not None and self.statistics is not None:
            latents = _drawn(self.codec, piece) if latents is None else latents
            vectors["latent"] = latent_textures(self.statistics.normalise(latents), self.codec.spec.frame_rate)
        audio = piece.audio
        if self.spectra_rate != self.sample_rate:
            audio = torch.from_numpy(resample(audio.numpy(), self.sample_rate, self.spectra_rate))
        vectors["mel"] = mel_textures(audio, self.spectra_rate)
        if self.clap is not None:
            vectors["CLAP"] = self.clap(piece.audio, self.sample_rate)
        # In half precision, since those of the whole reference wait in memory for the baselines.
        kept = None if latents is None else latents.half()
        return PieceFeatures(
            name=piece.name,
            track=piece.track,
            seconds=piece.audio.shape[1] / self.sample_rate,
            rms=audio.square().mean().sqrt().item(),
            vectors=vectors,
            overlaps=overlaps(audio, self.spectra_rate),
            excerpts=excerpt_features(audio, self.spectra_rate),
            latents=kept,
        )


def _drawn(codec: Codec, piece: Piece) -> Tensor:
    """Latents of a piece as a generator is trained on them, [D, L]; the piece's name is the seed."""
    mean, logvar = _posterior(codec, piece.audio)
    generator = torch.Generator().manual_seed(derive(piece.name))
    return mean + (logvar / 2).exp() * torch.randn(mean.shape, generator=generator)


def _posterior(codec: Codec, audio: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and log-variance of a sound, [D, L] each."""
    means, logvars = zip(*encode_long(codec, lambda a, b: audio[:, a:b], audio.shape[1]), strict=True)
    return torch.cat(means, dim=1), torch.cat(logvars, dim=1)


def decoded(codec: Codec, latents: Tensor, samples: int) -> Tensor:
    """Raw latents [D, L] to a sound [C, samples] that does not clip."""
    audio = torch.cat(list(decode_long(codec, latents.float())), dim=1)[:, :samples]
    return audio * min(1.0, _PEAK / max(_PEAK, audio.abs().max().item()))


def statistics_of(pieces: Iterable[Piece], codec: Codec) -> LatentStatistics:
    """The scale of the latents of music, where neither a store nor a generator states it."""
    moments = Moments.none(codec.spec.channels)
    for piece in pieces:
        moments += Moments.of(*(each.T.numpy() for each in _posterior(codec, piece.audio)))
    return LatentStatistics.from_moments(moments)
