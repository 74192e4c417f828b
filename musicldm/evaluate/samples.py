"""How near samples are to music: sets of sounds against a reference, by what is always at hand.

Beside the samples stand yardsticks, measured as they are: one half of the reference against the other, which is as near
as music is to itself; the reference through the VAE, which a perfect denoiser would reach; and decoded noise of the
latents' own mean and spread, which a denoiser that has learnt nothing would.

Shapes: C channels, T samples, D latent channels, L latent frames.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from musicldm import models
from musicldm.codecs.vae.model import VAE
from musicldm.codecs.windows import decode_long, encode_long
from musicldm.core import bundle
from musicldm.core.errors import DataError, UsageError
from musicldm.core.progress import Progress, silent
from musicldm.core.seeding import derive
from musicldm.evaluate.clap import Clap
from musicldm.evaluate.distances import Described, Reference
from musicldm.evaluate.estimates import Estimate, jackknife
from musicldm.evaluate.features import Floats, drawn_latents, latent_textures, mel_textures
from musicldm.evaluate.levels import Level, level
from musicldm.evaluate.similarity import SHORTEST, STATISTICS, WINDOW, likeness, overlaps
from musicldm.evaluate.sounds import (
    Piece,
    Sound,
    Splits,
    evenly,
    files_in,
    is_prepared,
    music_in,
    pieces_of,
    rate_of,
)
from musicldm.latents.codec import header_of, read_codec
from musicldm.latents.statistics import LatentStatistics, Moments
from musicldm.latents.store import LatentStore

PIECES = 200
"""Of the reference, by default."""
SAMPLES, HALF, CODED, NOISE = "samples", "half of the reference", "reference through the VAE", "decoded noise"

_PEAK = 0.98  # of full scale: what would clip is lowered to this, as samples are
_MEASURED = 32  # pieces of the reference that tell the latents' spread, where nothing else does


@dataclass(frozen=True)
class Figure:
    """One number, and all that one must know of it."""

    metric: str
    embedding: str
    """What a sound is described by."""
    estimate: Estimate
    sounds: int
    """N."""
    seconds: float
    """The mean length of these."""
    against: int
    """Sounds of the reference."""


@dataclass(frozen=True)
class SetResult:
    """The figures of one set of sounds."""

    name: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class SampleResult:
    """One file."""

    name: str
    level: Level


@dataclass(frozen=True)
class SamplesResult:
    """What `evaluate samples` found."""

    reference: str
    """What the samples were held against, in words; empty where there was nothing."""
    embeddings: dict[str, str]
    """Name -> what it is."""
    samples: tuple[SampleResult, ...]
    sets: tuple[SetResult, ...]
    """The samples, and then the yardsticks."""
    left_out: dict[str, str]
    """Files that could not be used, and why."""
    notes: tuple[str, ...]
    """What one must know to believe the figures."""

    @property
    def clipped(self) -> tuple[str, ...]:
        """The samples that clip."""
        return tuple(each.name for each in self.samples if each.level.clipped)

    @property
    def silent(self) -> tuple[str, ...]:
        """The samples that hold a second of silence or more."""
        return tuple(each.name for each in self.samples if each.level.silence >= 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"clipped": list(self.clipped), "silent": list(self.silent)}


def evaluate_samples(
    out: Sequence[Path],
    reference: Path | str | None = None,
    model: Path | str | None = None,
    *,
    split: Splits = "train",
    pieces: int = PIECES,
    yardsticks: bool = True,
    clap: Clap | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> SamplesResult:
    """Measure audio files against a reference, taken in pieces as long as they are.

    Args:
        out: files, or folders of files.
        reference: a prepared folder, any folder of audio files, or a latent store, whose latents are decoded. None:
            what can be said without one.
        model: whatever `models.find` takes, with the VAE for distances in latent space; a store brings its own.
        split: which tracks of a prepared folder or a store.
        pieces: of the reference, at most; fewer where they would overlap.
        yardsticks: measure those, too; see the module's head.
        clap: one more embedding.
        device: where the VAE computes.
        progress: called with sounds.

    Raises:
        DataError: no sample or no reference that can be used.
        MismatchError: the store was made with another VAE than the model.
        BundleError: the model is missing or damaged.
    """
    store = _store_at(reference)
    vae, statistics = _vae_of(model, store, device)
    places = [*([Path(reference)] if reference and not store else []), *out]
    rate, channels = (vae.config.sample_rate, vae.config.audio_channels) if vae else (rate_of(places), 1)

    left_out: dict[str, str] = {}
    sounds = files_in(out, rate, channels)
    seconds = float(np.median([length for sound in sounds if (length := sound.seconds) >= 1] or [0.0]))
    if not seconds:
        raise _none_usable(sounds)
    if reference is None:
        levels, ours = _heard(sounds, Ear(rate, None, None, None), left_out, _counting(progress, len(sounds)))
        notes = tuple(_notes(levels, seconds, is_compared=False, has_vae=False))
        figures = tuple(_self_similarity(ours, []))
        return SamplesResult("", {}, levels, (SetResult(SAMPLES, figures),), left_out, notes)

    if store is not None and vae is not None:
        music = _of_store(store, vae, seconds, pieces, split)
    else:
        music = _of_folder(Path(reference), rate, channels, seconds, pieces, split, left_out)
    ear = Ear(rate, vae, statistics or (statistics_of(music.pieces(_MEASURED), vae) if vae else None), clap)
    few = min(len(sounds), music.count)
    progress = _counting(progress, music.count + len(sounds) + (2 * few if vae and yardsticks else 0))
    theirs = [_told(ear.hear(piece), progress) for piece in music.pieces(music.count)]
    if not theirs:
        raise DataError(f"No music of {reference} can be used.", "Name another folder.")
    levels, ours = _heard(sounds, ear, left_out, progress)
    notes = tuple(_notes(levels, seconds, is_compared=True, has_vae=vae is not None))
    sets = [SetResult(SAMPLES, figures_of(ours, theirs))]
    if yardsticks and len(theirs) > 1:
        sets.append(SetResult(HALF, figures_of(*_halves(theirs))))
        if vae is not None and ear.statistics is not None:
            length = round(music.seconds * rate)
            for name, latents in ((CODED, _through(theirs, few)), (NOISE, _noise(vae, ear.statistics, length, few))):
                made = (_decoded(vae, z, length) for z in latents)
                heard = [
                    _told(ear.hear(Piece(f"{name} {number}", f"{name} {number}", audio)), progress)
                    for number, audio in enumerate(made)
                ]
                sets.append(SetResult(name, figures_of(heard, theirs)))
    return SamplesResult(music.words, ear.embeddings, levels, tuple(sets), left_out, notes)


def _notes(levels: Sequence[SampleResult], seconds: float, is_compared: bool, has_vae: bool) -> Iterator[str]:
    mute = sum(each.level.is_silent for each in levels)
    if mute:
        which = "All samples are" if mute == len(levels) else f"{mute} of {len(levels)} samples are"
        yield f"{which} silent: what is said of them is how far silence is from music."
    if len(levels) == 1:
        yield "One sample: there is no interval, and what takes several sounds is left out."
    if seconds < SHORTEST:
        yield f"Samples of {seconds:.3g} s have no two windows of {WINDOW:g} s: no self-similarity."
    if not is_compared:
        yield "There is no reference: nothing is compared. Name one with --reference."
    elif not has_vae:
        yield "There is no VAE: nothing is compared in latent space. Name one with --model."


# ---- What comes in -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Music:
    """A reference, in pieces of one length."""

    words: str
    seconds: float
    """Of a piece."""
    count: int
    pieces: Callable[[int], Iterator[Piece]]
    """So many of them, evenly."""


def _of_folder(
    folder: Path, rate: int, channels: int, seconds: float, pieces: int, split: Splits, left_out: dict[str, str]
) -> _Music:
    sounds = music_in(folder, rate, channels, split)
    lengths = [sound.seconds for sound in sounds]
    seconds = _length(lengths, seconds, folder)
    count = len(evenly(lengths, seconds, pieces))
    which = f"{split} tracks" if is_prepared(folder) else "all files"
    return _Music(
        words=f"{folder}, {which}: {count} pieces of {seconds:.3g} s",
        seconds=seconds,
        count=count,
        pieces=lambda some: pieces_of(sounds, lengths, seconds, some, left_out),
    )


def _of_store(store: LatentStore, vae: VAE, seconds: float, pieces: int, split: Splits) -> _Music:
    entries = [entry for entry in store.tracks if split in (entry.split, "all")]
    if not entries:
        raise DataError(f"{store.path} has no track of the split {split}.", "Such as --split all.")
    rate, statistics = store.header.frame_rate, store.statistics()
    lengths = [entry.frames / rate for entry in entries]
    seconds = _length(lengths, seconds, store.path)
    frames = max(1, int(seconds * rate + 1e-6))

    def decoded(some: int) -> Iterator[Piece]:
        for number, start in evenly(lengths, seconds, some):
            entry = entries[number]
            first = min(int(start * rate), entry.frames - frames)
            raw = statistics.denormalise(drawn_latents(store, statistics, entry, first, first + frames))
            audio = _decoded(vae, raw, frames * store.header.hop)
            yield Piece(f"{entry.name} {first}", entry.name, audio, raw)

    count = len(evenly(lengths, seconds, pieces))
    words = f"{store.path}, {split} tracks, decoded: {count} pieces of {seconds:.3g} s"
    return _Music(words, seconds, count, decoded)


def _length(lengths: Sequence[float], wanted: float, place: Path) -> float:
    """As long as the samples; where no music is so long, as the longest."""
    length = min(wanted, max(lengths, default=0.0))
    if length < 1:
        raise DataError(f"There is not a second of music in {place}.", "Name longer music.")
    return length


def _store_at(reference: Path | str | None) -> LatentStore | None:
    """The latent store that a reference is, where it is one."""
    if reference is None:
        return None
    if not str(reference):
        raise UsageError("The reference has no name.", "Name a folder of music, or a latent store.")
    if "://" not in str(reference):
        if not Path(reference).exists():
            raise DataError(f"There is nothing at {reference}.", "Name a folder of music, or a latent store.")
        if is_prepared(Path(reference)) or not LatentStore.exists(reference):
            return None
    return LatentStore.open(reference)


def _vae_of(
    model: Path | str | None, store: LatentStore | None, device: torch.device | str
) -> tuple[VAE | None, LatentStatistics | None]:
    """The VAE and the scale of its latents, as far as model and store tell them."""
    vae, statistics = None, None
    if model is not None:
        source = bundle.read(models.find(model))
        vae = VAE.from_bundle(source).to(device)
        if "generator" in source.components:
            statistics = LatentStatistics.from_dict(source.component("generator").config["statistics"])
    if store is not None:
        if vae is None:
            vae = VAE.from_bundle(read_codec(store)).to(device)
        store.require(header_of(vae))
        statistics = statistics or store.statistics()
    return vae, statistics


def _none_usable(sounds: Sequence[Sound]) -> DataError:
    left_out: dict[str, str] = {}
    for _ in _whole(sounds, left_out):
        pass
    name, reason = next(iter(left_out.items()))
    return DataError(f"None of {len(sounds)} samples can be used; {name}: {reason}", "Name music of a second or more.")


def _whole(sounds: Iterable[Sound], left_out: dict[str, str]) -> Iterator[Piece]:
    """All of each file; what cannot be used goes into `left_out`."""
    for sound in sounds:
        try:
            audio = sound.whole()
        except DataError as error:
            left_out[sound.name] = error.message
            continue
        if audio.shape[1] < sound.sample_rate:
            left_out[sound.name] = f"It is {audio.shape[1] / sound.sample_rate:.2f} s long; a second is the least."
        else:
            yield Piece(sound.name, sound.name, audio)


# ---- What is made of it --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    """A piece, described."""

    name: str
    track: str
    seconds: float
    vectors: dict[str, Floats]
    """By embedding, [n, F] each."""
    overlaps: dict[str, list[float]]
    latents: Tensor | None
    """Raw, [D, L] in half precision."""


@dataclass(frozen=True)
class Ear:
    """What describes pieces: by all embeddings that can be had."""

    sample_rate: int
    vae: VAE | None
    statistics: LatentStatistics | None
    clap: Clap | None

    @property
    def embeddings(self) -> dict[str, str]:
        """Name -> what it is."""
        found = {"mel": f"textures of a second, log-mel frames at {self.sample_rate} Hz"}
        if self.vae is not None:
            found = {
                "latent": f"textures of a second, normalised latents of the VAE {self.vae.weights_hash[:8]}"
            } | found
        if self.clap is not None:
            found["CLAP"] = f"{self.clap.name}, 10 s each"
        return found

    def hear(self, piece: Piece) -> Heard:
        """Describe a piece; its latents are drawn from the posterior, as those of a store are."""
        vectors, latents = {}, piece.latents
        if self.vae is not None and self.statistics is not None:
            latents = _drawn(self.vae, piece) if latents is None else latents
            vectors["latent"] = latent_textures(self.statistics.normalise(latents), self.vae.config.frame_rate)
        vectors["mel"] = mel_textures(piece.audio, self.sample_rate)
        if self.clap is not None:
            vectors["CLAP"] = self.clap(piece.audio, self.sample_rate)
        kept = None if latents is None else latents.half()
        seconds = piece.audio.shape[1] / self.sample_rate
        return Heard(piece.name, piece.track, seconds, vectors, overlaps(piece.audio, self.sample_rate), kept)


def _heard(
    sounds: Sequence[Sound], ear: Ear, left_out: dict[str, str], progress: Progress
) -> tuple[tuple[SampleResult, ...], list[Heard]]:
    """Each file's level and description, one after another."""
    levels, heard = [], []
    named = {sound.name: sound for sound in sounds}
    for piece in _whole(sounds, left_out):
        # Clipping and silence are the file's own: neither is what it was once channels are mixed and resampled.
        own = named[piece.name].as_it_is()
        audio = piece.audio if own == named[piece.name] else own.whole()
        levels.append(SampleResult(piece.name, level(audio, own.sample_rate)))
        heard.append(_told(ear.hear(piece), progress))
    if not heard:
        raise _none_usable(sounds)
    return tuple(levels), heard


