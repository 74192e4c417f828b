"""What release 0.1 left behind opens, trains on, resumes and plays: see fixtures/make_release_0_1.py.

On the machine that made the fixture, with torch 2.11, runs resumed with torch 2.15 end bit for bit where those of 0.1
did. Other processors round otherwise, so numbers are compared here; `tests/training` demands the bits of one machine.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from musicldm.core import bundle
from musicldm.core.bundle import Role
from musicldm.generators.diffusion import upgrade
from musicldm.latents.examine import verify
from musicldm.latents.store import LatentStore, Track
from musicldm.media.audio import files
from musicldm.media.manifest import read_tracks
from tests.toys import Command

FIXTURE = Path(__file__).parent / "fixtures/release-0.1"
STORES = ("latents.zarr", "compressed.zarr")


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """A copy of all of it: whoever opens a store leaves lock files there."""
    return Path(shutil.copytree(FIXTURE, tmp_path / "release-0.1"))


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """What 0.1 itself said of it."""
    return dict(json.loads((FIXTURE / "facts.json").read_bytes()))


# ---- Stores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STORES)
def test_a_store_opens_whole_and_its_keys_are_what_they_were(left: Path, facts: dict[str, Any], name: str) -> None:
    store = LatentStore.open(left / name)
    assert verify(store) == []
    assert {entry.content: entry.key for entry in store.tracks} == facts["keys"][name]
    assert all(store.header.key(entry.content) == entry.key for entry in store.tracks)
    if name == "latents.zarr":
        assert {entry.key: entry.checksum for entry in store.tracks} == facts["checksums"]


def test_a_track_added_to_an_old_store_gets_the_key_that_0_1_would_have_given(
    left: Path, facts: dict[str, Any]
) -> None:
    store = LatentStore.open(left / "latents.zarr")
    content, key = facts["new_key"]["content"], facts["new_key"]["key"]
    old = store.tracks[0]
    with store.writer() as writer:
        writer.append(_new_track(content, old.samples), store.pieces(old))
    added = [entry for entry in LatentStore.open(left / "latents.zarr").tracks if entry.content == content]
    assert [entry.key for entry in added] == [key]


def _new_track(content: str, samples: int) -> Track:
    return Track(
        samples=samples,
        content=content,
        split="train",
        artist="A",
        title="T",
        provenance={},
        folder="f01d",
        source="new.wav",
    )


@pytest.mark.parametrize("name", STORES)
def test_encode_finds_everything_in_an_old_store_done(left: Path, musicldm: Command, name: str) -> None:
    done = musicldm("encode", left / "wav", left / name, "--vae", left / "finished/vae", "--json")
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert (summary["encoded"], summary["skipped"], summary["left_out"]) == (0, 8, {})


def test_an_old_store_grows(left: Path, musicldm: Command, facts: dict[str, Any]) -> None:
    """Whatever is encoded again gives the latents that 0.1 gave, within float16's rounding."""
    before = LatentStore.open(left / "latents.zarr")
    old = {entry.key: before.read(entry) for entry in before.tracks}
    gone = before.tracks[3].key
    assert before.prune([gone]) == 1
    done = musicldm("encode", left / "wav", left / "latents.zarr", "--vae", left / "finished/vae", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["encoded"] == 1
    after = LatentStore.open(left / "latents.zarr")
    assert {entry.content: entry.key for entry in after.tracks} == facts["keys"]["latents.zarr"]
    (again,) = (entry for entry in after.tracks if entry.key == gone)
    for new, was in zip(after.read(again), old[gone], strict=True):
        np.testing.assert_allclose(new.astype(np.float64), was.astype(np.float64), atol=2e-3)


def test_an_old_store_can_be_trained_on(left: Path, musicldm: Command) -> None:
    config = ("--config", left / "diffusion.toml", "--preset", "tiny", "--steps", 2, "--device", "cpu")
    done = musicldm("train-diffusion", left / "latents.zarr", "-o", left / "new", *config, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["steps"] == 2
    tracks = {track.content: track.split for track in read_tracks(left / "wav")}
    made = bundle.read(left / "new").training("generator")
    assert {track.content: track.split for track in made.tracks} == tracks


# ---- Bundles and takes -----------------------------------------------------------------------------------------------


def test_a_bundle_keeps_its_digests(left: Path, facts: dict[str, Any]) -> None:
    opened = bundle.read(left / "finished/diffusion")
    assert opened.component("codec").digest == facts["digests"]["vae"]
    assert opened.component("generator").digest == facts["digests"]["denoiser"]


@pytest.mark.parametrize("by", ("take.json", "take.wav"))
def test_a_take_can_be_made_again(left: Path, musicldm: Command, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    """By its sidecar, or by the take alone: told an artist and a position, by a sampler that draws noise."""
    monkeypatch.chdir(left)  # where the sidecar's model is
    done = musicldm("sample", "--replay", by, "-o", "again.wav", "--device", "cpu")
    assert done.code == 0, done.err
    np.testing.assert_allclose(files.read(left / "again.wav"), files.read(left / "take.wav"), atol=1e-4)


def test_a_bundle_samples_by_its_options(left: Path, musicldm: Command) -> None:
    options = json.loads((left / "take.json").read_bytes())["options"]
    names = ("artist", "position", "seconds", "seed", "steps", "sampler", "guidance")
    line = [word for name in names for word in (f"--{name}", options[name])]
    out = ("-o", left / "again.wav", "--bit-depth", "float", "--device", "cpu")
    done = musicldm("sample", "-m", left / "finished/diffusion", *line, *out)
    assert done.code == 0, done.err
    np.testing.assert_allclose(files.read(left / "again.wav"), files.read(left / "take.wav"), atol=1e-4)


# ---- Runs ------------------------------------------------------------------------------------------------------------


def test_a_vae_run_resumes_where_it_was_interrupted(left: Path, musicldm: Command, facts: dict[str, Any]) -> None:
    """With the discriminator at work, which begins in step 6."""
    run = left / "stopped/vae"
    config = ("--config", left / "vae.toml", "--preset", "tiny", "--device", "cpu")
    done = musicldm("train-vae", left / "wav", "-o", run, *config, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["steps"] == 24 > facts["stopped"]["vae"]
    check_same(run, left / "finished/vae", "codec")


def test_a_diffusion_run_resumes_where_it_was_interrupted(left: Path, musicldm: Command, facts: dict[str, Any]) -> None:
    run = left / "stopped/diffusion"
    config = ("--config", left / "diffusion.toml", "--preset", "tiny", "--device", "cpu")
    done = musicldm("train-diffusion", left / "latents.zarr", "-o", run, *config, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["steps"] == 24 > facts["stopped"]["diffusion"]
    check_same(run, left / "finished/diffusion", "generator")


def check_same(resumed: Path, finished: Path, role: Role) -> None:
    """The averaged weights and the metrics of two runs, the second of 0.1 without an interruption."""
    ours, theirs = (dict(bundle.read(run).component(role).tensors) for run in (resumed, finished))
    upgrade.tensors(theirs)  # which have other names today
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-5, msg=name)
    rows, expected = metrics(resumed), metrics(finished)
    assert rows.keys() == expected.keys()
    for key, value in rows.items():
        assert value == pytest.approx(expected[key], rel=1e-3, abs=1e-5), key


def metrics(run: Path) -> dict[tuple[str, str], float]:
    """metrics.csv, which has nothing that depends on the speed of the machine."""
    with (run / "metrics.csv").open() as file:
        rows = [(row["name"], row["step"], float(row["value"])) for row in csv.DictReader(file)]
    return {(name, step): value for name, step, value in rows}
