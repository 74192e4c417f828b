"""Does each metric detect what is wrong? `python benchmarks/sensitivity.py DATA [--model BUNDLE]`

Half of the tracks of DATA are the reference; pieces of the other half are measured against it as they are, and then
low-passed, with noise, at another pitch, and with time shuffled, each in increasing degrees. A metric detects a fault
where it moves in the right direction by more than half of its 95 % interval: distances up, likeness down. In the table,
+ means detected, . moved by less, and - moved in the wrong direction.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchaudio
from rich.console import Console
from rich.table import Table
from torch import Tensor

from musicldm.codecs.base import load_codec
from musicldm.core import durable
from musicldm.core.seeding import derive
from musicldm.evaluate.extractor import FeatureExtractor, PieceFeatures, statistics_of
from musicldm.evaluate.figures import Figure, figures_of
from musicldm.evaluate.sounds import Piece, music_in, pieces_of
from musicldm.media.audio.decode import resample

Fault = Callable[[Tensor, int, torch.Generator], Tensor]
"""A sound [C, T], its rate and a random generator -> the sound with something wrong."""

RISING = {"frechet", "mmd", "two_sample"}
SHOWN = {"frechet": 2, "mmd": 4, "density": 2, "coverage": 2, "two_sample": 2, "consistency": 3, "variance": 3}


def low_pass(hertz: float) -> Fault:
    def cut(audio: Tensor, rate: int, _: torch.Generator) -> Tensor:
        spectrum = torch.fft.rfft(audio)
        spectrum[:, torch.fft.rfftfreq(audio.shape[1], 1 / rate) > hertz] = 0
        found: Tensor = torch.fft.irfft(spectrum, audio.shape[1])
        return found

    return cut


def noise(decibels: float) -> Fault:
    def add(audio: Tensor, _: int, rng: torch.Generator) -> Tensor:
        level = audio.square().mean().sqrt() * 10 ** (-decibels / 20)
        return audio + level * torch.randn(audio.shape, generator=rng)

    return add


def pitch(semitones: int) -> Fault:
    def shift(audio: Tensor, rate: int, _: torch.Generator) -> Tensor:
        ratio, size = 2 ** (semitones / 12), 2048
        window = torch.hann_window(size)
        spectrum = torch.stft(audio, size, size // 4, window=window, return_complex=True)
        advance = torch.linspace(0, torch.pi * size / 4, size // 2 + 1)[:, None]
        longer = torchaudio.functional.phase_vocoder(spectrum, 1 / ratio, advance)
        slow = torch.istft(longer, size, size // 4, window=window)
        # torchaudio's own resampling would make a filter for each of thousands of phases.
        back = torch.from_numpy(resample(slow.numpy(), round(rate * ratio), rate))
        return torch.nn.functional.pad(back, (0, max(0, audio.shape[1] - back.shape[1])))[:, : audio.shape[1]]

    return shift


def shuffle(seconds: float) -> Fault:
    def mix(audio: Tensor, rate: int, rng: torch.Generator) -> Tensor:
        blocks = torch.split(audio, round(seconds * rate), dim=1)
        return torch.cat([blocks[i] for i in torch.randperm(len(blocks), generator=rng)], dim=1)

    return mix


FAULTS: dict[str, Fault] = {
    **{f"low-pass {hertz} Hz": low_pass(hertz) for hertz in (4000, 2000, 1000)},
    **{f"noise at {decibels} dB": noise(decibels) for decibels in (40, 20, 0)},
    **{f"pitch +{semitones}": pitch(semitones) for semitones in (1, 6, 12)},
    **{f"shuffled {seconds} s": shuffle(seconds) for seconds in (4, 1, 0.1)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="what preprocess made, or any folder of music")
    parser.add_argument("--model", type=Path, help="with the codec for distances in latent space")
    parser.add_argument("--pieces", type=int, default=60, help="of either half of the tracks")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    began = time.perf_counter()
    codec = load_codec(options.model) if options.model else None
    rate, channels = (codec.spec.rate, codec.spec.media_channels) if codec else (16000, 1)
    sounds = music_in(options.data, rate, channels, "all")
    lengths = [sound.seconds for sound in sounds]

    def pieces(half: int) -> list[Piece]:
        return list(pieces_of(sounds[half::2], lengths[half::2], options.seconds, options.pieces, {}))

    reference, others = pieces(0), pieces(1)
    extract = FeatureExtractor(rate, rate, codec, statistics_of(reference, codec) if codec else None, None)
    theirs = [extract(piece) for piece in reference]
    table = {"as it is": judged([extract(piece) for piece in others], theirs)}
    for name, fault in FAULTS.items():
        table[name] = judged([extract(broken(piece, name, fault, rate)) for piece in others], theirs)
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    show(table)
    about = f"{len(others)} pieces of {options.seconds:g} s against {len(reference)} of other tracks of {options.data}"
    Console(width=200).print(f"{about}; {time.perf_counter() - began:.0f} s.")
    if options.json:
        rows = {name: {key: figure.estimate.value for key, figure in row.items()} for name, row in table.items()}
        durable.write_json(options.json, {"about": about, "table": rows})


def broken(piece: Piece, name: str, fault: Fault, rate: int) -> Piece:
    rng = torch.Generator().manual_seed(derive(piece.name, name))
    return Piece(f"{piece.name}, {name}", piece.track, fault(piece.audio, rate, rng))


def judged(pieces: list[PieceFeatures], theirs: list[PieceFeatures]) -> dict[str, Figure]:
    """By metric and embedding."""
    return {f"{each.metric} {each.embedding}": each for each in figures_of(pieces, theirs) if each.metric in SHOWN}


def show(table: dict[str, dict[str, Figure]]) -> None:
    """A row for each fault, and beside each figure whether the metric detected it."""
    before = table["as it is"]
    shown = Table("", *before)
    shown.columns[0].no_wrap = True
    detected = dict.fromkeys(before, 0)
    for name, row in table.items():
        cells = []
        for key, figure in row.items():
            mark = "" if row is before else verdict(before[key], figure)
            detected[key] += mark == "+"
            value = figure.estimate.value
            cells.append("-" if value is None else f"{value:.{SHOWN[figure.metric]}f}{mark}")
        shown.add_row(name, *cells)
    shown.add_row("detected", *(f"{count} of {len(FAULTS)}" for count in detected.values()))
    Console(width=200).print(shown)


def verdict(before: Figure, after: Figure) -> str:
    one, other = before.estimate, after.estimate
    if one.value is None or other.value is None:
        return ""
    moved = (other.value - one.value) * (1 if after.metric in RISING else -1)
    margin = 0.0 if one.high is None else max(one.high - one.value, one.value - (one.low or 0.0))
    return "+" if moved > margin else "-" if moved < -margin else "."


if __name__ == "__main__":
    main()
