"""The latent store under damage: nothing committed is lost, and nothing broken is accepted.

`pytest --full -rP` does all of it and shows the counts.
"""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from musicldm.core import durable
from musicldm.core.errors import DataError, MismatchError, OutputError
from musicldm.latents import store as store_module
from musicldm.latents.store import LatentStore
from tests.latents.disasters import FAILED, Disaster, forked, full_from, in_child, killed_at, leftovers, undisturbed
from tests.latents.latent_toys import HEADER, SMALL, check_whole, filled, latents, pieces, track


def shard_of(store: LatentStore, name: str = "mean", number: int = 0) -> Path:
    return store.path / "parts" / store.tracks[0].segment / name / "c" / str(number) / "0"


def test_no_flipped_byte_of_a_shard_passes(tmp_path: Path) -> None:
    file = shard_of(filled(tmp_path / "store", 20, 10))
    good = file.read_bytes()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 0x10
        file.write_bytes(bad)
        with pytest.raises(DataError, match=r"mean/c/0/0 is damaged: .*changed"):
            check_whole(LatentStore.open(tmp_path / "store"))
    file.write_bytes(good)
    check_whole(LatentStore.open(tmp_path / "store"))


def test_a_shard_cut_short_anywhere_is_named_when_the_store_is_opened(tmp_path: Path) -> None:
    file = shard_of(filled(tmp_path / "store", 40), "logvar", number=1)
    size = file.stat().st_size
    for length in range(size - 1, -1, -13):
        os.truncate(file, length)
        with pytest.raises(DataError, match=rf"logvar/c/1/0 is damaged: it has {length} bytes instead of {size}"):
            LatentStore.open(tmp_path / "store")


@pytest.mark.parametrize("name", ["mean", "logvar"])
def test_a_missing_chunk_file_is_an_error_and_not_zeros(tmp_path: Path, name: str) -> None:
    file = shard_of(filled(tmp_path / "store", 40), name)
    file.unlink()
    with pytest.raises(DataError, match=f"{name}/c/0/0 is damaged: it is missing") as caught:
        LatentStore.open(tmp_path / "store")
    assert "encode again" in caught.value.hint


def test_a_chunk_missing_from_the_index_is_an_error_and_not_zeros(tmp_path: Path) -> None:
    file = shard_of(filled(tmp_path / "store", 32))
    data = bytearray(file.read_bytes())
    index = np.frombuffer(bytes(data[-68:-4]), "<u8").copy()
    index[4:6] = 2**64 - 1  # how zarr says that a chunk was never written
    data[-68:] = index.tobytes() + google_crc32c.value(index.tobytes()).to_bytes(4, "little")
    file.write_bytes(data)
    store = LatentStore.open(tmp_path / "store")
    store.read(store.tracks[0], 0, 16)
    with pytest.raises(DataError, match="chunk 2 is missing"):
        store.read(store.tracks[0], 0, 17)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: text.replace('"frames": 20', '"frames": 21'),
        lambda text: text.replace("Title 1", "Title l"),
        lambda text: json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}),
    ],
)
def test_a_damaged_track_table_is_named(tmp_path: Path, damage: Callable[[str], str]) -> None:
    store = filled(tmp_path / "store", 20, 10)
    file = store.path / "parts" / store.tracks[0].segment / "zarr.json"
    file.write_text(damage(file.read_text()))
    with pytest.raises(DataError, match=f"{store.tracks[0].segment}/zarr.json is damaged"):
        LatentStore.open(store.path)


@pytest.mark.parametrize("text", ["", "[]", '{"attributes": {"format": "musicldm-latents", "schema": 1}}'])
def test_a_damaged_root_is_named(tmp_path: Path, text: str) -> None:
    store = filled(tmp_path / "store", 20)
    (store.path / "zarr.json").write_text(text)
    with pytest.raises(DataError, match=r"store/zarr.json is damaged"):
        LatentStore.open(store.path)


