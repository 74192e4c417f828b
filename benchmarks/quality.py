"""How good are samples, and how many steps does it take? `python benchmarks/quality.py RUN STORE DATA OUT`

Every sampler makes the same takes in every number of steps: from the same seeds, each conditioned on an artist, as
often as the training music has them. Two Fréchet distances to all of the training music say how far they are: of their
latents (textures of a second: `evaluate.features.latent_textures`) and of their waveforms (log-mel frames); ± is the
standard error over takes, by the jackknife. Beside them stand as many crops of music, as recorded and through the VAE;
decoded noise with the latents' own mean and spread, to which the ratios are; white noise at the music's level, beside
which models of different codecs compare by their waveforms; and the same denoiser untrained.

Fixed beforehand: a cell's score is the larger of its two distances, each as a multiple of the lowest of all cells. Of
the cells whose score is within 5 % of the best, the default is the one with the fewest calls of the denoiser.

Cells that OUT/quality.json has are not done again. OUT/quality.png is the picture.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import operator
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from rich.console import Console
from rich.table import Table
from torch import Tensor

from musicldm.conditions.base import Conditioning
from musicldm.core import durable
from musicldm.core.devices import autocast
from musicldm.core.seeding import derive
from musicldm.evaluate.features import Floats, drawn_latents, latent_textures, mel_frames, stored_textures
from musicldm.evaluate.frechet import Gaussian, frechet_distance
from musicldm.generators.diffusion.generate import DiffusionGenerator, DiffusionOptions
from musicldm.generators.diffusion.model import Diffusion
from musicldm.latents.store import LatentStore
from musicldm.media.dataset import open_splits
from musicldm.media.manifest import Split
from musicldm.noise.samplers import SAMPLERS
from musicldm.noise.schedule import NoiseLevel
from musicldm.sampling import Pipeline

NEAR = 1.05  # so many times the best score is as good
SPLITS: dict[str, Split] = {"training": "train", "held-out": "heldout"}
CODED = "{} music through the VAE"
NOISE, WHITE, UNTRAINED = "noise", "white noise at the music's level", "untrained, ddim 20"

Cell = dict[str, Any]
"""`calls` of the denoiser, `seconds` of denoising and decoding, `level` in dBFS; `latent`, `mel`: [distance, error]."""


@dataclass(frozen=True)
class Sounds:
    """What a cell is judged by."""

    latents: list[Tensor]
    """Normalised, [D, L] each."""
    waveforms: list[Tensor]
    """[C, T] each."""
    calls: int = 0
    seconds: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="what train-diffusion made")
    parser.add_argument("store", type=Path, help="the latents that it was trained on")
    parser.add_argument("data", type=Path, help="the waveforms that these were made of")
    parser.add_argument("output", type=Path, help="a folder for the figures and the picture")
    parser.add_argument("--samplers", choices=SAMPLERS, nargs="+", default=["ddpm", "ddim", "dpm++2m", "unipc"])
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 50, 1000])
    parser.add_argument("--takes", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=10, help="of a take, which is denoised whole")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unconditional", action="store_true", help="without artists")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--batch-size", type=int, default=24, help="takes that are denoised at once")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    grid = {f"{sampler} {steps}": (sampler, steps) for steps in options.steps for sampler in options.samplers}
    bench = Bench(options)
    file = durable.make_folder(options.output) / "quality.json"
    kept = json.loads(file.read_text()) if file.exists() else {"settings": bench.settings(), "cells": {}}
    if kept["settings"] != bench.settings():
        raise SystemExit(f"{file} is of {kept['settings']}; this would be of {bench.settings()}. Name another folder.")
    for name, make in (bench.references() | bench.samples_of(grid)).items():
        if name not in kept["cells"]:
            kept["cells"][name] = cell = bench.judged(make())
            durable.write_json(file, kept)
            print(
                f"{name}: latent {cell['latent'][0]:.3f}, mel {cell['mel'][0]:.2f}, {cell['seconds']:.0f} s", flush=True
            )
    cells = {name: kept["cells"][name] for name in [*bench.references(), *grid]}
    scores = scored([cells[name] for name in grid])
    best = min(scores)
    calls, score, default = min(
        (cells[name]["calls"], score, name) for name, score in zip(grid, scores, strict=True) if score <= NEAR * best
    )
    durable.write_json(file, kept | {"default": default})
    show(cells, dict(zip(grid, scores, strict=True)), kept["settings"])
    Console().print(f"The default by the rule: {default} ({calls} calls, score {score:.3f}; the best is {best:.3f}).")
    draw(options.output / "quality.png", cells, grid, default)


class Bench:
    """Where the sounds of the cells come from, and how far they are from the training music."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.pipeline = Pipeline.load(options.run, options.device)
        if not isinstance(self.pipeline.generator, DiffusionGenerator):
            raise SystemExit(f"{options.run} is no diffusion model.")
        self.generator = self.pipeline.generator
        self.store = LatentStore.open(options.store)
        spec = self.pipeline.spec
        if self.store.header.codec_hash != spec.codec_hash:
            raise SystemExit(f"{options.store} was made with another codec than {options.run}.")
        self.splits = open_splits(options.data, spec.rate, spec.media_channels)
        self.entries = {entry.key: entry for entry in self.store.tracks}
        self.samples = round(options.seconds * spec.rate)
        self.frames = spec.frames(self.samples)

    def settings(self) -> dict[str, Any]:
        """All that the figures depend on."""
        hours = sum(entry.seconds for entry in self.entries.values()) / 3600
        music = {"tracks": len(self.entries), "hours": round(hours, 2)}
        names = "takes", "seconds", "seed", "unconditional", "guidance"
        return {"model": self.pipeline.hash, **music, **{name: getattr(self.options, name) for name in names}}

    # ---- What is measured ----

    @functools.cached_property
    def music(self) -> dict[str, Gaussian]:
        """All of the training music, by what measures it."""
        entries = [entry for entry in self.entries.values() if entry.split == "train"]
        waveforms = (torch.from_numpy(track.read(0, track.length)) for track in self.splits["train"])
        return {
            "latent": Gaussian.of(stored_textures(self.store, self.generator.statistics, entries)),
            "mel": Gaussian.of(map(self.of_waveform, waveforms)),
        }

    def of_latents(self, z: Tensor) -> Floats:
        return latent_textures(z, self.store.header.frame_rate)

    def of_waveform(self, waveform: Tensor) -> Floats:
        return mel_frames(waveform, self.pipeline.sample_rate)

    def judged(self, sounds: Sounds) -> Cell:
        latents, mels = map(self.of_latents, sounds.latents), map(self.of_waveform, sounds.waveforms)
        return {
            "calls": sounds.calls,
            "seconds": sounds.seconds,
            "level": 10 * math.log10(torch.cat(sounds.waveforms, dim=1).square().mean().item() + 1e-12),
            "latent": distance([Gaussian.of([each]) for each in latents], self.music["latent"]),
            "mel": distance([Gaussian.of([each]) for each in mels], self.music["mel"]),
        }

    # ---- What it is measured on ----

    def references(self) -> dict[str, Callable[[], Sounds]]:
        """What the takes stand beside."""
        recorded = {f"{name} music": functools.partial(self.crops, split) for name, split in SPLITS.items()}
        coded = {CODED.format(name): functools.partial(self.through_vae, split) for name, split in SPLITS.items()}
        return {**recorded, **coded, NOISE: self.noise, WHITE: self.white_noise, UNTRAINED: self.untrained}

    def crops(self, split: Split) -> Sounds:
        """As many pieces of music as there are takes, evenly over all places where one can begin."""
        keys = ((track, self.store.header.key(track.content)) for track in self.splits[split])
        pairs = [(track, self.entries[key]) for track, key in keys if key in self.entries]
        ends = np.cumsum([max(0, entry.frames - self.frames + 1) for _, entry in pairs])
        if not len(ends) or not ends[-1]:
            raise SystemExit(f"No {split} track of {self.options.store} is as long as a take.")
        sounds = Sounds([], [])
        for place in (2 * np.arange(self.options.takes) + 1) * ends[-1] // (2 * self.options.takes):
            number = int(np.searchsorted(ends, place, side="right"))
            track, entry = pairs[number]
            first = int(place - (ends[number - 1] if number else 0))
            begin = first * self.store.header.hop
            stop = first + self.frames
            sounds.latents.append(drawn_latents(self.store, self.generator.statistics, entry, first, stop))
            sounds.waveforms.append(torch.from_numpy(track.read(begin, min(begin + self.samples, track.length))))
        return sounds

    def through_vae(self, split: Split) -> Sounds:
        """The same pieces, as a perfect denoiser's would sound."""
        latents = self.crops(split).latents
        return Sounds(latents, self.decoded(latents))

    def noise(self) -> Sounds:
        """Latents that have the right mean and spread, and nothing else."""
        starts = (self.generator.noise(self.options.seed, take, self.frames) for take in range(self.options.takes))
        latents = [z[0] for z, _ in starts]
        return Sounds(latents, self.decoded(latents))

    def white_noise(self) -> Sounds:
        """No codec decides how this sounds."""
        waveforms = []
        for number, crop in enumerate(self.crops("train").waveforms):
            generator = torch.Generator().manual_seed(derive("white noise", number))
            waveforms.append(crop.square().mean().sqrt() * torch.randn(crop.shape, generator=generator))
        return Sounds([self.pipeline.encode(each)[0].cpu() for each in waveforms], waveforms)

    def untrained(self) -> Sounds:
        torch.manual_seed(0)
        ours = self.generator
        diffusion = Diffusion(ours.diffusion.config).eval().requires_grad_(False)
        about = ours.statistics, ours.codec_hash, ours.device, ours.precision
        blank = DiffusionGenerator(diffusion, *about, lambda _: None)
        return self.takes(blank, "ddim", 20)

    def samples_of(self, grid: dict[str, tuple[str, int]]) -> dict[str, Callable[[], Sounds]]:
        return {name: functools.partial(self.takes, self.generator, *which) for name, which in grid.items()}

    def takes(self, generator: DiffusionGenerator, sampler: str, steps: int) -> Sounds:
        """What `musicldm sample` would make of these seeds and artists, several at once."""
        began = time.perf_counter()
        latents: list[Tensor] = []
        calls = 0
        for some in torch.split(torch.arange(self.options.takes), self.options.batch_size):
            z, calls = self.denoised(generator, sampler, steps, some)
            latents += z
        waveforms = self.decoded(latents)
        return Sounds(latents, waveforms, calls, time.perf_counter() - began)

    @torch.inference_mode()
    def denoised(self, generator: DiffusionGenerator, sampler: str, steps: int, takes: Tensor) -> tuple[Tensor, int]:
        """Normalised latents [B, D, L] of these takes, and how often the denoiser was called for them."""
        guided = generator.denoiser(self.conditioning(takes), DiffusionOptions(guidance=self.options.guidance))
        noises = [self.generator.noise(self.options.seed, take, self.frames) for take in takes.tolist()]
        calls = 0

        def denoise(x: Tensor, level: NoiseLevel) -> Tensor:
            nonlocal calls
            calls += 1
            return guided(x, level)

        def noise(x: Tensor) -> Tensor:
            return torch.cat([draw(each) for (_, draw), each in zip(noises, torch.split(x, 1), strict=True)])

        with autocast(self.generator.precision, self.generator.device):
            x = torch.cat([start for start, _ in noises])
            z: Tensor = SAMPLERS[sampler](denoise, x, generator.diffusion.schedule.levels(steps), noise)
        return z.float(), calls

    def conditioning(self, takes: Tensor) -> Conditioning:
        """Whose music each take should be: the artists stand along the takes as along the hours of training music."""
        conditions, count = self.generator.conditions, self.options.takes
        if "artist" not in conditions or self.options.unconditional:
            return conditions.null(len(takes))
        names = conditions["artist"].choices
        hours: defaultdict[str, float] = defaultdict(float)
        for entry in self.entries.values():
            hours[entry.artist] += entry.seconds if entry.split == "train" else 0.0
        ends = np.cumsum([hours[name] for name in names])
        whose = np.searchsorted(ends, (np.arange(count) + 0.5) / count * ends[-1], side="right")
        each = [conditions.parse({"artist": names[whose[take]]}) for take in takes.tolist()]
        return Conditioning.cat(each).to(self.generator.device)

    def decoded(self, latents: Iterable[Tensor]) -> list[Tensor]:
        raw = (self.generator.statistics.denormalise(z.to(self.generator.device)) for z in latents)
        return [self.pipeline.decode(z)[:, : self.samples] for z in raw]


