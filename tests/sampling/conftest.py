"""A model, a song and the command that makes something of them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from musicldm.core import bundle
from musicldm.media.audio import files
from tests.toy_model import toy_bundle
from tests.toys import Command


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    bundle.write(folder / "bundle", toy_bundle())
    return folder


@pytest.fixture(scope="session")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds in stereo, at another rate."""
    path = tmp_path_factory.mktemp("song") / "song.flac"
    time = np.arange(3 * 11025) / 11025
    sound = [0.4 * np.sin(2 * math.pi * pitch * time) for pitch in (220, 330)]
    files.write(path, np.array(sound, np.float32), 11025)
    return path


@pytest.fixture
def sample(musicldm: Command, model: Path) -> Command:
    return lambda *arguments: musicldm("sample", "-m", model, "--steps", 3, "--device", "cpu", *arguments)
