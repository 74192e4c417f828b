"""Runs of both networks that stop and go on: exact resume, signals, other configurations, weights to begin with."""

from __future__ import annotations

import json
import math
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

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from musicldm.codecs.vae.config import VAERunConfig
from musicldm.codecs.vae.training import train_vae
from musicldm.conditions.base import ConditionConfig, Conditions
from musicldm.core import bundle, config
from musicldm.core.errors import DataError, MismatchError, TrainingError
from musicldm.generators.diffusion.model import DiffusionConfig
from musicldm.generators.diffusion.training import DiffusionRunConfig, DiffusionTraining, train_diffusion
from musicldm.generators.diffusion.unet import UNetConfig
from musicldm.latents.dataset import LatentBatch
from musicldm.latents.statistics import LatentStatistics
from musicldm.latents.store import LatentStore
from musicldm.media.audio import files
from musicldm.media.audio.dataset import CropDataset, open_splits
from musicldm.media.audio.manifest import read_tracks
from musicldm.noise.schedule import NoiseConfig
from musicldm.sampling import Generator
from musicldm.training.config import TrainingConfig
from musicldm.training.loop import Batches, Workers
from musicldm.training.run import TrainingResult
from tests.toys import TOY_LDM, TOY_SPECTRAL, TOY_VAE, Command, Pipeline

CPU = torch.device("cpu")


def plan(cls: type, text: str, **training: object) -> VAERunConfig | DiffusionRunConfig:
    short = {"steps": 12, "validate_every": 5, "demo_every": 1000, "validation_crops": 2, "batch_size": 2}
    return config.from_dict(cls, config.merge(tomllib.loads(text), {"training": {**short, **training}}))


def train(kind: str, pipeline: Pipeline, run: Path, **options: object) -> TrainingResult:
    heard = {name: options.pop(name) for name in ("progress", "announce", "init") if name in options}
    if kind == "vae":
        return train_vae(pipeline.wav, run, plan(VAERunConfig, TOY_VAE, **options), CPU, **heard)  # type: ignore[arg-type]
    return train_diffusion(pipeline.store, run, plan(DiffusionRunConfig, TOY_LDM, **options), CPU, **heard)  # type: ignore[arg-type]


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
def test_a_step_in_parts_is_the_same_step(kind: str, pipeline: Pipeline, tmp_path: Path) -> None:
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


def test_parts_of_a_batch_of_crops_make_up_the_whole_and_can_be_named(pipeline: Pipeline) -> None:
    tracks = open_splits(pipeline.wav, 16000, 1)["train"]
    crops = CropDataset(tracks, 4096, 4096, seed=3)
    whole = crops.batch(5, 6)
    assert torch.equal(torch.cat([crops.batch(5, 6, slice(first, first + 3)) for first in (0, 3)]), whole)
    for crop, name in zip(whole, crops.describe(5, 6), strict=True):
        file, second = name.removesuffix(" s").rsplit(" at ", 1)
        starts = [start for start in range(0, 200 * 4096, 4096) if f"{start / 16000:.1f}" == second]
        found = [files.read(pipeline.wav / file, start, start + 4096) for start in starts]
        assert any(np.array_equal(samples, crop.numpy()) for samples in found), name


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
    step = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["course"]["step"]
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
    lines = (fewer / "manifest.jsonl").read_text().splitlines()
    (fewer / "manifest.jsonl").write_text("\n".join(lines[1:]) + "\n")
    with pytest.raises(MismatchError, match="data differ"):
        train_vae(fewer, tmp_path / "run", plan(VAERunConfig, TOY_VAE, steps=4), CPU)  # type: ignore[arg-type]


def test_another_noise_schedule_does_not_resume(pipeline: Pipeline, tmp_path: Path) -> None:
    base = plan(DiffusionRunConfig, TOY_LDM, steps=2)
    train_diffusion(pipeline.store, tmp_path, base, CPU)  # type: ignore[arg-type]
    shorter = replace(base, model=replace(base.model, noise=NoiseConfig(steps=500)))  # type: ignore[type-var,arg-type]
    with pytest.raises(MismatchError, match=r"model\.noise\.steps"):
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
    def batch(self, step: int, batch_size: int, part: slice) -> torch.Tensor:
        return torch.tensor([step])

    def describe(self, step: int, batch_size: int) -> list[str]:
        return []


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


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    pipeline: Pipeline, configs: dict[str, Path], musicldm: Command, tmp_path: Path
) -> None:
    command = ["train-vae", pipeline.wav, "-o", tmp_path / "run", "--config", configs["vae"]]
    assert musicldm(*command, "--steps", 2).code == 0
    last, previous = (tmp_path / f"run/checkpoints/{name}.ckpt" for name in ("last", "previous"))
    last.write_bytes(last.read_bytes()[:1000])
    done = musicldm(*command, "--steps", 3)
    assert done.code == 0 and "is damaged. Going on from the one before it." in done.err
    assert torch.load(last, weights_only=True)["course"]["step"] == 3
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


