"""Transcribers for tests: one that hears plain tones, and one that is not installed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from musicldm.evaluate.notes import Note


class ToneTranscriber:
    """Hears one note at a time, where the level of a tenth of a second is twice that of the one before."""

    name = "tones"
    about = "tones"
    install = "It is always there."

    def __init__(self, device: torch.device | str = "cpu") -> None:
        pass

    @staticmethod
    def is_installed() -> bool:
        return True

    def __call__(self, audio: Tensor, sample_rate: int, /) -> list[Note]:
        size = sample_rate // 10
        mono = audio.mean(dim=0).numpy()
        blocks = mono[: len(mono) // size * size].reshape(-1, size)
        level = np.concatenate([[0.0], np.sqrt(np.square(blocks).mean(axis=1))])
        notes = []
        for number in np.flatnonzero((level[1:] > 2 * level[:-1]) & (level[1:] > 0.02)).tolist():
            spectrum = np.abs(np.fft.rfft(mono[number * size : (number + 3) * size]))
            hertz = spectrum[1:].argmax() + 1
            pitch = round(69 + 12 * np.log2(hertz * sample_rate / (3 * size) / 440))
            notes.append(Note(number / 10, pitch, number / 10 + 0.3, 64))
        return notes


class AbsentTranscriber(ToneTranscriber):
    """Nobody has it."""

    name = "absent"
    install = "pip install absent"

    @staticmethod
    def is_installed() -> bool:
        return False