def _posterior(vae: VAE, audio: Tensor) -> tuple[Tensor, Tensor]:
    """A sound [C, T] to mean and log-variance, raw, [D, L] each."""
    means, logvars = zip(*encode_long(vae, lambda a, b: audio[:, a:b], audio.shape[1]), strict=True)
    return torch.cat(means, dim=1), torch.cat(logvars, dim=1)


def _drawn(vae: VAE, piece: Piece) -> Tensor:
    """Raw latents of a piece as a denoiser is trained on them, [D, L]; its name is the seed."""
    mean, logvar = _posterior(vae, piece.audio)
    generator = torch.Generator().manual_seed(derive(piece.name))
    return mean + (logvar / 2).exp() * torch.randn(mean.shape, generator=generator)


def _decoded(vae: VAE, latents: Tensor, samples: int) -> Tensor:
    """Raw latents [D, L] to a sound [C, samples] that does not clip."""
    audio = torch.cat(list(decode_long(vae, latents.float())), dim=1)[:, :samples]
    return audio * min(1.0, _PEAK / max(_PEAK, audio.abs().max().item()))


def statistics_of(pieces: Iterable[Piece], vae: VAE) -> LatentStatistics:
    """The spread of the latents of music, where neither a store nor a denoiser tells it."""
    moments = Moments.none(vae.config.latent_channels)
    for piece in pieces:
        moments += Moments.of(*(each.T.numpy() for each in _posterior(vae, piece.audio)))
    return LatentStatistics.from_moments(moments)


