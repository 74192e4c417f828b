"""The latent store against a plain dictionary: append, kill, fill the disk, sweep, prune, compact, open again.

Full size: `pytest --full tests/latents/test_latents_machine.py`.
"""

from __future__ import annotations

import itertools
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from musicldm.core import durable
from musicldm.core.errors import OutputError
from musicldm.latents import store as store_module
from musicldm.latents.store import LatentStore, Track
from tests.latents.disasters import FAILED, Disaster, full_from, in_child, killed_at, leftovers
from tests.latents.latent_toys import HEADER, SMALL, Pair, latents, pieces, track

SOURCES = st.integers(0, 7)
VERSIONS = st.integers(0, 2)  # of a source's content: it may come back to an old one
TRACKS = st.lists(st.tuples(SOURCES, VERSIONS), min_size=1, max_size=5)
DISASTERS = st.builds(lambda kind, moment: kind(moment), st.sampled_from([killed_at, full_from]), st.integers(0, 120))

Content = tuple[int, int]
"""Source and version. It is the seed of the values."""


def number_of(content: Content) -> int:
    source, version = content
    return 10 * source + version


def frames_of(content: Content) -> int:
    return 1 + 37 * number_of(content) % 50


def track_of(content: Content) -> Track:
    number = number_of(content)
    split = "heldout" if number % 4 == 3 else "train"
    return replace(track(number, frames_of(content), split), source=f"{content[0]}.wav")


def values_of(content: Content) -> Pair:
    return latents(number_of(content), frames_of(content))


def pieces_of(content: Content) -> Iterator[Pair]:
    return pieces(values_of(content), 7)


def key_of(content: Content) -> str:
    return HEADER.key(track_of(content).content)


def contents(store: LatentStore) -> dict[int, int]:
    """The version of each source in a store, every value compared with what was appended."""
    found = [divmod(entry.provenance["source"], 10) for entry in store.tracks]
    assert len({source for source, _ in found}) == len(found), "a source twice"
    for entry, content in zip(store.tracks, found, strict=True):
        assert entry.key == key_of(content)
        assert entry.source == f"{content[0]}.wav"
        for stored, given in zip(store.read(entry), values_of(content), strict=True):
            np.testing.assert_array_equal(stored, given.astype(np.float16))
    return dict(found)


