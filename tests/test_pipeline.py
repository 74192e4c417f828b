"""The whole path at toy size: what each command leaves, and that training makes music of noise."""

from __future__ import annotations

import csv
import io
import json
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command, Pipeline

from musicldm import bundle
from musicldm.audio import files
from musicldm.audio.manifest import read_tracks
from musicldm.diffusion.model import Diffusion
from musicldm.evaluate.frechet import frechet_distance, mel_gaussian
from musicldm.generate import Generator
from musicldm.latents.store import LatentStore


def metrics(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The run's metrics.csv: name -> [(step, value)]."""
    series: dict[str, list[tuple[int, float]]] = {}
    with (run / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            series.setdefault(row["name"], []).append((int(row["step"]), float(row["value"])))
    return series


def test_both_networks_improve_on_tracks_they_never_saw(pipeline: Pipeline) -> None:
    vae = metrics(pipeline.vae)
    assert [step for step, _ in vae["val/study"]] == [0, 75, 150]
    assert vae["val/study"][-1][1] < 0.9 * vae["val/study"][0][1]
    assert vae["val/study"][-1][1] < 0.9 * vae["val/silence"][-1][1]
    ldm = metrics(pipeline.ldm)
    assert ldm["val/loss"][-1][1] < 0.9 * ldm["val/loss"][0][1]


def test_a_run_folder_has_what_it_promises(pipeline: Pipeline) -> None:
    for run, demo in ((pipeline.vae, "step-150"), (pipeline.ldm, "step-200")):
        for name in (
            "config.json",
            "metrics.csv",
            "checkpoints/last.ckpt",
            "bundle/bundle.json",
            f"demos/{demo}/1.png",
        ):
            assert (run / name).stat().st_size > 0, name
        assert list((run / "tensorboard").glob("events*"))
    original = files.read(pipeline.vae / "demos/step-150/1-original.wav")
    reconstruction = files.read(pipeline.vae / "demos/step-150/1-reconstruction.wav")
    assert original.shape == reconstruction.shape
    assert np.corrcoef(original[0], reconstruction[0])[0, 1] > 0.3


def test_one_split_is_obeyed_everywhere(pipeline: Pipeline) -> None:
    tracks = {track.content: track.split for track in read_tracks(pipeline.wav)}
    assert set(tracks.values()) == {"train", "heldout"}
    assert {entry.content: entry.split for entry in LatentStore.open(pipeline.store).tracks} == tracks
    facts = bundle.read(pipeline.ldm).facts
    for part in ("vae", "denoiser"):
        assert {track["content"]: track["split"] for track in facts[part]["tracks"]} == tracks


def test_results_are_machine_readable(pipeline: Pipeline) -> None:
    said = {verb: json.loads(done.out) for verb, done in pipeline.said.items()}
    assert said["preprocess"]["tracks"] == said["encode"]["tracks"] == 8
    assert said["train-vae"]["bundle"] == str(pipeline.vae / "bundle")
    assert said["train-diffusion"]["steps"] == 200


def test_training_brings_samples_nearer_to_the_corpus(pipeline: Pipeline) -> None:
    """Nearer in mel statistics than an untrained denoiser's samples, and than decoded noise of the right scale."""
    generator = Generator.load(pipeline.ldm, "cpu")
    rate = generator.sample_rate
    corpus = mel_gaussian((torch.from_numpy(files.read(track.path)) for track in read_tracks(pipeline.wav)), rate)

    def distance(waveforms: list[torch.Tensor]) -> float:
        return frechet_distance(mel_gaussian(waveforms, rate), corpus)

    takes = range(4)
    trained = distance([generator.sample(6, take=take) for take in takes])
    noise = [
        generator.decode(generator.statistics.denormalise(generator.noise(9, take, generator.frames(6))[0])[0])
        for take in takes
    ]
    torch.manual_seed(0)
    generator.diffusion = Diffusion(generator.diffusion.config).eval()
    untrained = distance([generator.sample(6, take=take) for take in takes])
    assert trained < 0.7 * untrained
    assert trained < 0.7 * distance(noise)


def test_same_seed_same_file_whatever_the_number(pipeline: Pipeline, musicldm: Command, tmp_path: Path) -> None:
    model = ["--model", pipeline.ldm, "--seconds", 2, "--steps", 4, "--device", "cpu"]
    one = musicldm("sample", *model, "-o", tmp_path / "one.wav")
    assert one.code == 0 and one.out.splitlines() == [str(tmp_path / "one.wav")]
    three = musicldm("sample", *model, "-n", 3, "-o", tmp_path / "take-{i}.wav")
    assert three.out.splitlines() == [str(tmp_path / f"take-{i}.wav") for i in (1, 2, 3)]
    musicldm("sample", *model, "-n", 2, "-o", tmp_path / "many.wav")
    musicldm("sample", *model, "--seed", 1, "-o", tmp_path / "other.wav")
    read = {path.name: path.read_bytes() for path in tmp_path.glob("*.wav")}
    assert read["one.wav"] == read["take-1.wav"] == read["many-1.wav"]
    assert read["take-2.wav"] == read["many-2.wav"]
    assert len({read["take-1.wav"], read["take-2.wav"], read["take-3.wav"], read["other.wav"]}) == 4


@pytest.mark.parametrize(("sampler", "eta"), [("ddim", 0.0), ("ddim", 1.0), ("ddpm", 0.0)])
def test_samplers_from_the_command_line(
    pipeline: Pipeline, musicldm: Command, tmp_path: Path, sampler: str, eta: float
) -> None:
    out = tmp_path / "out.flac"
    done = musicldm(
        "sample",
        "--model",
        pipeline.ldm,
        "--sampler",
        sampler,
        "--eta",
        eta,
        "--steps",
        5,
        "--seconds",
        1.5,
        "-o",
        out,
        "--json",
    )
    assert done.code == 0, done.err
    audio = files.read(out)
    assert audio.shape == (1, 24000)
    assert 0 < np.abs(audio).max() < 1
    assert json.loads(done.out)["files"] == [str(out)]


def test_a_pipe_gets_a_whole_wav(pipeline: Pipeline) -> None:
    import subprocess
    import sys

    command = [
        sys.executable,
        "-m",
        "musicldm",
        "sample",
        "--model",
        str(pipeline.ldm),
        "--seconds",
        "1",
        "--steps",
        "2",
        "-o",
        "-",
    ]
    done = subprocess.run(command, capture_output=True, check=True)
    with wave.open(io.BytesIO(done.stdout)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (16000, 1, 16000)
        assert len(file.readframes(20000)) == 2 * 16000
    assert len(done.stdout) == 44 + 2 * 16000


def test_encoding_again_does_nothing(pipeline: Pipeline, musicldm: Command) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in pipeline.store.rglob("*"))
    done = musicldm("encode", pipeline.wav, pipeline.store, "--vae", pipeline.vae, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["encoded"] == 0 and json.loads(done.out)["skipped"] == 8
    assert sorted((path, path.stat().st_mtime_ns) for path in pipeline.store.rglob("*")) == before


def test_a_finished_run_is_left_alone(pipeline: Pipeline, musicldm: Command, configs: dict[str, Path]) -> None:
    weights = (pipeline.vae / "bundle/vae.safetensors").stat().st_mtime_ns
    done = musicldm("train-vae", pipeline.wav, "-o", pipeline.vae, "--config", configs["vae"])
    assert done.code == 0 and "150 steps are done" in done.err
    assert (pipeline.vae / "bundle/vae.safetensors").stat().st_mtime_ns == weights


def test_bad_requests_of_sample(pipeline: Pipeline, musicldm: Command, tmp_path: Path) -> None:
    model = ["--model", pipeline.ldm]
    for arguments, code, sentence in (
        (["--steps", 0], 2, "0 sampling steps"),
        (["--steps", 1001], 2, "1001 sampling steps"),
        (["--seconds", 0], 2, "0 seconds"),
        (["--sampler", "euler"], 2, "no sampler 'euler'"),
        (["--sampler", "ddpm", "--eta", 0.5], 2, "no eta"),
        (["-n", 2, "-o", "-"], 2, "cannot go to stdout"),
        (["--device", "cuda:7"], 2, "no device 'cuda:7'"),
        (["-o", tmp_path / "out.xyz"], 2, "xyz"),
        (["-o", "/proc/nowhere/out.wav"], 1, "/proc/nowhere"),
        (["--model", tmp_path], 1, "no bundle in"),
        (["--model", pipeline.vae], 1, "no denoiser"),
    ):
        done = musicldm("sample", *model, "-o", tmp_path / "out.wav", *arguments)
        assert done.code == code, (arguments, done.err)
        assert sentence in done.err and "Hint:" in done.err and "Traceback" not in done.err, (arguments, done.err)
        assert done.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_cut_short(pipeline: Pipeline, musicldm: Command, tmp_path: Path) -> None:
    import shutil

    broken = shutil.copytree(pipeline.ldm / "bundle", tmp_path / "broken")
    weights = broken / "denoiser.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = musicldm("sample", "--model", broken, "-o", tmp_path / "out.wav")
    assert done.code == 1 and "cut short" in done.err and not (tmp_path / "out.wav").exists()


def test_a_store_of_another_vae(
    pipeline: Pipeline, musicldm: Command, configs: dict[str, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other-vae"
    short = ["--steps", 1, "--seed", 5, "--config", configs["vae"]]
    assert musicldm("train-vae", pipeline.wav, "-o", other, *short).code == 0
    done = musicldm("encode", pipeline.wav, pipeline.store, "--vae", other)
    assert done.code == 1 and "other-vae" in done.err and "vae" in done.err and "Hint:" in done.err


def test_audio_shorter_than_the_crop(
    pipeline: Pipeline, musicldm: Command, configs: dict[str, Path], tmp_path: Path
) -> None:
    for verb, data, config in (("train-vae", pipeline.wav, "vae"), ("train-diffusion", pipeline.store, "ldm")):
        done = musicldm(verb, data, "-o", tmp_path / "run", "--config", configs[config], "--seconds", 60)
        assert done.code == 1 and "crop" in done.err and "Hint:" in done.err


def test_folders_without_what_is_needed(
    musicldm: Command, configs: dict[str, Path], pipeline: Pipeline, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    empty, out = tmp_path / "empty", tmp_path / "out"
    for arguments, sentence in (
        (["preprocess", empty, out], "empty"),
        (["preprocess", tmp_path / "nowhere", out], "nowhere"),
        (["train-vae", empty, "-o", out], "no prepared waveforms"),
        (["encode", empty, out, "--vae", pipeline.vae], "no prepared waveforms"),
        (["encode", pipeline.wav, out, "--vae", empty], "no bundle in"),
        (["train-diffusion", empty, "-o", out], "empty"),
        (["train-vae", pipeline.wav, "-o", "/proc/run"], "/proc/run"),
        (["train-vae", pipeline.wav, "-o", out, "--preset", "huge"], "no preset 'huge'"),
        (["train-vae", pipeline.wav, "-o", out, "--config", tmp_path / "none.toml"], "none.toml"),
    ):
        done = musicldm(*arguments)
        assert done.code == 1, (arguments, done)
        assert sentence in done.err and "Error:" in done.err and "Traceback" not in done.err, (arguments, done.err)


def test_wrong_usage_exits_with_2(musicldm: Command) -> None:
    for arguments in (
        ["sample", "--steps", "many"],
        ["fly"],
        ["encode"],
        ["preprocess", "a", "b", "--bit-depth", "12"],
    ):
        assert musicldm(*arguments).code == 2


def test_help_names_every_verb(musicldm: Command) -> None:
    done = musicldm("--help")
    for verb in ("crawl", "preprocess", "train-vae", "encode", "train-diffusion", "sample", "demo"):
        assert verb in done.out
    assert musicldm("--version").out.startswith("musicldm ")
