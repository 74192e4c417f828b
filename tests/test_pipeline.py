"""The whole path at toy size: what each command leaves, and that training makes music of noise."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from musicldm.cli.demo import STEPS
from musicldm.core import bundle
from musicldm.evaluate.features import mel_frames
from musicldm.evaluate.frechet import Gaussian, frechet_distance
from musicldm.generators.diffusion.model import Diffusion
from musicldm.latents.store import LatentStore
from musicldm.media.audio import files
from musicldm.media.manifest import read_tracks
from musicldm.sampling import Pipeline as SamplingPipeline
from tests.toy_model import generator_of
from tests.toys import Command, Pipeline


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
    for role in ("codec", "generator"):
        assert {track.content: track.split for track in facts[role].tracks} == tracks


def test_results_are_machine_readable(pipeline: Pipeline) -> None:
    said = {verb: json.loads(done.out) for verb, done in pipeline.said.items()}
    assert said["preprocess"]["tracks"] == said["encode"]["tracks"] == 8
    assert said["train-vae"]["bundle"] == str(pipeline.vae / "bundle")
    assert said["train-diffusion"]["steps"] == 200


def test_training_brings_samples_nearer_to_the_corpus(pipeline: Pipeline) -> None:
    """Nearer in mel statistics than an untrained denoiser's samples, and than decoded noise of the right scale."""
    sampling = SamplingPipeline.load(pipeline.ldm, "cpu")
    generator, rate = generator_of(sampling), sampling.sample_rate
    music = (torch.from_numpy(files.read(track.path)) for track in read_tracks(pipeline.wav))
    corpus = Gaussian.of(mel_frames(waveform, rate) for waveform in music)

    def distance(waveforms: list[torch.Tensor]) -> float:
        return frechet_distance(Gaussian.of(mel_frames(waveform, rate) for waveform in waveforms), corpus)

    takes = range(4)
    trained = distance([sampling.sample(seconds=6, take=take) for take in takes])
    frames = sampling.spec.frames(6 * rate)
    noise = [sampling.decode(sampling.raw(generator.noise(9, take, frames)[0])) for take in takes]
    torch.manual_seed(0)
    generator.diffusion = Diffusion(generator.diffusion.config).eval()
    untrained = distance([sampling.sample(seconds=6, take=take) for take in takes])
    assert trained < 0.9 * untrained
    assert trained < 0.9 * distance(noise)


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
    assert int.from_bytes(done.stdout[4:8], "little") == len(done.stdout) - 8


def test_what_the_vae_was_trained_on_is_never_held_out_later(
    pipeline: Pipeline, musicldm: Command, tmp_path: Path
) -> None:
    """The same songs prepared anew, with another split, are encoded in the split that the VAE saw."""
    other = shutil.copytree(pipeline.wav, tmp_path / "wav")
    lines = [json.loads(line) for line in (other / "manifest.jsonl").read_text().splitlines()]
    flipped = [line | {"split": "heldout" if line["split"] == "train" else "train"} for line in lines]
    (other / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in flipped))
    assert musicldm("encode", other, tmp_path / "store.zarr", "--vae", pipeline.vae).code == 0
    splits = {entry.content: entry.split for entry in LatentStore.open(tmp_path / "store.zarr").tracks}
    assert splits == {entry.content: entry.split for entry in LatentStore.open(pipeline.store).tracks}


