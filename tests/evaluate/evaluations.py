"""Music of toy size, a codec that knows it a little, and what `evaluate` prints about both."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from musicldm.codecs.vae.model import VAE
from tests.toy_model import RATE, toy_bundle


def parsed(text: str) -> Any:
    """JSON, in which there must be no NaN and no infinity."""
    return json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))


def song(seed: int, seconds: float, rate: int = RATE) -> np.ndarray:
    """Notes of half a second, in the key of the seed."""
    rng = np.random.default_rng(seed)
    time = np.arange(rate // 2) / rate
    pitches = 220 * 2 ** ((seed % 5 + rng.choice([0, 2, 4, 7, 9, 12], size=int(2 * seconds))) / 12)
    notes = [np.exp(-5 * time) * np.sin(2 * np.pi * pitch * time) for pitch in pitches]
    return 0.3 * np.concatenate(notes) + 0.001 * rng.normal(size=len(notes) * len(time))


def bias(layer: torch.nn.Conv1d) -> torch.Tensor:
    """Its bias, which it has."""
    assert layer.bias is not None
    return layer.bias


def speaking_vae() -> VAE:
    """The toy VAE, with latents of which most is the sound, as a trained one's."""
    model = VAE.from_bundle(toy_bundle())
    with torch.no_grad():
        model.encoder.head.weight[:4] *= 20
        bias(model.encoder.head)[4:] = -6
    return model


def figures(told: dict[str, Any], name: str = "samples") -> dict[tuple[str, str], dict[str, Any]]:
    (found,) = (each["figures"] for each in told["sets"] if each["name"] == name)
    return {(each["metric"], each["embedding"]): each for each in found}