def test_training_goes_on_from_a_bundle(
    pipeline: Pipeline, configs: dict[str, Path], musicldm: Command, tmp_path: Path
) -> None:
    """With its weights at first, its tracks among those that were trained on, and no need of it later."""
    for verb, data, kind, role in (
        ("train-diffusion", pipeline.store, "ldm", "generator"),
        ("train-vae", pipeline.wav, "vae", "codec"),
    ):
        parent = shutil.copytree(getattr(pipeline, kind) / "bundle", tmp_path / f"{kind}-parent")
        index = json.loads((parent / "bundle.json").read_text())
        tracks = index["facts"][role]["tracks"]
        tracks.append(tracks[0] | {"content": "heard elsewhere"})
        (parent / "bundle.json").write_text(json.dumps(index))
        run = tmp_path / kind
        command = [verb, data, "-o", run, "--config", configs[kind], "--learning-rate", 1e-12]
        done = musicldm(*command, "--steps", 2, "--init", parent)
        assert done.code == 0, done.err
        old, new = bundle.read(parent), bundle.read(run)
        for name, tensor in old.component(role).tensors.items():
            torch.testing.assert_close(new.component(role).tensors[name], tensor, rtol=1e-5, atol=1e-8)
        assert {track.content for track in new.facts[role].tracks} == {track["content"] for track in tracks}
    shutil.rmtree(parent)
    done = musicldm(*command, "--steps", 3)
    assert done.code == 0, done.err
    assert bundle.read(run).facts[role].init["digest"] == old.component(role).digest
    assert len(bundle.read(run).facts[role].tracks) == len(tracks)
    done = musicldm(*command, "--steps", 4, "--init", run)
    assert done.code == 1 and "init differ" in done.err, done.err


def test_tracks_that_the_first_weights_know_are_told_of(
    pipeline: Pipeline, configs: dict[str, Path], musicldm: Command, tmp_path: Path
) -> None:
    parent = shutil.copytree(pipeline.vae / "bundle", tmp_path / "parent")
    index = (parent / "bundle.json").read_text()
    (parent / "bundle.json").write_text(index.replace('"split": "heldout"', '"split": "train"'))
    command = ["train-vae", pipeline.wav, "-o", tmp_path / "run", "--config", configs["vae"], "--steps", 1]
    done = musicldm(*command, "--init", parent)
    assert done.code == 0 and "tracks held out here, so the held-out figures will flatter" in done.err, done.err
    assert {track.split for track in bundle.read(tmp_path / "run").facts["codec"].tracks} == {"train"}


def test_a_bundle_of_another_shape(
    pipeline: Pipeline, configs: dict[str, Path], musicldm: Command, tmp_path: Path
) -> None:
    (tmp_path / "wide.toml").write_text(configs["vae"].read_text().replace("widths = [32, 48]", "widths = [32, 64]"))
    done = musicldm(
        "train-vae", pipeline.wav, "-o", tmp_path, "--config", tmp_path / "wide.toml", "--init", pipeline.vae
    )
    assert done.code == 1 and "The vae of vae is another network: widths differ." in done.err, done.err
    done = musicldm("train-vae", pipeline.wav, "-o", tmp_path, "--init", tmp_path)
    assert done.code == 1 and "no bundle in" in done.err


