"""How fast is encode beside the bare VAE, and in how much memory? `python benchmarks/encode.py [FOLDER]`

FOLDER holds prepared waveforms; without it, noise is encoded. Four tables. Speed: hours of audio a minute, waveforms
read, windows cut and a store written included, against the VAE's forward pass alone over the same windows in memory, in
turn, as ratios of one run. Where other work shares the machine, `--threads 1` gives ratios that hold: several threads
wait for each other at every layer. Batches: the same forward pass with several windows at once. Reading: a window of
audio by threads and by processes. Memory: the peak of `musicldm encode` over tracks of a few minutes and of some hours.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from musicldm.codecs.base import Codec
from musicldm.codecs.vae.config import VAEConfig
from musicldm.codecs.vae.model import VAE
from musicldm.codecs.windows import windows
from musicldm.core import bundle
from musicldm.core.config import from_dict, preset
from musicldm.latents.encode import encode
from musicldm.media.audio import files
from musicldm.media.manifest import PreparedTrack, open_manifest, read_tracks

WINDOW_SECONDS = 30.0  # encode's default


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="what musicldm preprocess made; default: noise")
    parser.add_argument("--preset", default="small", help="of the VAE, untrained")
    parser.add_argument("--minutes", type=float, default=30, help="audio for the speed, at least")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch, for the speed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--hours", type=float, default=0, help="the long track for the memory, 10 say; 0: no such table"
    )
    options = parser.parse_args()
    console = Console(width=110)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        vae = untrained(options.preset, root / "vae")
        data = root / "data"
        if options.folder:
            some_of(options.folder, data, 60 * options.minutes)
        else:
            for number in range(max(1, round(options.minutes / 4))):
                noise(data, f"{number}.wav", 60 * (3 + number % 3), vae.config)
        if options.rounds:
            console.print(speed(data, vae, root, options.rounds))
            console.print(batches(data, vae, options.rounds))
            console.print(reading(data, vae, options.rounds))
        if options.hours:
            console.print(memory(root, vae, options.hours))


def untrained(name: str, folder: Path) -> VAE:
    torch.manual_seed(0)
    vae = VAE(from_dict(VAEConfig, preset("musicldm.codecs.vae", name)["model"]))
    bundle.write(folder, bundle.Bundle(name, {"codec": vae.component()}))
    return VAE.load(folder)


def some_of(source: Path, target: Path, seconds: float) -> None:
    """Copy tracks until they make up so many seconds, evenly from all over the folder."""
    records = [r for r in open_manifest(source).records.values() if r["status"] == "done"]
    whole = sum(r["samples"] / r["sample_rate"] for r in records)
    for record in records[:: max(1, int(whole / seconds))]:
        path = target / record["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / record["path"], path)
        open_manifest(target).append(record)


def noise(folder: Path, name: str, seconds: float, config: VAEConfig) -> None:
    """A prepared track of noise, a minute of which comes again and again."""
    folder.mkdir(parents=True, exist_ok=True)
    rate, channels = config.sample_rate, config.audio_channels
    minute = np.random.default_rng(0).integers(-8000, 8000, (channels, 60 * rate), np.int32)
    samples = round(seconds * rate)
    with files.writer(folder / name, "wav", rate, channels, 16) as append:
        for start in range(0, samples, 60 * rate):
            append(minute[:, : samples - start])
    record = {"source": name, "status": "done", "path": name, "sample_rate": rate, "channels": channels}
    record |= {"samples": samples, "content": name, "split": "train", "artist": "Noise", "title": name}
    open_manifest(folder).append(record | {"provenance": {}, "bytes": (folder / name).stat().st_size})


def cut(track: PreparedTrack, codec: Codec) -> list[tuple[int, int]]:
    """The first and last sample of each of a track's windows."""
    spec = codec.spec
    cover = windows(spec.frames(track.length), round(WINDOW_SECONDS * spec.frame_rate), codec.context, codec.grid)
    return [(first * spec.hop, min(last * spec.hop, track.length)) for _, _, first, last in cover]


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# ---- Speed


