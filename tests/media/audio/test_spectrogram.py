from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from musicldm.media.audio.mel import log_mel, slaney_bands
from musicldm.media.audio.spectrogram import picture
from tests.media.audio.sounds import Tone


@pytest.mark.parametrize("sample_rate", [8000, 16000, 44100])
def test_shapes_and_where_a_tone_falls(tone: Tone, sample_rate: int) -> None:
    audio = torch.from_numpy(np.stack([tone(300, rate=sample_rate), tone(3000, rate=sample_rate)]))
    mel = log_mel(audio, sample_rate)
    assert mel.shape[:3] == (2, 1, 64)
    low, high = mel.mean(dim=-1).argmax(dim=-1).flatten()
    assert low < high


def test_silence_and_the_shortest_sound_are_finite() -> None:
    assert log_mel(torch.zeros(1, 10), 16000).isfinite().all()


def test_gradients_pass_even_after_inference() -> None:
    with torch.inference_mode():
        log_mel(torch.zeros(100), 11025)
    audio = torch.randn(2000, requires_grad=True)
    torch.autograd.backward(log_mel(audio, 11025).mean())
    assert audio.grad is not None and audio.grad.abs().sum() > 0


def test_a_picture_of_any_titles_and_lengths(tmp_path: Path, tone: Tone) -> None:
    panels = {
        "original": tone(),
        "odd $x_{ 曲": tone(3000, 0.5)[0],
        "not a number": np.full((2, 9000), np.nan, np.float32),
    }
    picture(tmp_path / "new" / "a.png", panels, 44100)
    assert imread(tmp_path / "new" / "a.png").shape[1] == 1100


def test_slaney_bands_cover_the_spectrum_and_none_is_empty() -> None:
    bands = slaney_bands(16000, 512, 80)
    assert bands.shape[1] == 257 and len(bands) <= 80
    assert (bands >= 0).all() and (bands.amax(dim=1) > 0).all()
    peaks = bands.argmax(dim=1)
    assert (peaks.diff() >= 0).all() and peaks[-1] > 240
    assert len(slaney_bands(16000, 64, 80)) < 80  # the others are narrower than a bin