def test_a_bundle_of_the_same_shape_that_is_another_network(
    pipeline: Pipeline, musicldm: Command, tmp_path: Path
) -> None:
    """Weights say nothing of heads, of what the network predicts, or of whose latents it knows."""
    (tmp_path / "heads.toml").write_text(TOY_VAE.replace("heads = 2", "heads = 4"))
    command = ["train-vae", pipeline.wav, "-o", tmp_path / "run", "--config", tmp_path / "heads.toml"]
    done = musicldm(*command, "--init", pipeline.vae)
    assert done.code == 1 and "another network: heads differ" in done.err, done.err
    (tmp_path / "ldm.toml").write_text(TOY_LDM)
    command = ["train-diffusion", pipeline.store, "-o", tmp_path / "run", "--config", tmp_path / "ldm.toml"]
    done = musicldm(*command, "--init", pipeline.ldm, "--objective", "eps")
    assert done.code == 1 and "noise.objective differ" in done.err, done.err
    others = bundle.read(pipeline.ldm)
    denoiser = others.component("generator")
    others.components["generator"] = bundle.Component(
        "diffusion", {**denoiser.config, "codec": "0" * 64}, denoiser.tensors
    )  # type: ignore[index]
    bundle.write(tmp_path / "others", others)
    done = musicldm(*command, "--init", tmp_path / "others")
    assert done.code == 1 and "codec differ" in done.err, done.err


def test_an_export_hides_and_removes_nothing(pipeline: Pipeline, musicldm: Command, tmp_path: Path) -> None:
    run = Path(shutil.copytree(pipeline.vae, tmp_path / "run"))
    export = ["bundle", "export", run / "checkpoints/last.ckpt", "-o"]
    done = musicldm(*export, run)
    assert done.code == 2 and "the folder of a run" in done.err and not (run / "bundle.json").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/weights.safetensors").write_bytes(b"precious")
    done = musicldm(*export, tmp_path / "mine")
    assert done.code == 2 and "holds other things" in done.err
    for _ in range(2):
        assert musicldm(*export, tmp_path / "out").code == 0
        (tmp_path / "out/weights.safetensors").write_bytes(b"precious")
    assert (tmp_path / "out/weights.safetensors").exists()
    assert len(list((tmp_path / "out").glob("vae-*.safetensors"))) == 1


def test_a_trained_model_without_checkpoints_is_not_trained_over(pipeline: Pipeline, tmp_path: Path) -> None:
    train("vae", pipeline, tmp_path, steps=2)
    before = bundle.read(tmp_path).component("codec").digest
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(MismatchError, match="no checkpoint to go on from"):
        train("vae", pipeline, tmp_path, steps=2)
    assert bundle.read(tmp_path).component("codec").digest == before


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_a_discriminator_resumes_too(precision: str, pipeline: Pipeline, tmp_path: Path) -> None:
    """Cut before it begins and after, and with a step in two parts."""
    how = {"precision": precision, "accumulate": 2, "steps": 7, "validate_every": 2, "batch_size": 4, "seconds": 0.2}
    config = plan(VAERunConfig, TOY_SPECTRAL, **how)
    train_vae(pipeline.wav, tmp_path / "whole", config, CPU)  # type: ignore[arg-type]

    class Power(Exception):
        """Gone."""

    for moment in (3, 6):

        def cut(done: float, total: float | None, text: str = "", moment: int = moment) -> None:
            if done == moment:
                raise Power

        with pytest.raises(Power):
            train_vae(pipeline.wav, tmp_path / "cut", config, CPU, progress=cut)  # type: ignore[arg-type]
    train_vae(pipeline.wav, tmp_path / "cut", config, CPU)  # type: ignore[arg-type]
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert any(name.startswith("discriminator.") for name in whole)
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
    rows = [(tmp_path / run / "metrics.csv").read_text() for run in ("whole", "cut")]
    assert rows[0] == rows[1] and ",train/adversarial," not in rows[0].split("\n4,")[0]


def test_silent_music_trains(pipeline: Pipeline, tmp_path: Path) -> None:
    """Every loss stays a number on silence, and no return is due to it."""
    silent = Path(shutil.copytree(pipeline.wav, tmp_path / "wav"))
    for number, track in enumerate(read_tracks(silent)):
        if track.split == "train" and number % 2:
            files.write(track.path, np.zeros((1, track.samples), np.float32), track.sample_rate)
    config = plan(VAERunConfig, TOY_SPECTRAL, steps=60, seconds=0.2, learning_rate=1e-3)
    train_vae(silent, tmp_path / "run", config, CPU)  # type: ignore[arg-type]
    assert not (tmp_path / "run/events.jsonl").exists()


