"""Music of mixed rates and channels: named, or converted on the fly, in training and in encoding."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from musicldm import LatentStore
from musicldm.media.audio import files
from musicldm.media.manifest import open_manifest
from tests.toys import Command, Pipeline


@pytest.fixture
def mixed(pipeline: Pipeline, tmp_path: Path) -> Path:
    """The prepared songs, one of them at 22,050 Hz and in stereo."""
    folder = Path(shutil.copytree(pipeline.wav, tmp_path / "wav"))
    manifest = open_manifest(folder)
    tracks = (each for each in manifest.records.values() if each["status"] == "done")
    record = next(dict(each) for each in tracks if each["split"] == "train")
    audio = files.read(folder / record["path"])
    files.write(folder / "other.wav", np.repeat(np.repeat(audio, 2, axis=0), 2, axis=1)[:, : 22050 * 4], 22050)
    record |= {"source": "other.wav", "path": "other.wav", "sample_rate": 22050, "channels": 2, "content": "other"}
    record |= {"samples": 22050 * 4, "bytes": (folder / "other.wav").stat().st_size}
    manifest.append(record)
    return folder


def test_a_mixed_folder(mixed: Path, configs: dict[str, Path], musicldm: Command, tmp_path: Path) -> None:
    train = ["train-vae", mixed, "-o", tmp_path / "vae", "--config", configs["vae"], "--steps", 2]
    refused = musicldm(*train)
    assert refused.code == 1 and "other.wav has 2 channel(s) at 22050 Hz" in refused.err and "--resample" in refused.err
    said = "1 track is converted to 16000 Hz, 1 channel: 1 from 22050 Hz, 2 channels."
    done = musicldm(*train, "--resample")
    assert done.code == 0 and said in done.err
    tracks = json.loads((tmp_path / "vae/bundle/bundle.json").read_text())["facts"]["codec"]["tracks"]
    assert len(tracks) == 9

    encode = ["encode", mixed, tmp_path / "store.zarr", "--vae", tmp_path / "vae"]
    left_out = musicldm(*encode)
    assert left_out.code == 0 and "22050 samples a second" in left_out.err
    assert len(LatentStore.open(tmp_path / "store.zarr").tracks) == 8
    done = musicldm(*encode, "--resample")
    assert done.code == 0 and said in done.err
    store = LatentStore.open(tmp_path / "store.zarr")
    (other,) = (track for track in store.tracks if abs(track.seconds - 4) < 0.01)
    assert len(store.tracks) == 9 and other.samples == 4 * 16000
