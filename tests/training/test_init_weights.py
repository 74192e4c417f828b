"""Trainings that begin with the weights of a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from musicldm.core import bundle
from musicldm.core.bundle import Role
from tests.toys import TOY_LDM, TOY_VAE, Command, Pipeline


def test_training_goes_on_from_a_bundle(
    pipeline: Pipeline, configs: dict[str, Path], musicldm: Command, tmp_path: Path
) -> None:
    """With its weights at first, its tracks among those that were trained on, and no need of it later."""
    runs: list[tuple[str, Path, str, Role]] = [
        ("train-diffusion", pipeline.store, "ldm", "generator"),
        ("train-vae", pipeline.wav, "vae", "codec"),
    ]
    for verb, data, kind, role in runs:
        parent = shutil.copytree(getattr(pipeline, kind) / "bundle", tmp_path / f"{kind}-parent")
        index = json.loads((parent / "bundle.json").read_text())
        tracks = index["facts"][role]["tracks"]
        tracks.append(tracks[0] | {"content": "heard elsewhere"})
        (parent / "bundle.json").write_text(json.dumps(index))
        run = tmp_path / kind
        command = [verb, data, "-o", run, "--config", configs[kind], "--learning-rate", 1e-12]
        done = musicldm(*command, "--steps", 2, "--init-from", parent)
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
    done = musicldm(*command, "--steps", 4, "--init-from", run)
    assert done.code == 1 and "init differ" in done.err, done.err


def test_held_out_tracks_that_the_first_weights_know_are_announced(
    pipeline: Pipeline, configs: dict[str, Path], musicldm: Command, tmp_path: Path
) -> None:
    parent = shutil.copytree(pipeline.vae / "bundle", tmp_path / "parent")
    index = (parent / "bundle.json").read_text()
    (parent / "bundle.json").write_text(index.replace('"split": "heldout"', '"split": "train"'))
    command = ["train-vae", pipeline.wav, "-o", tmp_path / "run", "--config", configs["vae"], "--steps", 1]
    done = musicldm(*command, "--init-from", parent)
    assert done.code == 0 and "tracks held out here, so the held-out figures will flatter" in done.err, done.err
    assert {track.split for track in bundle.read(tmp_path / "run").facts["codec"].tracks} == {"train"}


def test_a_bundle_of_another_shape(
    pipeline: Pipeline, configs: dict[str, Path], musicldm: Command, tmp_path: Path
) -> None:
    (tmp_path / "wide.toml").write_text(configs["vae"].read_text().replace("widths = [32, 48]", "widths = [32, 64]"))
    done = musicldm(
        "train-vae", pipeline.wav, "-o", tmp_path, "--config", tmp_path / "wide.toml", "--init-from", pipeline.vae
    )
    assert done.code == 1 and "The vae of vae is another network: widths differ." in done.err, done.err
    done = musicldm("train-vae", pipeline.wav, "-o", tmp_path, "--init-from", tmp_path)
    assert done.code == 1 and "no bundle in" in done.err


def test_a_bundle_of_the_same_shape_that_is_another_network(
    pipeline: Pipeline, musicldm: Command, tmp_path: Path
) -> None:
    """Weights say nothing of heads, of what the network predicts, or of whose latents it knows."""
    (tmp_path / "heads.toml").write_text(TOY_VAE.replace("heads = 2", "heads = 4"))
    command = ["train-vae", pipeline.wav, "-o", tmp_path / "run", "--config", tmp_path / "heads.toml"]
    done = musicldm(*command, "--init-from", pipeline.vae)
    assert done.code == 1 and "another network: heads differ" in done.err, done.err
    (tmp_path / "ldm.toml").write_text(TOY_LDM)
    command = ["train-diffusion", pipeline.store, "-o", tmp_path / "run", "--config", tmp_path / "ldm.toml"]
    done = musicldm(*command, "--init-from", pipeline.ldm, "--objective", "eps")
    assert done.code == 1 and "noise.objective differ" in done.err, done.err
    others = bundle.read(pipeline.ldm)
    generator = others.component("generator")
    others.components["generator"] = replace(generator, config={**generator.config, "codec": "0" * 64})
    bundle.write(tmp_path / "others", others)
    done = musicldm(*command, "--init-from", tmp_path / "others")
    assert done.code == 1 and "codec differ" in done.err, done.err
