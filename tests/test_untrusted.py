"""Bundles, stores, folders and runs by strangers: what is wrong in them is refused with a sentence, at once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from musicldm.core import bundle
from musicldm.core.errors import BundleError, DataError, MismatchError, OutputError
from musicldm.crawl.catalog import open_catalog
from musicldm.latents.schema import crc_of_json
from musicldm.latents.store import LatentStore
from musicldm.media.audio import files
from musicldm.media.manifest import read_tracks
from musicldm.sampling import Pipeline
from tests.latents.latent_toys import filled
from tests.toy_model import toy_bundle
from tests.toys import Command

RELEASE = Path(__file__).parent / "fixtures" / "release-0.1"


def changed(file: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON file, in which Infinity may be written."""
    data = json.loads(file.read_bytes())
    change(data)
    file.write_text(json.dumps(data))


# ---- Bundles ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    bundle.write(tmp_path / "model", toy_bundle())
    return tmp_path / "model"


def nested(levels: int) -> Any:
    data: Any = 0
    for _ in range(levels):
        data = {"a": data}
    return data


CODEC, GENERATOR = ("components", "codec"), ("components", "generator")


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        ((*CODEC, "bytes"), None, "components.codec.bytes must be of type int"),
        ((*CODEC, "bytes"), -1, "components.codec.bytes is -1"),
        ((*CODEC, "file"), "../secret.safetensors", "outside the bundle"),
        ((*CODEC, "file"), "/etc/passwd", "outside the bundle"),
        ((*CODEC, "file"), "..\\x.safetensors", "outside the bundle"),
        ((*CODEC, "config", "blocks"), 1_000_000, "blocks is 1000000: expected 1 to 16"),
        ((*CODEC, "config", "widths"), [65536, 24], "do not fit their configuration"),
        ((*CODEC, "config", "heads"), 0, "heads is 0"),
        ((*CODEC, "config", "sample_rate"), -1, "sample_rate is -1"),
        ((*CODEC, "config", "x"), float("inf"), "is damaged"),
        ((*CODEC, "config", "x"), nested(500), "is damaged"),
        ((*GENERATOR, "config", "unet", "blocks"), 1_000_000, "blocks is 1000000"),
        ((*GENERATOR, "config", "statistics", "std"), [1.0], "how they are scaled"),
        ((*GENERATOR, "config", "statistics"), {"count": 1, "mean": [0.0], "std": [1.0]}, "1 in its statistics"),
        ((*GENERATOR, "config", "statistics", "mean"), [0.0, 0.0, 0.0, "x"], "how they are scaled"),
        ((*GENERATOR, "config", "conditions", "settings", "artist", "names"), [1, 2, 3], "list of names"),
        ((*GENERATOR, "config", "noise", "steps"), 10**12, "steps is 1000000000000"),
        (("facts", "generator", "tracks"), [{"seconds": "long"}], "seconds must be of type float"),
        (("name",), ["toy"], "name must be of type str"),
        (("format",), "two", "is damaged"),
    ],
)
def test_a_bundle_with_wrong_contents(
    model: Path, musicldm: Command, tmp_path: Path, place: tuple[str, ...], value: object, sentence: str
) -> None:
    def change(index: Any) -> None:
        for key in place[:-1]:
            index = index[key]
        index[place[-1]] = value

    changed(model / bundle.INDEX, change)
    done = musicldm("sample", "-m", model, "--device", "cpu", "-o", tmp_path / "out.wav")
    assert done.code == 1 and sentence in done.err and "Hint:" in done.err and "bug in" not in done.err, done.err
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_neither_written_nor_read(model: Path, tmp_path: Path, number: float) -> None:
    broken = toy_bundle()
    next(iter(broken.components["codec"].tensors.values())).view(-1)[0] = number
    with pytest.raises(BundleError, match="not finite numbers"):
        bundle.write(tmp_path / "out", broken)
    assert not (tmp_path / "out").exists()
    (weights,) = model.glob("codec-*.safetensors")
    tensors = load_file(weights)
    next(iter(tensors.values())).view(-1)[0] = number
    save_file(tensors, weights)
    about = {"bytes": weights.stat().st_size, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    changed(model / bundle.INDEX, lambda index: index["components"]["codec"].update(about))
    with pytest.raises(BundleError, match="not finite numbers"):
        bundle.read(model)


def test_parts_of_other_channels_do_not_sound(model: Path) -> None:
    changed(
        model / bundle.INDEX,
        lambda index: index["components"]["generator"]["config"].update(
            statistics={"count": 1, "mean": [0.0] * 5, "std": [1.0] * 5}
        ),
    )
    with pytest.raises(MismatchError, match="4 latent channels of the codec, 4 of the generator, 5 in its statistics"):
        Pipeline.load(model, "cpu")


def test_weights_in_the_hubs_cache_are_links(model: Path, tmp_path: Path) -> None:
    for weights in model.glob("*.safetensors"):
        weights.rename(tmp_path / weights.name)
        weights.symlink_to(tmp_path / weights.name)
    assert bundle.read(model).components.keys() == {"codec", "generator"}


def test_a_card_without_end_and_names_that_steer(
    model: Path, musicldm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = tmp_path / "shelf"
    for name in ("zero", "large", "a\x1b[2Jb\nError: c"):
        shutil.copytree(model, shelf / name)
    (shelf / "zero" / "card.md").symlink_to("/dev/zero")
    (shelf / "large" / "card.md").write_bytes(b"x" * (2 << 20))
    monkeypatch.setenv("MUSICLDM_MODELS", str(shelf))
    listed = {each["name"]: each for each in json.loads(musicldm("models", "--json").out)["models"]}
    assert listed["zero"]["what"] == listed["large"]["what"] == "" and "a\x1b[2Jb\nError: c" in listed
    done = musicldm("models", "\x1b[31mred\x9b")
    assert done.code == 1 and not any(mark in done.err for mark in ("\x1b[2J", "\x1b[31mred", "\x9b"))
    assert sum(line.startswith("Error:") for line in done.err.splitlines()) == 1


# ---- Folders of music ------------------------------------------------------------------------------------------------


@pytest.fixture
def prepared(tmp_path: Path, musicldm: Command) -> tuple[Path, Path]:
    """One track, prepared: the folder that it was in, and the one that it is in."""
    (tmp_path / "in").mkdir()
    tone = (np.sin(np.arange(8000) / 5)[None] / 2).astype(np.float32)
    files.write(tmp_path / "in" / "a.wav", tone, 16000)
    assert musicldm("preprocess", tmp_path / "in", tmp_path / "out", "--jobs", 1).code == 0
    return tmp_path / "in", tmp_path / "out"


@pytest.mark.parametrize(
    "where", ["../home/thesis.txt", "{}/home/thesis.txt", "link/thesis.txt", "..\\home\\thesis.txt"]
)
def test_a_manifest_leads_to_no_file_elsewhere(
    prepared: tuple[Path, Path], musicldm: Command, tmp_path: Path, where: str
) -> None:
    source, out = prepared
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("mine")
    (out / "link").symlink_to(tmp_path / "home")
    manifest = out / "manifest.jsonl"
    record = json.loads(manifest.read_bytes().splitlines()[-1])
    record |= {"path": where.format(tmp_path), "bytes": 4, "status": "done"}
    manifest.write_text(json.dumps(record) + "\n")
    # The source has changed, so that its former output would have to go.
    files.write(source / "a.wav", np.zeros((1, 8000), np.float32) + 0.1, 16000)
    done = musicldm("preprocess", source, out, "--jobs", 1, "--min-seconds", 0.2)
    assert done.code == 1 and "leads out of" in done.err and "manifest.jsonl is damaged" in done.err
    with pytest.raises(DataError, match="leads out of"):
        read_tracks(out)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("sample_rate", 0), ("sample_rate", -1), ("samples", -5), ("samples", "many"), ("channels", 0)),
        *(("provenance", None), ("split", "other"), ("artist", 3), ("content", [])),
    ],
)
def test_a_manifest_with_wrong_contents(prepared: tuple[Path, Path], key: str, value: object) -> None:
    manifest = prepared[1] / "manifest.jsonl"
    record = json.loads(manifest.read_bytes().splitlines()[-1])
    manifest.write_text(json.dumps(record | {key: value}) + "\n")
    with pytest.raises(DataError, match=rf"manifest.jsonl is damaged: a.wav: {key}"):
        read_tracks(prepared[1])


