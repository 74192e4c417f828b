"""What defines a run, and whether a folder holds the same one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from musicldm.core.errors import DataError, MismatchError, OutputError
from musicldm.training.checkpoints import FOLDER
from musicldm.training.config import TrainingConfig
from musicldm.training.run_folder import CONFIG, clear, defaults_filled, remember
from tests.toys import Command
from tests.training.toy_training import train


@dataclass(frozen=True)
class Run:
    """A run's configuration, which has got a table since."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    width: int = 3
    added: bool = False


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that was begun by an earlier release."""
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "last.ckpt").touch()
    old = {"training": {"steps": 5}, "width": 4, "data": "abc", "init": "f00d"}
    (tmp_path / CONFIG).write_text(json.dumps(old))
    return tmp_path


def today(**changed: Any) -> dict[str, Any]:
    """The configuration that resumes it."""
    return {"training": vars(TrainingConfig(steps=9)), "width": 4, "added": False, "data": "abc", "init": "", **changed}


def upgrade(before: dict[str, Any]) -> dict[str, Any]:
    return defaults_filled(before, Run)


def test_what_was_not_yet_written_counts_as_its_default(run: Path) -> None:
    with pytest.raises(MismatchError, match=r"added, training\.accumulate"):
        remember(run, today())
    remember(run, today(), upgrade)
    kept = json.loads((run / CONFIG).read_text())
    assert kept["training"]["steps"] == 9 and kept["added"] is False
    assert kept["init"] == "f00d", "the first weights are not needed again"


@pytest.mark.parametrize(("key", "value"), [("added", True), ("width", 5), ("data", "abd"), ("init", "beef")])
def test_another_run_is_refused(key: str, value: object, run: Path) -> None:
    with pytest.raises(MismatchError, match=f": {key} differ"):
        remember(run, today(**{key: value}), upgrade)


def test_a_configuration_that_nobody_knows_is_another_one(run: Path) -> None:
    (run / CONFIG).write_text(json.dumps({**today(), "unheard_of": 1}))
    with pytest.raises(MismatchError, match=": unheard_of differ"):
        remember(run, today(), upgrade)


@pytest.mark.parametrize("text", ["{", "[1, 2]", "3"])
def test_a_damaged_configuration(text: str, run: Path) -> None:
    (run / CONFIG).write_text(text)
    with pytest.raises(DataError, match=r"config\.json is damaged"):
        remember(run, today(), upgrade)


# ---- What is not a run's

MINE = {
    "metrics.csv": "epoch,loss\n1,0.5\n",
    CONFIG: '{"codec": "mp3", "training": {"steps": 5}, "data": "songs"}',
    "checkpoints/last.ckpt": "of another program",
    "demos/step-5/1-original.wav": "mine",
    "bundle/bundle.json": '{"name": "app"}',
    "events.jsonl": "{}",
}


@pytest.mark.parametrize("name", MINE)
def test_a_run_is_not_begun_over_files_of_others(tmp_path: Path, name: str) -> None:
    file = tmp_path / "run" / name
    file.parent.mkdir(parents=True)
    file.write_text(MINE[name])
    with pytest.raises(OutputError, match=rf"{file.name} is not replaced: musicldm did not write it\."):
        train(tmp_path / "run")
    assert file.read_text() == MINE[name]
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [file]
    clear(tmp_path / "run")
    assert train(tmp_path / "run").steps == 12
    (tmp_path / "run" / "notes.txt").write_text("mine")
    (tmp_path / "run" / ".tmp-notes").write_text("mine")
    clear(tmp_path / "run")  # nothing of a run
    assert train(tmp_path / "run", steps=14).steps == 14
    assert (tmp_path / "run" / "notes.txt").exists() and (tmp_path / "run" / ".tmp-notes").exists()


@pytest.mark.parametrize("verb", ["train-vae", "train-diffusion"])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_both_trainings_say_so_first(musicldm: Command, tmp_path: Path, verb: str, dry: list[str]) -> None:
    """Before they look for music."""
    run = tmp_path / "run"
    run.mkdir()
    for name in ("metrics.csv", CONFIG):
        (run / name).write_text(MINE[name])
    line = verb, tmp_path / "nowhere", "-o", run, *dry
    done = musicldm(*line)
    assert done.code == 1 and "2 files are not replaced" in done.err and "--overwrite" in done.err, done.err
    done = musicldm(*line, "--overwrite")
    assert "not replaced" not in done.err and (done.code == 0 or "nowhere" in done.err), done.err
    if dry:
        assert {path.name: path.read_text() for path in run.iterdir()} == {
            name: MINE[name] for name in ("metrics.csv", CONFIG)
        }


def test_a_run_whose_configuration_is_gone_is_still_a_run(tmp_path: Path) -> None:
    train(tmp_path)
    (tmp_path / CONFIG).unlink()
    (tmp_path / "bundle" / "bundle.json").unlink()
    assert train(tmp_path, steps=13).steps == 13
