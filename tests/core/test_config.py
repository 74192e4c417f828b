"""Configurations: what is unknown is named, and what is near it is offered."""

from __future__ import annotations

from pathlib import Path

import pytest

from musicldm.codecs.vae.config import VAERunConfig
from musicldm.core import config
from musicldm.core.errors import ConfigError
from musicldm.generators.diffusion.config import DiffusionRunConfig

RUNS = {"musicldm.codecs.vae": VAERunConfig, "musicldm.generators.diffusion": DiffusionRunConfig}


@pytest.mark.parametrize(("owner", "cls"), RUNS.items())
def test_every_preset_is_whole_and_survives_json(owner: str, cls: type) -> None:
    assert {"tiny", "small", "paper"} <= set(config.presets(owner))
    for name in config.presets(owner):
        built = config.from_dict(cls, config.preset(owner, name))
        assert config.from_dict(cls, config.to_dict(built)) == built


@pytest.mark.parametrize(
    ("data", "sentence", "hint"),
    [
        ({"training": {"learing_rate": 1.0}}, "training.learing_rate", "'learning_rate' is near"),
        ({"trainning": {}}, "trainning", "'training' is near"),
        ({"training": {"steps": "many"}}, "training.steps", ""),
        ({"training": {"steps": True}}, "training.steps", ""),
        ({"training": {"steps": 0}}, "training.steps", ""),
        ({"training": 3}, "training must be a table", ""),
        ({"model": {"widths": 5}}, "model.widths must be a list", ""),
        ({"model": {"strides": [2, "2", 2]}}, "model.strides[1]", ""),
    ],
)
def test_what_is_wrong_is_named(data: dict[str, object], sentence: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.from_dict(VAERunConfig, data)
    assert sentence in caught.value.message
    assert hint in caught.value.hint


def test_a_choice_that_is_none() -> None:
    with pytest.raises(ConfigError, match="sigmoid") as caught:
        config.from_dict(DiffusionRunConfig, {"model": {"noise": {"schedule": "sigmoid"}}})
    assert "linear, cosine" in caught.value.hint


def test_later_layers_win_and_none_means_not_given() -> None:
    merged = config.merge({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"x": 5, "y": None}, "b": None})
    assert merged == {"a": {"x": 5, "y": 2}, "b": 3}


def test_files_and_presets_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file"):
        config.read_toml(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("[model\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        config.read_toml(tmp_path / "broken.toml")
    with pytest.raises(ConfigError) as caught:
        config.preset("musicldm.codecs.vae", "huge")
    assert "tiny" in caught.value.hint
