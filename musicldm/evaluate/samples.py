"""How close samples are to music: sets of sounds against a reference, by metrics that need no pretrained network.

Beside the samples stand baselines, measured in the same way: one half of the reference against the other, which is as
close as music is to itself; the reference through the codec, which a perfect generator would reach; and decoded noise
with the mean and standard deviation of the latents, which a generator that has learned nothing would reach.

Shapes: C channels, T samples, D latent channels, L latent frames.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from musicldm.codecs.base import Codec
from musicldm.core.errors import DataError
from musicldm.core.progress import Progress, silent
from musicldm.core.seeding import derive
from musicldm.evaluate.clap import Clap
from musicldm.evaluate.extractor import FeatureExtractor, PieceFeatures, decoded, statistics_of
from musicldm.evaluate.figures import Figure, figures_of, self_similarity
from musicldm.evaluate.levels import Level, level
from musicldm.evaluate.reference import codec_and_scale, music_of_folder, music_of_store, store_at
from musicldm.evaluate.similarity import SHORTEST, WINDOW
from musicldm.evaluate.sounds import Piece, Sound, Splits, files_in, rate_of
from musicldm.latents.statistics import LatentStatistics

PIECES = 200
"""Of the reference, by default."""
SAMPLES, HALF, CODED, NOISE = "samples", "half of the reference", "reference through the codec", "decoded noise"

# By these names, which seed their draws from the posterior: those of release 0.1, whose figures thus stay comparable.
_SEEDS = {CODED: "reference through the VAE", NOISE: "decoded noise"}
_MEASURED = 32  # pieces of the reference by which the latents' scale is estimated, where nothing states it


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
    """What the samples were compared with, in words; empty where there was nothing."""
    embeddings: dict[str, str]
    """Name -> what it is."""
    samples: tuple[SampleResult, ...]
    sets: tuple[SetResult, ...]
    """The samples, and then the baselines."""
    left_out: dict[str, str]
    """Files that could not be used, and why."""
    notes: tuple[str, ...]
    """Reservations about the figures."""

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
    baselines: bool = True,
    clap: Clap | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> SamplesResult:
    """Measure audio files against a reference, taken in pieces as long as they are.

    Args:
        out: files, or folders of files.
        reference: a prepared folder, any folder of audio files, or a latent store, whose latents are decoded. None:
            only what needs no reference is measured.
        model: whatever `models.find` takes, with the codec for distances in latent space; a store brings its own.
        split: which tracks of a prepared folder or a store.
        pieces: of the reference, at most; fewer where they would overlap.
        baselines: measure these, too; see the module's head.
        clap: one more embedding.
        device: where the codec computes.
        progress: called with sounds.

    Raises:
        DataError: no sample or no reference that can be used.
        MismatchError: the store was made with another codec than the model's.
        BundleError: the model is missing or damaged.
        UsageError: the codec is not of audio.
    """
    store = store_at(reference)
    codec, scale = codec_and_scale(model, store, device)
    places = [*([Path(reference)] if reference and not store else []), *out]
    rate, channels = (codec.spec.rate, codec.spec.media_channels) if codec else (rate_of(places), 1)

    left_out: dict[str, str] = {}
    sounds = files_in(out, rate, channels)
    # The median, so that one very short or very long file does not decide how the reference is cut.
    seconds = float(np.median([length for sound in sounds if (length := sound.seconds) >= 1] or [0.0]))
    if not seconds:
        raise _none_usable(sounds)
    if reference is None:
        return _without_reference(sounds, rate, seconds, left_out, progress)

    if store is not None and codec is not None:
        music = music_of_store(store, codec, seconds, pieces, split)
    else:
        music = music_of_folder(Path(reference), rate, channels, seconds, pieces, split, left_out)
    if codec is not None and scale is None:
        scale = statistics_of(music.pieces(_MEASURED), codec)
    extract = FeatureExtractor(rate, codec, scale, clap)
    # Some metrics are biased by the number of sounds, so the baselines made here have as many as there are samples.
    few = min(len(sounds), music.count)
    progress = _counting(progress, music.count + len(sounds) + (2 * few if codec and baselines else 0))
    theirs = [_reported(extract(piece), progress) for piece in music.pieces(music.count)]
    if not theirs:
        raise DataError(f"No music of {reference} can be used.", "Name another folder.")
    levels, ours = _measured(sounds, extract, left_out, progress)
    sets = [SetResult(SAMPLES, figures_of(ours, theirs))]
    if baselines and len(theirs) > 1:
        sets += _baselines(theirs, extract, round(music.seconds * rate), few, progress)
    notes = tuple(_notes(levels, seconds, has_reference=True, has_codec=codec is not None))
    return SamplesResult(music.words, extract.embeddings, levels, tuple(sets), left_out, notes)


def _without_reference(
    sounds: Sequence[Sound], rate: int, seconds: float, left_out: dict[str, str], progress: Progress
) -> SamplesResult:
    """Level and self-similarity alone."""
    extract = FeatureExtractor(rate, None, None, None)
    levels, ours = _measured(sounds, extract, left_out, _counting(progress, len(sounds)))
    notes = tuple(_notes(levels, seconds, has_reference=False, has_codec=False))
    figures = tuple(self_similarity(ours, []))
    return SamplesResult("", {}, levels, (SetResult(SAMPLES, figures),), left_out, notes)


def _notes(levels: Sequence[SampleResult], seconds: float, has_reference: bool, has_codec: bool) -> Iterator[str]:
    mute = sum(each.level.is_silent for each in levels)
    if mute:
        which = "All samples are" if mute == len(levels) else f"{mute} of {len(levels)} samples are"
        yield f"{which} silent: their figures say how far silence is from music."
    if len(levels) == 1:
        yield "One sample: there are no intervals, and metrics that need several sounds are left out."
    if seconds < SHORTEST:
        yield f"Samples of {seconds:.3g} s have no two windows of {WINDOW:g} s: no self-similarity."
    if not has_reference:
        yield "There is no reference: nothing is compared. Name one with --reference."
    elif not has_codec:
        yield "There is no codec: nothing is compared in latent space. Name one with --model."


# ---- The samples ---------------------------------------------------------------------------------------------------


def _measured(
    sounds: Sequence[Sound], extract: FeatureExtractor, left_out: dict[str, str], progress: Progress
) -> tuple[tuple[SampleResult, ...], list[PieceFeatures]]:
    """Each file's level and features, one after another."""
    levels, features = [], []
    named = {sound.name: sound for sound in sounds}
    for piece in _whole(sounds, left_out):
        # Clipping and silence are the file's own: mixing its channels and resampling would change both.
        own = named[piece.name].at_own_rate()
        audio = piece.audio if own == named[piece.name] else own.whole()
        levels.append(SampleResult(piece.name, level(audio, own.sample_rate)))
        features.append(_reported(extract(piece), progress))
    if not features:
        raise _none_usable(sounds)
    return tuple(levels), features


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