@pytest.mark.parametrize("path", ["../thesis.txt", "/etc/passwd", None, 3])
def test_a_catalog_leads_to_no_file_elsewhere(tmp_path: Path, path: object) -> None:
    record = {"recording": "id", "status": "fetched", "path": path, "artist": "A", "title": "T", "reason": ""}
    (tmp_path / "catalog.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(DataError, match=r"catalog.jsonl is damaged: id: "):
        open_catalog(tmp_path)


def test_names_of_files_do_not_steer_the_terminal(musicldm: Command, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a\x1b[2Jb\nError: c\u202e.wav").write_text("no music")
    done = musicldm("preprocess", tmp_path / "in", tmp_path / "out", "--jobs", 1)
    assert done.code == 1 and "a�[2Jb�Error: c�.wav" in done.err
    assert done.err.replace("\n", "").isprintable()


# ---- Stores ----------------------------------------------------------------------------------------------------------


def resealed(file: Path, change: Callable[[Any], object]) -> None:
    """Change the attributes of a store's metadata, and the checksum with them."""

    def seal(data: Any) -> None:
        attributes = data["attributes"]
        change(attributes)
        attributes.pop("crc32c")
        attributes["crc32c"] = crc_of_json(attributes)

    changed(file, seal)


@pytest.mark.parametrize(
    ("key", "value"), [("rate", -1), ("rate", 0), ("hop", 0), ("channels", -3), ("keep_bits", 99), ("codec_hash", 3)]
)
def test_a_header_that_cannot_be(tmp_path: Path, musicldm: Command, key: str, value: object) -> None:
    filled(tmp_path / "s", 10)
    resealed(tmp_path / "s" / "zarr.json", lambda header: header.update({key: value}))
    for verb in ("verify", "info"):
        done = musicldm("latents", verb, tmp_path / "s")
        assert done.code == 1 and f"zarr.json is damaged: {key} " in done.err and "bug in" not in done.err, done.err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda table: table["tracks"][0].update(offset=1_000_000), "a track ends at frame"),
        (lambda table: table["tracks"][0].update(frames=-1), "frames is -1"),
        (lambda table: table["tracks"][0].update(key="../x"), "key is '../x'"),
        (lambda table: table["tracks"].append(7), "not the table of a segment"),
        (lambda table: table["moments"].update(mean=[0.0]), "do not all have the same channels"),
        (lambda table: table.update(moments={"count": 1, "mean": [0], "squares": [0], "variances": [0]}), "1 channels"),
        (lambda table: table.update(chunk_frames=0), "chunk_frames is 0"),
        (lambda table: table.update(shard_frames=1 << 40), "cannot hold"),
        (lambda table: table.update(replaces=["../../home"]), "replaces"),
        (lambda table: table.update(frames=1 << 40), "cannot hold"),
    ],
)
def test_a_segment_that_cannot_be(tmp_path: Path, change: Callable[[Any], object], sentence: str) -> None:
    filled(tmp_path / "s", 10, 20)
    (table,) = (tmp_path / "s").glob("parts/*/zarr.json")
    resealed(table, change)
    with pytest.raises(DataError, match=sentence):
        LatentStore.open(tmp_path / "s")
    assert LatentStore.open(tmp_path / "s", skip_broken=True).broken.keys() == {table.parent.name}


def test_a_link_in_a_store_is_not_followed_where_things_are_deleted(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", 10)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mine").touch()
    (tmp_path / "s" / "parts" / "20200101T000000000000-00000000").symlink_to(tmp_path / "home")
    with pytest.raises(DataError, match="leads out of"), store.writer():
        pass
    assert (tmp_path / "home" / "mine").exists()


# ---- The disk --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full disk here")
@pytest.mark.parametrize("format", ["mp3", "ogg"])
def test_a_full_disk_is_not_ffmpegs_fault(format: str) -> None:
    with pytest.raises(OutputError, match="No space left on device") as caught:
        with files._ffmpeg(Path("/dev/full"), format, 8000, 1) as pipe:
            pipe.write(bytes(1 << 20))
    assert "Free some space" in caught.value.hint


def test_what_else_ffmpeg_cannot_do_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\necho 'Unknown encoder' >&2\nexit 1\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(OutputError, match="could not write mp3"):
        with files.piecewise(tmp_path / "a.mp3", 8000, 1, 10) as append:
            append(np.zeros((1, 10), np.float32))
    assert [path.name for path in tmp_path.iterdir()] == ["ffmpeg"]
