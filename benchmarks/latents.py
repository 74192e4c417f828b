"""How fast is the latent store beside a bare memory map, zarr-python and others? `python benchmarks/latents.py`

Crops: 512 frames of 32 channels in batches of 32, from 2,000 tracks, by everyone in turn; only read, and then drawn
from the posterior, normalised and collated. Training: steps of a denoiser fed from the store, beside the same steps on
batches that are in memory already. Opening: a store of a million tracks.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track as shown
from rich.table import Table
from torch import Tensor

from musicldm.core.config import from_dict, preset
from musicldm.generators.diffusion.config import DiffusionRunConfig
from musicldm.generators.diffusion.model import Diffusion
from musicldm.latents.dataset import LatentBatch, LatentDataset
from musicldm.latents.schema import ARRAYS, METADATA, SegmentTable, TrackEntry, group_json
from musicldm.latents.statistics import Moments
from musicldm.latents.store import LatentStore, StoreHeader, Track

HEADER = StoreHeader("audio", 32, 1, 16000, 1024, "benchmark", "be" * 32, "benchmark")
CROP, BATCH = 512, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--million", type=int, default=1_000_000, help="tracks in the store that is only opened")
    parser.add_argument("--only", choices=["crops", "training", "opening"], action="append")
    parser.add_argument("--folder", type=Path, help="where to put some gigabytes; the default is the temporary folder")
    options = parser.parse_args()
    console = Console(width=110)
    tables = options.only or ["crops", "training", "opening"]
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        if "crops" in tables or "training" in tables:
            store = make_store(folder / "raw", options.tracks)
        if "crops" in tables:
            for table in crops(store, folder, options.tracks, options.rounds):
                console.print(table)
        if "training" in tables:
            console.print(training(store, options.rounds))
        if "opening" in tables:
            console.print(opening(folder / "million", options.million))


def make_store(path: Path, tracks: int, keep_bits: int | None = None) -> LatentStore:
    """Tracks of about 4 minutes, 15.6 frames a second, of one noise at many places."""
    noise = np.random.default_rng(0).standard_normal((1 << 18, 32)).astype(np.float16)
    store = LatentStore.create(path, replace(HEADER, keep_bits=keep_bits))
    with store.writer(max_tracks=tracks) as writer:
        for number in shown(range(tracks), f"Making {path.name}", transient=True):
            frames = 3000 + 701 * number % 1500
            begin = 8191 * number % (len(noise) - frames)
            mean = noise[begin : begin + frames]
            facts = {"artist": f"Artist {number % 97}", "title": str(number), "provenance": {}}
            track = Track(frames * HEADER.hop, str(number), "train", folder="f", source=f"{number}.wav", **facts)
            writer.append(track, [(mean, mean[::-1] - 4)])
    return LatentStore.open(path)


# ---- Crops


Crops = list[tuple[int, int, int]]
"""Track, and its frames from … to."""
Read = Callable[[Crops, np.ndarray, np.ndarray], None]
"""Puts crops into mean and log-variance, each [B, L, D]."""


class Way:
    """What `LatentDataset` does, over another way to read."""

    def __init__(self, dataset: LatentDataset, read: Read) -> None:
        self.read = read
        self.frames = dataset.tracks.columns["frames"].astype(np.int64)
        self.ends = np.cumsum(self.frames - CROP + 1)
        self.mean = np.array(dataset.statistics.mean, np.float32)
        self.std = np.array(dataset.statistics.std, np.float32)

    def only_read(self, step: int) -> object:
        return self.crops(step, np.float16)

    def crops(self, step: int, dtype: type) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence(0, spawn_key=(step,))))
        crops = random.integers(self.ends[-1], size=BATCH)
        tracks = np.searchsorted(self.ends, crops, side="right")
        starts = crops - (self.ends[tracks] - (self.frames[tracks] - CROP + 1))
        mean, logvar = np.empty((2, BATCH, CROP, 32), dtype)
        places = zip(tracks.tolist(), starts.tolist(), strict=True)
        self.read([(track, start, start + CROP) for track, start in places], mean, logvar)
        return mean, logvar, random

    def batch(self, step: int) -> Tensor:
        mean, logvar, random = self.crops(step, np.float32)
        logvar *= 0.5
        np.exp(logvar, out=logvar)
        logvar *= random.standard_normal(mean.shape, dtype=np.float32)
        mean += logvar
        mean -= self.mean
        mean /= self.std
        return torch.from_numpy(np.ascontiguousarray(mean.transpose(0, 2, 1)))


class Ours(Way):
    def __init__(self, dataset: LatentDataset) -> None:
        store, segments = dataset._store, [segment.id for segment in dataset.tracks.segments]
        segment, offset = dataset.tracks.columns["segment"].tolist(), dataset.tracks.columns["offset"].tolist()

        def read(crops: Crops, mean: np.ndarray, logvar: np.ndarray) -> None:
            frames = [(segments[segment[t]], offset[t] + start, offset[t] + stop) for t, start, stop in crops]
            with store.prefetch(frames):
                for i, (name, start, stop) in enumerate(frames):
                    store.read_frames(name, start, stop, (mean[i], logvar[i]))

        super().__init__(dataset, read)
        self.dataset = dataset

    def batch(self, step: int) -> Tensor:
        return self.dataset.batch(step, BATCH).latents


def crops(store: LatentStore, folder: Path, tracks: int, rounds: int) -> Iterator[Table]:
    dataset = LatentDataset(store, CROP)
    packed = LatentDataset(make_store(folder / "compressed", tracks, keep_bits=7), CROP)
    entries = list(dataset.tracks)
    few = make_store(folder / "few", min(tracks, 200))
    with bucket(few.path) as url:
        far = LatentDataset(LatentStore.open(url), CROP)
        ways = {
            "np.memmap over the same bytes": Way(dataset, memmaps(store, entries, folder)),
            "musicldm": Ours(dataset),
            "LMDB, a value for each track": Way(dataset, lmdb(store, entries, folder)),
            "an .npy file for each track": Way(dataset, npy_files(store, entries, folder)),
            "tensorstore, a batch of futures": Way(dataset, tensorstore(store.path, entries)),
            "zarr-python, a batch of coroutines": Way(dataset, zarr_together(store.path, entries)),
            "zarr-python, item by item": Way(dataset, zarr_items(store.path, entries)),
        }
        yield compared("Raw", ways, rounds)
        entries = list(packed.tracks)
        ways = {
            "musicldm": Ours(packed),
            "tensorstore, a batch of futures": Way(packed, tensorstore(packed._store.path, entries)),
            "zarr-python, a batch of coroutines": Way(packed, zarr_together(packed._store.path, entries)),
            "zarr-python, item by item": Way(packed, zarr_items(packed._store.path, entries)),
        }
        yield compared("Compressed (7 of 10 bits)", ways, rounds)
        entries = list(far.tracks)
        ways = {
            "musicldm": Ours(far),
            "zarr-python, a batch of coroutines": Way(far, zarr_together(url, entries)),
            "zarr-python, item by item": Way(far, zarr_items(url, entries)),
        }
        yield compared(f"S3 on loopback, {1000 * LATENCY:.0f} ms away, {len(entries)} tracks", ways, rounds)


def compared(title: str, ways: dict[str, Way], rounds: int) -> Table:
    """The first way's speed is 1; the last one's too, in the last column."""
    calls = {
        (name, kind): call for name, way in ways.items() for kind, call in (("r", way.only_read), ("b", way.batch))
    }
    times = {key: statistics.median(seconds) for key, seconds in measured(calls, rounds).items()}
    first, last = next(iter(ways)), list(ways)[-1]
    table = Table("way", "read, crops/s", "of the first", "× the last", "whole batch", "of the first", title=title)
    for name in ways:
        read, batch = times[name, "r"], times[name, "b"]
        table.add_row(
            name,
            f"{BATCH / read:,.0f}",
            f"{times[first, 'r'] / read:.3f}",
            f"{times[last, 'r'] / read:.1f}",
            f"{BATCH / batch:,.0f}",
            f"{times[first, 'b'] / batch:.3f}",
        )
    return table


def measured(calls: dict[Any, Callable[[int], object]], rounds: int) -> dict[Any, list[float]]:
    """Seconds for a batch, in every round of every way; the slow ones make fewer of them."""
    times: dict[Any, list[float]] = {key: [] for key in calls}
    step = 0
    for _ in range(rounds):
        for key, make in calls.items():
            make(step)  # what is done once is not counted
            start, made = time.perf_counter(), 0
            while made < 3 or time.perf_counter() - start < 1:
                step += 1
                made += 1
                make(step)
            times[key].append((time.perf_counter() - start) / made)
    return times


def one_by_one(read: Callable[[int, int, int], Sequence[np.ndarray]]) -> Read:
    def read_all(crops: Crops, mean: np.ndarray, logvar: np.ndarray) -> None:
        for i, crop in enumerate(crops):
            mean[i], logvar[i] = read(*crop)

    return read_all


def all_at_once(entries: list[TrackEntry], read: Callable[[list], list[np.ndarray]]) -> Read:
    """`read` is given (segment, 0 or 1, start, stop) of everything in a batch."""

    def read_all(crops: Crops, mean: np.ndarray, logvar: np.ndarray) -> None:
        tracks = [(entries[track], start, stop) for track, start, stop in crops]
        wanted = [(t.segment, i, t.offset + start, t.offset + stop) for t, start, stop in tracks for i in range(2)]
        for n, values in enumerate(read(wanted)):
            (mean, logvar)[n % 2][n // 2] = values

    return read_all


def memmaps(store: LatentStore, entries: list[TrackEntry], folder: Path) -> Read:
    both, offsets = [], np.cumsum([0, *(entry.frames for entry in entries)]).tolist()
    for i in range(2):
        with (folder / f"{i}.bin").open("wb") as file:
            for entry in entries:
                store.read(entry)[i].tofile(file)
        both.append(np.memmap(folder / f"{i}.bin", np.float16, "r").reshape(-1, 32).view(np.ndarray))
    return one_by_one(lambda t, start, stop: [side[offsets[t] + start : offsets[t] + stop] for side in both])


def npy_files(store: LatentStore, entries: list[TrackEntry], folder: Path) -> Read:
    (folder / "npy").mkdir()
    for number, entry in enumerate(entries):
        np.save(folder / "npy" / f"{number}.npy", np.stack(store.read(entry)))
    return one_by_one(lambda t, start, stop: np.load(folder / "npy" / f"{t}.npy", mmap_mode="r")[:, start:stop])


def lmdb(store: LatentStore, entries: list[TrackEntry], folder: Path) -> Read:
    import lmdb

    environment = lmdb.open(str(folder / "lmdb"), map_size=1 << 34, sync=False)
    with environment.begin(write=True) as transaction:
        for number, entry in enumerate(entries):
            transaction.put(str(number).encode(), np.stack(store.read(entry)).tobytes())
    values = environment.begin(buffers=True)

    def read(track: int, start: int, stop: int) -> np.ndarray:
        return np.frombuffer(values.get(str(track).encode()), np.float16).reshape(2, -1, 32)[:, start:stop]

    return one_by_one(read)


def zarr_arrays(where: Path | str, entries: list[TrackEntry]) -> dict[str, list]:
    import zarr

    segments = {entry.segment: f"{where}/parts/{entry.segment}" for entry in entries}
    return {
        segment: [zarr.open_array(f"{folder}/{name}", mode="r") for name in ARRAYS]
        for segment, folder in segments.items()
    }


def zarr_items(where: Path | str, entries: list[TrackEntry]) -> Read:
    arrays = zarr_arrays(where, entries)

    def read(track: int, start: int, stop: int) -> list[np.ndarray]:
        entry = entries[track]
        return [array[entry.offset + start : entry.offset + stop] for array in arrays[entry.segment]]

    return one_by_one(read)


def zarr_together(where: Path | str, entries: list[TrackEntry]) -> Read:
    from zarr.core.sync import sync

    arrays = zarr_arrays(where, entries)

    async def gather(wanted: list) -> list[np.ndarray]:
        return await asyncio.gather(*(arrays[p][i]._async_array.getitem(slice(a, b)) for p, i, a, b in wanted))

    return all_at_once(entries, lambda wanted: sync(gather(wanted)))


def tensorstore(path: Path, entries: list[TrackEntry]) -> Read:
    import tensorstore as ts

    def opened(segment: str, name: str) -> Any:
        kvstore = {"driver": "file", "path": f"{path}/parts/{segment}/{name}"}
        return ts.open({"driver": "zarr3", "kvstore": kvstore}).result()

    arrays = {segment: [opened(segment, name) for name in ARRAYS] for segment in {entry.segment for entry in entries}}

    def read(wanted: list) -> list[np.ndarray]:
        futures = [arrays[segment][i][start:stop].read() for segment, i, start, stop in wanted]
        return [future.result() for future in futures]

    return all_at_once(entries, read)


LATENCY = 0.02  # seconds to a bucket's first byte; in a data centre it is about that

SERVER = """
import logging, sys, time
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
logging.disable()
moto = DomainDispatcherApplication(create_backend_app)
def far(environ, start_response):
    time.sleep(float(sys.argv[1]))
    return moto(environ, start_response)
