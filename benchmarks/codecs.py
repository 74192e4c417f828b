"""Which codec's latents are learnt best? `python benchmarks/codecs.py data/wav out`

Every contender trains for the same processor time on the same crops, encodes the same tracks, and the same diffusion
U-Net (that of the preset `small`) trains on its latents for the same processor time. One thread each.

The rule, fixed before the first run. A first round of 3 + 3 minutes: contenders stay in whose mel distance is at most
1.15 times the best of all, and of these the two with the lowest held-out loss of the U-Net (which is relative to the
latents' variance: they are normalised). A second round of 8 + 20 minutes decides by, in this order: the lowest held-out
loss; where two are within 3 %, the higher onset F1 of reconstructions, within 0.01 the lower mel distance, and then the
faster decoder. Contenders that are done are not done again.

Added after the first round, because a codec that is too slow to be used cannot win: what decodes less than 300 seconds
a second in one pass, on two threads of a quiet machine, is out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from musicldm.codecs.base import CODECS, CodecFamily, load_codec
from musicldm.codecs.windows import decode_long, encode_long
from musicldm.core import config
from musicldm.evaluate.metrics import Comparison
from musicldm.generators.diffusion.config import DiffusionRunConfig
from musicldm.generators.diffusion.training import train_diffusion
from musicldm.latents.encode import encode
from musicldm.media.dataset import open_splits
from musicldm.training.loop import TrainingResult

SPECTRUM: dict[str, Any] = {"codec": "spectrum", "loss": {}, "model": {}}
# The first round was run with the loss of magnitudes alone, of which the second came to think better.
PLAIN = {"mel": 0.0, "convergence": 0.0}
TWO_COLUMNS = {"column_hop": 256, "columns": 2}
CONTENDERS: dict[str, dict[str, Any]] = {
    "hop 256 x 2": {"model": TWO_COLUMNS},
    "hop 512": {},
    "32 x 31": {"loss": PLAIN, "model": TWO_COLUMNS},
    "32 x 31, hop 512": {"loss": PLAIN},
    "16 x 31": {"loss": PLAIN, "model": {**TWO_COLUMNS, "latent_channels": 16}},
    "64 x 16": {"loss": PLAIN, "model": {**TWO_COLUMNS, "latent_channels": 64, "columns": 4}},
    "32 x 16": {"loss": PLAIN, "model": {**TWO_COLUMNS, "columns": 4}},
    "32 x 8": {"loss": PLAIN, "model": {**TWO_COLUMNS, "columns": 8}},
    "32 x 31, mel": {"loss": {"convergence": 0.0}, "model": TWO_COLUMNS},
    "32 x 31, kl x 5": {"loss": {**PLAIN, "kl": 1e-4}, "model": TWO_COLUMNS},
    "32 x 31, floor -60 dB": {"loss": PLAIN, "model": {**TWO_COLUMNS, "floor": 1e-3}},
    "32 x 31, tanh": {"loss": PLAIN, "model": {**TWO_COLUMNS, "bottleneck": "tanh"}},
    "vae": {
        "codec": "vae",
        "model": {
            "latent_channels": 32, "blocks": 1, "attention_block": 32, "front_end": "spectral", "patch": 512,
            "patch_kernel": 2048, "widths": [352], "strides": [],
        },
        "loss": {"time": 50.0, "stft": 1.0, "mel": 1.0, "kl": 1e-2},
    },
}  # fmt: skip
CODEC_TRAINING = {
    "batch_size": 8,
    "seconds": 1.0,
    "learning_rate": 1.5e-3,
    "warmup": 50,
    "betas": [0.8, 0.99],
    "ema": 0.995,
    "validation_crops": 32,
}
DIFFUSION_TRAINING = {
    "batch_size": 8,
    "seconds": 8.0,
    "learning_rate": 7e-4,
    "warmup": 50,
    "ema": 0.995,
    "validation_crops": 64,
}
JUDGED_SECONDS = 20.0  # of each held-out track
JUDGED_TRACKS = 12
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="what preprocess made: 16 kHz, mono")
    parser.add_argument("output", type=Path, help="a folder for the runs")
    parser.add_argument("--minutes", type=float, nargs=2, default=(3, 3), help="of the codec, and of the U-Net")
    parser.add_argument("--only", choices=CONTENDERS, nargs="+", default=list(CONTENDERS))
    parser.add_argument("--show", action="store_true", help="only the table of those that are done")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.only:
        if not options.show and not (options.output / name / "result.json").exists():
            contend(name, options.data, options.output / name, *options.minutes)
    show(options)


def contend(name: str, data: Path, folder: Path, codec_minutes: float, diffusion_minutes: float) -> None:
    """Train codec and U-Net, and judge both; its figures go to result.json."""
    plan = config.merge(SPECTRUM | {"training": CODEC_TRAINING}, CONTENDERS[name])
    family: CodecFamily = CODECS.load(plan.pop("codec"))

    def train_codec(run: Path, lengths: dict[str, int], watch: Watch) -> TrainingResult:
        parsed = config.from_dict(family.run_config, config.merge(plan, {"training": lengths}))
        return family.train(data, run, parsed, CPU, watch, print, None, False)

    codec_steps, _ = train_for(codec_minutes, folder / "codec", train_codec)
    store = folder / "latents.zarr"
    encode(data, store, load_codec(folder / "codec"))

    def train_unet(run: Path, lengths: dict[str, int], watch: Watch) -> TrainingResult:
        model = config.preset("musicldm.generators.diffusion", "small")["model"]
        training = {**DIFFUSION_TRAINING, **lengths}
        parsed = config.from_dict(DiffusionRunConfig, {"model": model, "training": training})
        return train_diffusion(store, run, parsed, CPU, watch)

    steps, last = train_for(diffusion_minutes, folder / "diffusion", train_unet)
    result = {"codec_steps": codec_steps, "steps": steps, **last}
    (folder / "result.json").write_text(json.dumps(result | reconstruction(folder / "codec", data)))


class Watch:
    """The processor's time at each step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, done: float, total: float | None, text: str = "") -> None:
        if text.startswith("step "):
            self.times.append(time.process_time())


