"""Which VAE learns most in the same time? `python benchmarks/front_ends.py data/wav out --minutes 30`

Each contender has 32 latent channels at a hop of 512, 16 times fewer numbers than 16 kHz mono, the same losses, crops
and optimizer, and as many steps as fit into the same processor time, measured beforehand. Then the held-out tracks go
through it whole. Fixed beforehand: the lowest mel distance wins, among those within 1 dB of the best SI-SDR.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from musicldm.codecs.vae.config import VAERunConfig
from musicldm.codecs.vae.model import VAE
from musicldm.codecs.vae.training import train_vae
from musicldm.codecs.windows import reconstruct
from musicldm.core import config
from musicldm.evaluate.metrics import Comparison
from musicldm.media.audio import spectrogram
from musicldm.media.dataset import open_splits

CONTENDERS: dict[str, dict[str, Any]] = {
    "spectral": {"front_end": "spectral", "patch": 512, "patch_kernel": 2048, "widths": [352], "strides": []},
    "waveform": {"patch": 512, "patch_kernel": 2048, "widths": [352], "strides": []},
    "waveform, strided": {"patch": 16, "patch_kernel": 64, "widths": [96, 192, 288], "strides": [4, 8]},
    "the study's": {"patch": 1, "patch_kernel": 7, "widths": [32, 96, 192, 256], "strides": [8, 8, 8]},
    "spectral, polar": {
        "front_end": "spectral", "polar": True, "patch": 512, "patch_kernel": 2048, "widths": [352], "strides": []
    },
}  # fmt: skip
COMMON: dict[str, Any] = {
    "model": {"latent_channels": 32, "blocks": 1, "attention_block": 32},
    "loss": {"time": 50.0, "stft": 1.0, "mel": 1.0, "kl": 1e-2},
    "training": {
        "batch_size": 6,
        "seconds": 1.0,
        "learning_rate": 1.5e-3,
        "warmup": 50,
        "betas": [0.8, 0.99],
        "ema": 0.995,
        "validation_crops": 24,
    },
}
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="what preprocess made: 16 kHz, mono")
    parser.add_argument("output", type=Path, help="a folder for the runs; those that are there are not done again")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=CONTENDERS, nargs="+", default=list(CONTENDERS)[:-1])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.only:
        folder = options.output / name
        if not (folder / "result.json").exists():
            result = contend(name, options.data, folder, options.minutes, options.threads)
            (folder / "result.json").write_text(json.dumps(result))
    show(options)


def contend(name: str, data: Path, folder: Path, minutes: float, threads: int) -> dict[str, float]:
    """Train one for so long, and judge it; interrupted, it goes on."""
    plan = config.merge(COMMON, {"model": CONTENDERS[name]})
    timing = folder / "step-seconds.txt"
    if not timing.exists():
        seconds = time_of_a_step(data, folder / "timing", plan, threads)
        timing.write_text(str(seconds))
    step_seconds = float(timing.read_text())
    steps = int(60 * minutes / step_seconds)
    lengths = {"steps": steps, "validate_every": max(1, steps // 8), "demo_every": steps}
    if train_vae(data, folder, parsed(plan, lengths), CPU).interrupted:
        raise KeyboardInterrupt
    vae = VAE.load(folder)
    comparison = Comparison(vae.config.sample_rate)
    for track in open_splits(data, vae.config.sample_rate, 1)["heldout"]:
        original = torch.from_numpy(track.read(0, track.length))
        comparison.add(original, reconstruct(vae, original))
    figures = comparison.result()
    return {
        "parameters": float(sum(weight.numel() for weight in vae.parameters())),
        "steps": steps,
        "minutes": steps * step_seconds / 60,
        "mel": figures.mel,
        "si_sdr": figures.si_sdr or 0.0,
        "stft": figures.stft,
        "l1": figures.l1,
        "l1_to_silence": figures.l1_to_silence or 0.0,
    }


def time_of_a_step(data: Path, folder: Path, plan: dict[str, Any], threads: int) -> float:
    """Processor seconds of a step on each of the threads, by a few of them."""
    times: list[float] = []

    def watch(done: float, total: float | None, text: str = "") -> None:
        times.append(time.process_time())

    train_vae(data, folder, parsed(plan, {"steps": 25, "validate_every": 1000, "demo_every": 1000}), CPU, watch)
    return (times[-2] - times[4]) / (len(times) - 6) / threads


def parsed(plan: dict[str, Any], lengths: dict[str, int]) -> VAERunConfig:
    """The contender's configuration."""
    return config.from_dict(VAERunConfig, config.merge(plan, {"training": lengths}))


def show(options: argparse.Namespace) -> None:
    """The table, and spectrograms of one held-out excerpt."""
    table = Table("", "M parameters", "steps", "minutes", "mel", "SI-SDR, dB", "STFT", "L1", "of silence's")
    track = open_splits(options.data, 16000, 1)["heldout"][0]
    original = torch.from_numpy(track.read(track.length // 2, track.length // 2 + 10 * 16000))
    panels = {"original": original.numpy()}
    for name in options.only:
        result = json.loads((options.output / name / "result.json").read_text())
        figures = [f"{result[key]:.3f}" for key in ("mel", "si_sdr", "stft", "l1", "l1_to_silence")]
        table.add_row(
            name, f"{result['parameters'] / 1e6:.1f}", str(result["steps"]), f"{result['minutes']:.1f}", *figures
        )
        panels[name] = reconstruct(VAE.load(options.output / name), original).numpy()
    spectrogram.picture(options.output / "front_ends.png", panels, 16000)
    Console().print(table)


if __name__ == "__main__":
    main()