def test_no_flipped_byte_of_the_metadata_passes(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 20, 10)
    tracks, named = list(store.tracks), 0
    files = [store.path / "zarr.json", store.path / "parts" / tracks[0].segment / "zarr.json"]
    for file in files:
        good = file.read_bytes()
        for position in range(len(good)):
            bad = bytearray(good)
            bad[position] ^= 1
            file.write_bytes(bad)
            try:
                found = LatentStore.open(store.path)
                assert found.header == HEADER
                assert list(found.tracks) == tracks
            except (DataError, MismatchError) as error:
                assert str(store.path) in error.message
                named += 1
        file.write_bytes(good)
    assert named > 1000


def test_a_part_without_its_metadata_is_not_seen(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 40, 40)
    first, second = (entry.segment for entry in store.tracks)
    (store.path / "parts" / first / "zarr.json").unlink()
    store = LatentStore.open(store.path)
    assert check_whole(store) == [1]
    assert store.statistics().count == 40
    with store.writer(**SMALL) as writer:
        writer.append(track(0, 40), pieces(latents(0, 40)))
    assert check_whole(LatentStore.open(store.path)) == [1, 0]
    assert store.tracks[0].segment == second


def test_a_full_disk_is_said_in_a_sentence_and_what_was_committed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path / "store", 40)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with store.writer(**SMALL) as writer, pytest.raises(OutputError, match="No space left"):
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", full)
            writer.append(track(1, 20), pieces(latents(1, 20)))
    with pytest.raises(OutputError, match="No space left"), store.writer(**SMALL) as writer:
        writer.append(track(1, 20), pieces(latents(1, 20)))
        monkeypatch.setattr(os, "fsync", full)
    monkeypatch.undo()
    assert len(list((tmp_path / "store" / "parts").iterdir())) == 2  # one segment, and the group's own metadata
    assert check_whole(LatentStore.open(store.path)) == [0]


def test_everything_is_on_the_disk_before_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    fsync = durable.flush

    def watched(path: Path) -> None:
        segment = next((folder for folder in (path, *path.parents) if folder.parent.name == "parts"), None)
        flushed.append(path)
        fsync(path)
        if segment and path.parent == segment and path.name.startswith(durable.TEMPORARY):  # about to be renamed
            others = {store, segment.parent, segment, *segment.rglob("*")} - {path}
            assert others <= set(flushed)
            assert not (segment / "zarr.json").exists()

    monkeypatch.setattr(durable, "flush", watched)
    store = tmp_path / "store"
    segment = store / "parts" / filled(store, 40).tracks[0].segment
    assert flushed[-1] == segment, "the name of the metadata itself"
    assert {tmp_path, segment / "mean" / "c" / "1" / "0", segment / "logvar" / "zarr.json"} <= set(flushed)


# ---- Struck at any moment --------------------------------------------------------------------------------------------


def write_endlessly(path: Path, say: Callable[[str], None]) -> None:
    store = LatentStore.open(path)
    with store.writer(**SMALL, max_tracks=3) as writer:
        for number in count(len(store.tracks)):
            frames = 5 + 17 * number % 60
            writer.append(track(number, frames), pieces(latents(number, frames)))
            say(f"{number + 1} {len(store.tracks)}\n")


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_a_writer_can_be_struck_at_any_moment(tmp_path: Path, blow: signal.Signals, full: bool) -> None:
    store = filled(tmp_path / "store")
    chance = random.Random(blow)
    blows, lost = (100 if full else 4), 0
    for _ in range(blows):
        child, lines = forked(lambda say: write_endlessly(store.path, say))
        said = [lines.readline() for _ in range(chance.randrange(1, 12))]
        time.sleep(chance.uniform(0, 0.03))
        os.kill(child, blow)
        said += lines.readlines()
        lines.close()
        os.waitpid(child, 0)
        appended, committed = map(int, said[-1].split())
        numbers = check_whole(LatentStore.open(store.path))
        assert numbers == list(range(len(numbers))), "in order, each once and whole"
        # Ctrl-C commits all that is complete; kill -9 loses the open segment of at most three.
        assert len(numbers) >= (committed if blow == signal.SIGKILL else appended)
        lost += max(0, appended - len(numbers))
    store = LatentStore.open(store.path)
    assert store.statistics().count == sum(entry.frames for entry in store.tracks) > 100
    assert not list(store.path.glob(".tmp-*"))
    print(f"{blows} times {blow.name}: {len(store.tracks)} tracks, all whole; {lost} of an open segment were lost")


