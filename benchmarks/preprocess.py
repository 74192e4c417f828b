"""How fast and how clean is preprocess beside ffmpeg and pydub? `python benchmarks/preprocess.py FOLDER`

Three tables. Speed: hours of music a minute over the files in FOLDER, ours and ffmpeg's in turn with as many processes,
as ratios of one run. Where our time goes: processor seconds on the longest file. Quality: tones above the new Nyquist
frequency that are left, tones below it that are changed, and the level of a stereo file's mono.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import soundfile
from rich.console import Console
from rich.table import Table

from musicldm.media.audio import files
from musicldm.media.audio.decode import decode, probe
from musicldm.media.audio.loudness import LoudnessMeter
from musicldm.media.audio.prepare import PrepareSettings, prepare

RATE = 16000
SOXR, DEFAULT = ["-af", "aresample=resampler=soxr"], []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="music; without it, only the quality is measured")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    console = Console(width=110)
    with tempfile.TemporaryDirectory() as temporary:
        if options.folder:
            console.print(speed(options.folder, Path(temporary), options.jobs, options.rounds))
            console.print(profile(options.folder, Path(temporary)))
        console.print(quality(Path(temporary)))


# ---- Speed


def speed(folder: Path, temporary: Path, jobs: int, rounds: int) -> Table:
    sources = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    hours = sum(probe(path).seconds or 0 for path in sources) / 3600
    ways: dict[str, Callable[[Path], None]] = {
        "musicldm preprocess": lambda out: ours(folder, out, jobs),
        "ffmpeg, soxr": lambda out: ffmpeg_over(sources, out, jobs, SOXR),
        "ffmpeg, its default": lambda out: ffmpeg_over(sources, out, jobs, DEFAULT),
    }
    minutes: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            out = temporary / f"{number} {name}"
            start = time.perf_counter()
            way(out)
            minutes[name].append((time.perf_counter() - start) / 60)
            shutil.rmtree(out)
    title = f"{len(sources)} files, {hours:.2f} h, {jobs} processes, medians of {rounds} rounds in turn"
    table = Table("", "hours a minute", "ours over theirs", title=title)
    mine = minutes["musicldm preprocess"]
    for name, theirs in minutes.items():
        ratio = statistics.median(b / a for a, b in zip(mine, theirs, strict=True))
        table.add_row(name, f"{hours / statistics.median(theirs):.1f}", f"{ratio:.2f}")
    return table


def ours(folder: Path, out: Path, jobs: int) -> None:
    command = [sys.executable, "-m", "musicldm", "preprocess", folder, out, "--jobs", str(jobs), "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def ffmpeg_over(sources: list[Path], out: Path, jobs: int, resampler: list[str]) -> None:
    out.mkdir()
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda item: ffmpeg(item[1], out / f"{item[0]}.wav", resampler), enumerate(sources)))


def ffmpeg(source: Path, target: Path, resampler: list[str], codec: str = "pcm_s16le") -> None:
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-i", source, "-ac", "1", "-ar", str(RATE)]
    subprocess.run([*command, *resampler, "-c:a", codec, target], check=True)


def profile(folder: Path, temporary: Path) -> Table:
    """Where the processor's time goes, on the longest file."""
    source = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: probe(path).seconds or 0)
    blocks = list(decode(source, RATE, 1))

    def packets() -> None:
        with av.open(str(source)) as container:
            for packet in container.demux(container.streams.best("audio")):
                packet.decode()

    def meter() -> None:
        loudness = LoudnessMeter(RATE, 1)
        for block in blocks:
            loudness.add(block)

    def dither() -> None:
        chance = np.random.default_rng(0)
        for block in blocks:
            files.quantise(block, 16, chance)

    whole = processor_seconds(lambda: prepare(source, temporary / "whole.wav", PrepareSettings()))
    decoding = processor_seconds(packets)
    stages = {
        "unpack and decode (libavcodec)": decoding,
        "join, mix, resample (soxr)": processor_seconds(lambda: list(decode(source, RATE, 1))) - decoding,
        "loudness (EBU R128)": processor_seconds(meter),
        "dither to 16 bits": processor_seconds(dither),
    }
    table = Table("", "s", "share", title=f"{probe(source).seconds or 0:.0f} s of music: processor seconds")
    for name, seconds in (*stages.items(), ("spool, hash, write", whole - sum(stages.values())), ("in all", whole)):
        table.add_row(name, f"{seconds:.2f}", f"{seconds / whole:.0%}")
    return table


def processor_seconds(work: Callable[[], object], rounds: int = 3) -> float:
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


# ---- Quality


def quality(temporary: Path) -> Table:
    ways: dict[str, Callable[[Path, Path], object]] = {
        "musicldm preprocess": lambda source, target: prepare(source, target, PrepareSettings(bit_depth=24)),
        "ffmpeg, soxr": lambda source, target: ffmpeg(source, target, SOXR, "pcm_s24le"),
        "ffmpeg, its default": lambda source, target: ffmpeg(source, target, DEFAULT, "pcm_s24le"),
        "pydub": pydub,
    }
    titles = ["8.5 kHz", "9 kHz", "10 kHz left, dB", "20 Hz-7 kHz changed, dB", "mono of stereo, dB"]
    table = Table("", *titles, title="Tones at 44.1 kHz lowered to 16 kHz, 24 bits; mono against the channels' mean")
    for name, way in ways.items():

        def level(amplitudes: list[float], hertz: float, way: Callable[[Path, Path], object] = way) -> float:
            """dB of the output over a full-scale sine, for a sine of these amplitudes in the channels."""
            source, target = temporary / "tone.wav", temporary / "lowered.wav"
            wave = np.sin(2 * np.pi * hertz * np.arange(4 * 44100) / 44100)
            soundfile.write(source, np.outer(wave, amplitudes), 44100, subtype="FLOAT")
            way(source, target)
            samples, _ = soundfile.read(target)
            middle = samples[RATE:-RATE]  # without the ends, where filters ring
            return float(10 * np.log10(2 * np.mean(middle**2) + 1e-20))

        left = [level([0.99], hertz) for hertz in (8500, 9000, 10000)]
        below = (20, 50, 100, 200, 500, 1000, 2000, 3000, 4000, 5000, 6000, 6500, 7000)
        changed = max((level([0.5], hertz) - 20 * np.log10(0.5) for hertz in below), key=abs)
        mono = level([0.6, 0.2], 1000) - 20 * np.log10(0.4)
        table.add_row(name, *(f"{value:.0f}" for value in left), f"{changed:+.3f}", f"{mono:+.2f}")
    return table


def pydub(source: Path, target: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pydub import AudioSegment
    AudioSegment.from_file(source).set_channels(1).set_frame_rate(RATE).export(target, format="wav").close()


if __name__ == "__main__":
    main()
