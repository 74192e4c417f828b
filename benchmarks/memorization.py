"""Are copies found, and nothing else? `python benchmarks/memorization.py DATA STORE`

From the waveforms DATA and their latents STORE: passages of training tracks, as a model that copies would produce them,
and as many of held-out tracks, each of them with every disturbance below. How well `evaluate memory` tells the two
apart is the area under the ROC curve (Hanley & McNeil 1982): the fraction of pairs in which the copy is closer to the
training music. Silence is skipped, since nobody can say which track it is of.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from musicldm.codecs.base import Codec, load_codec
from musicldm.codecs.windows import reconstruct
from musicldm.core import durable
from musicldm.evaluate.memorization import BEYOND, COPIED, TrainingPassages
from musicldm.evaluate.passages import levels
from musicldm.evaluate.stores import codec_for
from musicldm.latents.store import LatentStore
from musicldm.media.audio import files
from musicldm.media.audio.decode import decode
from musicldm.media.dataset import open_splits
from musicldm.media.manifest import PreparedTrack

Audio = files.Floats
Disturb = Callable[[Audio], Audio]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the waveforms that preprocess made")
    parser.add_argument("store", type=Path, help="their latents")
    parser.add_argument("--codec", type=Path, help="another codec for the round trip than the store's")
    parser.add_argument("--cache", type=Path, help="where to keep the index of the store")
    parser.add_argument("--passages", type=int, default=200, help="of each kind")
    parser.add_argument("--seconds", type=float, default=8, help="of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args()

    store = LatentStore.open(options.store)
    codec = load_codec(options.codec) if options.codec else codec_for(store)
    began = time.perf_counter()
    passages = TrainingPassages.of(store, cache=options.cache)
    ready = time.perf_counter() - began

    rate, hop = codec.spec.rate, codec.spec.hop
    splits = open_splits(options.data, rate, codec.spec.media_channels)
    stored = {entry.key for entry in store.tracks}
    disturbed = disturbances(codec, rate)
    scores: dict[str, dict[str, list[float]]] = {name: {"train": [], "heldout": []} for name in disturbed}
    began = time.perf_counter()
    for split, tracks in splits.items():
        there = [track for track in tracks if store.header.key(track.content) in stored]
        rng = np.random.default_rng([options.seed, split == "heldout"])
        for audio in drawn(there, passages, options.passages, round(options.seconds * rate), hop, rng):
            for name, (offset, disturb) in disturbed.items():
                piece = audio[:, hop // 3 :] if offset else audio[:, : -(hop // 3)]
                scores[name][split].append(nearest(passages, disturb(np.ascontiguousarray(piece)), rate))
    spent = time.perf_counter() - began

    held_out = passages.typical(positions(options.seconds, rate, passages))
    threshold = max(COPIED, float(np.quantile(held_out, BEYOND)))
    rows = {
        name: judged(np.array(each["train"]), np.array(each["heldout"]), threshold) for name, each in scores.items()
    }
    copies, heldout = (np.concatenate([each[split] for each in scores.values()]) for split in ("train", "heldout"))
    rows["all of these"] = judged(copies, heldout, threshold)
    table = Table(
        "disturbed by",
        "AUC",
        "copies: lowest",
        "median",
        "held-out: median",
        "highest",
        "copies called copied",
        "held-out called so",
    )
    for title, row in rows.items():
        table.add_row(
            title,
            f"{row['auc']:.4f}",
            *(f"{row[name]:.3f}" for name in list(row)[1:5]),
            *(f"{row[name]:.1%}" for name in list(row)[5:]),
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    console = Console(width=140)
    console.print(
        f"{options.passages} training and {options.passages} held-out passages of {options.seconds:g} s, against "
        f"{passages.count} passages of {passages.hours:.2f} h; {len(passages.heldout)} held-out tracks of "
        f"{passages.heldout_hours:.2f} h, in {len(held_out)} stretches. Copied is what lies above {threshold:.2f}."
    )
    console.print(table)
    console.print(f"{ready:.0f} s until the store was ready, {spent:.0f} s for all passages; {peak:.0f} MiB at most.")
    if options.json:
        durable.write_json(
            options.json, {"threshold": threshold, "ready": ready, "spent": spent, "peak": peak, "rows": rows}
        )


def disturbances(codec: Codec, rate: int) -> dict[str, tuple[bool, Disturb]]:
    """By name: whether the passage begins a third of a hop later, and what else is done to it."""

    def through_mp3(audio: Audio) -> Audio:
        with tempfile.TemporaryDirectory() as folder:
            wav, mp3 = Path(folder) / "a.wav", Path(folder) / "a.mp3"
            files.write(wav, audio, rate)
            command = [files.find_ffmpeg(), "-v", "error", "-i", str(wav)]
            subprocess.run(
                [*command, "-c:a", "libmp3lame", "-b:a", "96k", str(mp3)], check=True, stdin=subprocess.DEVNULL
            )
            return np.concatenate(list(decode(mp3, rate, len(audio))), axis=1)

    def through_codec(audio: Audio) -> Audio:
        return reconstruct(codec, torch.from_numpy(audio)).numpy()

    def louder(audio: Audio) -> Audio:
        return audio * np.float32(10 ** (3 / 20))

    def quieter(audio: Audio) -> Audio:
        return audio * np.float32(10 ** (-3 / 20))

    return {
        "nothing": (False, lambda audio: audio),
        "+3 dB": (False, louder),
        "-3 dB": (False, quieter),
        "96 kb/s mp3": (False, through_mp3),
        "an offset off the hop": (True, lambda audio: audio),
        "the codec and back": (False, through_codec),
        "offset, codec, mp3 and -3 dB": (True, lambda audio: quieter(through_mp3(through_codec(audio)))),
    }


def drawn(
    tracks: list[PreparedTrack],
    passages: TrainingPassages,
    count: int,
    samples: int,
    hop: int,
    rng: np.random.Generator,
) -> Iterator[Audio]:
    """Passages of `samples` and a third of a hop, anywhere in the tracks in which something can be recognised."""
    rooms = np.array([max(0, track.length - samples - hop) for track in tracks])
    while count:
        number = int(rng.choice(len(tracks), p=rooms / rooms.sum()))
        start = int(rng.integers(rooms[number] // hop + 1)) * hop
        audio = tracks[number].read(start, start + samples + hop // 3)
        if nearest(passages, audio, tracks[number].sample_rate) >= 0:
            count -= 1
            yield audio


def nearest(passages: TrainingPassages, audio: Audio, rate: int) -> float:
    """The similarity of the nearest training passage; -1 where there is nothing to recognise."""
    frames = np.concatenate(list(levels([torch.from_numpy(audio)], rate)))
    return float(passages.nearest(frames)[0].max())


def positions(seconds: float, rate: int, passages: TrainingPassages) -> int:
    """The number of frames at which a passage can begin in so many seconds of sound."""
    silence = torch.zeros(1, round(seconds * rate))
    return len(passages.nearest(np.concatenate(list(levels([silence], rate))))[0])


def judged(copies: NDArray[np.float64], heldout: NDArray[np.float64], threshold: float) -> dict[str, float]:
    """The area under the curve, ties counting half, and where the two kinds lie."""
    pairs = copies[:, None] - heldout[None]
    return {
        "auc": float(((pairs > 0) + 0.5 * (pairs == 0)).mean()),
        "lowest": float(copies.min()),
        "median": float(np.median(copies)),
        "heldout_median": float(np.median(heldout)),
        "heldout_highest": float(heldout.max()),
        "copied": float((copies > threshold).mean()),
        "false": float((heldout > threshold).mean()),
    }


if __name__ == "__main__":
    main()
