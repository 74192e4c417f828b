"""Are copies found, and nothing else? `python benchmarks/memorisation.py DATA STORE`

Of the waveforms DATA and their latents STORE: passages of training tracks, which a model that copies would give back,
and as many of held-out tracks, each of them disturbed in the ways below. How well `evaluate memory` tells the two
apart is the area under the ROC curve (Hanley & McNeil 1982): the share of pairs in which the copy is the nearer one to
the training music. Silence is passed over, since nobody can say whence it is.
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

from musicldm.codecs.vae.model import VAE
from musicldm.codecs.windows import reconstruct
from musicldm.core import durable
from musicldm.evaluate.memorization import BEYOND, COPIED, Memory, levels
from musicldm.latents.encode import VAE_COPY
from musicldm.latents.store import LatentStore
from musicldm.media.audio import files
from musicldm.media.audio.dataset import open_splits
from musicldm.media.audio.decode import decode
from musicldm.media.audio.manifest import PreparedTrack

Audio = files.Floats
Disturb = Callable[[Audio], Audio]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the waveforms that preprocess made")
    parser.add_argument("store", type=Path, help="their latents")
    parser.add_argument("--vae", type=Path, help="another VAE for the round trip than the store's")
    parser.add_argument("--cache", type=Path, help="where to keep what is found out about the store")
    parser.add_argument("--passages", type=int, default=200, help="of each kind")
    parser.add_argument("--seconds", type=float, default=8, help="of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args()

    store = LatentStore.open(options.store)
    with store.reading(VAE_COPY) as copy:
        vae = VAE.load(options.vae or copy)
    began = time.perf_counter()
    memory = Memory.of(store, cache=options.cache)
    ready = time.perf_counter() - began

    rate, hop = store.header.rate, store.header.hop
    splits = open_splits(options.data, rate, store.header.media_channels)
    stored = {entry.key for entry in store.tracks}
    ways = disturbances(vae, rate)
    scores: dict[str, dict[str, list[float]]] = {way: {"train": [], "heldout": []} for way in ways}
    began = time.perf_counter()
    for split, tracks in splits.items():
        there = [track for track in tracks if store.header.key(track.content) in stored]
        chance = np.random.default_rng([options.seed, split == "heldout"])
        for audio in drawn(there, memory, options.passages, round(options.seconds * rate), hop, chance):
            for way, (offset, disturb) in ways.items():
                piece = audio[:, hop // 3 :] if offset else audio[:, : -(hop // 3)]
                scores[way][split].append(nearest(memory, disturb(np.ascontiguousarray(piece)), rate))
    spent = time.perf_counter() - began

    usual = memory.usual(positions(options.seconds, rate, memory))
    threshold = max(COPIED, float(np.quantile(usual, BEYOND)))
    rows = {way: judged(np.array(each["train"]), np.array(each["heldout"]), threshold) for way, each in scores.items()}
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
    for way, row in rows.items():
        table.add_row(
            way,
            f"{row['auc']:.4f}",
            *(f"{row[name]:.3f}" for name in list(row)[1:5]),
            *(f"{row[name]:.1%}" for name in list(row)[5:]),
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    console = Console(width=140)
    console.print(
        f"{options.passages} training and {options.passages} held-out passages of {options.seconds:g} s, against "
        f"{memory.passages} passages of {memory.hours:.2f} h; {len(memory.heldout)} held-out tracks of "
        f"{memory.heldout_hours:.2f} h, in {len(usual)} stretches. Copied is what lies above {threshold:.2f}."
    )
    console.print(table)
    console.print(f"{ready:.0f} s until the store was ready, {spent:.0f} s for all passages; {peak:.0f} MiB at most.")
    if options.json:
        durable.write_json(
            options.json, {"threshold": threshold, "ready": ready, "spent": spent, "peak": peak, "rows": rows}
        )


def disturbances(vae: VAE, rate: int) -> dict[str, tuple[bool, Disturb]]:
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

    def through_vae(audio: Audio) -> Audio:
        return reconstruct(vae, torch.from_numpy(audio)).numpy()

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
        "the VAE and back": (False, through_vae),
        "offset, VAE, mp3 and -3 dB": (True, lambda audio: quieter(through_mp3(through_vae(audio)))),
    }


def drawn(
    tracks: list[PreparedTrack], memory: Memory, count: int, samples: int, hop: int, chance: np.random.Generator
) -> Iterator[Audio]:
    """Passages of `samples` and a third of a hop, anywhere in the tracks in which something can be recognised."""
    rooms = np.array([max(0, track.samples - samples - hop) for track in tracks])
    while count:
        number = int(chance.choice(len(tracks), p=rooms / rooms.sum()))
        start = int(chance.integers(rooms[number] // hop + 1)) * hop
        audio = tracks[number].read(start, start + samples + hop // 3)
        if nearest(memory, audio, tracks[number].sample_rate) >= 0:
            count -= 1
            yield audio


def nearest(memory: Memory, audio: Audio, rate: int) -> float:
    """The similarity of the nearest training passage; -1 where there is nothing to recognise."""
    frames = np.concatenate(list(levels([torch.from_numpy(audio)], rate)))
    return float(memory.nearest(frames)[0].max())


def positions(seconds: float, rate: int, memory: Memory) -> int:
    """Where a passage may begin in so many seconds of sound."""
    silence = torch.zeros(1, round(seconds * rate))
    return len(memory.nearest(np.concatenate(list(levels([silence], rate))))[0])


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