Action = Callable[[Path], object]


def make(path: Path) -> object:
    return LatentStore.exists(path) or LatentStore.create(path, HEADER)


def append(path: Path) -> object:
    store = LatentStore.open(path)
    there = {entry.provenance["source"] for entry in store.tracks}
    with store.writer(**SMALL, max_tracks=2) as writer:
        for number in {10, 11, 12} - there:
            writer.append(track(number, 40), pieces(latents(number, 40)))
    return None


def prune(path: Path) -> object:
    return LatentStore.open(path).prune({HEADER.key(f"sound {number}") for number in (1, 2, 6)})


def compact(path: Path) -> object:
    return LatentStore.open(path).compact()


BEFORE = [3, 50, 10, 33, 20, 1, 40, 9, 30]


@pytest.fixture
def before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of nine tracks in five segments, with an index, that most disasters are about to befall."""
    monkeypatch.setattr(durable, "flush", lambda path: None)  # thousands for nothing
    monkeypatch.setattr(store_module, "_MANY_TRACKS", 3)
    monkeypatch.setattr(store_module, "_MANY_SMALL_PARTS", 2)
    monkeypatch.setattr(store_module, "_LARGE_PART", 120)
    return filled(tmp_path / "before", *BEFORE, max_tracks=2, shard_frames=32).path


ACTIONS: list[tuple[Action, set[int], set[int]]] = [
    (append, set(range(9)), {10, 11, 12}),
    (prune, set(range(9)) - {1, 2, 6}, {1, 2, 6}),
    (compact, set(range(9)), set()),
]


def check_between(path: Path, always: set[int], perhaps: set[int]) -> None:
    """What an action adds or drops is there once and whole, or not; all else is there once and whole."""
    numbers = check_whole(LatentStore.open(path))
    assert len(set(numbers)) == len(numbers)
    assert always <= set(numbers) <= always | perhaps


def check_after(path: Path, action: Action, always: set[int], perhaps: set[int]) -> None:
    """The next run gets there, and sweeps."""
    with LatentStore.open(path).writer(**SMALL):
        pass
    action(path)
    expected = always | (perhaps if action is append else set())
    store = LatentStore.open(path)
    assert sorted(check_whole(store)) == sorted(expected)
    assert not list(leftovers(path))
    means = [latents(entry.provenance["source"], entry.frames)[0].astype(np.float16) for entry in store.tracks]
    mean = np.concatenate(means).mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(store.statistics().mean, mean, rtol=1e-10)


@pytest.mark.parametrize("disaster", [killed_at, full_from])
@pytest.mark.parametrize(("action", "always", "perhaps"), ACTIONS)
def test_between_any_two_file_operations(
    before: Path,
    tmp_path: Path,
    disaster: Callable[[int], Disaster],
    action: Action,
    always: set[int],
    perhaps: set[int],
    full: bool,
) -> None:
    status, moment = -1, 0
    while status:  # until the disaster would come after the end
        path = tmp_path / "store"
        shutil.copytree(before, path)
        _, status = in_child(lambda _, path=path: action(path), disaster(moment))
        assert status in (0, FAILED, -signal.SIGKILL)
        check_between(path, always, perhaps)
        check_after(path, action, always, perhaps)
        shutil.rmtree(path)
        moment += 1 if full else 13
    assert moment > 20
    print(f"{action.__name__}: {disaster.__name__} {moment} moments")


@pytest.mark.parametrize("disaster", [killed_at, full_from])
def test_a_store_can_be_made_where_making_it_met_a_disaster(
    tmp_path: Path, disaster: Callable[[int], Disaster]
) -> None:
    status, moment = -1, 0
    while status:
        path = tmp_path / f"store {moment}"
        _, status = in_child(lambda _, path=path: make(path), disaster(moment))
        make(path)
        append(path)
        assert check_whole(LatentStore.open(path)) == [10, 11, 12]
        assert not list(leftovers(path))
        moment += 1
    assert moment > 5


@pytest.mark.parametrize(("action", "always", "perhaps"), ACTIONS)
def test_a_disk_that_is_full_in_the_middle_of_a_file(
    before: Path, tmp_path: Path, action: Action, always: set[int], perhaps: set[int], full: bool
) -> None:
    failed = 0
    sizes = range(0, 2600, 40 if full else 300)
    for size in sizes:
        path = tmp_path / f"store {size}"
        shutil.copytree(before, path)
        _, status = in_child(lambda _, path=path, size=size: (files_up_to(size), action(path)), undisturbed)
        assert status in (0, FAILED)
        failed += status != 0
        check_between(path, always, perhaps)
        check_after(path, action, always, perhaps)
    assert failed >= (20 if full else 4)
    print(f"{action.__name__}: {failed} full disks")


def files_up_to(size: int) -> None:
    """Let no file of this process grow larger."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("rewrite", [prune, compact])
