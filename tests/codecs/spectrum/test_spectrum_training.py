"""The codec of spectra in training: by the command, and across the step at which the adversarial decoder takes over."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from musicldm.codecs.spectrum.config import SpectrumRunConfig
from musicldm.codecs.spectrum.model import SpectrumCodec
from musicldm.codecs.spectrum.training import SpectrumTraining, train_spectrum
from musicldm.codecs.training import Material
from musicldm.core import config
from musicldm.core.errors import ConfigError
from musicldm.training.loop import TrainingResult
from tests.toys import TOY_VAE, Command, Pipeline

TOY = """
codec = "spectrum"

[model]
latent_channels = 8
window_size = 512
column_hop = 128
columns = 2
width = 48
blocks = 1
phase_block = 16
decoder = "adversarial"
head_width = 32
head_blocks = 1

[loss]
mel = 0.1
head_start = 30
adversarial_start = 34
fft_sizes = [512, 128]

[discriminator]
fft_sizes = [256]
width = 4

[training]
steps = 40
batch_size = 4
seconds = 0.5
learning_rate = 3e-3
warmup = 5
ema = 0.5
validate_every = 10
demo_every = 40
validation_crops = 4
"""


def plan(**training: Any) -> SpectrumRunConfig:
    data = tomllib.loads(TOY)
    del data["codec"]
    return config.from_dict(SpectrumRunConfig, config.merge(data, {"training": training}))


def train(pipeline: Pipeline, run: Path, **training: Any) -> TrainingResult:
    return train_spectrum(pipeline.wav, run, plan(**training), torch.device("cpu"))


def test_it_learns_and_a_stopped_run_goes_on(pipeline: Pipeline, tmp_path: Path) -> None:
    whole = train(pipeline, tmp_path / "whole", steps=40)
    rows = [row.split(",") for row in (tmp_path / "whole/metrics.csv").read_text().splitlines()[1:]]
    magnitude = [float(value) for _, name, value in rows if name == "val/magnitude"]
    assert magnitude[3] < 0.8 * magnitude[0]
    assert magnitude[-1] == pytest.approx(magnitude[3], rel=0.1), "the magnitudes stand still under the head"
    assert {"val/stft", "train/adversarial", "train/features"} <= {name for _, name, _ in rows}
    assert "stft" in whole.last and "adversarial" not in whole.last

    # Stopped before the head's steps, and among them.
    for steps in (20, 37, 40):
        assert train(pipeline, tmp_path / "parts", steps=steps).steps == steps
    codec = SpectrumCodec.load(tmp_path / "parts")
    assert codec.head is not None and codec.head.mix_out.weight.any()


def test_encoder_and_magnitudes_stand_still_under_the_head(pipeline: Pipeline, tmp_path: Path) -> None:
    """So that what was encoded before the head was trained is still its codec's."""
    weights, hashes = [], []
    for steps in (30, 36):
        train(pipeline, tmp_path, steps=steps)
        codec = SpectrumCodec.load(tmp_path)
        hashes.append(codec.spec.codec_hash)
        weights.append(codec.state_dict())
    changed = {name.split(".")[0] for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])}
    assert changed == {"head"}
    assert hashes[0] == hashes[1]


def test_the_head_begins_at_a_full_learning_rate() -> None:
    training = SpectrumTraining(plan(), Material())
    stages = []
    for step in (0, 29, 30, 39):
        training.state.step = step
        stages.append(training.stage)
    assert stages == [range(30), range(30), range(30, 40), range(30, 40)]
    assert SpectrumTraining(plan(steps=20), Material()).stage == range(20)


def test_it_is_the_codec_that_the_command_trains(pipeline: Pipeline, musicldm: Command, tmp_path: Path) -> None:
    """Unless a file, or the run that is gone on with, names another."""
    (tmp_path / "toy.toml").write_text(TOY)
    command = ["train-vae", pipeline.wav, "-o", tmp_path / "run", "--config", tmp_path / "toy.toml", "--steps", 2]
    assert musicldm(*command).code == 0
    assert json.loads((tmp_path / "run/config.json").read_text())["codec"] == "spectrum"
    song = next(pipeline.wav.rglob("*.wav"))
    done = musicldm("reconstruct", song, tmp_path / "out.wav", "--vae", tmp_path / "run")
    assert done.code == 0 and (tmp_path / "out.wav").stat().st_size > 1000
    told = json.loads(musicldm("train-vae", pipeline.wav, "-o", tmp_path / "new", "--dry-run", "--json").out)
    assert "column_hop" in told["model"]
    (tmp_path / "other.toml").write_text(TOY_VAE)  # which names no codec
    toy = ["--config", tmp_path / "other.toml", "--dry-run", "--json"]
    told = json.loads(musicldm("train-vae", pipeline.wav, "-o", pipeline.vae, *toy).out)
    assert "patch" in told["model"], "a run goes on with its own codec"
    new = ["train-vae", pipeline.wav, "-o", tmp_path / "new", "--init-from", pipeline.vae, *toy]
    assert "patch" in json.loads(musicldm(*new).out)["model"], "and a new one with that of its first weights"
    done = musicldm(*command, "--codec", "vae")
    assert done.code == 2 and "is for the codec 'spectrum', and not for 'vae'" in done.err


@pytest.mark.parametrize(
    "loss",
    [
        {"head_start": 5},
        {"head_start": -1},
        {"kl": -1.0},
        {"magnitude": 0.0, "mel": 0.0},
        {"stft": 0.0, "stft_mel": 0.0},
    ],
)
def test_impossible_losses_are_refused(loss: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        config.from_dict(SpectrumRunConfig, {"loss": loss})
