"""`encode` in several processes, here and on a cluster: what it leaves is what one process would have left."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from musicldm.codecs.vae.model import VAE
from musicldm.core import bundle
from musicldm.core.errors import BundleError, MismatchError, NetworkError, UsageError
from musicldm.latents.encode import EncodeSummary, encode
from musicldm.latents.store import LatentStore
from musicldm.media.audio import files
from tests.clusters import scheduler, worker_processes, workers
from tests.latents.test_latents_encode import CONFIG, add_track, run


@pytest.fixture
def vae(tmp_path: Path) -> VAE:
    torch.manual_seed(0)
    bundle.write(tmp_path / "vae", bundle.Bundle("toy", {"codec": VAE(CONFIG).component()}))
    return VAE.load(tmp_path / "vae")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in range(6):
        add_track(tmp_path / "data", number, 700 + 300 * number)
    return tmp_path / "data"


def check_the_same(found: Path, wanted: Path) -> None:
    stores = LatentStore.open(found), LatentStore.open(wanted)
    ours, theirs = ({entry.key: entry for entry in store.tracks} for store in stores)
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert (ours[key].title, ours[key].source) == (theirs[key].title, theirs[key].source)
        for a, b in zip(stores[0].read(ours[key]), stores[1].read(theirs[key]), strict=True):
            np.testing.assert_allclose(a.astype(np.float32), b.astype(np.float32), rtol=1e-3, atol=1e-3)


def test_two_devices_leave_what_one_leaves(data: Path, tmp_path: Path, vae: VAE) -> None:
    (data / "artist 3" / "3.wav").unlink()
    path = data / "artist 4" / "4.wav"
    files.write(path, files.read(path)[:, :1000], 1000)
    seen: list[float] = []
    alone = encode(data, tmp_path / "alone", vae, window_seconds=0.2)
    two = encode(
        data,
        tmp_path / "two",
        vae,
        window_seconds=0.2,
        devices=["cpu", "cpu"],
        progress=lambda done, total, text="": seen.append(done / (total or 1)),
    )
    assert (two.encoded, two.encoded_hours) == (4, pytest.approx(alone.encoded_hours))
    assert two.left_out == alone.left_out
    assert list(two.left_out) == ["artist 3/3.wav", "artist 4/4.wav"]
    assert seen == sorted(seen) and seen[-1] == pytest.approx(1)
    check_the_same(tmp_path / "two", tmp_path / "alone")
    again = encode(data, tmp_path / "two", vae, devices=["cpu", "cpu"])
    assert (again.encoded, again.skipped) == (0, 4)


def test_an_interruption_ends_the_processes_and_keeps_what_was_complete(data: Path, tmp_path: Path, vae: VAE) -> None:
    calls = []

    def interrupt(done: float, total: float | None, text: str = "") -> None:
        calls.append(done)
        if len(calls) == 3:  # the first track's piece, its end, the second track's piece
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(data, tmp_path / "store", vae, devices=["cpu", "cpu"], progress=interrupt)
    assert multiprocessing.active_children() == []
    assert len(LatentStore.open(tmp_path / "store").tracks) == 1


def test_a_damaged_copy_of_the_vae_ends_the_run(data: Path, tmp_path: Path, vae: VAE) -> None:
    encode(data, tmp_path / "store", vae)
    add_track(data, 8, 900)
    torch.manual_seed(1)
    bundle.write(tmp_path / "store" / "vae", bundle.Bundle("toy", {"codec": VAE(CONFIG).component()}))
    with pytest.raises(MismatchError, match="is not the VAE that the store was made with"):
        encode(data, tmp_path / "store", vae, devices=["cpu", "cpu"])
    next((tmp_path / "store" / "vae").glob("*.safetensors")).write_bytes(b"")
    with pytest.raises(BundleError, match="cut short"):
        encode(data, tmp_path / "store", vae, devices=["cpu", "cpu"])
    assert len(LatentStore.open(tmp_path / "store").tracks) == 6


def test_a_device_that_is_not_there_is_one_error(data: Path, tmp_path: Path, vae: VAE) -> None:
    for devices in (["cuda:77"], ["cuda:77", "cuda:78"]):
        with pytest.raises(UsageError, match="There is no device 'cuda:7"):
            encode(data, tmp_path / "store", vae, devices=devices)


def test_a_cluster_leaves_what_one_process_leaves_though_a_worker_is_killed(
    tmp_path: Path, vae: VAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    data = tmp_path / "data"
    for number in range(8):
        add_track(data, number, 20_000 + number)
    encode(data, tmp_path / "alone", vae, window_seconds=0.05)
    killed = []

    def kill_one(done: float, total: float | None, text: str = "") -> None:
        if not killed:
            killed.append(worker_processes(address)[0])
            os.kill(killed[0], signal.SIGKILL)

    with scheduler(tmp_path) as (address, _), workers(address, 2, tmp_path):
        summary = encode(data, tmp_path / "store", vae, window_seconds=0.05, cluster=address, progress=kill_one)
        assert killed
        assert (summary.encoded, summary.left_out) == (8, {})
        check_the_same(tmp_path / "store", tmp_path / "alone")

        add_track(data, 20, 900)
        (add_track(data, 21, 900)).unlink()
        monkeypatch.chdir(tmp_path)  # the workers are elsewhere
        result = run("data", "store", "--vae", "vae", "--cluster", address)
        assert result.exit_code == 0, result.output
        assert "1 tracks encoded" in result.stderr and "8 there before, 1 left out" in result.stderr


def test_a_cluster_that_is_not_there_leaves_a_store_to_go_on_from(data: Path, tmp_path: Path, vae: VAE) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(NetworkError, match="no Dask scheduler"):
        encode(data, tmp_path / "store", vae, cluster="tcp://127.0.0.1:9")
    assert encode(data, tmp_path / "store", vae).encoded == 6


def test_nothing_is_asked_of_a_cluster_when_there_is_nothing_to_do(data: Path, tmp_path: Path, vae: VAE) -> None:
    encode(data, tmp_path / "store", vae)
    summary: EncodeSummary = encode(data, tmp_path / "store", vae, cluster="tcp://127.0.0.1:9")
    assert (summary.encoded, summary.skipped) == (0, 6)
