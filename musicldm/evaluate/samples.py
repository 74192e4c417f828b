"""How close samples are to music: sets of sounds against a reference, by metrics that need no pretrained network.

Beside the samples stand baselines, measured in the same way: one half of the reference against the other, which is as
close as music is to itself; the reference through the codec, which a perfect generator would reach; decoded noise with
the mean and standard deviation of the latents, which a generator that has learned nothing would reach; and white noise
at the music's level.

Figures by latents are a codec's own. Across codecs only those by spectra compare: against the same folder of music, by
samples of one length, at one rate of the spectra; beside white noise, since decoded noise differs with the codec.

Shapes: C channels, T samples, D latent channels, L latent frames.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from musicldm.codecs.base import Codec
from musicldm.core.errors import DataError, UsageError
from musicldm.core.progress import Progress, silent
from musicldm.core.seeding import derive
from musicldm.evaluate.clap import Clap
from musicldm.evaluate.extractor import FeatureExtractor, PieceFeatures, decoded, statistics_of
from musicldm.evaluate.figures import Figure, figures_of, self_similarity
from musicldm.evaluate.levels import Level, level
from musicldm.evaluate.note_rates import LEAST, NoteRates, note_rate, rates_of
from musicldm.evaluate.reference import Music, codec_and_scale, music_of_folder, music_of_store, store_at
from musicldm.evaluate.similarity import SHORTEST, WINDOW
from musicldm.evaluate.sounds import Piece, Sound, Splits, files_in, rate_of
from musicldm.evaluate.transcription import Transcriber
from musicldm.latents.statistics import LatentStatistics

PIECES = 200
"""Of the reference, by default."""
SAMPLES, HALF, CODED, NOISE = "samples", "half of the reference", "reference through the codec", "decoded noise"
WHITE = "white noise at the music's level"

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
    notes_per_second: float | None
    """None without a transcriber."""


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
    note_rates: NoteRates | None
    """None without a transcriber."""
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
    transcriber: Transcriber | None = None,
    spectra_rate: int | None = None,
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
        transcriber: count the notes that it hears in the samples, and in held-out music where the reference has some.
        spectra_rate: Hz at which spectra are compared; None: the codec's rate, or without codec that of the reference.
        device: where the codec computes.
        progress: called with sounds.

    Raises:
        DataError: no sample or no reference that can be used.
        MismatchError: the store was made with another codec than the model's.
        BundleError: the model is missing or damaged.
        UsageError: the codec is not of audio, or its rate is below that of the spectra.
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
    extract = FeatureExtractor(rate, _spectra_rate(spectra_rate, rate), codec, scale, clap)
    if reference is None:
        return _without_reference(
            sounds, replace(extract, codec=None, clap=None), transcriber, seconds, left_out, progress
        )

    def music_of(split: Splits, pieces: int) -> Music:
        if store is not None and codec is not None:
            return music_of_store(store, codec, seconds, pieces, split)
        return music_of_folder(Path(reference), rate, channels, seconds, pieces, split, left_out)

    music = music_of(split, pieces)
    if codec is not None and scale is None:
        extract = replace(extract, statistics=statistics_of(music.pieces(_MEASURED), codec))
    played = None if transcriber is None else _heldout(music_of, split, min(pieces, max(LEAST, len(sounds))))
    # Some metrics are biased by the number of sounds, so the baselines made here have as many as there are samples.
    few = min(len(sounds), music.count)
    sets_made = 0 if not baselines else 1 if codec is None else 3
    progress = _counting(progress, music.count + len(sounds) + few * sets_made + (played.count if played else 0))
    theirs = [_reported(extract(piece), progress) for piece in music.pieces(music.count)]
    if not theirs:
        raise DataError(f"No music of {reference} can be used.", "Choose another folder.")
    levels, ours = _measured(sounds, extract, transcriber, left_out, progress)
    sets = [SetResult(SAMPLES, figures_of(ours, theirs))]
    if baselines and len(theirs) > 1:
        sets += _baselines(theirs, extract, round(music.seconds * rate), few, progress)
    return SamplesResult(
        reference=music.words,
        embeddings=extract.embeddings,
        samples=levels,
        sets=tuple(sets),
        note_rates=_note_rates(transcriber, levels, played, rate, progress),
        left_out=left_out,
        notes=tuple(_notes(levels, seconds, has_reference=True, has_codec=codec is not None)),
    )


def _spectra_rate(wanted: int | None, rate: int) -> int:
    """That which is wanted, where the audio has it."""
    if wanted is not None and wanted > rate:
        raise UsageError(
            f"Spectra cannot be compared at {wanted} Hz: the audio has {rate} Hz.",
            "Choose the lowest rate of all codecs that are compared.",
        )
    return wanted or rate


def _without_reference(
    sounds: Sequence[Sound],
    extract: FeatureExtractor,
    transcriber: Transcriber | None,
    seconds: float,
    left_out: dict[str, str],
    progress: Progress,
) -> SamplesResult:
    """Level, self-similarity and the rate of notes alone."""
    progress = _counting(progress, len(sounds))
    levels, ours = _measured(sounds, extract, transcriber, left_out, progress)
    return SamplesResult(
        reference="",
        embeddings={},
        samples=levels,
        sets=(SetResult(SAMPLES, tuple(self_similarity(ours, []))),),
        note_rates=_note_rates(transcriber, levels, None, extract.sample_rate, progress),
        left_out=left_out,
        notes=tuple(_notes(levels, seconds, has_reference=False, has_codec=False)),
    )


def _notes(levels: Sequence[SampleResult], seconds: float, has_reference: bool, has_codec: bool) -> Iterator[str]:
    mute = sum(each.level.is_silent for each in levels)
    if mute:
        which = "All samples are" if mute == len(levels) else f"{mute} of {len(levels)} samples are"
        yield f"{which} silent: their figures say how far silence is from music."
    if len(levels) == 1:
        yield "One sample: there are no intervals, and metrics that need several sounds are left out."
    if seconds < SHORTEST:
        yield f"Samples of {seconds:.3g} s do not contain two windows of {WINDOW:g} s: no self-similarity."
    if not has_reference:
        yield "There is no reference: nothing is compared. Name one with --reference."
    elif not has_codec:
        yield "There is no codec: nothing is compared in latent space. Name one with --model."


# ---- The samples ---------------------------------------------------------------------------------------------------


def _measured(
    sounds: Sequence[Sound],
    extract: FeatureExtractor,
    transcriber: Transcriber | None,
    left_out: dict[str, str],
    progress: Progress,
) -> tuple[tuple[SampleResult, ...], list[PieceFeatures]]:
    """Each file's level, rate of notes and features, one after another."""
    levels, features = [], []
    named = {sound.name: sound for sound in sounds}
    for piece in _whole(sounds, left_out):
        # Clipping and silence are the file's own: mixing its channels and resampling would change both.
        own = named[piece.name].at_own_rate()
        audio = piece.audio if own == named[piece.name] else own.whole()
        notes = None if transcriber is None else note_rate(transcriber, piece.audio, extract.sample_rate)
        levels.append(SampleResult(piece.name, level(audio, own.sample_rate), notes))
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
            left_out[sound.name] = (
                f"It is {audio.shape[1] / sound.sample_rate:.2f} s long; it must be at least a second."
            )
        else:
            yield Piece(sound.name, sound.name, audio)


