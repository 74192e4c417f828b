"""`evaluate samples` across codecs: the same samples are as near to the same music, whatever the codec."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile

from musicldm.codecs.vae.model import VAE
from musicldm.core import bundle
from musicldm.evaluate.samples import WHITE
from musicldm.media.audio import files
from tests.evaluate.evaluations import figures, parsed
from tests.toy_model import RATE
from tests.toys import Command


def takes(root: Path) -> list[Path]:
    """So few that there are no intervals to compute."""
    return [root / "out" / f"take {number}.wav" for number in (1, 2, 3)]


def mel_figures(told: dict[str, Any]) -> dict[str, float]:
    """The Fréchet distance in spectra of each set that no codec makes."""
    names = "samples", "half of the reference", WHITE
    return {name: figures(told, name)["frechet", "mel"]["estimate"]["value"] for name in names}


def test_figures_in_spectra_compare_across_codecs_of_several_rates(
    root: Path, musicldm: Command, tmp_path: Path
) -> None:
    """By a codec at 8 kHz, by one at 4 kHz, and without any."""
    slow = VAE(replace(VAE.load(root / "model").config, sample_rate=RATE // 2))
    bundle.write(tmp_path / "slow", bundle.Bundle("slow", {"codec": slow.component()}))
    arguments = ["evaluate", "samples", *takes(root), "--reference", root / "songs", "--json", "--pieces", 4]
    told = [
        parsed(musicldm(*arguments, *model, "--spectra-rate", RATE // 2).out)
        for model in (["--model", root / "model"], ["--model", tmp_path / "slow"], [])
    ]
    by_ours, by_slow, by_none = map(mel_figures, told)
    assert all("log-mel frames at 4000 Hz" in each["embeddings"]["mel"] for each in told)
    assert by_ours[WHITE] > 5 * by_ours["samples"]
    for other in (by_slow, by_none):
        assert other == pytest.approx(by_ours, rel=0.05)
    done = musicldm(*arguments, "--model", tmp_path / "slow", "--spectra-rate", RATE)
    assert done.code == 2 and "Spectra cannot be compared at 8000 Hz: the audio has 4000 Hz" in done.err


def test_white_noise_is_at_the_musics_level(root: Path, musicldm: Command, tmp_path: Path) -> None:
    """So that music a third as loud is as far from it."""
    (tmp_path / "soft").mkdir()
    for path in (root / "songs").glob("*.wav"):
        soundfile.write(tmp_path / "soft" / path.name, files.read(path).T / 3, RATE, subtype="FLOAT")
    arguments = ["evaluate", "samples", *takes(root), "--pieces", 4]
    found = [
        mel_figures(parsed(musicldm(*arguments, "--reference", music, "--json").out))[WHITE]
        for music in (root / "songs", tmp_path / "soft")
    ]
    assert found[1] == pytest.approx(found[0], rel=0.1)
