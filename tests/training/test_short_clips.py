"""Clips shorter than a crop: a training never sees what they are padded with."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from musicldm.codecs.spectrum.config import SpectrumRunConfig
from musicldm.codecs.spectrum.training import SpectrumTraining
from musicldm.codecs.training import Material as CodecMaterial
from musicldm.codecs.vae.config import VAERunConfig
from musicldm.codecs.vae.training import VAETraining
from musicldm.core import config
from musicldm.core.padded import Padded
from musicldm.generators.diffusion.config import DiffusionRunConfig
from musicldm.generators.diffusion.training import DiffusionTraining
from musicldm.generators.training import Material
from musicldm.latents.dataset import LatentBatch
from musicldm.latents.statistics import LatentStatistics
from musicldm.latents.store import LatentStore
from musicldm.media.audio import files
from musicldm.media.manifest import open_manifest
from musicldm.training.processes import Processes
from musicldm.training.step import TrainStep
from musicldm.training.trainable import Trainable
from tests.codecs.spectrum.test_spectrum_training import TOY as TOY_SPECTRUM
from tests.toys import TOY_LDM, TOY_SPECTRAL, TOY_VAE, Command

FULL, SHORT = 2048, 1000
"""Samples of a crop and of a short clip, which is no multiple of any hop."""


def run_config(cls: type[Any], text: str, **training: Any) -> Any:
    options = {"batch_size": 4, "steps": 40, "warmup": 0} | training
    data = tomllib.loads(text)
    data.pop("codec", None)
    return config.from_dict(cls, config.merge(data, {"training": options}))


def codec(kind: str, heldout: Any = None, **training: Any) -> Trainable[Any]:
    torch.manual_seed(0)
    material = CodecMaterial(heldout)
    if kind == "spectrum":
        return SpectrumTraining(run_config(SpectrumRunConfig, TOY_SPECTRUM, **training), material)
    text = TOY_VAE if kind == "vae" else TOY_SPECTRAL.replace("adversarial_start = 3", "adversarial_start = 0")
    return VAETraining(run_config(VAERunConfig, text, **training), material)


def generator(kind: str, heldout: Any = None, **training: Any) -> Trainable[Any]:
    torch.manual_seed(0)
    text = TOY_LDM.replace("widths = [48, 64]", "widths = [16, 24]")
    plan = run_config(DiffusionRunConfig, f'{text}\n[model]\nnetwork = "{kind}"\n', **training)
    plan = replace(plan, model=plan.model.fitted(3))
    return DiffusionTraining(plan, Material(LatentStatistics(1, (0.0,) * 3, (1.0,) * 3), heldout))


def batch_for(kind: str, crops: Tensor, missing: list[int], padding: float) -> Any:
    """The crops, what they lack of their full length filled with `padding`."""
    crops = crops.clone()
    for crop, each in zip(crops, missing, strict=True):
        crop[..., crop.shape[-1] - each :] = padding
    batch = LatentBatch(crops, {}) if kind in ("unet", "transformer") else crops
    return Padded(batch, torch.tensor(missing)) if any(missing) else batch


def made(kind: str, **options: Any) -> Trainable[Any]:
    return generator(kind, **options) if kind in ("unet", "transformer") else codec(kind, **options)


def crops_for(kind: str, count: int = 4) -> tuple[Tensor, int]:
    """Crops, and how much a short one lacks."""
    shape, missing = ((count, 3, 16), 7) if kind in ("unet", "transformer") else ((count, 1, FULL), FULL - SHORT)
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(1)), missing


def gradients(module: Trainable[Any], batch: Any) -> tuple[dict[str, float], dict[str, Tensor]]:
    """What a step's forward and backward make of a batch: the terms of the loss, and every gradient."""
    step = TrainStep(module, Processes(0, 1, torch.device("cpu")))
    names, table = step._forward_backward(batch)
    found = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
    return dict(zip(names, table.mean(dim=0).tolist(), strict=True)), found


KINDS = pytest.mark.parametrize("kind", ["vae", "vae with critic", "spectrum", "unet", "transformer"])


@KINDS
def test_losses_and_gradients_are_the_same_whatever_the_padding_holds(kind: str) -> None:
    crops, lacks = crops_for(kind)
    missing = [0, lacks, 0, lacks - 3]
    (terms, grads), (other_terms, other_grads) = (
        gradients(made(kind), batch_for(kind, crops, missing, padding)) for padding in (0.0, 1e3)
    )
    assert terms == other_terms and grads.keys() == other_grads.keys()
    assert all(torch.equal(grads[name], other_grads[name]) for name in grads)
    assert any(grad.any() for grad in grads.values())


