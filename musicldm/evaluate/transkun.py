"""The transcriber transkun: piano (Yan & Duan 2024), where its package is installed, which brings the weights."""

from __future__ import annotations

import importlib.util
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from musicldm.core.errors import BundleError
from musicldm.evaluate.notes import Note
from musicldm.media.audio.decode import resample

_WINDOW = 16.0  # seconds that the network was trained on, and the only length at which it works
_STEP = 14.0  # seconds from one window to the next; the package's own 8 take 2.5 times as long and find no more


class Transkun:
    """Turns the sound of a piano into notes.

    Args:
        device: where it computes; other devices than a CUDA GPU are not tried, and the CPU does their work.

    Raises:
        BundleError: the package has no weights, or not those of the network in it.
    """

    name = "transkun"
    about = "piano"
    install = "pip install 'musicldm[transcribe]'"

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device if torch.device(device).type == "cuda" else "cpu")
        with warnings.catch_warnings():  # of torch, about what the package still uses
            warnings.simplefilter("ignore")
            self._model = _network().to(self._device).eval()

    @staticmethod
    def is_installed() -> bool:
        """Whether the package is."""
        return importlib.util.find_spec("transkun") is not None

    @torch.no_grad()
    def __call__(self, audio: Tensor, sample_rate: int, /) -> list[Note]:
        """The notes of a sound [C, T], its channels mixed."""
        mono, rate = audio.mean(dim=0, keepdim=True).numpy(), int(self._model.fs)
        mono = resample(mono, sample_rate, rate) if sample_rate != rate else mono
        samples = torch.from_numpy(mono.T.copy()).to(self._device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            events = self._model.transcribe(samples, stepInSecond=_STEP, segmentSizeInSecond=_WINDOW)
        return [
            Note(float(event.start), int(event.pitch), float(event.end), int(event.velocity))
            for event in events
            if event.pitch > 0  # the others are pedals
        ]


def _network() -> Any:
    """The network of the package's default configuration, with its weights."""
    from transkun import ModelTransformer

    folder = Path(ModelTransformer.__file__).parent / "pretrained"
    try:
        config = ModelTransformer.Config()
        vars(config).update(json.loads((folder / "2.0.conf").read_bytes())["Model"]["config"])
        # Nothing but tensors is read, whatever else the file may hold.
        weights = torch.load(folder / "2.0.pt", map_location="cpu", weights_only=True)
        network = ModelTransformer.TransKun(conf=config)
        network.load_state_dict(weights.get("best_state_dict", weights.get("state_dict")))
        # It saves memory in training alone, and its first use takes seconds.
        network.backbone.useGradientCheckpoint = False
    except (OSError, RuntimeError, LookupError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise BundleError(
            f"The transkun in {folder.parent} does not have the weights that are expected.",
            "Install another version: pip install 'transkun>=2.0.1,<2.1'.",
        ) from error
    return network
