"""All JSON that we read back, thousands of times almost right: it is read or refused, and nothing else happens.

`pytest --full` tries ten times as many.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from musicldm.cli import sidecar
from musicldm.codecs.base import codec_of
from musicldm.core import bundle
from musicldm.core.bundle import Bundle, Component
from musicldm.core.errors import MusicLDMError
from musicldm.crawl.catalog import Artist, Selection, Track, open_catalog, state
from musicldm.generators.diffusion.model import Diffusion
from musicldm.latents import examine
from musicldm.latents.schema import crc_of_json
from musicldm.latents.store import LatentStore
from musicldm.latents.table import TrackTable
from musicldm.media.artists import USUAL
from musicldm.media.audio.prepare import PrepareSettings
from musicldm.media.ledger import Ledger, Settings
from musicldm.media.manifest import MANIFEST, read_tracks
from musicldm.media.notes.prepare import NoteSettings
from musicldm.models import hub
from musicldm.training import memory_plan, run_folder
from musicldm.training.config import TrainingConfig
from tests.latents.latent_toys import filled
from tests.mutations import mutations, written
from tests.toy_model import toy_bundle

SETTINGS = Settings(PrepareSettings(), NoteSettings())
RELEASE = Path(__file__).parent / "fixtures" / "release-0.1"
SECONDS = 20  # of processor time for one reading, a thousand times what it takes
ROOM = 2 << 30  # bytes that readings may allocate beyond what is there


@contextmanager
def _limited() -> Iterator[None]:
    """A block that may neither hang nor take all memory."""

    def late(*_: object) -> None:
        raise AssertionError("It hangs.")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    there = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGPROF, late)
    resource.setrlimit(resource.RLIMIT_AS, (there + ROOM, hard))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def storm(good: Any, count: int, seed: int, read: Callable[[bytes], object]) -> None:
    """See that a reader takes what is right, and of so many mutations each or none of its business."""
    read(written(good))
    refused = 0
    with _limited():
        for number, text in enumerate(mutations(good, count, seed)):
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                read(text)
            except MusicLDMError as error:
                refused += 1
                assert error.message, number
            except BaseException as error:
                error.add_note(f"mutation {number} of seed {seed}: {text[:2000]!r}")
                raise
    assert count / 10 < refused < count


@pytest.fixture
def times(full: bool) -> int:
    return 10 if full else 1


def test_bundles(tmp_path: Path, times: int) -> None:
    bundle.write(tmp_path, toy_bundle())
    index = tmp_path / bundle.INDEX

    def read(text: bytes) -> None:
        index.write_bytes(text)
        found = bundle.read(tmp_path)
        assert {facts.crop_seconds for facts in found.facts.values()} <= {0.0}
        assert all(facts.to_dict() for facts in found.facts.values())

    storm(json.loads(index.read_bytes()), 1500 * times, 1, read)


@pytest.mark.parametrize("role", ["codec", "generator"])
def test_the_configurations_of_networks(role: bundle.Role, times: int) -> None:
    good = toy_bundle()
    whole = good.component(role)

    def read(text: bytes) -> None:
        # Not from disk, where the index has been checked already: straight to what builds from it.
        try:
            config = json.loads(text)
        except (ValueError, RecursionError):
            config = {}
        if not isinstance(config, dict):
            return
        given = Component(whole.kind, config, whole.tensors)
        if role == "codec":
            codec_of(Bundle("toy", {"codec": given}))
        else:
            Diffusion.from_component(given)

    storm(json.loads(json.dumps(whole.config)), 250 * times, 2, read)


def test_recipes(tmp_path: Path, times: int) -> None:
    place = tmp_path / "take.json"

    def read(text: bytes) -> None:
        place.write_bytes(text)
        options = sidecar.read(place).typed_options(place)
        assert not options.keys() & {"output", "device", "replay", "format"}

    storm(json.loads((RELEASE / "take.json").read_bytes()), 800 * times, 3, read)


def test_manifests(tmp_path: Path, times: int) -> None:
    lines = (RELEASE / "wav" / MANIFEST).read_bytes().splitlines()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.wav").touch()

    def read(text: bytes) -> None:
        (tmp_path / MANIFEST).write_bytes(text.replace(b"\n", b" ") + b"\n" + lines[1] + b"\n")
        for track in read_tracks(tmp_path):
            assert tmp_path.resolve() in track.path.parents and track.seconds >= 0
        ledger = Ledger(tmp_path / "in", tmp_path, SETTINGS, [tmp_path / "in" / "a.wav"], USUAL)
        ledger.plan()
        ledger.summary()

    storm(json.loads(lines[0]), 700 * times, 4, read)


def test_catalogs(tmp_path: Path, times: int) -> None:
    track = Track("id", "Title", Artist("artist", "Name"), 10.0)
    good = {
        "recording": "id",
        "status": "fetched",
        "path": "Name/Title.m4a",
        "artist": "Name",
        "title": "Title",
        "reason": "",
        "unasked_seconds": 3.0,
        "provenance": {"source_id": "video", "licence": None, "isrcs": []},
    }

    def read(text: bytes) -> None:
        (tmp_path / "catalog.jsonl").write_bytes(text.replace(b"\n", b" "))
        for record in open_catalog(tmp_path).records.values():
            state(track, record, tmp_path, Selection())

    storm(good, 500 * times, 5, read)


def _sealed(text: bytes) -> bytes:
    """Metadata of a store, with the checksum that fits it."""
    try:
        data = json.loads(text)
        data["attributes"].pop("crc32c", None)
        data["attributes"]["crc32c"] = crc_of_json(data["attributes"])
        return json.dumps(data).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return text


@pytest.mark.parametrize("name", ["zarr.json", "parts/*/zarr.json"])
def test_stores(tmp_path: Path, times: int, name: str) -> None:
    filled(tmp_path / "s", 10, 40, 7)
    place = min((tmp_path / "s").glob(name))

    def read(text: bytes) -> None:
        place.write_bytes(_sealed(text))
        store = LatentStore.open(tmp_path / "s")
        examine.info(store)
        for entry in store.tracks:
            store.read(entry)
        store.statistics()
        assert store.header.rate > 0

    storm(json.loads(place.read_bytes()), 500 * times, 6, read)


def test_indexes_of_stores(tmp_path: Path, times: int) -> None:
    table = filled(tmp_path / "s", 10, 40, 7).everything
    whole = np.frombuffer(table.to_bytes(), np.uint8)
    length = int(np.frombuffer(whole[15:23].tobytes(), "<u8")[0])
    head, rest = whole[31 : 31 + length].tobytes(), whole[31 + length + -(31 + length) % 64 :]

    def read(text: bytes) -> None:
        import google_crc32c

        begin = whole[:15].tobytes() + np.array([len(text), google_crc32c.value(text)], "<u8").tobytes() + text
        data = np.frombuffer(begin + bytes(-len(begin) % 64) + rest.tobytes(), np.uint8)
        found = TrackTable.from_bytes(data, "index", 3)
        if found is None:
            raise MusicLDMError("It is derived, and made anew.")
        assert [entry.frames for entry in found] == [10, 40, 7]

    storm(json.loads(head), 300 * times, 7, read)


def test_rows_of_indexes(tmp_path: Path, times: int) -> None:
    filled(tmp_path / "s", 10)
    (place,) = (tmp_path / "s").glob("parts/*/zarr.json")
    attributes = json.loads(place.read_bytes())["attributes"]
    table = LatentStore.open(tmp_path / "s").everything

    def read(text: bytes) -> None:
        import google_crc32c

        columns = table.columns.copy()
        columns["length"], columns["crc"] = len(text), google_crc32c.value(text)
        made = TrackTable(table.segments, table.artists, columns, [(0, np.frombuffer(text, np.uint8))])
        assert made[0].offset + made[0].frames <= 10

    storm(attributes["tracks"][0], 300 * times, 8, read)


def test_configurations_of_runs(tmp_path: Path, times: int) -> None:
    shutil.copytree(RELEASE / "stopped" / "vae", tmp_path / "run")
    place = tmp_path / "run" / "config.json"
    good = json.loads(place.read_bytes())

    def read(text: bytes) -> None:
        place.write_bytes(text)
        memory_plan._known(tmp_path / "run")
        run_folder.resolve_precision(TrainingConfig(precision="auto"), tmp_path / "run", torch.device("cpu"))
        run_folder.remember(tmp_path / "run", good)

    storm(good, 400 * times, 9, read)


def test_indexes_on_the_hub(tmp_path: Path, times: int) -> None:
    bundle.write(tmp_path, toy_bundle())
    good = json.loads((tmp_path / bundle.INDEX).read_bytes())
    del good["facts"]  # which is not looked at
    for component in good["components"].values():
        del component["config"]

    def read(text: bytes) -> None:
        (tmp_path / "index.json").write_bytes(text)
        hub._weights(tmp_path / "index.json", "hf://owner/name")

    storm(good, 300 * times, 10, read)
