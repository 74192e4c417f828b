"""Bundles: what was written is what is read, and anything else is refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from musicldm.codecs.vae.config import VAEConfig
from musicldm.codecs.vae.model import VAE
from musicldm.core import bundle
from musicldm.core.bundle import Bundle, Component, TrackFacts, TrainingFacts
from musicldm.core.errors import BundleError
from musicldm.sampling import Pipeline
from tests.toy_model import toy_bundle

TOY = VAEConfig(
    latent_channels=2, patch=4, patch_kernel=8, widths=(8,), strides=(), blocks=1, attention_block=4, heads=2
)


TRAINING = TrainingFacts({"training": {"seconds": 2.0}}, 7, (TrackFacts("Töst", provenance={"licence": "CC0"}),))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    bundle.write(tmp_path / "run" / "bundle", Bundle("toy", {"codec": VAE(TOY).component()}, {"codec": TRAINING}))
    return tmp_path / "run" / "bundle"


def weights_of(folder: Path, role: str = "codec") -> Path:
    (path,) = folder.glob(f"{role}-*.safetensors")
    return path


def test_round_trip(folder: Path) -> None:
    back = bundle.read(folder)
    assert (back.name, back.facts) == ("toy", {"codec": TRAINING})
    torch.manual_seed(0)
    original = VAE(TOY)
    loaded = VAE.load(folder.parent)  # a run folder stands for its bundle
    assert loaded.config == TOY and not loaded.training
    for name, weight in original.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name])
    assert loaded.weights_hash == original.component().digest


OLD = Path(__file__).parents[1] / "fixtures/release-0.1/finished/diffusion/bundle"
# `Part.digest` as release 0.1 computes it.
OLD_DIGESTS = {
    "codec": "91b2b0f5d9e682a33cec339960abbdf9d57deaeef9eac3d0fb34101d29074668",
    "generator": "f625f91fe106b0641ef4e6c6cebd89df1359411382cdb11c57f0d069ce7a4210",
}


def test_format_1_is_read_with_the_digests_that_it_had_and_written_as_format_2(tmp_path: Path) -> None:
    assert json.loads((OLD / "bundle.json").read_bytes())["format"] == 1
    old = bundle.read(OLD)
    assert {role: each.digest for role, each in old.components.items()} == OLD_DIGESTS
    assert {role: each.kind for role, each in old.components.items()} == {"codec": "vae", "generator": "diffusion"}
    assert old.component("generator").config["vae"] == OLD_DIGESTS["codec"]  # configurations stay as they were
    assert old.facts["generator"].step > 0 and len(old.facts["generator"].tracks) == 8

    bundle.write(tmp_path / "new", old)
    index = json.loads((tmp_path / "new" / "bundle.json").read_bytes())
    assert index["format"] == 2 and index["components"].keys() == OLD_DIGESTS.keys() and "parts" not in index
    new = bundle.read(tmp_path / "new")
    assert {role: each.digest for role, each in new.components.items()} == OLD_DIGESTS
    assert (new.name, new.facts) == (old.name, old.facts)
    assert {role: each.config for role, each in new.components.items()} == {
        role: each.config for role, each in old.components.items()
    }


@pytest.mark.parametrize("format", [1, 2])
def test_fields_of_a_later_release_are_passed_over(folder: Path, format: int) -> None:
    before = bundle.read(folder)
    index = json.loads((folder / "bundle.json").read_bytes())
    index["facts"]["codec"]["tracks"][0]["mood"] = "calm"
    index["facts"]["codec"]["emissions"] = {"grams": 3}
    index["components"]["codec"]["signature"] = "…"
    index["signed_by"] = "nobody"
    if format == 1:
        index["parts"] = {"vae": index.pop("components")["codec"]}
        index["facts"] = {"vae": index["facts"]["codec"]}
        index["format"] = 1
    (folder / "bundle.json").write_text(json.dumps(index))
    after = bundle.read(folder)
    assert (after.name, after.facts) == (before.name, before.facts) == ("toy", {"codec": TRAINING})
    assert after.component("codec").digest == before.component("codec").digest


def test_another_weight_or_another_setting_is_another_hash(folder: Path) -> None:
    part = bundle.read(folder).component("codec")
    changed = {name: weight.clone() for name, weight in part.tensors.items()}
    next(iter(changed.values())).view(-1)[0] += 1e-6
    assert Component(part.kind, part.config, changed).digest != part.digest
    assert Component(part.kind, {**part.config, "attention_block": 8}, part.tensors).digest != part.digest


def test_halves_of_the_weights_take_half_the_space_and_sound_alike(tmp_path: Path) -> None:
    whole, half = toy_bundle(), bundle.halved(toy_bundle())
    bundle.write(tmp_path / "whole", whole)
    bundle.write(tmp_path / "half", half)
    for part in whole.components:
        large, small = (weights_of(tmp_path / name, part).stat().st_size for name in ("whole", "half"))
        assert 0.5 <= small / large < 0.55
    read = bundle.read(tmp_path / "half")
    assert {name: part.digest for name, part in read.components.items()} == {
        name: part.digest for name, part in bundle.halved(read).components.items()
    }  # what is rounded already does not change
    assert VAE.load(tmp_path / "half").component().digest == read.component("codec").digest  # nor does it when loaded
    one, other = (Pipeline(source, "cpu").sample(seconds=1.0, steps=4) for source in (whole, read))
    assert 0 < (one - other).norm() < 0.02 * one.norm()


def test_a_weight_that_half_precision_cannot_hold(folder: Path) -> None:
    source = bundle.read(folder)
    next(iter(source.component("codec").tensors.values())).view(-1)[0] = 1e5
    with pytest.raises(BundleError, match="too large for half precision"):
        bundle.halved(source)


@pytest.mark.parametrize("strike", range(4))
def test_a_kill_while_writing_leaves_the_old_one_or_the_new_one(
    folder: Path, strike: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = VAE.load(folder).weights_hash
    new = VAE(TOY).component()
    written = 0
    replace = os.replace

    def dying(source: object, target: object) -> None:
        nonlocal written
        if written == strike:
            raise KeyboardInterrupt
        written += 1
        replace(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", dying)
    with contextlib.suppress(KeyboardInterrupt):
        bundle.write(folder, Bundle("toy", {"codec": new}))
    monkeypatch.undo()
    assert VAE.load(folder).weights_hash == (new.digest if strike >= 2 else old)
    bundle.write(folder, Bundle("toy", {"codec": new}))
    assert sorted(path.name for path in folder.iterdir()) == sorted(["bundle.json", weights_of(folder).name])


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_cut_short(folder: Path, keep: int) -> None:
    weights = weights_of(folder)
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(BundleError, match="cut short"):
        VAE.load(folder)


def test_a_flipped_bit(folder: Path) -> None:
    weights = weights_of(folder)
    data = bytearray(weights.read_bytes())
    data[-5] ^= 4
    weights.write_bytes(data)
    with pytest.raises(BundleError, match="was changed"):
        VAE.load(folder)


@pytest.mark.parametrize(
    "index", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 1, "name": "x", "parts": 3, "facts": {}}']
)
def test_a_damaged_index(folder: Path, index: bytes) -> None:
    (folder / "bundle.json").write_bytes(index)
    with pytest.raises(BundleError, match="damaged"):
        bundle.read(folder)


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nothing at"):
        bundle.read(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="no bundle in"):
        bundle.read(tmp_path)
    with pytest.raises(BundleError, match="no generator"):
        bundle.read(folder).component("generator")
    weights_of(folder).unlink()
    with pytest.raises(BundleError, match="lacks codec-"):
        bundle.read(folder)


def test_a_newer_format(folder: Path) -> None:
    index = json.loads((folder / "bundle.json").read_bytes())
    (folder / "bundle.json").write_text(json.dumps({**index, "format": 3}))
    with pytest.raises(BundleError, match="format 3"):
        bundle.read(folder)


def test_a_pickle_in_place_of_weights_is_never_run(folder: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "owned",)

    data = pickle.dumps(Payload())
    weights_of(folder).write_bytes(data)
    index = json.loads((folder / "bundle.json").read_bytes())
    index["components"]["codec"] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "bundle.json").write_text(json.dumps(index))
    with pytest.raises(BundleError, match="safetensors"):
        VAE.load(folder)
    assert not (tmp_path / "owned").exists()


def test_weights_that_do_not_fit(folder: Path) -> None:
    part = bundle.read(folder).component("codec")
    bundle.write(
        folder, Bundle("toy", {"codec": Component(part.kind, {**part.config, "latent_channels": 3}, part.tensors)})
    )
    with pytest.raises(BundleError, match="do not fit"):
        VAE.load(folder)
