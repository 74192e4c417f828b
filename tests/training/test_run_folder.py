"""What defines a run, and whether a folder holds the same one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from musicldm.core.errors import DataError, MismatchError
from musicldm.training.checkpoints import FOLDER
from musicldm.training.config import TrainingConfig
from musicldm.training.run_folder import CONFIG, defaults_filled, remember


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