# ---- Figures -------------------------------------------------------------------------------------------------------


def distance(parts: list[Gaussian], music: Gaussian) -> tuple[float, float]:
    """Fréchet distance of all sounds to the music, and its standard error by leaving out one after another."""
    whole = frechet_distance(functools.reduce(operator.add, parts), music)
    if len(parts) == 1:
        return whole, math.nan
    without = [
        frechet_distance(functools.reduce(operator.add, parts[:i] + parts[i + 1 :]), music) for i in range(len(parts))
    ]
    return whole, math.sqrt((len(parts) - 1) * float(np.var(without)))


def scored(cells: list[Cell]) -> list[float]:
    """The larger of a cell's two distances, each as a multiple of the lowest."""
    lowest = {name: min(cell[name][0] for cell in cells) for name in ("latent", "mel")}
    return [max(cell[name][0] / lowest[name] for name in lowest) for cell in cells]


def show(cells: dict[str, Cell], scores: dict[str, float], settings: dict[str, Any]) -> None:
    table = Table("", "calls", "latent", "of noise's", "mel", "of noise's", "score", "dBFS", "× real time")
    for name, cell in cells.items():
        figures = [
            text
            for measure, digits in (("latent", 2), ("mel", 1))
            for text in (
                f"{cell[measure][0]:.{digits}f} ± {cell[measure][1]:.{digits}f}",
                f"{cell[measure][0] / cells[NOISE][measure][0]:.3f}",
            )
        ]
        score = f"{scores[name]:.2f}" if name in scores else ""
        length = settings["takes"] * settings["seconds"]
        speed = f"{length / cell['seconds']:.1f}" if cell["calls"] else ""
        table.add_row(name, str(cell["calls"] or ""), *figures, score, f"{cell['level']:.1f}", speed)
    console = Console(width=140)
    console.print(
        f"Fréchet distances to the training music of {settings['tracks']} tracks, {settings['hours']} h in all; "
        f"{settings['takes']} takes of {settings['seconds']:g} s from seed {settings['seed']}, "
        f"{'without' if settings['unconditional'] else 'conditioned on'} artists, guidance {settings['guidance']:g}."
    )
    console.print(table)