def _none_usable(sounds: Sequence[Sound]) -> DataError:
    left_out: dict[str, str] = {}
    for _ in _whole(sounds, left_out):
        pass
    name, reason = next(iter(left_out.items()))
    return DataError(f"None of {len(sounds)} samples can be used; {name}: {reason}", "Give music of a second or more.")


# ---- The baselines -------------------------------------------------------------------------------------------------


def _baselines(
    reference: Sequence[PieceFeatures], extract: FeatureExtractor, samples: int, count: int, progress: Progress
) -> Iterator[SetResult]:
    """Four sets, of which two need a codec, against the reference.

    Args:
        samples: of a piece of the reference.
        count: sounds in each set but the first.
    """
    yield SetResult(HALF, figures_of(*_halves(reference)))
    codec, scale = extract.codec, extract.statistics
    some = _spaced(reference, count)
    sounds: dict[str, Iterator[tuple[str, Tensor]]] = {}
    if codec is not None and scale is not None:
        coded = ((each.track, each.latents) for each in some if each.latents is not None)
        sounds[CODED] = ((track, decoded(codec, z, samples)) for track, z in coded)
        noise = enumerate(_noise(codec, scale, samples, count))
        sounds[NOISE] = ((f"{NOISE} {number}", decoded(codec, z, samples)) for number, z in noise)
    channels = 1 if codec is None else codec.spec.media_channels
    # So that the noise has the music's level where spectra are compared, which may be at a lower rate.
    gain = math.sqrt(extract.sample_rate / extract.spectra_rate)
    white = enumerate(_white_noise([gain * each.rms for each in some], channels, samples))
    sounds[WHITE] = ((f"{WHITE} {number}", audio) for number, audio in white)
    for name, pieces in sounds.items():
        features = [
            _reported(extract(Piece(f"{_SEEDS.get(name, name)} {number}", track, each)), progress)
            for number, (track, each) in enumerate(pieces)
        ]
        yield SetResult(name, figures_of(features, reference))


