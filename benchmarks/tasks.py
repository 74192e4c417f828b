"""Does every task of sampling do what it says? `python benchmarks/tasks.py runs/ldm data/wav out`

- artist: takes asked of each artist, judged by a classifier that knows them from music which it was not shown. It is
  multinomial logistic regression on statistics of log-mel bands, without their level; what it sees has all gone
  through the VAE, so that real and made differ in nothing else. A fifth of each artist's tracks is kept from it, the
  held-out ones first; most of them the denoiser has seen.
- strength: how far a varied crop of a held-out track is from it, in mel spectrograms and in latents.
- joins: of loops, infills, continuations and the windows of a long piece, beside random places within real files and
  beside cuts from one file to another. *step*: the largest difference of neighbouring samples within 12.5 ms, over the
  RMS of those around; *level*: dB between the 64 ms before and after; *spectrum*: the mean distance of their mel bands
  in dB.
- infill: the largest difference outside the spans and their cross-fades, which must be 0.
- pictures: a PNG for each task.

What is done stands in OUT/tasks.json and is not done again with the same options and model.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track as shown
from rich.table import Table
from torch import Tensor

from musicldm.codecs.windows import reconstruct
from musicldm.core.seeding import derive
from musicldm.evaluate.metrics import mel_distance
from musicldm.media.audio.mel import log_mel
from musicldm.media.manifest import PreparedTrack, read_tracks
from musicldm.sampling import Extend, Infill, Interpolate, Loop, Pipeline, Request, Vary
from musicldm.sampling.running import FADE
from musicldm.sampling.windowing import WindowSize, plan

STRENGTHS = [i / 10 for i in range(1, 11)]
GUIDANCE = (1.0, 3.0, 6.0)
STATISTICS = ("step", "level", "spectrum")
DB = 10 / math.log(10)
"""Natural logarithms of power as dB."""
CONSOLE = Console()

Result = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What all measurements share."""

    pipeline: Pipeline
    tracks: list[PreparedTrack]
    takes: int
    seconds: float
    steps: int
    seed: int

    @property
    def rate(self) -> int:
        return self.pipeline.sample_rate

    @property
    def settings(self) -> dict[str, Any]:
        """Of every take."""
        return {"seed": self.seed, "steps": self.steps}

    @property
    def window_size(self) -> WindowSize:
        """Of long pieces."""
        return self.pipeline.window_size(Request(window=self.seconds))

    @property
    def artists(self) -> tuple[str, ...]:
        """Those that the model knows."""
        conditions = self.pipeline.generator.conditions
        return conditions["artist"].choices if "artist" in conditions else ()

    def crop(self, track: PreparedTrack, seconds: float, number: int) -> Tensor:
        """Some place in a track that is not silent, [C, T]."""
        samples = round(seconds * self.rate)
        for attempt in range(100):
            chance = np.random.default_rng(derive(self.seed, "crop", str(track.content), number, attempt))
            begin = int(chance.integers(0, max(1, track.length - samples)))
            audio = torch.from_numpy(track.read(begin, min(track.length, begin + samples)))
            if audio.square().mean().sqrt() > 1e-3:
                break
        return audio

    def crops(self, count: int, seconds: float, heldout: bool = True) -> Iterator[Tensor]:
        """From one track after another, held-out ones unless there are none."""
        fitting = [track for track in self.tracks if track.seconds > seconds]
        some = [track for track in fitting if track.split == "heldout"] if heldout else fitting
        some = some or fitting
        order = np.random.default_rng(derive(self.seed, "order")).permutation(len(some))
        for i in range(count):
            yield self.crop(some[order[i % len(some)]], seconds, i)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help="what preprocess made, of which the model was trained")
    parser.add_argument("output", type=Path, help="a folder for tasks.json and the pictures")
    parser.add_argument("--only", choices=MEASUREMENTS, nargs="+", default=list(MEASUREMENTS))
    parser.add_argument("--takes", type=int, default=12, help="of each artist and guidance; crops, loops and so on")
    parser.add_argument("--seconds", type=float, default=8, help="of each")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    pipeline = Pipeline.load(options.model)
    tracks = read_tracks(options.data)
    if any((each.sample_rate, each.channels) != (pipeline.sample_rate, pipeline.channels) for each in tracks):
        parser.error("the waveforms have another rate or other channels than the model")
    bench = Bench(pipeline, tracks, options.takes, options.seconds, options.steps, options.seed)
    asked = {"model": pipeline.hash, **{key: getattr(options, key) for key in ("takes", "seconds", "steps", "seed")}}

    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "tasks.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in options.only if bench.artists else [name for name in options.only if name != "artists"]:
        if results.get(name, {}).get("asked") != asked:
            results[name] = {"asked": asked, **MEASUREMENTS[name](bench, options.output)}
            path.write_text(json.dumps(results, indent=1, ensure_ascii=False))
        if name in TABLES:
            CONSOLE.print(*TABLES[name](results[name]))
        else:
            CONSOLE.print(*results[name]["files"], sep="\n")


