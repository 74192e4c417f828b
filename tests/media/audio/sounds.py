"""Files of many kinds, and what tests ask of a sound."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import soundfile

from musicldm.media.audio.decode import decode

RATE = 44100


def decoded(path, sample_rate=16000, channels=1):
    return np.concatenate(list(decode(path, sample_rate, channels)), axis=1)


def level(audio):
    """RMS in dB relative to a sine at full scale, the ends left out where filters ring."""
    middle = audio[:, 2000:-2000].astype(np.float64)
    return 20 * np.log10(np.sqrt(2 * np.mean(middle**2)) + 1e-12)


def encode_file(path: Path, audio: np.ndarray, rate: int = RATE, subtype: str | None = None, **tags: str) -> Path:
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
        stream = container.add_stream(codec, rate=rate, layout=layout)
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
