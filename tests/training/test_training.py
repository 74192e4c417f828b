"""Runs of both networks that stop and are resumed: exactly so, after signals, not with another configuration."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from musicldm.codecs.vae.config import VAERunConfig
from musicldm.codecs.vae.training import train_vae
from musicldm.core import bundle, config
from musicldm.core.errors import DataError, MismatchError, TrainingError
from musicldm.core.progress import Progress, silent
from musicldm.generators.diffusion.config import DiffusionRunConfig
from musicldm.generators.diffusion.training import train_diffusion
from musicldm.media.audio import files
from musicldm.media.manifest import open_manifest, read_tracks
from musicldm.noise.schedule import NoiseConfig
from musicldm.training.loop import TrainingResult
from tests.toys import TOY_LDM, TOY_SPECTRAL, TOY_VAE, Command, Pipeline

CPU = torch.device("cpu")
SHORT: dict[str, Any] = {
    "steps": 12,
    "validate_every": 5,
    "demo_every": 1000,
    "validation_crops": 2,
    "batch_size": 2,
}


def vae_plan(text: str = TOY_VAE, **training: Any) -> VAERunConfig:
    """A short training of a toy VAE."""
    return config.from_dict(VAERunConfig, config.merge(tomllib.loads(text), {"training": SHORT | training}))


def diffusion_plan(**training: Any) -> DiffusionRunConfig:
    """A short training of a toy diffusion model."""
    return config.from_dict(DiffusionRunConfig, config.merge(tomllib.loads(TOY_LDM), {"training": SHORT | training}))


def train(
    kind: str,
    pipeline: Pipeline,
    run: Path,
    progress: Progress = silent,
    announce: Callable[[str], None] = lambda sentence: None,
    **options: Any,
) -> TrainingResult:
    """Either of them on the music of the pipeline."""
    if kind == "vae":
        return train_vae(pipeline.wav, run, vae_plan(**options), CPU, progress, announce)
    return train_diffusion(pipeline.store, run, diffusion_plan(**options), CPU, progress, announce)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The averaged weights that are shipped, and the raw ones that are trained."""
    shipped = {
        f"{name}.{key}": value
        for name, part in bundle.read(run).components.items()
        for key, value in part.tensors.items()
    }
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return {**shipped, **state}