@KINDS
def test_the_gradient_is_that_of_a_batch_without_padding(kind: str) -> None:
    """Of crops that are all equally short; only their random numbers are told apart by how much they lack."""
    crops, lacks = crops_for(kind)
    short = crops[..., : crops.shape[-1] - lacks]

    def without_chance(module: Trainable[Any]) -> Trainable[Any]:
        module.rng.randn_like = lambda x: torch.ones_like(x)  # type: ignore[method-assign]
        module.rng.rand_like = lambda x: torch.full_like(x, 0.3)  # type: ignore[method-assign]
        return module

    terms, grads = gradients(without_chance(made(kind)), batch_for(kind, crops, [lacks] * 4, 9.0))
    plain_terms, plain = gradients(without_chance(made(kind)), batch_for(kind, short, [0] * 4, 0.0))
    assert terms == pytest.approx(plain_terms)
    for name, grad in plain.items():
        torch.testing.assert_close(grads[name], grad)


@pytest.mark.parametrize("kind", ["vae", "unet"])
def test_a_step_does_not_depend_on_how_it_is_split(kind: str) -> None:
    crops, lacks = crops_for(kind)
    batch = batch_for(kind, crops, [0, lacks, lacks, 0], 5.0)
    (terms, grads), (other_terms, other_grads) = (gradients(made(kind, accumulate=n), batch) for n in (1, 2))
    assert terms == pytest.approx(other_terms, rel=1e-4)
    for name, grad in grads.items():
        # Sums in another order, whose terms may all but cancel out.
        torch.testing.assert_close(grad, other_grads[name], rtol=1e-3, atol=1e-3 * float(grad.abs().max()))


@KINDS
def test_validation_sees_no_padding(kind: str) -> None:
    crops, lacks = crops_for(kind, 5)
    figures = [
        made(kind, heldout=batch_for(kind, crops, [0, lacks, 0, 0, lacks], padding)).validate()
        for padding in (0.0, 1e3)
    ]
    assert figures[0] == figures[1] and figures[0]["loss"] > 0


def test_a_folder_of_one_shots_goes_all_the_way(musicldm: Command, configs: dict[str, Path], tmp_path: Path) -> None:
    """Every clip is shorter than a crop of either training; the store keeps the length that each has."""
    rng = np.random.default_rng(0)
    for number in range(12):
        decay = np.exp(-np.arange(3000 + 400 * number) / 800)
        hit = (0.5 * decay * rng.normal(0, 0.3, len(decay))).astype(np.float32)[None]
        (tmp_path / f"hits/kit {number % 3}").mkdir(parents=True, exist_ok=True)
        files.write(tmp_path / f"hits/kit {number % 3}/{number}.wav", hit, 16_000)
    lines: list[list[object]] = [
        ["preprocess", tmp_path / "hits", tmp_path / "wav"],
        ["train-vae", tmp_path / "wav", "-o", tmp_path / "vae", "--config", configs["vae"], "--steps", 2],
        ["encode", tmp_path / "wav", tmp_path / "store", "--codec", tmp_path / "vae"],
        ["train-diffusion", tmp_path / "store", "-o", tmp_path / "ldm", "--config", configs["ldm"], "--steps", 2],
        ["sample", "-m", tmp_path / "ldm", "--seconds", 0.5, "--steps", 2, "-o", tmp_path / "out.wav"],
    ]
    for line in lines:
        done = musicldm(*line)
        assert done.code == 0, done.err
        if str(line[0]).startswith("train"):
            assert "are shorter than a crop of" in done.err and "Held-out" in done.err
    manifest = open_manifest(tmp_path / "wav").records.values()
    store = LatentStore.open(tmp_path / "store")
    prepared = sorted(record["samples"] for record in manifest if record["status"] == "done")
    assert sorted(entry.samples for entry in store.tracks) == prepared
    hop = store.header.hop
    trained = [entry.frames for entry in store.tracks if entry.split == "train"]
    assert trained and store.statistics().count == sum(trained)
    assert all(entry.frames == -(-entry.samples // hop) for entry in store.tracks)