def committed(tracks: list[Content], max_tracks: int) -> int:
    """How many of the tracks that one writer has appended must be safe: the open segment may get lost."""
    safe = waiting = frames = 0
    for content in tracks:
        waiting, frames = waiting + 1, frames + frames_of(content)
        if waiting >= max_tracks or frames >= SMALL["shard_frames"]:
            safe, waiting, frames = safe + waiting, 0, 0
    return safe


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.path = Path(self.stack.enter_context(tempfile.TemporaryDirectory()), "store")
        for where, name, value in (
            (durable, "flush", lambda path: None),  # thousands of fsyncs for nothing
            (store_module, "_MANY_TRACKS", 5),  # so that there is an index
            (store_module, "_MANY_SMALL_PARTS", 2),
            (store_module, "_LARGE_PART", 100),
        ):
            self.stack.enter_context(mock.patch.object(where, name, value))
        self.store = LatentStore.create(self.path, HEADER)
        self.versions: dict[int, int] = {}  # the plain dictionary
        self.readers: list[tuple[LatentStore, dict[int, int]]] = []

    def teardown(self) -> None:
        self.readers.clear()
        self.stack.close()

    def open(self) -> LatentStore:
        return LatentStore.open(self.path)

    def check_swept(self) -> None:
        """After someone had the store alone."""
        assert not list(leftovers(self.path))
        if not self.readers:
            on_disk = {segment.name for segment in (self.path / "parts").iterdir() if segment.is_dir()}
            live = {segment.id for segment in self.open().segments}
            assert on_disk == live, "what was replaced is deleted"

    # ---- Writing

    @rule(tracks=TRACKS, max_tracks=st.integers(1, 3), fresh=st.booleans())
    def append(self, tracks: list[Content], max_tracks: int, fresh: bool) -> None:
        store = self.open() if fresh else self.store
        with store.writer(**SMALL, max_tracks=max_tracks) as writer:
            for content in tracks:
                writer.append(track_of(content), pieces_of(content))
        self.versions.update(tracks)

    @rule(tracks=TRACKS, broken=st.integers(0, 4), after=st.integers(0, 7))
    def append_with_an_error_in_a_track(self, tracks: list[Content], broken: int, after: int) -> None:
        def failing(content: Content) -> Iterator[Pair]:
            yield from itertools.islice(pieces_of(content), after)
            raise ValueError("the decoder stopped")

        with self.store.writer(**SMALL, max_tracks=2) as writer:
            for position, content in enumerate(tracks):
                if position == broken:
                    with pytest.raises(ValueError, match="decoder"):
                        writer.append(track_of(content), failing(content))
                else:
                    writer.append(track_of(content), pieces_of(content))
                    self.versions.update([content])

    @rule(tracks=TRACKS, others=TRACKS)
    def two_writers_side_by_side(self, tracks: list[Content], others: list[Content]) -> None:
        other = self.open()
        with self.store.writer(**SMALL) as one, other.writer(**SMALL) as two:
            for ours, theirs in itertools.zip_longest(tracks, others):
                # Each into a segment of its own, so that it is known whose version is the later.
                for writer, content in ((one, ours), (two, theirs)):
                    if content is not None and content[0] not in self.versions:
                        writer.append(track_of(content), pieces_of(content))
                        self.versions.update([content])
            with pytest.raises(OutputError, match="Another run is writing"):
                self.open().prune(set())
            assert self.open().compact() == 0

    # ---- Rewriting

    @rule(dropped=st.sets(SOURCES, min_size=1, max_size=4), fresh=st.booleans())
    def prune(self, dropped: set[int], fresh: bool) -> None:
        if fresh:
            self.store = self.open()
        there = {source: version for source, version in self.versions.items() if source in dropped}
        assert self.store.prune({key_of(content) for content in there.items()}) == len(there)
        for source in there:
            del self.versions[source]
        self.check_swept()

    @rule()
    def compact(self) -> None:
        self.store.compact()
        self.check_swept()

    # ---- Disasters

    def struck(self, disaster: Disaster, action: Callable[[LatentStore, Callable[[], None]], None]) -> tuple[int, bool]:
        """How far a process came that met a disaster, and whether it came to its end."""
        said, status = in_child(lambda say: action(LatentStore.open(self.path), say), disaster)
        assert status in (0, FAILED, -signal.SIGKILL)
        self.store = self.open()
        return said, status == 0

    @rule(tracks=TRACKS, max_tracks=st.integers(1, 3), disaster=DISASTERS)
    def struck_writer(self, tracks: list[Content], max_tracks: int, disaster: Disaster) -> None:
        def write(store: LatentStore, say: Callable[[], None]) -> None:
            with store.writer(**SMALL, max_tracks=max_tracks) as writer:
                for content in tracks:
                    writer.append(track_of(content), pieces_of(content))
                    say()

        said, finished = self.struck(disaster, write)
        first = len(tracks) if finished else committed(tracks[:said], max_tracks)
        possible = [self.versions | dict(tracks[:done]) for done in range(first, len(tracks) + 1)]
        found = contents(self.store)
        assert found in possible
        self.versions = found

    @rule(dropped=st.sets(SOURCES, min_size=1, max_size=4), disaster=DISASTERS)
    def struck_prune(self, dropped: set[int], disaster: Disaster) -> None:
        keys = {key_of(content) for content in self.versions.items() if content[0] in dropped}
        _, finished = self.struck(disaster, lambda store, say: store.prune(keys) and None)
        found = contents(self.store)
        kept = {source: version for source, version in self.versions.items() if source not in dropped}
        assert kept.items() <= found.items() <= self.versions.items()
        assert not finished or kept == found
        self.versions = found

    @rule(disaster=DISASTERS)
    def struck_compact(self, disaster: Disaster) -> None:
        self.struck(disaster, lambda store, say: store.compact() and None)

    @rule(tracks=TRACKS)
    def sweep(self, tracks: list[Content]) -> None:
        with self.open().writer(**SMALL):
            pass
        assert not list(leftovers(self.path))

    # ---- Reading

    @rule()
    def reopen(self) -> None:
        self.store = self.open()

    @rule()
    def refresh(self) -> None:
        self.store.refresh()
        assert contents(self.store) == self.versions

    @precondition(lambda self: len(self.readers) < 3)
    @rule()
    def open_reader(self) -> None:
        self.readers.append((self.open(), dict(self.versions)))

    @precondition(lambda self: self.readers)
    @rule()
    def old_reader_has_all_of_its_snapshot(self) -> None:
        reader, versions = self.readers.pop(0)
        assert contents(reader) == versions
        self.check_statistics(reader, versions)

    @invariant()
    def a_store_opened_now_has_what_the_dictionary_has(self) -> None:
        store = self.open()
        assert contents(store) == self.versions
        self.check_statistics(store, self.versions)

    def check_statistics(self, store: LatentStore, versions: dict[int, int]) -> None:
        pairs = [values_of(content) for content in versions.items() if track_of(content).split == "train"]
        if not pairs:
            assert store.moments().count == 0
            return
        mean, logvar = (np.concatenate(side).astype(np.float16).astype(np.float64) for side in zip(*pairs, strict=True))
        statistics = store.statistics()
        assert statistics.count == len(mean)
        np.testing.assert_allclose(statistics.mean, mean.mean(axis=0), rtol=1e-10, atol=1e-10)
        std = np.sqrt(mean.var(axis=0) + np.exp(logvar).mean(axis=0))
        np.testing.assert_allclose(statistics.std, std, rtol=1e-10, atol=1e-10)


def test_the_store_is_a_dictionary_whatever_happens(full: bool) -> None:
    examples, steps = (200, 50) if full else (6, 20)
    run_state_machine_as_test(
        StoreMachine, settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None)
    )