def _none_usable(sounds: Sequence[Sound]) -> DataError:
    left_out: dict[str, str] = {}
    for _ in _whole(sounds, left_out):
        pass
    name, reason = next(iter(left_out.items()))
    return DataError(f"None of {len(sounds)} samples can be used; {name}: {reason}", "Name music of a second or more.")


# ---- The baselines -------------------------------------------------------------------------------------------------


def _baselines(
    reference: Sequence[PieceFeatures], extract: FeatureExtractor, samples: int, count: int, progress: Progress
) -> Iterator[SetResult]:
    """Three sets, of which the last two need a codec, against the reference.

    Args:
        samples: of a piece of the reference.
        count: sounds in either of the last two sets.
    """
    yield SetResult(HALF, figures_of(*_halves(reference)))
    codec, scale = extract.codec, extract.statistics
    if codec is None or scale is None:
        return
    for name, sources in ((CODED, _spaced(reference, count)), (NOISE, _noise(codec, scale, samples, count))):
        audio = ((track, decoded(codec, z, samples)) for track, z in sources)
        features = [
            _reported(extract(Piece(f"{_SEEDS[name]} {number}", track, each)), progress)
            for number, (track, each) in enumerate(audio)
        ]
        yield SetResult(name, figures_of(features, reference))


def _halves(features: Sequence[PieceFeatures]) -> tuple[list[PieceFeatures], list[PieceFeatures]]:
    """Tracks in turn into either half, since pieces of one track are not independent; of a single track, its pieces."""
    tracks = {name: number for number, name in enumerate(dict.fromkeys(each.track for each in features))}
    turns = [tracks[each.track] if len(tracks) > 1 else number for number, each in enumerate(features)]
    first, second = ([each for each, turn in zip(features, turns, strict=True) if turn % 2 == side] for side in (0, 1))
    return first, second


def _spaced(features: Sequence[PieceFeatures], count: int) -> Iterator[tuple[str, Tensor]]:
    """The track and the latents of so many pieces, evenly chosen."""
    for number in np.linspace(0, len(features) - 1, count).round().astype(int):
        if (latents := features[number].latents) is not None:
            yield features[number].track, latents


def _noise(codec: Codec, statistics: LatentStatistics, samples: int, count: int) -> Iterator[tuple[str, Tensor]]:
    """Raw latents that share mean and standard deviation with music's, and nothing else; each a track of its own."""
    for number in range(count):
        generator = torch.Generator().manual_seed(derive("noise", number))
        shape = codec.spec.channels, codec.spec.frames(samples)
        yield f"{NOISE} {number}", statistics.denormalise(torch.randn(shape, generator=generator))


# ---- Progress ------------------------------------------------------------------------------------------------------


def _counting(progress: Progress, whole: int) -> Progress:
    """A progress that counts its calls."""
    numbers = itertools.count(1)

    def report(done: float, total: float | None, text: str = "") -> None:
        progress(next(numbers), whole, text)

    return report


def _reported(features: PieceFeatures, progress: Progress) -> PieceFeatures:
    progress(0, None, features.name)
    return features