@pytest.mark.parametrize(("kind", "workers"), [("vae", 0), ("ldm", 2)])
def test_a_resumed_run_ends_where_the_undisturbed_one_does(
    kind: str, workers: int, pipeline: Pipeline, tmp_path: Path
) -> None:
    train(kind, pipeline, tmp_path / "whole", workers=workers, accumulate=2)

    class Power(Exception):
        """Cut between a checkpoint and the next."""

    def cut(done: float, total: float | None, text: str = "") -> None:
        if done == 8:
            raise Power

    with pytest.raises(Power):
        train(kind, pipeline, tmp_path / "cut", workers=2 - workers, progress=cut, accumulate=2)
    train(kind, pipeline, tmp_path / "cut", workers=workers, accumulate=2)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
    rows = [(tmp_path / run / "metrics.csv").read_text().splitlines() for run in ("whole", "cut")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("kind", ["vae", "ldm"])
def test_a_step_in_micro_batches_is_the_same_step(kind: str, pipeline: Pipeline, tmp_path: Path) -> None:
    """In its gradients, of which Adam keeps an average, and in the weights."""
    gradients, trained = [], []
    for parts in (1, 2):
        train(kind, pipeline, tmp_path / str(parts), steps=3, accumulate=parts, warmup=0, learning_rate=1e-4)
        state = torch.load(tmp_path / f"{parts}/checkpoints/last.ckpt", weights_only=True)
        gradients.append(torch.cat([moments["exp_avg"].flatten() for moments in state["optimizer"]["state"].values()]))
        names = [name for name in state["state_dict"] if name.startswith("model.")]
        trained.append(torch.cat([state["state_dict"][name].flatten() for name in names]))
    for (whole, parted), near in ((gradients, 1e-3), (trained, 1e-5)):
        assert 0 < (parted - whole).norm() <= near * whole.norm()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_command_goes_on(
    number: signal.Signals, pipeline: Pipeline, configs: dict[str, Path], musicldm: Command, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ["train-vae", str(pipeline.wav), "-o", str(run), "--config", str(configs["vae"])]
    command = [sys.executable, "-m", "musicldm", *arguments, "--steps", "100000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while "train/total" not in ((run / "metrics.csv").read_text() if (run / "metrics.csv").exists() else ""):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Stopped and saved at step" in said
    step = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state"]["step"]
    assert step > 0 and bundle.read(run).facts["codec"].step == step
    done = musicldm(*arguments, "--steps", step + 1, "--json")
    assert json.loads(done.out)["steps"] == step + 1, done.err


def test_another_configuration_does_not_resume(pipeline: Pipeline, tmp_path: Path) -> None:
    train("vae", pipeline, tmp_path, steps=2)
    with pytest.raises(MismatchError, match=r"training\.learning_rate"):
        train("vae", pipeline, tmp_path, steps=2, learning_rate=0.5)
    assert train("vae", pipeline, tmp_path, steps=4).steps == 4


def test_other_music_does_not_resume(pipeline: Pipeline, tmp_path: Path) -> None:
    """A run that went on with other tracks could have seen what it now holds out."""
    train("vae", pipeline, tmp_path / "run", steps=2)
    fewer = shutil.copytree(pipeline.wav, tmp_path / "wav")
    _, *kept = open_manifest(fewer).records.values()
    (fewer / "manifest.jsonl").write_text("".join(json.dumps(record) + "\n" for record in kept))
    with pytest.raises(MismatchError, match="data differ"):
        train_vae(fewer, tmp_path / "run", vae_plan(steps=4), CPU)


def test_another_noise_schedule_does_not_resume(pipeline: Pipeline, tmp_path: Path) -> None:
    base = diffusion_plan(steps=2)
    train_diffusion(pipeline.store, tmp_path, base, CPU)
    shorter = replace(base, model=replace(base.model, noise=NoiseConfig(steps=500)))
    with pytest.raises(MismatchError, match=r"model\.noise\.steps"):
        train_diffusion(pipeline.store, tmp_path, shorter, CPU)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_waveform_changed_under_a_training(workers: int, pipeline: Pipeline, tmp_path: Path) -> None:
    changed = shutil.copytree(pipeline.wav, tmp_path / "wav")
    for track in read_tracks(changed):
        if track.split == "train":
            track.path.write_bytes(track.path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"was changed since it was prepared\.$"):
        train_vae(changed, tmp_path / "run", vae_plan(workers=workers), CPU)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    pipeline: Pipeline, configs: dict[str, Path], musicldm: Command, tmp_path: Path
) -> None:
    command = ["train-vae", pipeline.wav, "-o", tmp_path / "run", "--config", configs["vae"]]
    assert musicldm(*command, "--steps", 2).code == 0
    last, previous = (tmp_path / f"run/checkpoints/{name}.ckpt" for name in ("last", "previous"))
    last.write_bytes(last.read_bytes()[:1000])
    done = musicldm(*command, "--steps", 3)
    assert done.code == 0 and "is damaged. Continuing from the one before it." in done.err
    assert torch.load(last, weights_only=True)["state"]["step"] == 3
    for path in (last, previous):
        path.write_bytes(path.read_bytes()[:1000])
    done = musicldm(*command, "--steps", 4)
    assert done.code == 1 and "cannot be read" in done.err and "Hint: " in done.err


def test_a_loss_that_stays_no_number_stops_with_a_sentence(pipeline: Pipeline, tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(TrainingError, match=r"no longer a number on .* gone back 2 times already") as caught:
        train("vae", pipeline, tmp_path, learning_rate=1e30, warmup=0, patience=2, announce=said.append)
    assert "--learning-rate" in caught.value.hint
    assert len(said) == 2 and ".wav at " in said[0] and "5e+29" in said[0]


def test_a_trained_model_without_checkpoints_is_not_trained_over(pipeline: Pipeline, tmp_path: Path) -> None:
    train("vae", pipeline, tmp_path, steps=2)
    before = bundle.read(tmp_path).component("codec").digest
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(MismatchError, match="no checkpoint to resume from"):
        train("vae", pipeline, tmp_path, steps=2)
    assert bundle.read(tmp_path).component("codec").digest == before


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_a_discriminator_resumes_too(precision: str, pipeline: Pipeline, tmp_path: Path) -> None:
    """Cut before it begins and after, and with a step in two micro-batches."""
    short: dict[str, Any] = {"steps": 7, "validate_every": 2, "batch_size": 4, "seconds": 0.2}
    config = vae_plan(TOY_SPECTRAL, precision=precision, accumulate=2, **short)
    train_vae(pipeline.wav, tmp_path / "whole", config, CPU)

    class Power(Exception):
        """Gone."""

    for moment in (3, 6):

        def cut(done: float, total: float | None, text: str = "", moment: int = moment) -> None:
            if done == moment:
                raise Power

        with pytest.raises(Power):
            train_vae(pipeline.wav, tmp_path / "cut", config, CPU, progress=cut)
    train_vae(pipeline.wav, tmp_path / "cut", config, CPU)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert any(name.startswith("discriminator.") for name in whole)
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
    rows = [(tmp_path / run / "metrics.csv").read_text() for run in ("whole", "cut")]
    assert rows[0] == rows[1] and ",train/adversarial," not in rows[0].split("\n4,")[0]


def test_silent_music_trains(pipeline: Pipeline, tmp_path: Path) -> None:
    """Every loss stays a number on silence, and no rollback is due to it."""
    silent = Path(shutil.copytree(pipeline.wav, tmp_path / "wav"))
    for number, track in enumerate(read_tracks(silent)):
        if track.split == "train" and number % 2:
            files.write(track.path, np.zeros((1, track.length), np.float32), track.rate)
    config = vae_plan(TOY_SPECTRAL, steps=60, seconds=0.2, learning_rate=1e-3)
    train_vae(silent, tmp_path / "run", config, CPU)
    assert not (tmp_path / "run/events.jsonl").exists()


def test_clips_shorter_than_the_crop(
    pipeline: Pipeline, configs: dict[str, Path], musicldm: Command, tmp_path: Path
) -> None:
    wav = Path(shutil.copytree(pipeline.wav, tmp_path / "wav"))
    records = list(open_manifest(wav).records.values())
    short = next(record for record in records if record["split"] == "train")
    short["samples"] = 8000
    files.write(wav / short["path"], files.read(wav / short["path"])[:, :8000], 16000)
    short["bytes"] = (wav / short["path"]).stat().st_size
    (wav / "manifest.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    command = ["train-vae", wav, "--config", configs["vae"], "--steps", 1]
    done = musicldm(*command, "-o", tmp_path / "some")
    assert done.code == 0 and "1 of" in done.err and "are shorter than a crop of" in done.err
    done = musicldm(*command, "-o", tmp_path / "none", "--seconds", 20)
    assert done.code == 0 and "shorter than a crop of 20" in done.err  # all of them, and it has trained on them


def test_one_track_trains_without_validation(
    musicldm: Command, songs: Path, configs: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "raw").mkdir()
    song = next(songs.glob("*/*.wav"))
    (tmp_path / "raw" / "song.wav").write_bytes(song.read_bytes())
    assert musicldm("preprocess", tmp_path / "raw", tmp_path / "wav").code == 0
    done = musicldm("train-vae", tmp_path / "wav", "-o", tmp_path / "vae", "--config", configs["vae"], "--steps", 2)
    assert done.code == 0 and (tmp_path / "vae/bundle/bundle.json").exists()
    assert "no held-out" in done.err


def test_the_large_presets_train_a_step(pipeline: Pipeline, tmp_path: Path) -> None:
    """Also `base`, with its discriminator, on what is neither stereo nor at its rate."""
    short = {"steps": 1, "batch_size": 1, "workers": 0, "validation_crops": 1, "seconds": 1.0}
    for name in ("paper", "small", "base"):
        over = {"training": short, "loss": {"adversarial_start": 0}}
        preset = config.merge(config.preset("musicldm.codecs.vae", name), over)
        large = config.from_dict(VAERunConfig, preset)
        assert train_vae(pipeline.wav, tmp_path / name, large, CPU, resample=name == "base").steps == 1
    assert ",train/discriminator," in (tmp_path / "base/metrics.csv").read_text()
