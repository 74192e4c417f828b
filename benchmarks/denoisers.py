"""Which network learns most in the same time? `python benchmarks/denoisers.py data/latents.zarr out --minutes 30`

The U-Net of the preset `small` and transformers of as many parameters, within a tenth, on the same store with the same
noise, crops and optimizer, and as many steps as fit into the same time, measured beforehand: processor time on a CPU,
the clock's on a GPU. Fixed beforehand: the lowest held-out loss of the averaged weights, over all noise levels, wins.
Contenders that are done are not done again; one that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from musicldm.core import bundle, config
from musicldm.core.devices import pick_device
from musicldm.generators.diffusion.config import DiffusionRunConfig
from musicldm.generators.diffusion.training import train_diffusion

CONTENDERS: dict[str, dict[str, Any]] = {
    "U-Net": {"network": "unet"},
    "transformer, wide": {"network": "transformer", "transformer": {"width": 256, "depth": 4, "heads": 4}},
    "transformer, deep": {"network": "transformer", "transformer": {"width": 200, "depth": 7, "heads": 5}},
}
COMMON: dict[str, Any] = {
    "batch_size": 8,
    "seconds": 8.0,
    "learning_rate": 5e-4,
    "warmup": 50,
    "ema": 0.995,
    "validation_crops": 32,
}
STOPPED = "Stopped and saved; the same command goes on."
TIMED = 20  # steps by which the time of one is measured, and as many others that are not counted


class Clock:
    """Seconds of work: the processor's on each of its threads, or the clock's where a GPU works."""

    def __init__(self, device: torch.device, threads: int) -> None:
        self.device = device
        self.threads = threads

    def __call__(self) -> float:
        if self.device.type == "cpu":
            return time.process_time() / self.threads
        torch.cuda.synchronize(self.device)
        return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="what encode made")
    parser.add_argument("output", type=Path, help="a folder for the runs")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=COMMON["batch_size"])
    parser.add_argument("--seconds", type=float, default=COMMON["seconds"], help="of a crop")
    parser.add_argument("--only", choices=CONTENDERS, nargs="+", default=list(CONTENDERS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.only:
        if not (options.output / name / "result.json").exists():
            contend(name, options)
    show(options)


def contend(name: str, options: argparse.Namespace) -> None:
    """Train one for so long; its figures go to result.json."""
    folder, device = options.output / name, pick_device(options.device)
    clock = Clock(device, options.threads)
    steps = steps_that_fit(name, options, clock)
    lengths = {"steps": steps, "validate_every": max(1, steps // 8), "demo_every": steps}
    watch = Watch(clock)
    result = train_diffusion(options.store, folder / "run", parsed(name, options, lengths), device, watch)
    if result.interrupted:
        raise SystemExit(STOPPED)
    generator = bundle.read(folder / "run").component("generator")
    figures = {
        "parameters": sum(tensor.numel() for tensor in generator.tensors.values()),
        "steps": steps,
        "minutes": steps * statistics.median(after - before for before, after in pairwise(watch.times)) / 60,
        "first": result.first["loss"],
        "last": result.last,
    }
    (folder / "result.json").write_text(json.dumps(figures))


class Watch:
    """When each step was done."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.times: list[float] = []

    def __call__(self, done: float, total: float | None, text: str = "") -> None:
        if text.startswith("step "):  # and not of the store that is verified first
            self.times.append(self.clock())


def steps_that_fit(name: str, options: argparse.Namespace, clock: Clock) -> int:
    """Into the minutes, by the time of a few; measured once, so that a run that was stopped goes on with the same."""
    folder = options.output / name
    known = folder / "steps.json"
    if not known.exists():
        watch, lengths = Watch(clock), {"steps": 2 * TIMED, "validate_every": 10**6, "demo_every": 10**6}
        shutil.rmtree(folder / "timing", ignore_errors=True)  # of one that was stopped
        timing = train_diffusion(options.store, folder / "timing", parsed(name, options, lengths), clock.device, watch)
        if timing.interrupted:
            raise SystemExit(STOPPED)
        shutil.rmtree(folder / "timing")
        # The last step is followed by validation, demos and saving, which all contenders have alike.
        step_seconds = (watch.times[-2] - watch.times[-2 - TIMED]) / TIMED
        known.write_text(json.dumps(max(1, int(60 * options.minutes / step_seconds))))
    steps: int = json.loads(known.read_text())
    return steps


def parsed(name: str, options: argparse.Namespace, lengths: dict[str, int]) -> DiffusionRunConfig:
    """The contender's configuration."""
    training = {**COMMON, "batch_size": options.batch_size, "seconds": options.seconds, **lengths}
    model = config.merge(config.preset("musicldm.generators.diffusion", "small")["model"], CONTENDERS[name])
    return config.from_dict(DiffusionRunConfig, {"model": model, "training": training})


def show(options: argparse.Namespace) -> None:
    """The table: one row for each contender, one column for each noise level."""
    results = {name: json.loads((options.output / name / "result.json").read_text()) for name in options.only}
    levels = [level for level in next(iter(results.values()))["last"] if level.startswith("t")]
    table = Table("", "M parameters", "steps", "minutes", "at first", "loss", "raw", *levels)
    for name, result in results.items():
        figures = [f"{result['last'][level]:.3f}" for level in ("loss", "raw", *levels)]
        counts = f"{result['parameters'] / 1e6:.2f}", str(result["steps"]), f"{result['minutes']:.1f}"
        table.add_row(name, *counts, f"{result['first']:.3f}", *figures)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
