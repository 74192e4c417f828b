"""Notes a second, as a transcriber hears them: whether samples are as busy as music, or noise that holds no notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from musicldm.evaluate.transcription import Transcriber, transcribe_audio

MIDDLE = 0.9
"""Of the music's pieces, those that a sample should be like."""
LEAST = 20
"""Pieces of music that are transcribed, at least: of fewer, the middle 90 % would be all of them."""


@dataclass(frozen=True)
class Spread:
    """A figure over sounds."""

    sounds: int
    median: float
    low: float
    """The least of the middle 90 %."""
    high: float
    """The greatest of these."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value for each sound; not of none."""
        low, median, high = np.quantile(values, [(1 - MIDDLE) / 2, 0.5, (1 + MIDDLE) / 2]).tolist()
        return cls(len(values), median, low, high)


@dataclass(frozen=True)
class NoteRates:
    """Notes a second of samples, beside those of music."""

    transcriber: str
    samples: Spread
    music: Spread | None
    """None where there is no reference."""
    words: str
    """Which music."""
    within: int | None
    """Samples whose rate lies in the music's middle 90 %."""


def rates_of(
    transcriber: Transcriber, samples: Sequence[float], music: Iterable[float] = (), words: str = ""
) -> NoteRates:
    """The rates of samples beside those of music.

    Args:
        samples: notes a second of each; not empty.
        music: the same of pieces as long as they are, by the same transcriber.
        words: what music.
    """
    theirs = list(music)
    of_music = Spread.of(theirs) if theirs else None
    within = None if of_music is None else sum(of_music.low <= rate <= of_music.high for rate in samples)
    return NoteRates(transcriber.name, Spread.of(samples), of_music, words, within)


def note_rate(transcriber: Transcriber, audio: Tensor, sample_rate: int) -> float:
    """Notes a second of a sound [C, T]."""
    return len(transcribe_audio(transcriber, audio, sample_rate)) * sample_rate / audio.shape[-1]
