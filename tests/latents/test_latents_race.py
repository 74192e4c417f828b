"""Many processes and one latent store. `pytest --full -rP` has more rounds."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from musicldm.core.errors import OutputError
from musicldm.latents.store import LatentStore
from tests.latents.disasters import leftovers
from tests.latents.latent_toys import HEADER, SMALL, check_whole, filled, latents, pieces, track

WRITER = """
import sys
from tests.latents.latent_toys import SMALL, latents, pieces, track
from musicldm.latents.store import LatentStore
import zarr
path, first, commits = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for number in range(first, first + commits):
    store = LatentStore.open(path)
    if any(entry.provenance["source"] == number for entry in store.tracks):
        continue
    frames = 5 + 17 * number % 40
    with store.writer(**SMALL, max_tracks=1) as writer:
        writer.append(track(number, frames), pieces(latents(number, frames)))
    print(number, flush=True)
"""


@contextmanager
def process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python of its own, killed at the end."""
    here = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": here}, **pipes) as started:  # type: ignore[call-overload]
        try:
            yield started
        finally:
            started.kill()


def test_six_processes_with_overlapping_lists_have_every_track_once(tmp_path: Path, full: bool) -> None:
    """10 commits each; one of them is killed in each round, and the next run does the rest."""
    chance = random.Random(0)
    rounds, commits = (10, 10) if full else (1, 6)
    store = LatentStore.create(tmp_path / "store", HEADER)
    safe: set[int] = set()  # what was said to be committed
    wanted: set[int] = set()
    killed = 0
    for turn in range(rounds):
        firsts = [turn * commits * 3 + who * commits // 2 for who in range(6)]  # each overlaps the next by half
        wanted |= {number for first in firsts for number in range(first, first + commits)}
        with ExitStack() as stack:
            writers = [stack.enter_context(process(WRITER, store.path, first, commits)) for first in firsts]
            for writer in writers:
                assert writer.stdout is not None
                assert writer.stdout.readline() == "ready\n"
            for writer in writers:
                assert writer.stdin is not None
                writer.stdin.write("\n")
                writer.stdin.flush()
            victim = chance.choice(writers)
            time.sleep(chance.uniform(0, 0.02 * commits))
            victim.kill()
            for writer in writers:
                assert writer.stdout is not None
                safe |= {int(number) for number in writer.stdout.read().split()}
                status = writer.wait()
                assert status in ((-signal.SIGKILL, 0) if writer is victim else (0,))
                killed += status != 0
        assert safe <= set(check_whole(LatentStore.open(store.path)))
    missing = wanted - set(check_whole(LatentStore.open(store.path)))
    with store.writer(**SMALL) as writer:
        for number in missing:
            frames = 5 + 17 * number % 40
            writer.append(track(number, frames), pieces(latents(number, frames)))
    store = LatentStore.open(store.path)
    assert sorted(check_whole(store)) == sorted(wanted), "each once"
    assert store.statistics().count == sum(entry.frames for entry in store.tracks)
    assert not list(leftovers(store.path))
    print(f"{rounds} rounds, {killed} killed on the way, {6 * rounds * commits} commits, each track once")


HOLDER = """
import sys
from tests.latents.latent_toys import SMALL, latents, pieces, track
from musicldm.latents.store import LatentStore
with LatentStore.open(sys.argv[1]).writer(**SMALL) as writer:
    writer.append(track(8, 10), pieces(latents(8, 10)))
    print("writing", flush=True)
    sys.stdin.readline()
"""


def test_nobody_rewrites_beside_a_writer_and_a_dead_one_does_not_block(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", *[10] * 8, max_tracks=1)
    keys = {store.tracks[0].key}
    with process(HOLDER, store.path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "writing\n"
        with pytest.raises(OutputError, match=rf"^Another run is writing to {store.path}\.$") as caught:
            store.prune(keys)
        assert caught.value.hint
        assert store.compact() == 0
        assert check_whole(LatentStore.open(store.path)) == list(range(8))
        with store.writer(**SMALL) as writer:  # side by side it may
            writer.append(track(9, 10), pieces(latents(9, 10)))
        holder.kill()
        holder.wait()
    assert store.prune(keys) == 1
    assert store.compact() == 9
    assert check_whole(LatentStore.open(store.path)) == [1, 2, 3, 4, 5, 6, 7, 9]
    assert not list(leftovers(store.path))


READER = """
import sys
from tests.latents.latent_toys import check_whole
from musicldm.latents.store import LatentStore
store = LatentStore.open(sys.argv[1])
print("open", flush=True)
sys.stdin.readline()
print(check_whole(store), flush=True)
"""


def test_a_reader_in_another_process_keeps_what_it_has_open(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", *[10] * 8, max_tracks=1)
    with process(READER, store.path) as reader:
        assert reader.stdout is not None and reader.stdin is not None
        assert reader.stdout.readline() == "open\n"
        assert store.prune({store.tracks[0].key}) == 1
        assert store.compact() == 8  # the segment of the pruned track stands there without one
        assert check_whole(LatentStore.open(store.path)) == list(range(1, 8))
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == f"{list(range(8))}\n"
    store.compact()  # which sweeps
    assert [segment.name for segment in sorted((store.path / "parts").glob("*/"))] == [
        segment.id for segment in store.segments
    ]