def test_clips_shorter_than_the_crop(
    pipeline: Pipeline, configs: dict[str, Path], musicldm: Command, tmp_path: Path
) -> None:
    wav = Path(shutil.copytree(pipeline.wav, tmp_path / "wav"))
    lines = [json.loads(line) for line in (wav / "manifest.jsonl").read_text().splitlines()]
    short = next(record for record in lines if record["split"] == "train")
    short["samples"] = 8000
    files.write(wav / short["path"], files.read(wav / short["path"])[:, :8000], 16000)
    short["bytes"] = (wav / short["path"]).stat().st_size
    (wav / "manifest.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
    command = ["train-vae", wav, "--config", configs["vae"], "--steps", 1]
    done = musicldm(*command, "-o", tmp_path / "some")
    assert done.code == 0 and "1 of" in done.err and "are shorter than a crop of" in done.err
    done = musicldm(*command, "-o", tmp_path / "none", "--seconds", 3600)
    assert done.code == 1 and "training tracks is as long as a crop of" in done.err and "--seconds" in done.err


def test_any_checkpoint_becomes_a_bundle(pipeline: Pipeline, musicldm: Command, tmp_path: Path) -> None:
    for run, role in ((pipeline.vae, "codec"), (pipeline.ldm, "generator")):
        out = tmp_path / role
        done = musicldm("bundle", "export", run / "checkpoints/last.ckpt", "-o", out)
        assert done.code == 0 and done.out.splitlines() == [str(out)], done.err
        shipped, exported = bundle.read(run), bundle.read(out)
        assert (exported.name, exported.facts) == (role, shipped.facts)
        assert {name: made.digest for name, made in exported.components.items()} == {
            name: made.digest for name, made in shipped.components.items()
        }
        done = musicldm("bundle", "export", run / "checkpoints/previous.ckpt", "-o", out, "--json")
        before = bundle.read(out)
        assert json.loads(done.out) == {"bundle": str(out), "step": before.facts[role].step}
        assert before.facts[role].step < shipped.facts[role].step
        assert before.component(role).digest != shipped.component(role).digest
        assert musicldm("bundle", "export", run / "checkpoints/last.ckpt", "-o", out, "--half").code == 0
        assert all(tensor.dtype == torch.float16 for tensor in bundle.read(out).component(role).tensors.values())
    lost = shutil.copy(pipeline.vae / "checkpoints/last.ckpt", tmp_path / "lost.ckpt")
    for path, sentence in ((lost, "no bundle in"), (tmp_path / "none.ckpt", "no checkpoint")):
        done = musicldm("bundle", "export", path, "-o", tmp_path / "out")
        assert done.code == 1 and sentence in done.err and "Hint: " in done.err, done.err
    other = tmp_path / "run/checkpoints"
    shutil.copytree(pipeline.ldm / "bundle", other.parent / "bundle")
    other.mkdir()
    done = musicldm("bundle", "export", shutil.copy(lost, other), "-o", tmp_path / "out")
    assert done.code == 1 and "does not belong to ldm" in done.err, done.err


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
        vae_plan = config.from_dict(VAERunConfig, preset)
        assert train_vae(pipeline.wav, tmp_path / name, vae_plan, CPU, resample=name == "base").steps == 1
    assert ",train/discriminator," in (tmp_path / "base/metrics.csv").read_text()


@pytest.fixture
def short_demos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second each."""
    monkeypatch.setattr("musicldm.generators.diffusion.training.DEMO_SECONDS", 0.5)


def train_denoiser(pipeline: Pipeline, run: Path, **model: object) -> TrainingResult:
    """Two steps of the toy denoiser, with other tables of its model."""
    toy = tomllib.loads(TOY_LDM)
    small = {"unet": {"widths": [16, 32]}, "transformer": {"width": 32, "depth": 2}}
    short = {"steps": 2, "batch_size": 4, "validation_crops": 2, "ema": 0.5}
    over = config.merge({"model": small, "training": short}, {"model": model})
    return train_diffusion(pipeline.store, run, config.from_dict(DiffusionRunConfig, config.merge(toy, over)), CPU)


@pytest.mark.usefixtures("short_demos")
@pytest.mark.parametrize(
    "noise",
    [
        *(
            {"objective": objective, "schedule": schedule}
            for objective in ("eps", "x0", "v", "flow")
            for schedule in ("linear", "cosine", "flow")
            if (objective, schedule) != ("eps", "flow")
        ),
        {"levels": "continuous", "min_snr": 5.0},
        {"zero_terminal_snr": True, "min_snr": 5.0},
        {"schedule": "linear", "beta": [1e-6, 0.01], "objective": "eps", "min_snr": 5.0, "steps": 50},
    ],
    ids=lambda noise: "-".join(map(str, noise.values())),
)
def test_every_objective_and_schedule(noise: dict[str, object], pipeline: Pipeline, tmp_path: Path) -> None:
    result = train_denoiser(pipeline, tmp_path, noise=noise)
    assert all(map(math.isfinite, result.last.values()))
    assert (
        config.to_dict(Generator.load(result.bundle, "cpu").diffusion.config.noise).items()
        >= {name: tuple(value) if isinstance(value, list) else value for name, value in noise.items()}.items()
    )


def test_an_impossible_process_is_refused_with_what_is_possible(
    pipeline: Pipeline, musicldm: Command, tmp_path: Path
) -> None:
    done = musicldm(
        "train-diffusion", pipeline.store, "-o", tmp_path / "run", "--objective", "eps", "--schedule", "flow"
    )
    assert done.code == 2 and "Choose noise.objective v, x0 or flow." in done.err, done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("short_demos")
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("denoiser", ["unet", "transformer"])
def test_either_network_told_or_not(denoiser: str, told: bool, pipeline: Pipeline, tmp_path: Path) -> None:
    """Where artists are told, three of them are heard, beside two takes of nobody."""
    conditions = {"by_artist": told, "by_position": told}
    result = train_denoiser(pipeline, tmp_path, denoiser=denoiser, conditions=conditions)
    artists = LatentStore.open(pipeline.store).tracks.artists
    told_of = bundle.read(result.bundle).component("generator").config["conditions"]["artists"]
    assert sorted(told_of) == (sorted(artists) if told else [])
    names = {path.stem.split("-", 1)[0]: path.stem.split("-", 1)[1] for path in tmp_path.glob("demos/step-2/*.wav")}
    assert (names.pop("1"), names.pop("2")) == ("sample", "sample")
    assert sorted(names) == (["3", "4", "5"] if told else []) and set(names.values()) <= set(artists)
    # Both the averaged weights and the raw ones are judged at every noise level.
    levels = {name for name in result.last if name.startswith("t")}
    assert len(levels) == 8 and set(result.last) == {"loss", "raw", *levels, *(f"raw-{name}" for name in levels)}
    assert result.last["loss"] == pytest.approx(sum(result.last[name] for name in levels) / 8)
    assert result.last["loss"] != result.last["raw"]


@pytest.mark.parametrize("share", [0.1, 0.0])
def test_a_tenth_of_the_crops_is_not_told_each_condition(share: float) -> None:
    class Listening(torch.nn.Module):
        def forward(self, x: torch.Tensor, time: torch.Tensor, conditions: Conditions) -> torch.Tensor:
            self.heard = conditions
            return torch.zeros_like(x)

    model = DiffusionConfig(unet=UNetConfig(1, (8,), 1), conditions=ConditionConfig(("Abba", "Zoë"), dropout=share))
    run = DiffusionRunConfig(model, TrainingConfig(batch_size=20000))
    module = DiffusionTraining(run, LatentStatistics(1, (0.0,), (1.0,)), None, bundle.Bundle("", {}, {}), [])
    module.model.network = listener = Listening()  # type: ignore[assignment]
    number = torch.arange(20000)
    torch.manual_seed(0)
    batch = LatentBatch(torch.zeros(20000, 1, 1), number % 2, number.float(), torch.full((20000,), 20000.0))
    module.losses(batch._replace(artist=torch.full_like(number, -1)))
    assert not listener.heard.artists.any()  # whom the model does not know
    torch.manual_seed(0)
    module.losses(batch)
    nobody, nowhere = listener.heard.artists.sum(dim=1) == 0, listener.heard.position < 0
    for dropped, wanted in ((nobody, share), (nowhere, share), (nobody & nowhere, share / 2)):
        assert dropped.float().mean().item() == pytest.approx(wanted, abs=4 * (wanted / 20000) ** 0.5)
    assert torch.equal(listener.heard.artists[~nobody], torch.eye(2)[number % 2][~nobody])
    torch.testing.assert_close(listener.heard.position[~nowhere], (number / 20000)[~nowhere])
