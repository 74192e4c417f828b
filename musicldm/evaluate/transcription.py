"""Transcription: the notes that are heard in audio, by programs that need not be installed.

Shapes: C channels, T samples; audio is [C, T] in [-1, 1].
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from musicldm.core.errors import MissingProgramError
from musicldm.core.progress import Progress, silent
from musicldm.core.registry import Registry
from musicldm.evaluate.notes import TOLERANCE, Note

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from musicldm.codecs.windows import Reader

TRANSCRIBERS = Registry(
    "transcriber",
    {"transkun": "musicldm.evaluate.transkun:Transkun", "basic-pitch": "musicldm.evaluate.basic_pitch:BasicPitch"},
)

_SEGMENT = 60.0  # seconds that are transcribed at once
_MARGIN = 2.0  # seconds on either side of them, by which notes at either end are recognized


class Transcriber(Protocol):
    """Audio -> notes. Its class is called with a device, and loads all that it needs there."""

    name: str
    """In `TRANSCRIBERS`."""
    about: str
    """What it is for, in a few words."""
    install: str
    """What to do where it is not installed."""

    @staticmethod
    def is_installed() -> bool:
        """Whether this machine has all that it needs; loads nothing."""

    def __call__(self, audio: Tensor, sample_rate: int, /) -> list[Note]:
        """The notes of a sound [C, T] at any rate, all of it at once, in any order."""


def load_transcriber(name: str, device: torch.device | str = "cpu") -> Transcriber:
    """A transcriber by its name, ready to use.

    Raises:
        UsageError: there is none of that name.
        MissingProgramError: it is not installed.
        BundleError: its weights are not where its package should have them.
    """
    kind = TRANSCRIBERS.load(name)
    if not kind.is_installed():
        raise MissingProgramError(f"The transcriber {name} is not installed.", kind.install)
    transcriber: Transcriber = kind(device)
    return transcriber


def installed_transcribers() -> list[str]:
    """The names of those that this machine has."""
    return [name for name in TRANSCRIBERS.names() if TRANSCRIBERS.load(name).is_installed()]


def transcribe(
    transcriber: Transcriber, read: Reader, samples: int, sample_rate: int, progress: Progress = silent
) -> list[Note]:
    """The notes of a sound of so many samples, in order; in the memory of a minute, however long it is.

    A note that goes on for more than two seconds beyond its minute ends there; onsets and pitches are those of the
    whole.

    Args:
        read: (start, stop) to those samples, [C, n].
        progress: is called with seconds.
    """
    segment, margin = (round(seconds * sample_rate) for seconds in (_SEGMENT, _MARGIN))
    notes: list[Note] = []
    for start in range(0, samples, segment):
        progress(start / sample_rate, samples / sample_rate, "listening for notes")
        first, stop = max(0, start - margin), min(samples, start + segment)
        heard = transcriber(read(first, min(samples, stop + margin)), sample_rate)
        begin, end = start / sample_rate, stop / sample_rate
        near = [note for note in notes if note.onset > begin - 2 * TOLERANCE]
        for note in heard:
            note = replace(note, onset=note.onset + first / sample_rate, offset=note.offset + first / sample_rate)
            # Two segments may hear an onset at their seam a little apart: it must count neither twice nor never.
            if begin - TOLERANCE <= note.onset < end and not any(_is_same(note, each) for each in near):
                notes.append(note)
    return sorted(notes)


def transcribe_audio(transcriber: Transcriber, audio: Tensor, sample_rate: int) -> list[Note]:
    """The notes of a sound [C, T], in order."""
    return transcribe(transcriber, lambda start, stop: audio[:, start:stop], audio.shape[-1], sample_rate)


def _is_same(note: Note, other: Note) -> bool:
    return note.pitch == other.pitch and abs(note.onset - other.onset) <= TOLERANCE
