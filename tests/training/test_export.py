"""`bundle export`: what is shipped of a checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from musicldm.core import bundle
from musicldm.core.bundle import Role
from tests.toys import Command, Pipeline


def test_an_export_hides_and_removes_nothing(pipeline: Pipeline, musicldm: Command, tmp_path: Path) -> None:
    run = Path(shutil.copytree(pipeline.vae, tmp_path / "run"))
    export = ["bundle", "export", run / "checkpoints/last.ckpt", "-o"]
    done = musicldm(*export, run)
    assert done.code == 2 and "is a run folder" in done.err and not (run / "bundle.json").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/weights.safetensors").write_bytes(b"precious")
    done = musicldm(*export, tmp_path / "mine")
    assert done.code == 1 and "holds files that are not a musicldm bundle" in done.err and "--overwrite" in done.err
    (tmp_path / "other").mkdir()
    (tmp_path / "other/bundle.json").write_text('{"version": 1}')  # of an app
    assert musicldm(*export, tmp_path / "other").code == 1
    assert (tmp_path / "other/bundle.json").read_text() == '{"version": 1}'
    (tmp_path / "file").touch()
    done = musicldm(*export, tmp_path / "file")
    assert done.code == 1 and "is not a folder" in done.err
    assert musicldm(*export, tmp_path / "mine", "--overwrite").code == 0
    assert (tmp_path / "mine/weights.safetensors").read_bytes() == b"precious"
    for _ in range(2):
        assert musicldm(*export, tmp_path / "out").code == 0
        (tmp_path / "out/weights.safetensors").write_bytes(b"precious")
    assert (tmp_path / "out/weights.safetensors").exists()
    assert len(list((tmp_path / "out").glob("codec-*.safetensors"))) == 1


def test_any_checkpoint_becomes_a_bundle(pipeline: Pipeline, musicldm: Command, tmp_path: Path) -> None:
    runs: list[tuple[Path, Role]] = [(pipeline.vae, "codec"), (pipeline.ldm, "generator")]
    for run, role in runs:
        out = tmp_path / role
        done = musicldm("bundle", "export", run / "checkpoints/last.ckpt", "-o", out)
        assert done.code == 0 and done.out.splitlines() == [str(out)], done.err
        shipped, exported = bundle.read(run), bundle.read(out)
        assert (exported.name, exported.facts) == (role, shipped.facts)
        assert {name: made.digest for name, made in exported.components.items()} == {
            name: made.digest for name, made in shipped.components.items()
        }
        done = musicldm("bundle", "export", run / "checkpoints/previous.ckpt", "-o", out, "--json")
        before = bundle.read(out)
        assert json.loads(done.out) == {"bundle": str(out), "step": before.facts[role].step}
        assert before.facts[role].step < shipped.facts[role].step
        assert before.component(role).digest != shipped.component(role).digest
        assert musicldm("bundle", "export", run / "checkpoints/last.ckpt", "-o", out, "--half").code == 0
        assert all(tensor.dtype == torch.float16 for tensor in bundle.read(out).component(role).tensors.values())
    lost = shutil.copy(pipeline.vae / "checkpoints/last.ckpt", tmp_path / "lost.ckpt")
    for path, sentence in ((lost, "no bundle in"), (tmp_path / "none.ckpt", "no checkpoint")):
        done = musicldm("bundle", "export", path, "-o", tmp_path / "out")
        assert done.code == 1 and sentence in done.err and "Hint: " in done.err, done.err
    other = tmp_path / "run/checkpoints"
    shutil.copytree(pipeline.ldm / "bundle", other.parent / "bundle")
    other.mkdir()
    done = musicldm("bundle", "export", shutil.copy(lost, other), "-o", tmp_path / "out")
    assert done.code == 1 and "does not belong to ldm" in done.err, done.err


def test_a_generator_takes_a_codec_of_the_same_latents_only(
    pipeline: Pipeline, musicldm: Command, tmp_path: Path
) -> None:
    export = ["bundle", "export", pipeline.ldm / "checkpoints/last.ckpt", "-o", tmp_path / "out", "--codec"]
    assert musicldm(*export, pipeline.vae).code == 0
    made, codec = bundle.read(tmp_path / "out"), bundle.read(pipeline.vae)
    assert made.component("codec").digest == codec.component("codec").digest
    assert made.training("codec") == codec.training("codec") and "generator" in made.components
    other = tmp_path / "other"
    assert musicldm("bundle", "export", pipeline.vae / "checkpoints/previous.ckpt", "-o", other).code == 0
    done = musicldm(*export, other)
    assert done.code == 1 and "was not trained on the latents of other" in done.err
    done = musicldm("bundle", "export", pipeline.vae / "checkpoints/last.ckpt", "-o", tmp_path / "x", "--codec", other)
    assert done.code == 1 and "has no generator" in done.err
