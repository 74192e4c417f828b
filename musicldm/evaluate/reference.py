"""The reference of `evaluate samples`: music of a folder or of a latent store, in pieces as long as the samples.

Shapes: C channels, T samples, D latent channels, L latent frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from musicldm import models
from musicldm.codecs.base import Codec, codec_of
from musicldm.core import bundle
from musicldm.core.errors import DataError, UsageError
from musicldm.evaluate.extractor import decoded
from musicldm.evaluate.features import drawn_latents
from musicldm.evaluate.sounds import Piece, Splits, evenly, is_prepared, music_in, pieces_of, require_audio
from musicldm.evaluate.stores import codec_for
from musicldm.latents.statistics import GeneratorLatents, LatentStatistics
from musicldm.latents.store import LatentStore


@dataclass(frozen=True)
class Music:
    """A reference, in pieces of one length."""

    words: str
    """What it is, for people."""
    seconds: float
    """Of a piece."""
    count: int
    pieces: Callable[[int], Iterator[Piece]]
    """So many of them, evenly chosen."""


def music_of_folder(
    folder: Path, rate: int, channels: int, seconds: float, pieces: int, split: Splits, left_out: dict[str, str]
) -> Music:
    """Pieces of about so many seconds of the tracks of a folder.

    Raises:
        DataError: there is no music in it, none in that split, or none of a second.
    """
    sounds = music_in(folder, rate, channels, split)
    lengths = [sound.seconds for sound in sounds]
    seconds = _length(lengths, seconds, folder)
    count = len(evenly(lengths, seconds, pieces))
    which = f"{split} tracks" if is_prepared(folder) else "all files"
    return Music(
        words=f"{folder}, {which}: {count} pieces of {seconds:.3g} s",
        seconds=seconds,
        count=count,
        pieces=lambda some: pieces_of(sounds, lengths, seconds, some, left_out),
    )


def music_of_store(store: LatentStore, codec: Codec, seconds: float, pieces: int, split: Splits) -> Music:
    """Pieces of about so many seconds of the tracks of a store, decoded; raises as `music_of_folder` does."""
    entries = [entry for entry in store.tracks if split in (entry.split, "all")]
    if not entries:
        raise DataError(f"{store.path} has no track of the split {split}.", "Choose another, or --split all.")
    rate, statistics = codec.spec.frame_rate, store.statistics()
    lengths = [entry.frames / rate for entry in entries]
    seconds = _length(lengths, seconds, store.path)
    # Rounded down, or a piece might be longer than its track.
    frames = max(1, int(seconds * rate + 1e-6))

    def stored(some: int) -> Iterator[Piece]:
        for number, start in evenly(lengths, seconds, some):
            entry = entries[number]
            first = min(int(start * rate), entry.frames - frames)
            raw = statistics.denormalise(drawn_latents(store, statistics, entry, first, first + frames))
            audio = decoded(codec, raw, frames * codec.spec.hop)
            yield Piece(f"{entry.name} {first}", entry.name, audio, raw)

    count = len(evenly(lengths, seconds, pieces))
    words = f"{store.path}, {split} tracks, decoded: {count} pieces of {seconds:.3g} s"
    return Music(words, seconds, count, stored)


def _length(lengths: Sequence[float], wanted: float, place: Path) -> float:
    """As long as the samples, or as the longest track where all are shorter."""
    length = min(wanted, max(lengths, default=0.0))
    if length < 1:
        raise DataError(f"No track of {place} is as long as a second.", "Give longer music.")
    return length


def store_at(reference: Path | str | None) -> LatentStore | None:
    """The latent store that a reference is, or None where it is not one.

    Raises:
        UsageError, DataError: it has no name, or there is nothing of that name.
    """
    if reference is None:
        return None
    if not str(reference):
        raise UsageError("The name of the reference is empty.", "Give a folder of music, or a latent store.")
    if "://" not in str(reference):
        if not Path(reference).exists():
            raise DataError(f"There is nothing at {reference}.", "Give a folder of music, or a latent store.")
        if is_prepared(Path(reference)) or not LatentStore.exists(reference):
            return None
    return LatentStore.open(reference)


def codec_and_scale(
    model: Path | str | None, store: LatentStore | None, device: torch.device | str
) -> tuple[Codec | None, LatentStatistics | None]:
    """The codec, and the scale of its latents, as far as model and store tell.

    Raises:
        BundleError: the model is missing or damaged.
        MismatchError: the store was made with another codec than the model's.
        UsageError: the codec is not of audio.
    """
    codec, statistics = None, None
    if model is not None:
        source = bundle.read(models.find(model))
        codec = codec_of(source).to(device)
        if "generator" in source.components:
            statistics = GeneratorLatents.of(source.component("generator")).statistics
    if store is not None:
        codec = codec_for(store, codec, device)
        statistics = statistics or store.statistics()
    if codec is not None:
        require_audio(codec)
    return codec, statistics
