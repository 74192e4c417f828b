"""Runs that stop and go on: exact resume, Ctrl-C and SIGTERM, other configurations, a loss that is no number."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from toys import TOY_LDM, TOY_VAE, Command, Pipeline

from musicldm import bundle, config
from musicldm.audio.manifest import read_tracks
from musicldm.errors import DataError, MismatchError, TrainingError
from musicldm.training.diffusion import DiffusionRunConfig, train_diffusion
from musicldm.training.module import Batches, Workers
from musicldm.training.run import TrainingResult
from musicldm.training.vae import VAERunConfig, train_vae

CPU = torch.device("cpu")


def plan(cls: type, text: str, **training: object) -> VAERunConfig | DiffusionRunConfig:
    short = {"steps": 12, "validate_every": 5, "demo_every": 1000, "validation_crops": 2, "batch_size": 2}
    return config.from_dict(cls, config.merge(tomllib.loads(text), {"training": {**short, **training}}))


def train(kind: str, pipeline: Pipeline, run: Path, **options: object) -> TrainingResult:
    progress = options.pop("progress", lambda done, total, text="": None)
    if kind == "vae":
        return train_vae(pipeline.wav, run, plan(VAERunConfig, TOY_VAE, **options), CPU, progress=progress)  # type: ignore[arg-type]
    return train_diffusion(pipeline.store, run, plan(DiffusionRunConfig, TOY_LDM, **options), CPU, progress=progress)  # type: ignore[arg-type]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The averaged weights that are shipped, and the raw ones that are trained."""
    shipped = {
        f"{name}.{key}": value for name, part in bundle.read(run).parts.items() for key, value in part.tensors.items()
    }
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return {**shipped, **state}