server = make_server("127.0.0.1", 0, far, threaded=True)
print(server.port, flush=True)
server.serve_forever()
"""


@contextmanager
def bucket(folder: Path) -> Iterator[str]:
    """A copy of a folder in a bucket of moto's S3 server, in a process of its own."""
    import fsspec

    server = subprocess.Popen([sys.executable, "-c", SERVER, str(LATENCY)], stdout=subprocess.PIPE, text=True)
    assert server.stdout
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{int(server.stdout.readline())}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        files = fsspec.filesystem("s3")
        files.mkdir("music")
        files.put(f"{folder}/", "music/latents", recursive=True)
        yield "s3://music/latents"
    finally:
        server.kill()
        server.wait()


# ---- Training


def training(store: LatentStore, rounds: int) -> Table:
    """The preset `tiny` on a CPU, `small` on a GPU; without workers, so that all of the reading shows."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = from_dict(
        DiffusionRunConfig, preset("musicldm.generators.diffusion", "small" if device.type == "cuda" else "tiny")
    )
    dataset = LatentDataset(store, CROP)
    model = Diffusion(config.model.fitted(32, dataset)).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    dataset = dataset.with_conditions(model.config.conditions.readers())
    ready = [dataset.batch(step, BATCH) for step in range(4)]
    sources: dict[str, Callable[[int], LatentBatch]] = {
        "in memory": lambda step: ready[step % len(ready)],
        "from the store": lambda step: dataset.batch(step, BATCH),
    }

    def step_on(batch: LatentBatch) -> None:
        x0 = batch.latents.to(device, non_blocking=True)
        t = torch.randint(len(model.schedule), (len(x0),), device=device)
        conditioning = model.conditions.of_batch(batch).to(device)
        torch.autograd.backward(model.loss(x0, t, torch.randn_like(x0), conditioning).mean())
        optimizer.step()
        optimizer.zero_grad()

    times: dict[str, list[float]] = {name: [] for name in sources}
    for number in range(rounds + 1):
        for name, source in sources.items():
            start = time.perf_counter()
            for step in range(4):
                step_on(source(4 * number + step))
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:  # the first round warms up
                times[name].append((time.perf_counter() - start) / 4)
    memory = statistics.median(times["in memory"])
    table = Table("batches", "ms a step", "ratio", title=f"Training step on {device}: {BATCH} crops of {CROP} × 32")
    for name, seconds in times.items():
        table.add_row(name, f"{1000 * statistics.median(seconds):.1f}", f"{statistics.median(seconds) / memory:.3f}")
    return table


# ---- Opening


def opening(path: Path, tracks: int) -> Table:
    """A store of many tracks, in segments as `compact` makes them, whose shards are holes in the file."""
    simulate(path, tracks)
    script = (
        "import sys, time; from musicldm.latents.store import LatentStore;"
        "peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]);"
        "before = peak(); start = time.perf_counter();"
        "store = LatentStore.open(sys.argv[1]); n = len(store.tracks); store.statistics();"
        "print(n, time.perf_counter() - start, peak() - before, before)"
    )
    table = Table("opened", "tracks", "seconds", "MB more", "MB in all", title="Opening a large store, with statistics")
    for name in ("without its index", "with its index"):
        if name == "with its index":
            LatentStore.open(path).write_index()
        found = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
        count, seconds, more, before = map(float, found.stdout.split())
        table.add_row(name, f"{count:,.0f}", f"{seconds:.2f}", f"{more / 1e3:.0f}", f"{(more + before) / 1e3:.0f}")
    shutil.rmtree(path)
    return table


def simulate(path: Path, tracks: int, in_a_segment: int = 4096) -> None:
    LatentStore.create(path, HEADER)
    frames = 3500
    for number in shown(range(0, tracks, in_a_segment), "Simulating", transient=True):
        segment = f"20260101T000000000000-{number:08x}"
        count = min(in_a_segment, tracks - number)
        total, shard = count * frames, 65536
        full = 64 * (2 * 1024 * 32 + 4) + 16 * 64 + 4
        sizes = [full] * -(-total // shard)
        for name in ("mean", "logvar"):
            for i, size in enumerate(sizes):
                file = path / "parts" / segment / name / "c" / str(i) / "0"
                file.parent.mkdir(parents=True)
                file.touch()
                os.truncate(file, size)
        moments = Moments(total, np.zeros(32), np.full(32, float(total)), np.ones(32))
        table = SegmentTable(segment, total, 1024, shard, {"mean": sizes, "logvar": sizes}, moments, ())
        rows = [
            TrackEntry(
                samples=frames * HEADER.hop,
                content=f"{n:064x}",
                split="train",
                artist=f"Artist {n % 9973}",
                title=f"Title {n}",
                provenance={"licence": "CC0", "source": f"https://example.org/{n}"},
                folder="f",
                source=f"{n}.wav",
                segment=segment,
                offset=(n - number) * frames,
                frames=frames,
                seconds=frames * HEADER.hop / HEADER.rate,
                key=HEADER.key(str(n)),
                checksum="00000000",
                loss=0.0,
            ).to_dict()
            for n in range(number, number + count)
        ]
        (path / "parts" / segment / METADATA).write_bytes(group_json(table.to_attributes(rows)))


if __name__ == "__main__":
    main()
