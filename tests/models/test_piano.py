"""The model in the box: there, small enough, said to be whose, and playing."""

from __future__ import annotations

from pathlib import Path

import torch

from musicldm import models
from musicldm.core import bundle
from musicldm.evaluate.levels import level
from musicldm.media.audio import files
from tests.toys import Command


def test_it_is_small_and_says_whose_music_it_learned() -> None:
    piano = models.named("piano")
    assert piano.bytes <= 32e6
    assert all(file.stat().st_size <= 16 * 2**20 for file in piano.path.iterdir())
    assert "CC BY-SA 3.0 DE" in piano.license
    assert all(name in piano.card for name in ("Bernd Krueger", "piano-midi.de", "FluidR3", "examples/piano.sh"))
    tracks = bundle.read(piano.path).facts["generator"].tracks
    assert len({track.artist for track in tracks}) == 25
    assert {track.split for track in tracks} == {"train", "heldout"}


def test_sample_plays_it_where_no_model_is_named(musicldm: Command, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    done = musicldm("sample", "--artist", "Chopin", "--seconds", 3, "--steps", 10, "--device", "cpu", "-o", out)
    assert done.code == 0 and done.out.splitlines() == [str(out)], done.err
    heard = level(torch.from_numpy(files.read(out)), 16000)
    assert heard.seconds == 3 and not heard.clipped and heard.silence < 1
    assert heard.rms is not None and -50 < heard.rms < -15