def train_for(
    minutes: float, run: Path, train: Callable[[Path, dict[str, int], Watch], TrainingResult]
) -> tuple[int, dict[str, float]]:
    """Train for so much processor time, by the time of a few steps; returns their number and the held-out losses."""
    watch = Watch()
    train(run.with_name(f"{run.name}-timing"), {"steps": 30, "validate_every": 10**6, "demo_every": 10**6}, watch)
    shutil.rmtree(run.with_name(f"{run.name}-timing"))
    # The first steps warm up; the last is followed by validation and saving.
    seconds = (watch.times[-2] - watch.times[-22]) / 20
    steps = max(50, int(60 * minutes / seconds))
    result = train(run, {"steps": steps, "validate_every": max(1, steps // 4), "demo_every": steps}, Watch())
    if result.interrupted:
        raise SystemExit("Stopped and saved.")
    return steps, result.last


@torch.inference_mode()
def reconstruction(run: Path, data: Path) -> dict[str, float]:
    """Of the held-out tracks: distances, decoding speed, and how much the latents change from frame to frame."""
    codec = load_codec(run)
    spec = codec.spec
    comparison, spent, heard, changes, variances = Comparison(spec.rate), 0.0, 0.0, 0.0, 0.0
    for track in open_splits(data, spec.rate, spec.media_channels)["heldout"][:JUDGED_TRACKS]:
        start = track.length // 3
        audio = torch.from_numpy(track.read(start, min(track.length, start + int(JUDGED_SECONDS * spec.rate))))
        pieces = encode_long(codec, lambda a, b, audio=audio: audio[:, a:b], audio.shape[-1])  # type: ignore[misc]
        z = torch.cat([mean for mean, _ in pieces], dim=1)
        began = time.process_time()
        made = torch.cat(list(decode_long(codec, z)), dim=1)[:, : audio.shape[-1]]
        spent, heard = spent + time.process_time() - began, heard + audio.shape[-1] / spec.rate
        comparison.add(audio, made)
        changes += (z[:, 1:] - z[:, :-1]).square().mean().item()
        variances += z.var(dim=1).mean().item()
    figures = comparison.result()
    return {
        "numbers": spec.channels * spec.frame_rate,
        "mel": figures.mel,
        "stft": figures.stft,
        "change": changes / (2 * variances),
        "speed": heard / spent,
    }


def show(options: argparse.Namespace) -> None:
    """The table."""
    table = Table("", "numbers/s", "steps", "U-Net's steps", "change", "held-out loss", "mel", "STFT", "x real time")
    for name in options.only:
        file = options.output / name / "result.json"
        if not file.exists():
            continue
        result = json.loads(file.read_text())
        figures = (result["change"], result["loss"], result["mel"], result["stft"])
        table.add_row(
            name, f"{result['numbers']:.0f}", str(result["codec_steps"]), str(result["steps"]),
            *(f"{figure:.3f}" for figure in figures), f"{result['speed']:.0f}",
        )  # fmt: skip
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
