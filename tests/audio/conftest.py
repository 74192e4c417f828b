"""Small sounds, and files of many kinds that hold them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

RATE = 44100

Tone = Callable[..., np.ndarray]
Encode = Callable[..., Path]


@pytest.fixture
def tone() -> Tone:
    def make(hertz: float = 440, seconds: float = 1.0, volume: float = 0.5, rate: int = RATE) -> np.ndarray:
        """float32 [1, T]"""
        t = np.arange(round(seconds * rate)) / rate
        return (volume * np.sin(2 * np.pi * hertz * t)).astype(np.float32)[None]

    return make


@pytest.fixture
def encode() -> Encode:
    def make(path: Path, audio: np.ndarray, rate: int = RATE, subtype: str | None = None, **tags: str) -> Path:
        """Write float32 [C, T] (C: 1 or 2 where PyAV encodes) as what the suffix says."""
        path.parent.mkdir(parents=True, exist_ok=True)
        codec = {".mp3": "libmp3lame", ".m4a": "aac", ".webm": "libopus"}.get(path.suffix)
        if codec is None:
            soundfile.write(
                path, audio.T, rate, subtype=subtype or ("PCM_24" if path.suffix in (".wav", ".flac") else None)
            )
            return path
        layout = "mono" if len(audio) == 1 else "stereo"
        options = {"movflags": "faststart"} if path.suffix == ".m4a" else {}
        with av.open(str(path), "w", options=options) as container:
            container.metadata.update(tags)
            stream = container.add_stream(codec, rate=rate, layout=layout)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio), format="fltp", layout=layout)
            frame.sample_rate = rate
            for piece in (frame, None):
                container.mux(stream.encode(piece))
        return path

    return make


@pytest.fixture
def cut() -> Callable[[Path, float], Path]:
    def make(path: Path, share: float) -> Path:
        """Keep only the first `share` of a file's bytes."""
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        return path

    return make
