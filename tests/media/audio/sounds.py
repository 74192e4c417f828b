"""Files of many kinds, and what tests measure of a sound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from musicldm.media.audio.decode import decode

RATE = 44100

Floats = NDArray[np.float32]
"""Audio: float32 [C, T]."""
Tone = Callable[..., Floats]
Encode = Callable[..., Path]
Cut = Callable[[Path, float], Path]


def decoded(path: Path, sample_rate: int = 16000, channels: int = 1) -> Floats:
    return np.concatenate(list(decode(path, sample_rate, channels)), axis=1)


def level(audio: Floats) -> float:
    """RMS in dB relative to a sine at full scale, the ends left out where filters ring."""
    middle = audio[:, 2000:-2000].astype(np.float64)
    return float(20 * np.log10(np.sqrt(2 * np.mean(middle**2)) + 1e-12))


def encode_file(path: Path, audio: Floats, rate: int = RATE, subtype: str | None = None, **tags: str) -> Path:
    """Write float32 [C, T] (C: 1 or 2 where PyAV encodes) as what the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = {".mp3": "libmp3lame", ".m4a": "aac", ".aac": "aac", ".webm": "libopus"}.get(path.suffix)
    if codec is None:
        subtype = subtype or ("PCM_24" if path.suffix in (".wav", ".flac") else None)
        soundfile.write(path, audio.T, rate, subtype=subtype)
        return path
    layout = "mono" if len(audio) == 1 else "stereo"
    options = {"movflags": "faststart"} if path.suffix == ".m4a" else {}
    with av.open(str(path), "w", options=options) as container:
        container.metadata.update(tags)
        stream: Any = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio), format="fltp", layout=layout)
        frame.sample_rate = rate
        for piece in (frame, None):
            container.mux(stream.encode(piece))
    return path


def cut_file(path: Path, share: float) -> Path:
    """Keep only the first `share` of a file's bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path