def test_rewriting_stops_at_a_damaged_track_and_drops_nothing(before: Path, rewrite: Action) -> None:
    entry = next(entry for entry in LatentStore.open(before).tracks if entry.provenance["source"] == 3)
    file = before / "parts" / entry.segment / "mean" / "c" / "0" / "0"
    good = file.read_bytes()
    bad = bytearray(good)
    bad[entry.offset * 6 + entry.offset // 8 * 4] ^= 1
    file.write_bytes(bad)
    with pytest.raises(DataError, match="was changed"):
        rewrite(before)
    file.write_bytes(good)
    check_between(before, set(range(9)) - {1, 2, 6}, {1, 2, 6})
    assert {3, 4, 5} <= set(check_whole(LatentStore.open(before)))
    check_after(before, rewrite, *next(rest for action, *rest in ACTIONS if action is rewrite))


# ---- Damaged on disk -------------------------------------------------------------------------------------------------


def test_no_damage_passes_for_latents(before: Path, tmp_path: Path, full: bool) -> None:
    """Flipped bytes, holes, cuts and deletions of any file: it is named, or everything that is read is right."""
    compact(before)
    append(before)
    good = LatentStore.open(before)
    entries, statistics = {entry.key: entry for entry in good.tracks}, good.statistics()
    files = sorted(file for file in before.rglob("*") if file.is_file())
    assert before / "index" in files
    chance = random.Random(0)
    outcomes: Counter[str] = Counter()
    for number in range(400 if full else 40):
        path = tmp_path / f"store {number}"
        shutil.copytree(before, path)
        file = path / chance.choice(files).relative_to(before)
        damage = spoil(file, chance)
        try:
            store = LatentStore.open(path)
            assert store.header == HEADER
            check_whole(store)
            found = {entry.key: entry for entry in store.tracks}
            lost: set[str] = set()
            if damage == "deleted" and file.parent.parent.name == "parts":
                lost = {file.parent.name}  # never committed, for all that can be seen
            assert found == {key: entry for key, entry in entries.items() if entry.segment not in lost}
            if not lost:
                assert store.statistics() == statistics
            outcomes[f"{damage}, nothing wrong"] += 1
        except (DataError, MismatchError) as error:
            name = file.relative_to(path).as_posix()
            assert str(path) in error.message and (name == "zarr.json" or name in error.message)
            outcomes[f"{damage}, named"] += 1
    assert {"flipped, named", "cut, named", "deleted, named"} <= outcomes.keys()
    print(dict(sorted(outcomes.items())))


def spoil(file: Path, chance: random.Random) -> str:
    """Do something to a file; what."""
    data = bytearray(file.read_bytes())
    kind = chance.choice(["flipped", "flipped", "cut", "holed", "deleted"])
    if kind == "deleted":
        file.unlink()
        return kind
    place = chance.randrange(len(data)) if data else 0
    if kind == "cut":
        del data[place:]
    elif data:
        for where in range(place, min(len(data), place + (1 if kind == "flipped" else chance.randrange(1, 200)))):
            data[where] = data[where] ^ 1 << chance.randrange(8) if kind == "flipped" else 0
    file.write_bytes(data)
    return kind
