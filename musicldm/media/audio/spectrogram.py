"""Pictures of sounds: mel spectrograms, and bar charts."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray

from musicldm.core import durable
from musicldm.media.audio.mel import hertz_to_mel, mel_power

_SOFTWARE = {"Software": "musicldm"}  # in the picture's metadata
_SHOWN_DB = 70  # dynamic range of a picture's colours


def picture(
    path: Path, panels: dict[str, NDArray[np.float32]], sample_rate: int, commit: durable.Commit | None = None
) -> None:
    """Write a PNG of mel spectrograms, one above the other under their titles, in one scale of colours.

    Args:
        path: of the PNG, which is written whole or not at all.
        panels: title -> audio [T] or [C, T], whose channels are averaged.
        sample_rate: of all panels.
        commit: see `durable.replacing`.

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
        # In a song's title a dollar sign is no formula.
        axis.set_title(title, loc="left", fontsize="medium", parse_math=False)
        marks = [hertz for hertz in (100, 300, 1000, 3000, 10000) if hertz < sample_rate / 2]
        axis.set_yticks(
            [hertz_to_mel(hertz) / hertz_to_mel(sample_rate / 2) * len(spectrum) for hertz in marks], map(str, marks)
        )
        axis.set_ylabel("Hz")
    axes[-1].set_xlabel("seconds")
    figure.colorbar(image, ax=list(axes), label="dB")
    durable.make_folder(path.parent)
    with durable.replacing(path, commit) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a title in a script that the font lacks
        figure.savefig(temporary, format="png", metadata=_SOFTWARE)


def is_ours(path: Path) -> bool:
    """Whether a file is a picture that `picture` has written."""
    # A PNG's text stands before its pixels: the keyword, a zero byte, and the value.
    with path.open("rb") as file:
        return b"tEXtSoftware\0musicldm" in file.read(512)


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
    """[T] to mel power in dB [n_mels, frames], with a lower floor than `log_mel`: pictures show a wider range."""
    power = mel_power(torch.from_numpy(np.nan_to_num(audio).astype(np.float32)), sample_rate)
    decibels: NDArray[np.float32] = (10 * power.clamp(min=1e-10).log10()).numpy()
    return decibels