def speed(data: Path, vae: VAE, root: Path, rounds: int) -> Table:
    tracks = read_tracks(data)
    hours = sum(track.seconds for track in tracks) / 3600
    waveforms = [torch.from_numpy(t.read(a, b))[None] for t in tracks for a, b in cut(t, vae)]
    ways: dict[str, Callable[[], object]] = {
        "musicldm encode": lambda: encode(data, Path(tempfile.mkdtemp(dir=root)), vae, WINDOW_SECONDS),
        "the VAE alone": lambda: forward(vae, waveforms),
    }
    minutes: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    encode(data, root / "first.zarr", vae, WINDOW_SECONDS)  # imports what it needs
    for number in range(rounds):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            start = time.process_time()
            minutes[name].append(seconds_of(ways[name]) / 60)
            processor[name].append(time.process_time() - start)
    title = f"{len(tracks)} tracks, {hours:.2f} h, preset {vae.name}, {torch.get_num_threads()} threads"
    table = Table("", "hours a minute", "of the VAE alone", "by processor time", title=title)
    for name in ways:
        by_clock, by_processor = (
            statistics.median(b / a for a, b in zip(taken[name], taken["the VAE alone"], strict=True))
            for taken in (minutes, processor)
        )
        speed = f"{hours / statistics.median(minutes[name]):.2f}"
        table.add_row(name, speed, f"{by_clock:.2f}", f"{by_processor:.2f}")
    return table


@torch.inference_mode()
def forward(vae: VAE, batches: list[Tensor]) -> None:
    for waveforms in batches:
        vae.encode(waveforms)


def batches(data: Path, vae: VAE, rounds: int) -> Table:
    longest = max(read_tracks(data), key=lambda track: track.length)
    start, stop = cut(longest, vae)[0]
    window = torch.from_numpy(longest.read(start, stop))
    sizes = (1, 2, 4, 8)
    taken: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            batch = torch.stack([window] * size)
            taken[size].append(seconds_of(lambda batch=batch: forward(vae, [batch] * (8 // len(batch)))) / 8)  # type: ignore[misc]
    table = Table("windows at once", "ms a window", "speed", title="The VAE alone, in batches")
    for size in sizes:
        ratio = statistics.median(a / b for a, b in zip(taken[1], taken[size], strict=True))
        table.add_row(str(size), f"{1000 * statistics.median(taken[size]):.0f}", f"{ratio:.2f}")
    return table


# ---- Reading


def reading(data: Path, vae: VAE, rounds: int) -> Table:
    spans = [(track, *span) for track in read_tracks(data) for span in cut(track, vae)]
    pools: dict[str, Executor] = {
        "1 thread": ThreadPoolExecutor(1),
        "2 threads": ThreadPoolExecutor(2),
        "2 processes": ProcessPoolExecutor(2),
    }
    taken: dict[str, list[float]] = {name: [] for name in pools}
    for pool in pools.values():
        list(pool.map(read, spans[:4]))
    for _ in range(rounds):
        for name, pool in pools.items():
            taken[name].append(seconds_of(lambda pool=pool: list(pool.map(read, spans))) / len(spans))  # type: ignore[misc]
    for pool in pools.values():
        pool.shutdown()
    table = Table("", "ms a window", title="Reading the same windows")
    for name, seconds in taken.items():
        table.add_row(name, f"{1000 * statistics.median(seconds):.1f}")
    return table


def read(span: tuple[PreparedTrack, int, int]) -> files.Floats:
    track, start, stop = span
    return track.read(start, stop)


# ---- Memory


def memory(root: Path, vae: VAE, hours: float) -> Table:
    table = Table("one track", "peak memory, MB", "minutes", title=f"musicldm encode on a CPU, preset {vae.name}")
    for length in (0.1, hours):
        data, store = root / f"{length} h", root / f"{length} h.zarr"
        noise(data, "noise.wav", 3600 * length, vae.config)
        command = [sys.executable, "-m", "musicldm", "encode", data, store, "--vae", root / "vae", "--device", "cpu"]
        start = time.perf_counter()
        process = subprocess.Popen([*command, "--quiet"], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit("encode failed.")
        unit = 1e6 if sys.platform == "darwin" else 1e3
        table.add_row(f"{length:g} h", f"{usage.ru_maxrss / unit:.0f}", f"{(time.perf_counter() - start) / 60:.1f}")
        shutil.rmtree(data)
    return table


if __name__ == "__main__":
    main()
