"""Small sounds, and files of many kinds that hold them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.media.audio.sounds import RATE, Cut, Encode, Floats, Tone, cut_file, encode_file


@pytest.fixture
def tone() -> Tone:
    def make(hertz: float = 440, seconds: float = 1.0, volume: float = 0.5, rate: int = RATE) -> Floats:
        """float32 [1, T]"""
        t = np.arange(round(seconds * rate)) / rate
        return (volume * np.sin(2 * np.pi * hertz * t)).astype(np.float32)[None]

    return make


@pytest.fixture
def encode() -> Encode:
    return encode_file


@pytest.fixture
def cut() -> Cut:
    return cut_file
