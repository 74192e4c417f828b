"""What release 0.1 wrote is read under the names of today, and what is read already stays as it is."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from musicldm.core import bundle, config
from musicldm.generators.diffusion import upgrade
from musicldm.generators.diffusion.config import DiffusionRunConfig
from musicldm.generators.diffusion.model import Diffusion
from musicldm.latents.statistics import LatentStatistics
from tests.toy_conditions import usual

FIXTURE = Path(__file__).parents[2] / "fixtures/release-0.1"


def run_config(text: dict[str, Any]) -> DiffusionRunConfig:
    preset = config.preset("musicldm.generators.diffusion", "tiny")
    return config.from_dict(DiffusionRunConfig, config.merge(preset, upgrade.run_config(text)))


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        ({}, ("artist", "position")),
        ({"by_artist": False}, ("position",)),
        ({"by_position": False, "by_artist": True}, ("artist",)),
        ({"by_artist": False, "by_position": False, "dropout": 0.3}, ()),
    ],
)
def test_a_toml_file_of_0_1(conditions: dict[str, Any], names: tuple[str, ...]) -> None:
    model = run_config({"model": {"denoiser": "transformer", "conditions": conditions}}).model
    assert model.network == "transformer" and model.conditions.names == names
    assert model.conditions.dropout == conditions.get("dropout", 0.1)


def test_the_configuration_of_a_run_of_0_1() -> None:
    old = {
        "model": {
            "denoiser": "unet",
            "conditions": {"artists": ["Abba"], "by_artist": True, "by_position": True, "dropout": 0.2},
        },
        "training": {"steps": 3},
        "vae": "5eed",
        "data": "da7a",
        "init": "",
    }
    new = upgrade.run_config(old)
    assert new["codec"] == "5eed" and new["data"] == "da7a" and new["training"] == {"steps": 3}
    wanted = {"names": ["artist", "position"], "settings": {"artist": {"names": ["Abba"]}}, "dropout": 0.2}
    assert new["model"] == {"network": "unet", "conditions": wanted}
    assert upgrade.run_config(new) == new
    plain = config.to_dict(usual("Abba", dropout=0.2))
    assert {**plain, "names": list(plain["names"]), "settings": {"artist": {"names": ["Abba"]}}} == wanted


def test_a_bundle_of_0_1_loads_with_its_parameters_in_their_order() -> None:
    """An optimizer's state goes by that order."""
    component = bundle.read(FIXTURE / "finished/diffusion").component("generator")
    before = copy.deepcopy(component.config)
    diffusion, statistics, codec_hash = Diffusion.from_component(component)
    assert component.config == before, "digests go by it"
    assert codec_hash == before["vae"] and statistics == LatentStatistics.from_dict(before["statistics"])
    assert diffusion.conditions.names == ["artist", "position"]
    assert list(diffusion.conditions["artist"].choices) == before["conditions"]["artists"]
    renamed = dict(component.tensors)
    upgrade.tensors(renamed)
    assert all(torch.equal(tensor, renamed[name]) for name, tensor in diffusion.state_dict().items())
    names = [name.removeprefix("network.conditions.each.") for name, _ in diffusion.named_parameters()]
    first = names.index("artist.table")
    # In 0.1: artists, no_artist, no_position, position.0.weight, …
    layers = [f"position.mlp.{layer}.{side}" for layer in (0, 2) for side in ("weight", "bias")]
    assert names[first : first + 7] == ["artist.table", "artist.null", "position.null", *layers]


def test_what_is_written_today_reads_as_it_is() -> None:
    component = bundle.read(FIXTURE / "finished/diffusion").component("generator")
    diffusion, statistics, codec_hash = Diffusion.from_component(component)
    again, _, _ = Diffusion.from_component(diffusion.component(statistics, codec_hash))
    assert again.config == diffusion.config
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in diffusion.state_dict().items())
