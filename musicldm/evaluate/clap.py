"""CLAP embeddings of audio (Wu et al. 2023), where transformers is installed and has the weights in its cache."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from musicldm.core.errors import BundleError, MissingProgramError
from musicldm.evaluate.features import Floats
from musicldm.media.audio.decode import resample

DEFAULT = "laion/larger_clap_music"
"""The weights that are used where none are named."""


class Clap:
    """Turns sounds into vectors. Nothing is downloaded, and weights are read from safetensors alone.

    Args:
        source: a folder with the model as transformers saves it, or the name of one in its cache.

    Raises:
        MissingProgramError: transformers is not installed.
        BundleError: there is no such model there.
    """

    def __init__(self, source: Path | str, device: torch.device | str = "cpu") -> None:
        if importlib.util.find_spec("transformers") is None:
            raise MissingProgramError("CLAP needs transformers, which is not installed.", "uv pip install transformers")
        with warnings.catch_warnings():  # the library's own deprecations
            warnings.simplefilter("ignore")
            import transformers
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        # A measurement should not start a download of gigabytes.
        known: dict[str, Any] = {"local_files_only": True}
        try:
            self._extractor = transformers.ClapFeatureExtractor.from_pretrained(str(source), **known)
            model: Any = transformers.ClapModel.from_pretrained(str(source), use_safetensors=True, **known)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BundleError(
                f"There is no CLAP model in safetensors at {source}.",
                f"Give a folder with one, such as {DEFAULT} downloaded by huggingface_hub.",
            ) from error
        self.name = Path(source).name
        self._device = torch.device(device)
        self._model = model.to(self._device)

    @classmethod
    def found(cls, device: torch.device | str = "cpu") -> Clap | None:
        """The default model, where this machine has it."""
        if not all(importlib.util.find_spec(name) for name in ("transformers", "huggingface_hub")):
            return None
        from huggingface_hub import try_to_load_from_cache

        files = [try_to_load_from_cache(DEFAULT, name) for name in ("config.json", "model.safetensors")]
        return cls(DEFAULT, device) if all(isinstance(file, str) for file in files) else None

    @torch.inference_mode()
    def __call__(self, audio: Tensor, sample_rate: int) -> Floats:
        """[C, T] to one vector of unit norm for each 10 s, the last of them at least half full: [n, F]."""
        rate, longest = int(self._extractor.sampling_rate), int(self._extractor.nb_max_samples)
        mono = audio.mean(dim=0, keepdim=True).numpy()
        mono = (resample(mono, sample_rate, rate) if sample_rate != rate else mono)[0]
        vectors = []
        for start in range(0, max(1, len(mono)), longest):
            piece = mono[start : start + longest]
            if start and len(piece) < longest // 2:  # the extractor would fill it up with more repetition than music
                break
            inputs = self._extractor(piece, sampling_rate=rate, return_tensors="pt").to(self._device)
            found = self._model.get_audio_features(**inputs)
            # Some versions of transformers return the vector itself, others an object that holds it.
            vector = getattr(found, "pooler_output", found)
            vectors.append(torch.nn.functional.normalize(vector[0], dim=-1).cpu().double().numpy())
        stacked: Floats = np.stack(vectors)
        return stacked
