"""Mel spectrograms, to measure with and to look at, and what else is drawn."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torchaudio
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray

from musicldm.core import durable

N_MELS = 64

_FLOOR = 1e-5  # of power, where a tone at full scale has about 1e5; else silence would be -inf and outweigh all
_WINDOW = 0.064  # seconds, at most doubled to reach a power of two
_SHOWN_DB = 70  # the depth of a picture's colours


def log_mel(audio: torch.Tensor, sample_rate: int, n_mels: int = N_MELS) -> torch.Tensor:
    """The natural logarithm of mel power: audio [..., T] to float32 [..., n_mels, frames]; gradients pass.

    Windows of a power of two of at least 64 ms, a quarter apart: at 16 kHz 1024 samples, every 256.
    """
    mel = _transform(sample_rate, n_mels, str(audio.device))
    with torch.autocast(audio.device.type, enabled=False):
        power: torch.Tensor = mel(audio.float())
    return power.clamp(min=_FLOOR).log()


def hop(sample_rate: int) -> int:
    """Samples from one frame of `log_mel` to the next."""
    return (1 << int(np.ceil(np.log2(_WINDOW * sample_rate)))) // 4


@lru_cache(maxsize=16)
def _transform(sample_rate: int, n_mels: int, device: str) -> torchaudio.transforms.MelSpectrogram:
    window = 4 * hop(sample_rate)
    with torch.inference_mode(False):  # else a first call under it would leave a window that refuses gradients for good
        return torchaudio.transforms.MelSpectrogram(
            sample_rate, n_fft=window, hop_length=hop(sample_rate), n_mels=n_mels, pad_mode="constant"
        ).to(device)


def picture(path: Path, panels: dict[str, NDArray[np.float32]], sample_rate: int) -> None:
    """Write a PNG of mel spectrograms, one above the other under their titles, in one scale of colours.

    Args:
        path: where to; whole or not at all.
        panels: title -> audio [T] or [C, T], whose channels are averaged.
        sample_rate: of all panels.

    Raises:
        OutputError: `path` cannot be written.
    """
    spectra = {title: _decibels(np.atleast_2d(audio).mean(axis=0), sample_rate) for title, audio in panels.items()}
    loudest = max(float(spectrum.max()) for spectrum in spectra.values())

    # Figure itself, not pyplot, which keeps figures alive and looks for a screen.
    figure = Figure(figsize=(10, 0.4 + 2.2 * len(panels)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, (title, spectrum) in zip(axes, spectra.items(), strict=True):
        seconds = panels[title].shape[-1] / sample_rate
        image = axis.imshow(
            spectrum,
            origin="lower",
            aspect="auto",
            extent=(0, seconds, 0, len(spectrum)),
            cmap="magma",
            vmin=loudest - _SHOWN_DB,
            vmax=loudest,
        )
        axis.set_title(title, loc="left", fontsize="medium", parse_math=False)
        marks = [hertz for hertz in (100, 300, 1000, 3000, 10000) if hertz < sample_rate / 2]
        axis.set_yticks([_mel(hertz) / _mel(sample_rate / 2) * len(spectrum) for hertz in marks], map(str, marks))
        axis.set_ylabel("Hz")
    axes[-1].set_xlabel("seconds")
    figure.colorbar(image, ax=list(axes), label="dB")
    durable.make_folder(path.parent)
    with durable.replacing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a title in a script that the font lacks
        figure.savefig(temporary, format="png")


def thumbnail(audio: NDArray[np.float32], sample_rate: int, columns: int = 800) -> bytes:
    """A PNG of a mel spectrogram and nothing else: all of [C, T] from left to right in at most so many pixels."""
    spectrum = _decibels(np.atleast_2d(audio).mean(axis=0), sample_rate)
    edges = np.linspace(0, spectrum.shape[1], min(columns, spectrum.shape[1]), endpoint=False).astype(int)
    seen = np.maximum.reduceat(spectrum, edges, axis=1)  # the loudest, or short notes would pale in a long sound
    buffer, loudest = io.BytesIO(), float(seen.max())
    imsave(buffer, seen, format="png", origin="lower", cmap="magma", vmin=loudest - _SHOWN_DB, vmax=loudest)
    return buffer.getvalue()


def bars(path: Path, values: Sequence[float], across: str, up: str) -> None:
    """Write a PNG of one bar for each value, whole or not at all.

    Raises:
        OutputError: `path` cannot be written.
    """
    figure = Figure(figsize=(10, 3), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.bar(range(len(values)), values)
    axis.set_xlabel(across)
    axis.set_ylabel(up)
    durable.make_folder(path.parent)
    with durable.replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _decibels(audio: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """[T] to the dB of mel power [n_mels, frames], deeper than `log_mel`'s floor: the eye has more range."""
    power = _transform(sample_rate, N_MELS, "cpu")(torch.from_numpy(np.nan_to_num(audio).astype(np.float32)))
    decibels: NDArray[np.float32] = (10 * power.clamp(min=1e-10).log10()).numpy()
    return decibels


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))  # HTK's scale, torchaudio's default
