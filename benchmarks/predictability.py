"""Do latents follow the notes? `python benchmarks/predictability.py STORE MIDI_FOLDER`

What a generator has to learn is which notes sound. So a small network is told exactly that, for every frame, and
learns to say the frame's latents; what it explains of the variance of held-out pieces is the R² told the notes. Beside
it stand the figures of `musicldm latents stats`.

Told of each of 88 keys: the velocity of an onset in the frame and where in the frame it is, whether the note sounds
(the pedal included), and its velocity, decaying since the onset at two speeds. The network is a linear map and four
residual convolutions over time; its training is --seconds of processor time on one thread, whatever the machine does.

A track belongs to the MIDI file whose name stands in brackets in the track's: `Composer/Title [elise].wav` to
`elise.mid`, anywhere below MIDI_FOLDER. The audio must be fluidsynth's (see `midi.py`), and not trimmed; where
`preprocess --trim-silence` took off what comes before the first note, say --trimmed. A fifth of the pieces is held out,
chosen by the names, so that other stores of the same music hold out the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from midi import PITCHES, Notes, files_in, name_of, notes_of
from torch import Tensor, nn

from musicldm.latents.predictability import predictability
from musicldm.latents.store import LatentStore, TrackEntry

CROP, BATCH = 256, 8  # frames, crops
DECAYS = 0.25, 1.5  # seconds
CHANNELS = (3 + len(DECAYS)) * len(PITCHES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("midis", type=Path)
    parser.add_argument("--seconds", type=float, default=75, help="of processor time, for training")
    parser.add_argument("--width", type=int, default=128, help="of the network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trimmed", action="store_true", help="the silence before the first note was taken off")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    store = LatentStore.open(options.store)
    pieces = pieces_of(store, options.midis, options.trimmed)
    heldout = {piece.name for piece in sorted(pieces, key=lambda piece: digest(piece.name))[: max(1, len(pieces) // 5)]}
    taught = [piece for piece in pieces if piece.name not in heldout]
    judged = [piece for piece in pieces if piece.name in heldout]
    network, steps = trained(store, taught, options.width, options.seconds, options.seed)
    in_time = predictability(store)
    found = {
        "pieces": len(taught),
        "heldout": len(judged),
        "steps": steps,
        "change": in_time.mean.change if in_time else None,
        "r2_of_next": in_time.mean.r2 if in_time else None,
        **r2_told(store, network, judged, options.seed),
    }
    print(
        json.dumps(found) if options.json else "\n".join(f"{name:<22}{shown(value)}" for name, value in found.items())
    )


def shown(value: float | int | None) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


# ---- Music and notes


@dataclass(frozen=True)
class Piece:
    name: str
    """Of its MIDI file."""
    entry: TrackEntry
    notes: Notes


def pieces_of(store: LatentStore, midis: Path, trimmed: bool) -> list[Piece]:
    """The tracks of which there are notes, whether they are held out from training or not."""
    files = files_in(midis)
    pieces = []
    for entry in store.tracks:
        name = name_of(entry.source)
        if name in files and entry.frames >= CROP:
            pieces.append(Piece(name, entry, notes_of(files[name], trimmed=trimmed)))
    if len(pieces) < 2:
        raise SystemExit(f"{store.path} has {len(pieces)} tracks named after a file in {midis}: two are needed.")
    return sorted(pieces, key=lambda piece: piece.name)


def roll(notes: Notes, start: int, stop: int, frame_rate: float) -> np.ndarray:
    """What the network is told of frames `start` to `stop`: [CHANNELS, L]."""
    told = np.zeros((3 + len(DECAYS), len(PITCHES), stop - start), np.float32)
    centres = (np.arange(start, stop) + 0.5) / frame_rate
    sounding = (notes.onset < stop / frame_rate) & (notes.end > start / frame_rate)
    for number in np.flatnonzero(sounding):
        onset, key, velocity = notes.onset[number], notes.key[number], notes.velocity[number]
        first = int(onset * frame_rate) - start
        frames = slice(max(0, first), max(0, first) + max(1, math.ceil(notes.end[number] * frame_rate) - start))
        if 0 <= first < stop - start:
            told[:2, key, first] = velocity, onset * frame_rate % 1
        told[2, key, frames] = 1
        since = np.maximum(0, centres[frames] - onset)
        for channel, seconds in enumerate(DECAYS, 3):
            told[channel, key, frames] = velocity * np.exp(-since / seconds)
    return told.reshape(CHANNELS, -1)


# ---- The network


class Network(nn.Module):
    """What it is told [B, CHANNELS, L] -> latents [B, D, L]."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(CHANNELS, width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv1d(width, width, 3, padding=d, dilation=d) for d in (1, 2, 4, 8))
        self.last = nn.Conv1d(width, channels, 1)

    def forward(self, told: Tensor) -> Tensor:
        x = self.first(told)
        for block in self.blocks:
            x = x + block(F.gelu(x))
        return self.last(F.gelu(x))