def _through(heard: Sequence[Heard], count: int) -> Iterator[Tensor]:
    """The latents of so many pieces, evenly."""
    for number in np.linspace(0, len(heard) - 1, count).round().astype(int):
        if (latents := heard[number].latents) is not None:
            yield latents


def _noise(vae: VAE, statistics: LatentStatistics, samples: int, count: int) -> Iterator[Tensor]:
    """Raw latents with the mean and spread of music's, and nothing else of it."""
    shape = vae.config.latent_channels, -(-samples // vae.config.hop)
    for number in range(count):
        generator = torch.Generator().manual_seed(derive("noise", number))
        yield statistics.denormalise(torch.randn(shape, generator=generator))


def _halves(heard: Sequence[Heard]) -> tuple[list[Heard], list[Heard]]:
    """Tracks by turns into either half; of a single one, its pieces."""
    tracks = {name: number for number, name in enumerate(dict.fromkeys(each.track for each in heard))}
    turns = [tracks[each.track] if len(tracks) > 1 else number for number, each in enumerate(heard)]
    first, second = ([each for each, turn in zip(heard, turns, strict=True) if turn % 2 == side] for side in (0, 1))
    return first, second


# ---- Figures -------------------------------------------------------------------------------------------------------


def figures_of(those: Sequence[Heard], theirs: Sequence[Heard]) -> tuple[Figure, ...]:
    """All figures of a set of sounds against others, described by the same `Ear`; of either at least one."""
    figures: list[Figure] = []
    for name in theirs[0].vectors:
        ours, music = ([each for each in some if len(each.vectors[name])] for some in (those, theirs))
        reference = Reference(_as_described(music, name))
        described = _as_described(ours, name)
        density, coverage = reference.density_and_coverage(described)
        for metric, estimate in {
            "frechet": reference.frechet(described),
            "frechet_infinity": reference.frechet_at_infinity(described),
            "mmd": reference.mmd(described),
            "density": density,
            "coverage": coverage,
        }.items():
            figures.append(_figure(metric, name, estimate, ours, music))
    return *figures, *_self_similarity(those, theirs)


def _self_similarity(those: Sequence[Heard], theirs: Sequence[Heard]) -> list[Figure]:
    figures = []
    for name in STATISTICS:
        ours, music = ([each for each in some if each.overlaps[name]] for some in (those, theirs))
        wanted = [value for each in music for value in each.overlaps[name]]
        metrics: dict[str, Callable[[list[float]], float | None]] = {"overlap": lambda values: float(np.mean(values))}
        if theirs:
            metrics["consistency"] = lambda values, wanted=wanted: likeness(values, wanted).consistency  # type: ignore[misc]
            metrics["variance"] = lambda values, wanted=wanted: likeness(values, wanted).variance  # type: ignore[misc]
        for metric, of in metrics.items():
            figures.append(_figure(metric, name, _over_sounds(ours, name, of), ours, music))
    return figures


def _over_sounds(heard: Sequence[Heard], name: str, of: Callable[[list[float]], float | None]) -> Estimate:
    """A figure of the overlaps of all sounds."""

    def figure(chosen: Sequence[int]) -> float:
        found = of([value for i in chosen for value in heard[i].overlaps[name]])
        return float("nan") if found is None else found

    if not heard or np.isnan(figure(range(len(heard)))):
        return Estimate(None, note="too short" if not heard else "nothing varies")
    return jackknife(len(heard), figure).bounded(0, 1)


def _as_described(heard: Sequence[Heard], name: str) -> Described:
    return Described([each.vectors[name] for each in heard], [each.track for each in heard])


def _figure(metric: str, embedding: str, estimate: Estimate, those: Sequence[Heard], theirs: Sequence[Heard]) -> Figure:
    seconds = float(np.mean([each.seconds for each in those])) if those else 0.0
    return Figure(metric, embedding, estimate, len(those), seconds, len(theirs))


def _counting(progress: Progress, whole: int) -> Progress:
    """Counts the calls."""
    numbers = itertools.count(1)

    def report(done: float, total: float | None, text: str = "") -> None:
        progress(next(numbers), whole, text)

    return report


def _told(heard: Heard, progress: Progress) -> Heard:
    progress(0, None, heard.name)
    return heard