def draw(path: Path, cells: dict[str, Cell], grid: dict[str, tuple[str, int]], default: str) -> None:
    """Both distances over noise's, by steps: a line for each sampler."""
    figure = Figure(figsize=(10, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (measure, title) in zip(
        figure.subplots(1, 2), {"latent": "latents", "mel": "waveforms (log-mel)"}.items(), strict=True
    ):
        noise = cells[NOISE][measure][0]
        for sampler in dict.fromkeys(sampler for sampler, _ in grid.values()):
            line = sorted(
                (steps, cells[name][measure][0] / noise) for name, (each, steps) in grid.items() if each == sampler
            )
            axis.plot(*zip(*line, strict=True), marker="o", markersize=4, label=sampler)
        axis.plot(
            grid[default][1],
            cells[default][measure][0] / noise,
            "o",
            markersize=12,
            mfc="none",
            mec="black",
            label="default",
        )
        axis.axhline(
            cells[CODED.format("held-out")][measure][0] / noise, color="grey", linestyle=":", label="held-out music"
        )
        axis.set(xscale="log", yscale="log", xlabel="steps", title=f"Fréchet distance of {title}, over noise's")
        steps = sorted({steps for _, steps in grid.values()})
        axis.set_xticks(steps, map(str, steps))
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    axis.legend()
    with durable.replacing(path) as temporary:
        figure.savefig(temporary, format="png")


if __name__ == "__main__":
    main()