def trained(store: LatentStore, pieces: list[Piece], width: int, seconds: float, seed: int) -> tuple[nn.Module, int]:
    """A network that has learned on some pieces for so long, and in how many steps."""
    statistics, rate = store.statistics(), store.header.frame_rate
    rng = np.random.default_rng(seed)
    weights = np.array([piece.entry.frames for piece in pieces], float)
    network = Network(width, store.header.channels)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    # Raw latents on one scale, so that a channel counts by its variance.
    scale = float(np.sqrt(np.square(statistics.std).mean()))
    mean = torch.tensor(statistics.mean)[:, None]
    begin, step = time.process_time(), 0
    while (gone := (time.process_time() - begin) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * gone))
        told, latents = [], []
        for piece in rng.choice(len(pieces), BATCH, p=weights / weights.sum()):
            start = int(rng.integers(pieces[piece].entry.frames - CROP + 1))
            told.append(roll(pieces[piece].notes, start, start + CROP, rate))
            latents.append(drawn(store, pieces[piece].entry, start, start + CROP, rng)[0].T)
        target = (torch.from_numpy(np.stack(latents)) - mean) / scale
        loss = F.mse_loss(network(torch.from_numpy(np.stack(told))), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
    with torch.no_grad():  # raw latents from here on
        network.last.weight *= scale
        network.last.bias.mul_(scale).add_(mean[:, 0])
    return network.eval(), step


def drawn(
    store: LatentStore, entry: TrackEntry, start: int, stop: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A draw of the posterior and its mean, each [L, D]."""
    mean, logvar = (array.astype(np.float32) for array in store.read(entry, start, stop))
    return mean + np.exp(0.5 * logvar) * rng.standard_normal(mean.shape, dtype=np.float32), mean


@torch.no_grad()
def r2_told(store: LatentStore, network: nn.Module, pieces: list[Piece], seed: int) -> dict[str, float]:
    """R² on pieces that the network has not seen: of all channels by their variance, and averaged over them."""
    rng = np.random.default_rng(seed + 1)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for piece in pieces:
        told = torch.from_numpy(roll(piece.notes, 0, piece.entry.frames, store.header.frame_rate))
        parts.append((network(told[None])[0].T.numpy(), *drawn(store, piece.entry, 0, piece.entry.frames, rng)))
    said, draws, means = (np.concatenate(part) for part in zip(*parts, strict=True))
    errors, variance = np.square(draws - said).mean(axis=0), draws.var(axis=0)
    return {
        "r2_told": float(1 - errors.sum() / variance.sum()),
        "r2_told_of_means": float(1 - np.square(means - said).mean(axis=0).sum() / means.var(axis=0).sum()),
        "r2_told_by_channel": float((1 - errors / np.maximum(variance, 1e-12)).mean()),
    }


if __name__ == "__main__":
    main()