def test_encoding_again_does_nothing(pipeline: Pipeline, musicldm: Command) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in pipeline.store.rglob("*"))
    done = musicldm("encode", pipeline.wav, pipeline.store, "--vae", pipeline.vae, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["encoded"] == 0 and json.loads(done.out)["skipped"] == 8
    assert sorted((path, path.stat().st_mtime_ns) for path in pipeline.store.rglob("*")) == before


def test_a_finished_run_is_left_as_it_is(
    pipeline: Pipeline, musicldm: Command, configs: dict[str, Path], tmp_path: Path
) -> None:
    """Also where a kill came between its last checkpoint and its bundle."""
    run = shutil.copytree(pipeline.vae, tmp_path / "vae")
    before = bundle.read(run)
    for damaged in (False, True):
        if damaged:
            (run / "bundle/bundle.json").unlink()
        done = musicldm("train-vae", pipeline.wav, "-o", run, "--config", configs["vae"])
        assert done.code == 0 and "150 steps are done" in done.err
        again = bundle.read(run)
        assert again.facts == before.facts
        assert again.component("codec").digest == before.component("codec").digest
        assert metrics(run) == metrics(pipeline.vae)


def test_bad_requests_of_sample(pipeline: Pipeline, musicldm: Command, tmp_path: Path) -> None:
    model = ["--model", pipeline.ldm]
    for arguments, code, sentence in (
        (["--steps", 0], 2, "0 sampling steps"),
        (["--steps", 1001], 2, "1001 sampling steps"),
        (["--sampler", "ddpm", "--eta", 0.5], 2, "no eta"),
        (["-n", 2, "-o", "-"], 2, "cannot go to stdout"),
        (["--device", "cuda:7"], 2, "no device 'cuda:7'"),
        (["-o", tmp_path / "out.xyz"], 2, "xyz"),
        (["-o", tmp_path / "out.wav", "--format", "flac"], 2, "would hold flac"),
        (["--precision", "16", "--device", "cpu"], 2, "16-bit"),
        (["-o", "/proc/nowhere/out.wav"], 1, "/proc/nowhere"),
        (["--model", tmp_path], 1, "no bundle in"),
        (["--model", pipeline.vae], 1, "no generator"),
    ):
        done = musicldm("sample", *model, "-o", tmp_path / "out.wav", *arguments)
        assert done.code == code, (arguments, done.err)
        assert sentence in done.err and "Hint:" in done.err and "Traceback" not in done.err, (arguments, done.err)
        assert done.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_cut_short(pipeline: Pipeline, musicldm: Command, tmp_path: Path) -> None:
    broken = shutil.copytree(pipeline.ldm / "bundle", tmp_path / "broken")
    (weights,) = broken.glob("generator-*.safetensors")
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
    assert done.code == 1 and "'other-vae'" in done.err and "'vae'" in done.err and "Hint:" in done.err


def test_folders_without_what_is_needed(
    musicldm: Command, configs: dict[str, Path], pipeline: Pipeline, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    empty, out = tmp_path / "empty", tmp_path / "out"
    for arguments, sentence in (
        (["preprocess", empty, out], "empty"),
        (["preprocess", tmp_path / "nowhere", out], "nowhere"),
        (["train-vae", empty, "-o", out], "no prepared music"),
        (["encode", empty, tmp_path / "store", "--vae", pipeline.vae], "no prepared music"),
        (["encode", pipeline.wav, tmp_path / "store", "--vae", empty], "no bundle in"),
        (["train-diffusion", empty, "-o", out], "empty"),
        (["train-vae", pipeline.wav, "-o", "/proc/run"], "/proc/run"),
    ):
        done = musicldm(*arguments)
        assert done.code == 1, (arguments, done)
        assert sentence in done.err and "Error:" in done.err and "Traceback" not in done.err, (arguments, done.err)


def test_the_demo_goes_the_whole_way(musicldm: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With fewer steps; a second call finds everything done but the sample."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("musicldm.cli.demo.STEPS", re.sub(r"--steps \d{3,}", "--steps 2", STEPS))
    first = musicldm("demo")
    assert first.code == 0, first.err
    assert first.out.splitlines() == ["demo/out.wav", "demo/out.png"]
    for verb in ("preprocess", "train-vae", "encode", "train-diffusion", "sample"):
        assert f"$ musicldm {verb} " in first.err
    audio = files.read(tmp_path / "demo/out.wav")
    assert audio.shape == (1, 160000) and np.isfinite(audio).all()
    assert (tmp_path / "demo/out.png").read_bytes().startswith(b"\x89PNG")

    again = musicldm("demo")
    assert again.code == 0 and "done before       12" in again.err and "2 steps are done" in again.err, again.err
    assert np.array_equal(files.read(tmp_path / "demo/out.wav"), audio)


@pytest.mark.parametrize("name", ["out.wav", "out.wav.json", "out.png", "vae/metrics.csv"])
def test_the_demo_replaces_nothing(musicldm: Command, tmp_path: Path, name: str) -> None:
    """Which it says before it composes anything."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    done = musicldm("demo", "-o", tmp_path)
    assert done.code == 1 and f"{name} is not replaced" in done.err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
    assert (tmp_path / name).read_text() == "mine"


def test_wrong_usage_exits_with_2(musicldm: Command) -> None:
    for line in (
        "fly",
        "encode",
        "preprocess a b --bit-depth 12",
        "sample --model m --steps many",
        "sample --model m --seconds 0",
        "sample --model m --sampler magic",
        "train-vae a --preset huge",
        "train-vae a --learning-rate -1",
        "train-vae a --config none.toml",
        "train-diffusion a --objective x",
        "train-diffusion a --schedule x",
    ):
        done = musicldm(*line.split())
        assert done.code == 2 and done.out == "" and "Traceback" not in done.err, (line, done)


def test_help_names_every_verb(musicldm: Command) -> None:
    done = musicldm("--help")
    for verb in ("crawl", "preprocess", "train-vae", "encode", "train-diffusion", "sample", "demo"):
        assert verb in done.out
    assert musicldm("--version").out.startswith("musicldm ")
