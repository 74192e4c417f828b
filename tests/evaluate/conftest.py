"""What `evaluate` is tried on, and a real browser for the tests that look at pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from musicldm.codecs.vae.model import VAE
from musicldm.core import bundle
from musicldm.latents.encode import encode
from musicldm.media.audio.prepare import PrepareSettings
from musicldm.media.preprocess import preprocess
from tests.evaluate.evaluations import song, speaking_vae
from tests.toy_model import RATE, toy_bundle


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, prepared music with one track held out, its store, and samples: of which one is at another rate."""
    root = tmp_path_factory.mktemp("evaluate")
    bundle.write(root / "model", bundle.Bundle("toy", {"codec": speaking_vae().component()}))
    bundle.write(root / "whole", toy_bundle())
    (root / "songs").mkdir()
    for number in range(4):
        soundfile.write(root / "songs" / f"song {number}.wav", song(number, 30), RATE)
    preprocess(root / "songs", root / "data", PrepareSettings(sample_rate=RATE, channels=1), jobs=1)
    encode(root / "data", root / "z.zarr", VAE.load(root / "model"))
    (root / "out").mkdir()
    for number in range(9):
        rate = 2 * RATE if number == 0 else RATE
        soundfile.write(root / "out" / f"take {number}.wav", song(10 + number, 13, rate), rate)
    return root


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()