def _halves(features: Sequence[PieceFeatures]) -> tuple[list[PieceFeatures], list[PieceFeatures]]:
    """Tracks in turn into either half, since pieces of one track are not independent; of a single track, its pieces."""
    tracks = {name: number for number, name in enumerate(dict.fromkeys(each.track for each in features))}
    turns = [tracks[each.track] if len(tracks) > 1 else number for number, each in enumerate(features)]
    first, second = ([each for each, turn in zip(features, turns, strict=True) if turn % 2 == side] for side in (0, 1))
    return first, second


def _spaced(features: Sequence[PieceFeatures], count: int) -> list[PieceFeatures]:
    """So many pieces, evenly chosen."""
    return [features[number] for number in np.linspace(0, len(features) - 1, count).round().astype(int)]


def _noise(codec: Codec, statistics: LatentStatistics, samples: int, count: int) -> Iterator[Tensor]:
    """Raw latents that share mean and standard deviation with music's, and nothing else."""
    for number in range(count):
        generator = torch.Generator().manual_seed(derive("noise", number))
        shape = codec.spec.channels, codec.spec.frames(samples)
        yield statistics.denormalise(torch.randn(shape, generator=generator))


def _white_noise(levels: Sequence[float], channels: int, samples: int) -> Iterator[Tensor]:
    """White noise [C, samples] at each of these levels (RMS), its channels independent."""
    for number, rms in enumerate(levels):
        generator = torch.Generator().manual_seed(derive("white noise", number))
        yield rms * torch.randn(channels, samples, generator=generator)


# ---- Notes ---------------------------------------------------------------------------------------------------------


def _heldout(music_of: Callable[[Splits, int], Music], split: Splits, pieces: int) -> Music:
    """So many pieces of held-out tracks, or of whatever the reference is where it has none."""
    try:
        return music_of("heldout", pieces)
    except DataError:
        return music_of(split, pieces)


def _note_rates(
    transcriber: Transcriber | None, samples: Sequence[SampleResult], music: Music | None, rate: int, progress: Progress
) -> NoteRates | None:
    """The samples' rates beside the music's."""
    if transcriber is None:
        return None
    ours = [each.notes_per_second for each in samples if each.notes_per_second is not None]
    theirs = []
    for piece in music.pieces(music.count) if music is not None else ():
        progress(0, None, piece.name)
        theirs.append(note_rate(transcriber, piece.audio, rate))
    return rates_of(transcriber, ours, theirs, "" if music is None else music.words)


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