# ---- Artists ---------------------------------------------------------------------------------------------------------


def artists(bench: Bench, _: Path, count: int = 5, windows: int = 100) -> Result:
    """Takes as each of the `count` artists with most music, judged by a classifier."""
    names, learned, kept = _parts(bench, count)
    features: dict[bool, list[Tensor]] = {True: [], False: []}
    labels: dict[bool, list[int]] = {True: [], False: []}
    origins: list[str] = []  # the tracks of the windows that were kept from the classifier
    for label, name in enumerate(names):
        for held, tracks in ((False, learned[name]), (True, kept[name])):
            for i in shown(range(windows // (3 if held else 1)), f"{name}, {'kept' if held else 'learned'}"):
                audio = bench.crop(tracks[i % len(tracks)], bench.seconds, i)
                features[held].append(_features(reconstruct(bench.pipeline.codec, audio), bench.rate))
                labels[held].append(label)
                origins += [tracks[i % len(tracks)].content] * held
    known = torch.stack(features[False])
    judge = _classifier(known, torch.tensor(labels[False]), len(names))
    right = (judge(torch.stack(features[True])) == torch.tensor(labels[True])).double().numpy()

    made: Result = {}
    for guidance in GUIDANCE:
        takes = []
        for name in names:
            for take in shown(range(bench.takes), f"as {name}, guidance {guidance:g}"):
                audio = bench.pipeline.sample(
                    seconds=bench.seconds, artist=name, guidance=guidance, take=take, **bench.settings
                )
                takes.append(_features(audio, bench.rate))
        given = iter(judge(_aligned(torch.stack(takes), known)).tolist())
        verdicts = {name: [names[next(given)] for _ in range(bench.takes)] for name in names}
        hits = sum(verdict == name for name in names for verdict in verdicts[name])
        made[f"{guidance:g}"] = {**share(hits, bench.takes * len(names)), "verdicts": verdicts}
    return {
        "artists": names,
        "tracks": {name: {"learned": len(learned[name]), "kept": len(kept[name])} for name in names},
        "heldout": {name: sum(track.split == "heldout" for track in kept[name]) for name in names},
        "chance": 1 / len(names),
        "classifier": {"windows": len(right), "share": right.mean(), "interval": _by_track(right, origins)},
        "takes": made,
    }


def _parts(
    bench: Bench, count: int
) -> tuple[list[str], dict[str, list[PreparedTrack]], dict[str, list[PreparedTrack]]]:
    """The artists with most music, the tracks that the classifier learns from, and those that are kept from it."""
    by: dict[str, list[PreparedTrack]] = {}
    for track in bench.tracks:
        if track.artist in bench.artists and track.seconds > bench.seconds:
            by.setdefault(track.artist, []).append(track)
    many = sorted(by, key=lambda name: -sum(track.seconds for track in by[name] if track.split == "train"))
    names = [name for name in many if len(by[name]) > 1][:count]
    learned, kept = {}, {}
    for name in names:
        chance = np.random.default_rng(derive(bench.seed, "parts", name))
        mixed = [by[name][i] for i in chance.permutation(len(by[name]))]
        mixed.sort(key=lambda track: track.split)  # held-out before train
        held = max(-(-len(mixed) // 5), sum(track.split == "heldout" for track in mixed))
        kept[name], learned[name] = mixed[:held], mixed[held:]
    return names, learned, kept


def _features(audio: Tensor, rate: int) -> Tensor:
    """Of each mel band of audio [C, T] the mean, the spread and how it moves: [3·64], whatever its level."""
    mel = log_mel(audio.mean(dim=0), rate).double()
    mel = mel - mel.mean()
    return torch.cat([mel.mean(dim=1), mel.std(dim=1), mel.diff(dim=1).abs().mean(dim=1)])


def _aligned(takes: Tensor, music: Tensor) -> Tensor:
    """Takes [n, F] moved and stretched so that each feature has the mean and the spread that it has in music.

    What all takes share, such as the haze of a model that was not trained for long, is no sign of anybody; and of each
    artist there are as many.
    """
    standard = (takes - takes.mean(dim=0)) / takes.std(dim=0).clamp_min(1e-6)
    return standard * music.std(dim=0) + music.mean(dim=0)


def _classifier(x: Tensor, labels: Tensor, classes: int, decay: float = 0.03) -> Callable[[Tensor], Tensor]:
    """Multinomial logistic regression, fitted to x [N, F]: features [n, F] -> classes [n]."""
    mean, spread = x.mean(dim=0), x.std(dim=0).clamp_min(1e-6)
    weights = torch.zeros(x.shape[1], classes, dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(classes, dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, line_search_fn="strong_wolfe")

    def logits(features: Tensor) -> Tensor:
        return (features - mean) / spread @ weights + bias

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits(x), labels) + decay * weights.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call, arg-type, unused-ignore]
    return lambda features: logits(features).detach().argmax(dim=1)


def _by_track(right: NDArray[np.float64], origins: Sequence[str]) -> list[float]:
    """The 95 % interval of a mean over windows, whose tracks are drawn anew: windows of a track are alike."""
    tracks = sorted(set(origins))
    sums = np.array([[right[i], 1] for i in range(len(right))])
    each = np.array([sums[[origin == name for origin in origins]].sum(axis=0) for name in tracks])
    drawn = each[np.random.default_rng(0).integers(0, len(tracks), (2000, len(tracks)))].sum(axis=1)
    return [float(value) for value in np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])]


def share(hits: int, of: int) -> Result:
    """A share and its 95 % interval (Wilson 1927)."""
    z = 1.96
    middle = (hits + z * z / 2) / (of + z * z)
    half = z / (of + z * z) * math.sqrt(hits * (of - hits) / of + z * z / 4)
    return {"hits": hits, "of": of, "share": hits / of, "interval": [max(0.0, middle - half), min(1.0, middle + half)]}


# ---- Strength --------------------------------------------------------------------------------------------------------


def strength(bench: Bench, _: Path, seeds: int = 2) -> Result:
    """How far from a crop its variations are."""
    pipeline = bench.pipeline
    distances: dict[str, list[list[float]]] = {"mel": [], "latent": []}  # for each crop and seed, those of STRENGTHS
    through = []
    for crop in shown(list(bench.crops(max(2, bench.takes // 2), bench.seconds)), "varying"):
        z = pipeline.encode(crop)
        through.append(float(mel_distance(crop, reconstruct(pipeline.codec, crop), bench.rate)))
        for seed in range(bench.seed, bench.seed + seeds):
            made = [pipeline.sample(Vary(crop, each), seed=seed, steps=bench.steps) for each in STRENGTHS]
            distances["mel"].append([float(mel_distance(crop, each, bench.rate)) for each in made])
            distances["latent"].append([float((pipeline.encode(each) - z).square().mean().sqrt()) for each in made])
    result: Result = {"through the VAE": float(np.mean(through))}
    for name, rows in distances.items():
        means = np.mean(rows, axis=0)
        orders, rises = [_spearman(row) for row in rows], np.diff(rows, axis=1)
        errors = rises.std(axis=0, ddof=1) / math.sqrt(len(rows))
        result[name] = {
            "means": means.tolist(),
            "errors": (np.std(rows, axis=0, ddof=1) / math.sqrt(len(rows))).tolist(),
            "monotone": bool((np.diff(means) > 0).all()),
            # Of the rises from one strength to the next, the one that is most a fall, in its standard errors.
            "least rise": float((rises.mean(axis=0) / errors).min()),
            "spearman": {"mean": float(np.mean(orders)), "least": min(orders)},
            "runs": len(rows),
        }
    return result


def _spearman(values: list[float]) -> float:
    """Of values that should rise."""
    ranks = np.argsort(np.argsort(values))
    return float(np.corrcoef(ranks, np.arange(len(values)))[0, 1])


# ---- Joins -----------------------------------------------------------------------------------------------------------


def joins(bench: Bench, _: Path) -> Result:
    """How much jumps at the joins of every task that has some."""
    pipeline, rate, settings = bench.pipeline, bench.rate, bench.settings
    reach, fade = _reach(rate), round(FADE * rate)
    found: dict[str, list[list[float]]] = {name: [] for name in ("loop", "infill", "extend", "long piece", "cut")}
    real, worst = [], 0.0

    for crop in shown(list(bench.crops(2000, 2 * reach / rate + 0.01, heldout=False)), "real places"):
        real.append(_jumps(crop, reach, rate))
    for crop, other in zip(bench.crops(200, 1.0), bench.crops(200, 1.1), strict=True):
        found["cut"].append(_jumps(torch.cat([crop, other], dim=1), crop.shape[1], rate))
    for take in shown(range(bench.takes), "loops"):
        loop = pipeline.sample(Loop(bench.seconds), take=take, **settings)
        found["loop"].append(_jumps(torch.cat([loop, loop], dim=1), loop.shape[1], rate))
    for take, crop in enumerate(shown(list(bench.crops(bench.takes, 1.5 * bench.seconds)), "infills")):
        span = (0.5 * bench.seconds, 0.9 * bench.seconds)
        filled = pipeline.sample(Infill(crop, [span]), take=take, **settings)
        first, last = (round(time * rate) for time in span)
        found["infill"] += [_jumps(filled, first - fade // 2, rate), _jumps(filled, last + fade // 2, rate)]
        outside = torch.cat([(filled - crop)[:, : first - fade], (filled - crop)[:, last + fade :]], dim=1)
        worst = max(worst, float(outside.abs().max()))
    for take, crop in enumerate(shown(list(bench.crops(bench.takes, bench.seconds)), "continuations")):
        longer = pipeline.sample(Extend(crop, bench.seconds / 2), take=take, **settings)
        found["extend"].append(_jumps(longer, crop.shape[1] - fade // 2, rate))
    for take in shown(range(2), "long pieces"):
        piece = pipeline.sample(seconds=8 * bench.seconds, window=bench.seconds, take=take, **settings)
        found["long piece"] += [_jumps(piece, place, rate) for place in _windows(bench, piece.shape[1])]

    limits = np.quantile(real, 0.95, axis=0)
    result: Result = {"infill, outside": worst, "limits": dict(zip(STATISTICS, limits.tolist(), strict=True))}
    for name, rows in found.items():
        values = np.array(rows)
        result[name] = {
            statistic: {
                **share(int((values[:, i] < limits[i]).sum()), len(values)),
                "median": float(np.median(values[:, i])),
                # Of the real places, the share below the median.
                "percentile": float(100 * (np.array(real)[:, i] < np.median(values[:, i])).mean()),
            }
            for i, statistic in enumerate(STATISTICS)
        }
    return result


def _reach(rate: int) -> int:
    """Samples before and after a join: a window of `log_mel`."""
    return 1 << math.ceil(math.log2(0.064 * rate))


def _jumps(audio: Tensor, place: int, rate: int) -> list[float]:
    """STATISTICS of audio [C, T] at a sample."""
    reach, near = _reach(rate), round(0.0125 * rate)
    x = audio.mean(dim=0)[place - reach : place + reach].double()
    steps = x.diff()
    step = steps[reach - near : reach + near].abs().max() / steps.square().mean().sqrt().clamp_min(1e-6)
    before, after = (half.square().mean().clamp_min(1e-8).log() * DB for half in (x[:reach], x[reach:]))
    mel = log_mel(x, rate) * DB  # frames lie a quarter of the window apart: the third is all before, the seventh after
    return [float(step), float((after - before).abs()), float((mel[:, 6] - mel[:, 2]).abs().mean())]


def _windows(bench: Bench, samples: int) -> list[int]:
    """Where the windows of a long piece end, in samples."""
    pipeline = bench.pipeline
    frames, hop = pipeline.spec.frames(samples), pipeline.spec.hop
    ends = itertools.accumulate(window.used for window in plan(frames, bench.window_size))
    return [end * hop for end in ends if end * hop < samples - _reach(bench.rate)]


# ---- Pictures --------------------------------------------------------------------------------------------------------


def pictures(bench: Bench, folder: Path) -> Result:
    """A PNG for each task."""
    pipeline, seconds, settings = bench.pipeline, bench.seconds, bench.settings
    song, other = bench.crops(2, seconds)
    names, _, _ = _parts(bench, 2)
    span = (0.4 * seconds, 0.65 * seconds)
    loop = pipeline.sample(Loop(0.75 * seconds), **settings)
    long = pipeline.sample(seconds=8 * seconds, window=seconds, **settings)
    length = loop.shape[1] / bench.rate

    new = {f"take {i + 1}": pipeline.sample(seconds=seconds, take=i, **settings) for i in range(3)}
    mixture = ",".join(f"{name}:0.5" for name in names)
    by = {
        name: pipeline.sample(seconds=seconds, artist=name, guidance=3.0, **settings)
        for name in (*names, mixture)
        if name
    }
    varied = {f"strength {each:g}": pipeline.sample(Vary(song, each), **settings) for each in (0.3, 0.6, 0.9)}
    between = {
        f"{weight:.0%}": pipeline.sample(Interpolate(song, other, weight), **settings)
        for weight in (0, 0.25, 0.5, 0.75, 1)
    }
    filled = pipeline.sample(Infill(song, [span]), **settings)
    drawn: list[tuple[str, dict[str, Tensor], list[float], list[tuple[float, float]]]] = [
        ("new", new, [], []),
        ("artist", by, [], []),
        ("vary", {"a song": song, **varied}, [], []),
        (
            "infill",
            {"a song": song, "with a span made anew": filled},
            [],
            [span],
        ),
        (
            "extend",
            {"a song, and how it goes on": pipeline.sample(Extend(song, 1.5 * seconds), **settings)},
            [],
            [(seconds, 2.5 * seconds)],
        ),
        ("interpolate", between, [], []),
        ("loop", {"a loop, twice": torch.cat([loop, loop], dim=1)}, [length], []),
        ("long", {"a long piece, and where its windows meet": long}, [], []),
    ]
    marks = [place / bench.rate for place in _windows(bench, long.shape[1])]
    drawn = [each for each in drawn if each[1]]  # a model may know no artists
    for name, panels, lines, spans in drawn:
        draw(folder / f"{name}.png", panels, bench.rate, marks if name == "long" else lines, spans)
    return {"files": [str(folder / f"{name}.png") for name, *_ in drawn]}


def draw(
    path: Path, panels: dict[str, Tensor], rate: int, lines: list[float], spans: list[tuple[float, float]]
) -> None:
    """A small PNG of mel spectrograms one above the other, with lines and spans, in seconds, marked in all but a first
    of several.
    """
    columns = 440 if len(panels) == 1 else 220
    mels = [F.adaptive_avg_pool1d(log_mel(audio.mean(dim=0), rate) * DB, columns).numpy() for audio in panels.values()]
    loudest = max(float(mel.max()) for mel in mels)
    figure = Figure(figsize=(8.8, 0.35 + 1.15 * len(panels)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for i, (axis, mel, (label, audio)) in enumerate(zip(axes, mels, panels.items(), strict=True)):
        extent = (0, audio.shape[1] / rate, 0, len(mel))
        axis.imshow(mel, cmap="magma", origin="lower", aspect="auto", interpolation="nearest", extent=extent,
                    vmin=loudest - 60, vmax=loudest)  # fmt: skip
        axis.set_yticks([])
        box = {"facecolor": "black", "edgecolor": "none", "pad": 2}
        axis.text(0.006, 0.93, label, color="white", fontsize=8, va="top", transform=axis.transAxes, bbox=box)
        if i or len(panels) == 1:
            for line in lines:
                axis.axvline(line, color="cyan", linewidth=1)
            for span in spans:
                axis.plot(span, [1, 1], color="cyan", linewidth=3, scalex=False, scaley=False)
    axes[-1].set_xlabel("seconds", fontsize=8)
    axes[-1].tick_params(labelsize=8)
    whole = io.BytesIO()
    figure.savefig(whole, format="png")
    Image.open(whole).convert("RGB").quantize(32, dither=Image.Dither.NONE).save(path, optimize=True)


# ---- Tables ----------------------------------------------------------------------------------------------------------


def _percent(result: Result) -> str:
    low, high = result["interval"]
    return f"{100 * result['share']:.0f} % ({100 * low:.0f}–{100 * high:.0f})"


def _artist_tables(result: Result) -> Iterator[Table]:
    table = Table("", "right, of all", *result["artists"], title=f"Artists: chance is {100 * result['chance']:.0f} %")
    parts = [f"{each['learned']} / {each['kept']}" for each in result["tracks"].values()]
    table.add_row("tracks learned / kept", "", *parts)
    table.add_row("kept from the model too", "", *map(str, result["heldout"].values()))
    table.add_row("windows of kept tracks", _percent(result["classifier"]))
    for guidance, each in result["takes"].items():
        hits = [f"{each['verdicts'][name].count(name)} of {len(each['verdicts'][name])}" for name in result["artists"]]
        table.add_row(f"takes, guidance {guidance}", _percent(each), *hits)
    yield table


def _strength_tables(result: Result) -> Iterator[Table]:
    kinds = [result[name] for name in ("mel", "latent")]
    table = Table("strength", "mel", "latent", title="Distance from the input")
    for i, value in enumerate(STRENGTHS):
        table.add_row(f"{value:g}", *(f"{each['means'][i]:.3f} ± {each['errors'][i]:.3f}" for each in kinds))
    table.add_section()
    table.add_row("monotone", *("yes" if each["monotone"] else "no" for each in kinds))
    table.add_row("least rise / its error", *(f"{each['least rise']:.1f}" for each in kinds))
    orders = [each["spearman"] for each in kinds]
    table.add_row("Spearman, mean / least", *(f"{each['mean']:.3f} / {each['least']:.3f}" for each in orders))
    table.caption = f"Means of {kinds[0]['runs']} ± standard error. The VAE alone: mel {result['through the VAE']:.2f}."
    yield table


def _join_tables(result: Result) -> Iterator[Table]:
    table = Table(
        "", *STATISTICS, title="Joins below the 95th percentile of real places; and their median's percentile"
    )
    for name in ("loop", "infill", "extend", "long piece", "cut"):
        table.add_row(name, *(f"{_percent(each)}, {each['percentile']:.0f}." for each in result[name].values()))
    table.caption = f"Infill, the largest difference outside the span: {result['infill, outside']:g}"
    yield table


MEASUREMENTS: dict[str, Callable[[Bench, Path], Result]] = {
    "artists": artists,
    "strength": strength,
    "joins": joins,
    "pictures": pictures,
}
TABLES: dict[str, Callable[[Result], Iterator[Table]]] = {
    "artists": _artist_tables,
    "strength": _strength_tables,
    "joins": _join_tables,
}

if __name__ == "__main__":
    main()
