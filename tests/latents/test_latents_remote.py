"""A latent store in a bucket, against a server of its own on loopback."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from musicldm.core.errors import DataError, MissingProgramError, NetworkError, OutputError, UsageError
from musicldm.latents.store import LatentStore
from musicldm.media.manifest import read_tracks
from tests.latents.disasters import forked
from tests.latents.latent_toys import HEADER, SMALL, check_whole, filled, latents, pieces, track
from tests.toys import Command, Pipeline

moto = pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")
boto3 = pytest.importorskip("boto3")

LENGTHS = [20, 70, 5]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 of our own."""
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture(scope="module")
def music(server: str) -> Iterator[Any]:
    """A bucket, as boto3 knows it."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {
            "AWS_ENDPOINT_URL": server,
            "AWS_ACCESS_KEY_ID": "toy",
            "AWS_SECRET_ACCESS_KEY": "toy",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }.items():
            patched.setenv(name, value)
        music = boto3.resource("s3").Bucket("music")
        music.create()
        yield music
        music.meta.client.close()


@pytest.fixture
def bucket(music: Any) -> Iterator[Any]:
    """The bucket, empty."""
    yield music
    music.objects.delete()


@pytest.fixture
def url(bucket: Any) -> str:
    """A store with some tracks."""
    url = "s3://music/some/latents.zarr"
    append(LatentStore.create(url, HEADER), *range(len(LENGTHS)))
    return url


def append(store: LatentStore, *numbers: int) -> None:
    with store.writer(**SMALL, max_tracks=2) as writer:
        for number in numbers:
            length = LENGTHS[number % len(LENGTHS)]
            writer.append(track(number, length), pieces(latents(number, length)))


def names(bucket: Any) -> set[str]:
    return {found.key for found in bucket.objects.all()}


# ---- The commands


def test_encode_latents_and_training_take_a_bucket(
    bucket: Any, pipeline: Pipeline, configs: dict[str, Path], tmp_path: Path, musicldm: Command
) -> None:
    url = "s3://music/latents.zarr"
    for encoded in (len(read_tracks(pipeline.wav)), 0):
        told = musicldm("encode", pipeline.wav, url, "--vae", pipeline.vae, "--json")
        assert told.code == 0, told.err
        assert json.loads(told.out)["encoded"] == encoded
    told = musicldm("latents", "verify", url)
    assert (told.code, told.out) == (0, "")
    told = musicldm("latents", "info", url, "--json")
    assert json.loads(told.out)["tracks"] == len(LatentStore.open(pipeline.store).tracks)
    weights = []
    for store, run in ((url, tmp_path / "far"), (pipeline.store, tmp_path / "here")):
        told = musicldm("train-diffusion", store, "-o", run, "--config", configs["ldm"], "--steps", 2)
        assert told.code == 0, told.err
        (file,) = (run / "bundle").glob("generator*.safetensors")
        weights.append(file.read_bytes())
    assert weights[0] == weights[1]


# ---- Reading and writing


def test_it_is_the_same_store_as_in_a_folder(url: str, tmp_path: Path) -> None:
    store, local = LatentStore.open(url), filled(tmp_path / "store", *LENGTHS, max_tracks=2)
    assert check_whole(store) == [0, 1, 2]
    assert store.header == HEADER
    assert store.statistics() == local.statistics()
    assert [entry.checksum for entry in store.tracks] == [entry.checksum for entry in local.tracks]
    mean, _ = latents(1, 70)
    np.testing.assert_array_equal(store.read(store.tracks[1], 30, 40)[0], mean[30:40].astype(np.float16))


def test_writers_append_side_by_side_and_a_reader_has_a_snapshot(url: str) -> None:
    store, other = LatentStore.open(url), LatentStore.open(url)
    append(store, 3, 4, 5)
    append(other, 6)
    assert check_whole(LatentStore.open(url)) == list(range(7))
    assert check_whole(other) == [0, 1, 2, 6]
    other.refresh()
    assert check_whole(other) == list(range(7))


def test_plain_zarr_reads_it(url: str) -> None:
    entry = LatentStore.open(url).tracks[1]
    root: Any = zarr.open_group(url, mode="r")
    stored = root[f"parts/{entry.segment}/mean"][entry.offset : entry.offset + entry.frames]
    np.testing.assert_array_equal(stored, latents(1, 70)[0].astype(np.float16))


def test_what_was_prefetched_needs_no_server_any_more(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LatentStore.open(url)
    first, second, _ = store.tracks

    def unplugged(*_: object, **__: object) -> None:
        raise ConnectionError("the cable is out")

    with store.prefetch([(first.segment, 0, 20), (second.segment, second.offset + 30, second.offset + 50)]):
        monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", unplugged)
        np.testing.assert_array_equal(store.read(first)[0], latents(0, 20)[0].astype(np.float16))
        np.testing.assert_array_equal(store.read(second, 30, 50)[1], latents(1, 70)[1][30:50].astype(np.float16))
        with pytest.raises(NetworkError, match="the cable is out"):
            store.read(second)
    with pytest.raises(NetworkError, match=r"s3://music/some/latents\.zarr does not answer"):
        store.read(first)


def test_a_store_goes_along_into_other_processes(url: str, tmp_path: Path) -> None:
    store = LatentStore.open(url)
    check_whole(store)  # there is a connection, which must stay here
    child, said = forked(lambda say: say(str(check_whole(store))))
    with said:
        assert said.read() == "[0, 1, 2]"
    os.waitpid(child, 0)
    (tmp_path / "pickled").write_bytes(pickle.dumps(store))
    code = (
        "import pickle, sys; from tests.latents.latent_toys import *; "
        "print(check_whole(pickle.load(open(sys.argv[1], 'rb'))))"
    )
    here = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", code, str(tmp_path / "pickled")]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": here}, capture_output=True, text=True, check=True)
    assert done.stdout == "[0, 1, 2]\n"


# ---- Commits


def test_the_metadata_of_a_part_is_uploaded_last(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded: list[str] = []
    call = s3fs.S3FileSystem._call_s3

    async def watched(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        answer = await call(self, method, *arguments, **options)
        if method == "put_object":
            uploaded.append(options["Key"])
        return answer

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", watched)
    append(LatentStore.open(url), 3)
    *others, last = uploaded
    segment = last.removesuffix("/zarr.json")
    assert {f"{segment}/{name}" for name in ("mean/zarr.json", "mean/c/0/0", "logvar/c/0/0")} <= set(others)
    assert last.split("/")[2] == "parts" and last.count("/") == 4


def test_an_upload_that_fails_leaves_the_store_as_it_was(
    url: str, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = names(bucket)
    call = s3fs.S3FileSystem._call_s3

    async def failing(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        if method == "put_object" and options["Key"].endswith("logvar/c/0/0"):
            raise ConnectionResetError("reset")
        return await call(self, method, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(s3fs.S3FileSystem, "_call_s3", failing)
        with pytest.raises(NetworkError, match="does not answer: reset") as caught:
            append(LatentStore.open(url), 3)
    assert caught.value.hint == "The same command continues from here."
    assert names(bucket) == before
    append(LatentStore.open(url), 3)
    assert check_whole(LatentStore.open(url)) == [0, 1, 2, 3]


def test_the_garbage_of_a_killed_upload_is_not_seen_and_swept_after_a_day(url: str, bucket: Any) -> None:
    before = names(bucket)
    now = datetime.now(UTC)
    for age in (timedelta(hours=20), timedelta(hours=30)):
        segment = f"{(now - age).strftime('%Y%m%dT%H%M%S%f')}-0badcafe"
        bucket.put_object(Key=f"some/latents.zarr/parts/{segment}/mean/c/0/0", Body=b"half")
    assert check_whole(LatentStore.open(url)) == [0, 1, 2]
    append(LatentStore.open(url), 3)
    assert check_whole(LatentStore.open(url)) == [0, 1, 2, 3]
    (left,) = (name for name in names(bucket) - before if "0badcafe" in name)
    assert (now - timedelta(hours=20)).strftime("%Y%m%dT%H%M%S%f") in left, "it may be being written"


def test_a_bucket_is_not_rewritten(url: str) -> None:
    store = LatentStore.open(url)
    with pytest.raises(OutputError, match="tracks cannot be dropped there") as caught:
        store.prune({store.tracks[0].key})
    assert "a copy in a folder" in caught.value.hint
    assert store.compact() == 0
    assert check_whole(LatentStore.open(url)) == [0, 1, 2]


# ---- What goes wrong


def test_damage_in_a_bucket_is_named(url: str, bucket: Any) -> None:
    store = LatentStore.open(url)
    name = f"parts/{store.tracks[0].segment}/mean/c/0/0"
    shard = bucket.Object(f"some/latents.zarr/{name}")
    data = bytearray(shard.get()["Body"].read())
    data[7] ^= 1
    shard.put(Body=bytes(data))
    with pytest.raises(DataError, match=f"{name} is damaged: chunk 0 was changed"):
        LatentStore.open(url).read(store.tracks[0])
    shard.put(Body=bytes(data[:-1]))
    with pytest.raises(DataError, match=f"{name} is damaged: it has"):
        LatentStore.open(url)
    shard.delete()
    for reading in (lambda: store.read(store.tracks[0]), lambda: LatentStore.open(url)):
        with pytest.raises(DataError, match=f"{name} is damaged: it is missing"):
            reading()


def test_where_no_store_is_or_can_be(bucket: Any, url: str) -> None:
    assert not LatentStore.exists("s3://music/nothing.zarr") and not LatentStore.exists("s3://nowhere/nothing.zarr")
    for place in ("s3://music/nothing.zarr", "s3://nowhere/nothing.zarr"):
        with pytest.raises(DataError, match=f"^There is no latent store at {place}.$"):
            LatentStore.open(place)
    with pytest.raises(OutputError, match=r"^Cannot write s3://nowhere/new\.zarr: there is no such bucket\.$"):
        LatentStore.create("s3://nowhere/new.zarr", HEADER)
    with pytest.raises(OutputError, match="already holds a zarr"):
        LatentStore.create(url, HEADER)
    with pytest.raises(UsageError, match="cannot hold a store: Protocol not known: floppy"):
        LatentStore.open("floppy://a/latents.zarr")


def test_a_server_that_is_dead_and_keys_that_are_wrong(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.delenv("AWS_ACCESS_KEY_ID")
        patched.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        patched.setenv("AWS_CONFIG_FILE", "/dev/null")
        with pytest.raises(OutputError, match=rf"^No access to {url}: Unable to locate credentials\.$") as caught:
            LatentStore.open(url)
        assert caught.value.hint == "Check the credentials."

    async def refused(*_: object, **__: object) -> None:
        raise PermissionError(
            "The AWS Access Key Id you provided does not exist in our records."
        )  # s3fs's word for 403

    actions: list[Callable[[], LatentStore]] = [
        lambda: LatentStore.open(url),
        lambda: LatentStore.create("s3://music/new.zarr", HEADER),
    ]
    with monkeypatch.context() as patched:
        patched.setattr(s3fs.S3FileSystem, "_call_s3", refused)
        for action in actions:
            with pytest.raises(OutputError, match=r"^No access to s3://music/.* does not exist in our records\.$"):
                action()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for action in actions:
        with pytest.raises(NetworkError, match=r"^s3://music/.* does not answer: Could not connect"):
            action()


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(MissingProgramError, match="For s3:// a package is missing") as caught:
        LatentStore.open("s3://music/latents.zarr")
    assert caught.value.hint == "Install it: pip install 'musicldm[s3]'"
