"""The transcriber Basic Pitch (Bittner et al. 2022): any instrument, by the ONNX file in its package.

The package itself demands tensorflow, so it is not imported: the network is run by onnxruntime, and notes are formed of
its output as in basic_pitch/note_creation.py (Copyright 2022 Spotify AB, Apache License 2.0), by the same thresholds.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from musicldm.core.errors import BundleError, MissingProgramError
from musicldm.evaluate.notes import Note
from musicldm.media.audio.decode import resample

_RATE, _HOP = 22050, 256
_WINDOW = 2 * _RATE - _HOP  # samples of a window, which the network turns into 172 frames
_EDGE = 15  # frames at either end of a window that are left to its neighbours
_KEPT = 142
_STEP = _WINDOW - 2 * _EDGE * _HOP  # samples from one window to the next
_LOWEST = 21  # pitch of the first of 88 keys

_ONSET, _FRAME = 0.5, 0.3  # probabilities from which an onset counts, and a note sounds
_SHORTEST = 11  # frames; a note lasts longer
_PATIENCE = 11  # frames below the threshold that end a note

Activations = NDArray[np.float32]
"""Probabilities, [frames, 88 keys]."""


class BasicPitch:
    """Turns music of any instrument into notes.

    Args:
        device: not looked at, since the network is so small that it is run on the CPU.

    Raises:
        MissingProgramError: the package, or onnxruntime, is not installed.
        BundleError: its file cannot be read.
    """

    name = "basic-pitch"
    about = "any instrument"
    install = "pip install 'musicldm[transcribe]' && pip install --no-deps basic-pitch"

    def __init__(self, device: torch.device | str = "cpu") -> None:
        file = _file()
        if file is None:
            raise MissingProgramError("Basic Pitch is not installed.", self.install)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own kinds, which have no common root
            hint = "pip install --no-deps --force-reinstall basic-pitch"
            raise BundleError(f"{file} cannot be read.", hint) from error

    @staticmethod
    def is_installed() -> bool:
        """Whether onnxruntime is, and a basic_pitch with the ONNX file in it."""
        return importlib.util.find_spec("onnxruntime") is not None and _file() is not None

    def __call__(self, audio: Tensor, sample_rate: int, /) -> list[Note]:
        """The notes of a sound [C, T], its channels mixed."""
        mono = audio.mean(dim=0, keepdim=True).numpy()
        mono = resample(mono, sample_rate, _RATE)[0] if sample_rate != _RATE else mono[0]
        frames, onsets = self._activations(mono)
        return [
            Note(_seconds(start), _LOWEST + key, _seconds(stop), max(1, round(127 * amplitude)))
            for start, stop, key, amplitude in notes_of(frames, onsets)
        ]

    def _activations(self, mono: Activations) -> tuple[Activations, Activations]:
        """[T] to the probabilities that keys sound, and that they are struck."""
        found = []
        for start in range(0, len(mono), _STEP):
            # The edge of the first window lies before the sound.
            window = mono[max(0, start - _EDGE * _HOP) : start - _EDGE * _HOP + _WINDOW]
            window = np.pad(window, (_EDGE * _HOP if start == 0 else 0, 0))
            window = np.pad(window, (0, _WINDOW - len(window)))[None, :, None]
            outputs = ["StatefulPartitionedCall:1", "StatefulPartitionedCall:2"]
            frames, onsets = self._session.run(outputs, {"serving_default_input_2:0": window.astype(np.float32)})
            found.append((frames[0, _EDGE:-_EDGE], onsets[0, _EDGE:-_EDGE]))
        if not found:
            return np.zeros((0, 88), np.float32), np.zeros((0, 88), np.float32)
        frames, onsets = (np.concatenate(each)[: -(-len(mono) // _HOP)] for each in zip(*found, strict=True))
        return frames, onsets


def _file() -> Path | None:
    """The network, where there is one; looking for it does not import the package."""
    spec = importlib.util.find_spec("basic_pitch")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        file = Path(folder) / "saved_models" / "icassp_2022" / "nmp.onnx"
        if file.is_file():
            return file
    return None


def _seconds(frame: int) -> float:
    """When a frame begins: the windows' steps are not a whole number of frames."""
    window, within = divmod(frame, _KEPT)
    return (window * _STEP + within * _HOP) / _RATE


# ---- Notes ---------------------------------------------------------------------------------------------------------


def notes_of(frames: Activations, onsets: Activations) -> list[tuple[int, int, int, float]]:
    """Notes as first frame, end, key and mean probability: those that are struck, and then those that merely sound.

    Args:
        frames: how probable it is that a key sounds.
        onsets: how probable it is that it is struck.
    """
    if len(frames) < 3:
        return []
    energy, found = frames.copy(), []
    peaks = np.argwhere(_peaks(_with_rises(onsets, frames)) >= _ONSET)
    # The last ones first, so that each ends where the next of its key begins.
    for start, key in peaks[::-1].tolist():
        if start >= len(frames) - 1:
            continue
        stop, _ = _end(energy[:, key], start)
        if stop - start > _SHORTEST:
            _silence(energy, start, stop, key)
            found.append((start, stop, key, float(frames[start:stop, key].mean())))
    while energy.max() > _FRAME:
        middle, key = map(int, np.unravel_index(energy.argmax(), energy.shape))
        stop, looked_on = _end(energy[:, key], middle)
        back, looked_back = _end(energy[::-1, key], len(frames) - 1 - middle)
        start = len(frames) - back
        _silence(energy, len(frames) - looked_back, looked_on, key)
        energy[middle, key] = 0
        if stop - 1 - start > _SHORTEST:
            found.append((start, stop - 1, key, float(frames[start : stop - 1, key].mean())))
    return found


def _with_rises(onsets: Activations, frames: Activations) -> Activations:
    """Onsets, and where a key's probability rises over two frames, on their scale."""
    rise = np.zeros_like(frames)
    rise[2:] = np.minimum(frames[2:] - frames[1:-1], frames[2:] - frames[:-2]).clip(0)
    most = rise.max()
    return np.maximum(onsets, rise * (onsets.max() / most)) if most > 0 else onsets


def _peaks(values: Activations) -> Activations:
    """Values that are above both neighbours in time; 0 elsewhere."""
    peaks = np.zeros_like(values)
    higher = (values[1:-1] > values[:-2]) & (values[1:-1] > values[2:])
    peaks[1:-1][higher] = values[1:-1][higher]
    return peaks


def _end(energy: Activations, start: int) -> tuple[int, int]:
    """The frame at which a note ends that sounds from `start` on, and how far that was looked for."""
    quiet, frame = 0, start + 1
    while frame < len(energy) - 1 and quiet < _PATIENCE:
        quiet = quiet + 1 if energy[frame] < _FRAME else 0
        frame += 1
    return frame - quiet, frame


def _silence(energy: Activations, start: int, stop: int, key: int) -> None:
    """Take a note out, and what it leaves in the keys beside it."""
    energy[start:stop, max(0, key - 1) : key + 2] = 0
