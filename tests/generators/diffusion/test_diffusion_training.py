"""Diffusion in training: every objective and schedule, either network, and what it is conditioned on."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from musicldm.conditions.base import Conditioning
from musicldm.core import bundle, config
from musicldm.core.bundle import Component
from musicldm.generators.diffusion.config import DiffusionConfig, DiffusionRunConfig
from musicldm.generators.diffusion.model import Diffusion
from musicldm.generators.diffusion.training import DiffusionTraining, train_diffusion
from musicldm.generators.diffusion.unet import UNetConfig
from musicldm.generators.training import Material, artists_of_run
from musicldm.latents.dataset import LatentBatch
from musicldm.latents.statistics import LatentStatistics
from musicldm.latents.store import LatentStore
from musicldm.sampling.demos import render
from musicldm.training.config import TrainingConfig
from musicldm.training.loop import TrainingResult
from tests.toy_conditions import usual
from tests.toys import TOY_LDM, Command, Pipeline

CPU = torch.device("cpu")


@pytest.fixture
def short_demos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second each."""
    monkeypatch.setattr("musicldm.generators.diffusion.training.DEMO_SECONDS", 0.5)


def train(pipeline: Pipeline, run: Path, **model: object) -> TrainingResult:
    """Two steps of the toy model, with other tables."""
    toy = tomllib.loads(TOY_LDM)
    small = {"unet": {"widths": [16, 32]}, "transformer": {"width": 32, "depth": 2}}
    short = {"steps": 2, "batch_size": 4, "validation_crops": 2, "ema": 0.5}
    over = config.merge({"model": small, "training": short}, {"model": model})
    plan = config.from_dict(DiffusionRunConfig, config.merge(toy, over))
    return train_diffusion(pipeline.store, run, plan, CPU, render=render)


def shipped(result: TrainingResult) -> Component:
    return bundle.read(result.bundle).component("generator")


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
def test_every_objective_and_schedule(noise: dict[str, Any], pipeline: Pipeline, tmp_path: Path) -> None:
    result = train(pipeline, tmp_path, noise=noise)
    assert all(map(math.isfinite, result.last.values()))
    diffusion, _, _ = Diffusion.from_component(shipped(result))
    wanted = {name: tuple(value) if isinstance(value, list) else value for name, value in noise.items()}
    assert config.to_dict(diffusion.config.noise).items() >= wanted.items()


def test_an_impossible_process_is_refused_with_what_is_possible(
    pipeline: Pipeline, musicldm: Command, tmp_path: Path
) -> None:
    done = musicldm(
        "train-diffusion", pipeline.store, "-o", tmp_path / "run", "--objective", "eps", "--schedule", "flow"
    )
    assert done.code == 2 and "Choose noise.objective v, x0 or flow." in done.err, done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("short_demos")
@pytest.mark.parametrize("names", [["artist", "position"], []])
@pytest.mark.parametrize("network", ["unet", "transformer"])
def test_either_network_conditioned_or_not(network: str, names: list[str], pipeline: Pipeline, tmp_path: Path) -> None:
    """Where there are artists to choose, demos of three of them follow two takes without any condition."""
    result = train(pipeline, tmp_path, network=network, conditions={"names": names})
    artists = LatentStore.open(pipeline.store).tracks.artists
    settings: dict[str, Any] = shipped(result).config["conditions"]["settings"]
    assert settings == ({"artist": {"names": sorted(artists)}} if names else {})
    heard = {path.stem.split("-", 1)[0]: path.stem.split("-", 1)[1] for path in tmp_path.glob("demos/step-2/*.wav")}
    assert (heard.pop("1"), heard.pop("2")) == ("sample", "sample")
    assert sorted(heard) == (["3", "4", "5"] if names else []) and set(heard.values()) <= set(artists)
    # Both the averaged weights and the raw ones are judged at every noise level.
    levels = {name for name in result.last if name.startswith("t")}
    assert len(levels) == 8 and set(result.last) == {"loss", "raw", *levels, *(f"raw-{name}" for name in levels)}
    assert result.last["loss"] == pytest.approx(sum(result.last[name] for name in levels) / 8)
    assert result.last["loss"] != result.last["raw"]


def test_a_run_that_knows_two_spellings_of_a_name_goes_on_with_both(tmp_path: Path) -> None:
    """Release 0.1 trained on each spelling apart: the weights are there, and the run must be the same one."""
    names = ["Abba", "Zo\u00eb", "Zoe\u0308"]
    run = {"model": {"conditions": {"settings": {"artist": {"names": names}}}}}
    (tmp_path / "config.json").write_text(json.dumps(run))
    assert artists_of_run(tmp_path, ["Abba", "Zo\u00eb"]) == names
    assert artists_of_run(tmp_path, ["Abba", "Bach", "Zo\u00eb"]) == ["Abba", "Bach", "Zo\u00eb"]  # another run
    assert artists_of_run(tmp_path / "new", ["Abba"]) == ["Abba"]


@pytest.mark.parametrize("fraction", [0.1, 0.0])
def test_each_condition_is_dropped_for_a_tenth_of_the_crops(fraction: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = DiffusionConfig(unet=UNetConfig(1, (8,), 1), conditions=usual("Abba", "Zoë", dropout=fraction))
    run = DiffusionRunConfig(model, TrainingConfig(batch_size=20000))
    module = DiffusionTraining(run, Material(LatentStatistics(1, (0.0,), (1.0,))))
    seen: list[Conditioning] = []

    def look(x: torch.Tensor, time: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        seen.append(conditioning)
        return torch.zeros_like(x)

    monkeypatch.setattr(module.model.network, "forward", look)
    number = torch.arange(20000)
    latents = torch.zeros(20000, 1, 1)
    torch.manual_seed(0)
    module.losses(LatentBatch(latents, {"artist": torch.full_like(number, -1), "position": number / 20000}))
    assert not seen[-1].present["artist"].any()  # whom the model does not know
    torch.manual_seed(0)
    module.losses(LatentBatch(latents, {"artist": number % 2, "position": number / 20000}))
    nobody, nowhere = (~seen[-1].present[name] for name in ("artist", "position"))
    for dropped, wanted in ((nobody, fraction), (nowhere, fraction), (nobody & nowhere, fraction / 2)):
        assert dropped.float().mean().item() == pytest.approx(wanted, abs=4 * (wanted / 20000) ** 0.5)
    assert torch.equal(seen[-1].values["artist"], number % 2)
    torch.testing.assert_close(seen[-1].values["position"], number / 20000)
