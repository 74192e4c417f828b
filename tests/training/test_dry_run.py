"""--dry-run of both trainings: it ends as the run would before its first step, and leaves no trace."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from musicldm.core.durable import locked
from tests.toys import Command, Pipeline

VERBS = pytest.mark.parametrize("verb", ["train-vae", "train-diffusion"])


@pytest.fixture
def line(verb: str, pipeline: Pipeline, configs: dict[str, Path]) -> list[object]:
    """A command that trains, but for its run folder."""
    data, config = (pipeline.wav, "vae") if verb == "train-vae" else (pipeline.store, "ldm")
    return [verb, data, "--config", configs[config], "--device", "cpu"]


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """All files and folders in it, with the time of their last change and their size."""
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


@VERBS
def test_nothing_is_left_of_it(
    musicldm: Command, pipeline: Pipeline, line: list[object], verb: str, tmp_path: Path
) -> None:
    assert musicldm(*line, "-o", tmp_path / "deep/run", "--dry-run").code == 0
    assert list(tmp_path.iterdir()) == []
    run = shutil.copytree(pipeline.vae if verb == "train-vae" else pipeline.ldm, tmp_path / "run")
    before = tree(tmp_path)
    assert musicldm(*line, "-o", run, "--dry-run").code == 0
    assert tree(tmp_path) == before


@VERBS
def test_it_meets_what_the_run_would(
    musicldm: Command, pipeline: Pipeline, line: list[object], verb: str, tmp_path: Path
) -> None:
    own, other = (pipeline.vae, pipeline.ldm) if verb == "train-vae" else (pipeline.ldm, pipeline.vae)
    (tmp_path / "a file").write_text("not a folder")
    (tmp_path / "damaged/checkpoints").mkdir(parents=True)
    shutil.copy(own / "config.json", tmp_path / "damaged")
    (tmp_path / "damaged/checkpoints/last.ckpt").write_bytes(b"torn")
    cases: list[tuple[list[object], str]] = [
        (["-o", "/proc/nowhere/run"], "Cannot write /proc/nowhere/run"),
        (["-o", tmp_path / "a file"], "is not a folder"),
        (["-o", other], "holds a run with another configuration"),
        (["-o", own, "--learning-rate", 0.5], "training.learning_rate differ"),
        (["-o", tmp_path / "damaged"], "it is damaged"),
        (["-o", tmp_path / "run", "--init-from", pipeline.store], "bundle"),
        (["-o", tmp_path / "run", "--init-from", "piano"], "is another network"),
        (["-o", tmp_path / "run", "--devices", 2, "--device", "cpu:0", "--batch-size", 2], "is one device, not 2"),
    ]
    for options, sentence in cases:
        planned, done = musicldm(*line, *options, "--dry-run"), musicldm(*line, *options, "--steps", 1000)
        assert (planned.code, sentence in planned.err) == (done.code, True), planned.err
        assert done.code and sentence in done.err, done.err
    with locked(tmp_path):
        planned = musicldm(*line, "-o", tmp_path, "--dry-run")
    assert planned.code == 1 and "Another run is writing" in planned.err


def test_material_that_does_not_fit(
    musicldm: Command, pipeline: Pipeline, configs: dict[str, Path], tmp_path: Path
) -> None:
    """Waveforms of another rate than the codec's; no waveforms; a store whose latents or codec are damaged."""
    for data, sentence in ((pipeline.wav, "--resample"), (tmp_path / "empty", "no prepared music")):
        done = musicldm("train-vae", data, "-o", tmp_path / "run", "--preset", "base", "--dry-run")
        assert done.code == 1 and sentence in done.err
    store = shutil.copytree(pipeline.store, tmp_path / "store")
    chunk = max((path for path in store.rglob("c/*/*") if path.is_file()), key=lambda path: path.stat().st_size)
    chunk.write_bytes(bytes(chunk.stat().st_size))
    line = ["train-diffusion", store, "-o", tmp_path / "run", "--config", configs["ldm"], "--device", "cpu"]
    done = musicldm(*line, "--dry-run")
    assert done.code == 1 and "The store is damaged" in done.err
    (tmp_path / "run").mkdir(exist_ok=True)
    assert list((tmp_path / "run").iterdir()) == []