@pytest.mark.parametrize("kind", ["vae", "ldm"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_ends_where_the_undisturbed_one_does(
    kind: str, workers: int, pipeline: Pipeline, tmp_path: Path
) -> None:
    train(kind, pipeline, tmp_path / "whole", workers=workers)

    class Power(Exception):
        """Cut between a checkpoint and the next."""

    def cut(done: float, total: float | None, text: str = "") -> None:
        if done == 8:
            raise Power

    with pytest.raises(Power):
        train(kind, pipeline, tmp_path / "cut", workers=2 - workers, progress=cut)
    train(kind, pipeline, tmp_path / "cut", workers=workers)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
    rows = [(tmp_path / run / "metrics.csv").read_text().splitlines() for run in ("whole", "cut")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_command_goes_on(
    number: signal.Signals, pipeline: Pipeline, configs: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "musicldm",
        "train-vae",
        str(pipeline.wav),
        "-o",
        str(run),
        "--config",
        str(configs["vae"]),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--steps", "100000"], stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 60
    while "train/total" not in ((run / "metrics.csv").read_text() if (run / "metrics.csv").exists() else ""):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Stopped and saved at step" in said
    step = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert step > 0 and bundle.read(run).facts["vae"]["step"] == step
    done = subprocess.run(
        [*command, "--steps", str(step + 1), "--json"], capture_output=True, text=True, check=True, env=environment
    )
    assert f'"steps": {step + 1}' in done.stdout


def test_another_configuration_does_not_resume(pipeline: Pipeline, tmp_path: Path) -> None:
    train("vae", pipeline, tmp_path, steps=2)
    with pytest.raises(MismatchError, match=r"training\.learning_rate"):
        train("vae", pipeline, tmp_path, steps=2, learning_rate=0.5)
    assert train("vae", pipeline, tmp_path, steps=4).steps == 4


def test_other_music_does_not_resume(pipeline: Pipeline, tmp_path: Path) -> None:
    """A run that went on with other tracks could have seen what it now holds out."""
    train("vae", pipeline, tmp_path / "run", steps=2)
    fewer = shutil.copytree(pipeline.wav, tmp_path / "wav")
    lines = (fewer / "manifest.jsonl").read_text().splitlines()
    (fewer / "manifest.jsonl").write_text("\n".join(lines[1:]) + "\n")
    with pytest.raises(MismatchError, match="data differ"):
        train_vae(fewer, tmp_path / "run", plan(VAERunConfig, TOY_VAE, steps=4), CPU)  # type: ignore[arg-type]


def test_another_noise_schedule_does_not_resume(pipeline: Pipeline, tmp_path: Path) -> None:
    base = plan(DiffusionRunConfig, TOY_LDM, steps=2)
    train_diffusion(pipeline.store, tmp_path, base, CPU)  # type: ignore[arg-type]
    shorter = replace(base, noise=replace(base.noise, steps=500))  # type: ignore[union-attr,type-var]
    with pytest.raises(MismatchError, match=r"noise\.steps"):
        train_diffusion(pipeline.store, tmp_path, shorter, CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_waveform_changed_under_a_training(workers: int, pipeline: Pipeline, tmp_path: Path) -> None:
    changed = shutil.copytree(pipeline.wav, tmp_path / "wav")
    for track in read_tracks(changed):
        if track.split == "train":
            track.path.write_bytes(track.path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"was changed since it was prepared\.$"):
        train_vae(changed, tmp_path / "run", plan(VAERunConfig, TOY_VAE, workers=workers), CPU)  # type: ignore[arg-type]


class Counting:
    def batch(self, step: int, batch_size: int) -> torch.Tensor:
        return torch.tensor([step])


def test_workers_end_with_the_training_and_not_before() -> None:
    others = set(multiprocessing.active_children())
    with Workers() as workers:
        batches = Batches(Counting(), batch_size=1, start=0)
        loader = iter(DataLoader(batches, batch_size=None, num_workers=2, worker_init_fn=workers.begin))
        assert [int(next(loader)) for _ in range(4)] == [0, 1, 2, 3]
        processes = set(multiprocessing.active_children()) - others
        for process in processes:
            process.terminate()
        assert [int(next(loader)) for _ in range(20)] == list(range(4, 24))
    # The loader is still there, as it is in the traceback of an error; Python would wait for its processes for ever.
    for process in processes:
        process.join(timeout=30)
    assert [process.exitcode for process in processes] == [0, 0]


def test_a_checkpoint_that_is_none(pipeline: Pipeline, tmp_path: Path) -> None:
    train("vae", pipeline, tmp_path, steps=2)
    checkpoint = tmp_path / "checkpoints/last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(DataError, match="cannot be read"):
        train("vae", pipeline, tmp_path, steps=4)


def test_a_loss_that_is_no_number_stops_with_a_sentence(pipeline: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no longer a number"):
        train("vae", pipeline, tmp_path, learning_rate=1e30, warmup=0)


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


def test_paper_and_small_presets_train_a_step(pipeline: Pipeline, tmp_path: Path) -> None:
    for name in ("paper", "small"):
        preset = config.merge(config.preset("vae", name), {"training": {"steps": 1, "batch_size": 1, "workers": 0}})
        preset = config.merge(preset, {"training": {"validation_crops": 1, "seconds": 2.0}})
        vae_plan = config.from_dict(VAERunConfig, preset)
        assert train_vae(pipeline.wav, tmp_path / name, vae_plan, CPU).steps == 1


@pytest.mark.parametrize("objective", ["eps", "v"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_every_objective_and_schedule(objective: str, schedule: str, pipeline: Pipeline, tmp_path: Path) -> None:
    base = plan(DiffusionRunConfig, TOY_LDM, steps=2)
    noise = replace(base.noise, objective=objective, schedule=schedule)  # type: ignore[union-attr]
    result = train_diffusion(pipeline.store, tmp_path, replace(base, noise=noise), CPU)  # type: ignore[type-var]
    denoiser = bundle.read(result.bundle).part("denoiser").config
    assert (denoiser["noise"]["objective"], denoiser["noise"]["schedule"]) == (objective, schedule)
