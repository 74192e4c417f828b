"""One audio file of any kind to one waveform, in little RAM however long it is.

The decoded sound goes through a spool, in RAM or on disk, since its first sample depends on its last: offset,
loudness and the edges of silence are known only when all of it has been decoded. The output depends on the sound and on
the settings alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musicldm.core import durable
from musicldm.core.errors import ConfigError, DataError, OutputError
from musicldm.media import lengths
from musicldm.media.audio import files
from musicldm.media.audio.decode import BLOCK, AudioInfo, Floats, decode, probe
from musicldm.media.audio.loudness import LoudnessMeter
from musicldm.media.audio.mixing import Mixer, mixers
from musicldm.media.audio.spool import Spool
from musicldm.media.takes import TakeError, is_take

_OFFSET = 1e-3  # a mean above -60 dBFS is a fault of the recording and removed; below, it is inaudible
_SILENT = 1e-5  # peak; -100 dBFS
_QUIET = 1e-6  # mean square at the edges that --trim-silence removes; -60 dBFS
_CEILING = 10 ** (-1 / 20)  # peak; -1 dBFS, which a gain in loudness may not exceed


@dataclass(frozen=True)
class PrepareSettings:
    """The format of every output, and what is refused."""

    sample_rate: int = 16000
    bit_depth: int = 16
    """8, 16 or 24; the first two with triangular dither."""
    channels: int = 1
    """1 or 2."""
    format: str = "wav"
    """wav or flac."""
    loudness: float | None = None
    """LUFS to bring each track to; one whose peak would then exceed -1 dBFS stays quieter."""
    trim_silence: bool = False
    """Remove what is below -60 dBFS RMS at either end."""
    min_seconds: float = 0.1
    """What is shorter is refused; 0 takes even one sample."""
    max_seconds: float | None = None
    """What is longer is refused."""
    keep_silent: bool = False
    """Accept what is silent from end to end, which is refused otherwise."""
    clip: bool = False
    """Clip what lies beyond full scale; otherwise a sound that peaks there is lowered as a whole."""
    include_takes: bool = False
    """Accept takes of `musicldm sample`, which are refused otherwise."""

    def __post_init__(self) -> None:
        if not 1000 <= self.sample_rate <= 384000:
            raise ConfigError(f"The sample rate cannot be {self.sample_rate} Hz.", "Choose one from 1000 to 384000.")
        if self.bit_depth not in files.BIT_DEPTHS:
            raise ConfigError(f"The bit depth cannot be {self.bit_depth}.", "Choose 8, 16 or 24.")
        if self.channels not in (1, 2):
            raise ConfigError(f"{self.channels} is not a valid number of channels.", "Choose 1 or 2.")
        if self.format not in files.WAVEFORMS:
            raise ConfigError(
                f"Waveforms cannot be stored as {self.format}.", f"Choose {' or '.join(files.WAVEFORMS)}."
            )
        if self.format == "flac" and self.sample_rate > 65535 and self.sample_rate % 10:
            raise ConfigError(
                f"FLAC cannot have a sample rate of {self.sample_rate} Hz.",
                "Choose a multiple of 10, one below 65536, or wav.",
            )
        if self.loudness is not None and not -60 <= self.loudness <= 0:
            raise ConfigError(f"The loudness cannot be {self.loudness:g} LUFS.", "Choose one from -60 to 0.")
        lengths.check(self.min_seconds, self.max_seconds)

    @property
    def suffix(self) -> str:
        """Of the outputs' names."""
        return f".{self.format}"

    def shaping(self) -> dict[str, Any]:
        """The settings on which the samples of an output depend."""
        keys = ("sample_rate", "bit_depth", "channels", "format", "loudness", "trim_silence")
        # Only where it is on: the settings of earlier releases, which did not know it, stay the same settings.
        return {key: getattr(self, key) for key in keys} | ({"clip": True} if self.clip else {})

    def refuses(self, record: dict[str, Any]) -> str:
        """Why the sound of a record is refused; empty where it is not."""
        return self.refusal(record["samples"], record["silent"])

    def refusal(self, samples: int, silent: bool) -> str:
        """Why a sound of so many samples is refused; empty where it is not."""
        seconds = samples / self.sample_rate
        if not samples:
            return "There is no sound in it."
        if reason := lengths.refusal(seconds, self.min_seconds, self.max_seconds):
            return reason
        if silent and not self.keep_silent:
            return "It is silent from end to end."
        if self.format == "wav" and not files.fits_wav(samples, self.channels, self.bit_depth):
            return "It is longer than a WAV file can be; with --format flac there is no such limit."
        return ""


@dataclass(frozen=True)
class Trimmed:
    """Seconds of silence that were taken off."""

    start: float = 0.0
    middle: float = 0.0
    """Always 0 so far: pauses stay."""
    end: float = 0.0


@dataclass(frozen=True)
class Original:
    """The file, as far as its waveform differs from it."""

    sample_rate: int
    channels: int
    codec: str
    """ffmpeg's name."""
    cancelled: bool
    """Whether the mean of its channels is nearly silent: the loudest of them was taken instead."""
    beyond_header: float
    """Seconds of its sound that its header does not know of."""
    artist: str
    """By its tags."""
    take: bool
    """Whether `musicldm sample` made it."""


@dataclass(frozen=True)
class Prepared:
    """What is known of a waveform once it has been written."""

    sample_rate: int
    channels: int
    samples: int
    peak: float
    """Of the output, 1 being full scale."""
    loudness: float | None
    """Of the output, integrated, LUFS; None where it is shorter than 0.4 s or below -70 LUFS throughout."""
    clipped: float
    """The fraction of the output's samples at full scale."""
    silent: bool
    offset: float
    """The largest offset (mean) that was removed from a channel."""
    gain: float
    """Gain in dB."""
    held_back: bool
    """Whether its peak kept it below the target loudness."""
    lowered: float
    """dB of the gain that are there only because its peak lies beyond full scale; 0 where it does not."""
    mono_from: int | None
    """Of two channels that cancel each other, the louder one; None otherwise."""
    trimmed: Trimmed
    original: Original
    content: str
    """SHA-256 of the decoded sound and the settings that shape it: same content, same samples in the output."""
    title: str

    @property
    def artist(self) -> str:
        """By the file's tags."""
        return self.original.artist

    @property
    def take(self) -> bool:
        """Whether `musicldm sample` made it."""
        return self.original.take

    def record(self) -> dict[str, Any]:
        """What it adds to the manifest."""
        original = asdict(self.original)
        del original["artist"], original["take"]
        return {
            "samples": self.samples,
            "seconds": round(self.samples / self.sample_rate, 3),
            "sample_rate": self.sample_rate,
            "channels": self.channels,
            "peak": round(self.peak, 6),
            "loudness": None if self.loudness is None else round(self.loudness, 2),
            "clipped": self.clipped,
            "silent": self.silent,
            "offset": round(self.offset, 6),
            "gain": round(self.gain, 2),
            "held_back": self.held_back,
            "lowered": round(self.lowered, 2),
            "mono_from": self.mono_from,
            "trimmed": {place: round(seconds, 3) for place, seconds in asdict(self.trimmed).items()},
            "original": original,
        }


def prepare(source: Path, target: Path, settings: PrepareSettings) -> Prepared:
    """Decode, mix, resample, level, dither and write one file.

    Args:
        target: written and flushed to the disk; on failure it is removed again.

    Raises:
        TakeError: `source` is a take of our own, and the settings do not include them.
        DataError: `source` is no usable audio, or is refused by the settings.
        OutputError: `target` cannot be written.
    """
    info = probe(source)
    take = is_take(source, info.comment)
    if take and not settings.include_takes:
        raise TakeError("It is a take that musicldm sample made.", "Add --include-takes to prepare it anyway.")
    try:
        with _decoded(source, target.parent, settings) as sound:
            return _prepared(sound, target, settings, info, take)
    except BaseException as error:
        with suppress(OSError):
            target.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, OutputError):
            raise durable.cannot_write(target.parent, error) from error
        raise


@contextmanager
def _decoded(source: Path, folder: Path, settings: PrepareSettings) -> Iterator[_Sound]:
    """All of a file; once more with the loudest of its channels where these cancel each other."""
    with ExitStack() as stack:
        for mixer in mixers(settings.channels):
            stack.close()  # what came of the first attempt
            sound = stack.enter_context(_Sound(settings, folder))
            for block in decode(source, settings.sample_rate, settings.channels, mixer):
                sound.append(block)
            sound.cancelled = bool(mixer.alone)
        yield sound


def _prepared(sound: _Sound, target: Path, settings: PrepareSettings, info: AudioInfo, take: bool) -> Prepared:
    """Level and write a sound."""
    start, stop = _sounding(sound) if settings.trim_silence else (0, sound.samples)
    sound.remove_offset(start, stop)
    peak, loudness, mono_from = _measure(sound, start, stop)
    if refusal := settings.refusal(stop - start, silent=peak < _SILENT):
        raise DataError(refusal)
    wanted = _gain(loudness, settings.loudness)
    gain, lowered = _within(peak, wanted, settings)
    if lowered:
        sound.mark(f"lowered by its peak of {peak!r}")
    clipped = _write(sound, start, stop, gain, target)
    durable.flush(target)
    decibels = 20 * math.log10(gain)
    rate = settings.sample_rate
    return Prepared(
        sample_rate=rate,
        channels=settings.channels,
        samples=stop - start,
        peak=min(1.0, peak * gain),
        loudness=None if loudness is None else loudness + decibels,
        clipped=clipped / ((stop - start) * settings.channels),
        silent=peak < _SILENT,
        offset=float(np.abs(sound.offset).max()),
        gain=decibels,
        held_back=wanted != 1 and gain < wanted,
        lowered=lowered,
        mono_from=mono_from,
        trimmed=Trimmed(start / rate, 0.0, (sound.samples - stop) / rate),
        original=Original(
            sample_rate=info.sample_rate,
            channels=info.channels,
            codec=info.codec,
            cancelled=sound.cancelled,
            beyond_header=info.beyond_header,
            artist=info.artist,
            take=take,
        ),
        content=sound.content,
        title=info.title,
    )


def _within(peak: float, wanted: float, settings: PrepareSettings) -> tuple[float, float]:
    """The gain that is possible, and the dB by which it is lower only because of a peak beyond full scale."""
    if wanted != 1:
        return min(wanted, _CEILING / peak), 0.0
    if peak <= 1 or settings.clip:
        return 1.0, 0.0
    # Room for dither and rounding, so that not even they clip.
    gain = (1 - 2.5 / (1 << (settings.bit_depth - 1))) / peak
    return gain, -20 * math.log10(gain)


def _sounding(sound: _Sound) -> tuple[int, int]:
    """[start, stop) without the silence at both ends, in steps of 10 ms; all of it where there is nothing else."""
    step = max(1, sound.settings.sample_rate // 100)
    pieces = range(0, sound.samples, 100 * step)

    def loud_steps(piece: int) -> NDArray[np.int64]:
        # float64, since the energy below is the difference of two numbers that an offset makes large.
        audio = sound.read(piece, min(piece + 100 * step, sound.samples)).astype(np.float64)
        edges = np.arange(0, audio.shape[1], step)
        counts = np.diff(np.append(edges, audio.shape[1]))
        mean = np.add.reduceat(audio, edges, axis=1) / counts
        energy = np.add.reduceat(np.square(audio), edges, axis=1) / counts - np.square(mean)  # without any offset
        return piece // step + np.flatnonzero(energy.mean(axis=0) > _QUIET)

    first = next((steps[0] for piece in pieces if len(steps := loud_steps(piece))), None)
    if first is None:
        return 0, sound.samples
    last = next(steps[-1] for piece in reversed(pieces) if len(steps := loud_steps(piece)))
    return int(first) * step, min(int(last + 1) * step, sound.samples)


def _measure(sound: _Sound, start: int, stop: int) -> tuple[float, float | None, int | None]:
    """Peak and LUFS of the samples [start, stop); and, of two channels that cancel each other, the louder one."""
    meter, mono = LoudnessMeter(sound.settings.sample_rate, sound.settings.channels), Mixer(1)
    peak = 0.0
    for block in sound.blocks(start, stop):
        peak = max(peak, float(block.max()), -float(block.min()))
        meter.add(block)
        mono.mix(block, ("FL", "FR"))
    return peak, meter.integrated(), next(iter(mono.cancelled().values()), None)


def _gain(loudness: float | None, target: float | None) -> float:
    """The factor that brings a sound to the target loudness."""
    if target is None or loudness is None:
        return 1.0
    gain: float = 10 ** ((target - loudness) / 20)
    return gain


def _write(sound: _Sound, start: int, stop: int, gain: float, target: Path) -> int:
    """Write the samples [start, stop). Returns the number at full scale."""
    settings = sound.settings
    # Dither seeded by the content: the same sound gives the same file.
    # At 24 bits the error of rounding lies more than 140 dB below full scale, where no dither is needed.
    rng = np.random.default_rng(int(sound.content, 16)) if settings.bit_depth < 24 else None
    top, clipped = (1 << (settings.bit_depth - 1)) - 1, 0
    with files.writer(target, settings.format, settings.sample_rate, settings.channels, settings.bit_depth) as append:
        for block in sound.blocks(start, stop):
            samples = files.quantise(block if gain == 1 else block * np.float32(gain), settings.bit_depth, rng)
            clipped += int(np.count_nonzero((samples >= top) | (samples < -top)))
            append(samples)
    return clipped


class _Sound:
    """A decoded sound in a spool: first appended block by block, then read any number of times."""

    def __init__(self, settings: PrepareSettings, folder: Path) -> None:
        self.settings = settings
        self.offset: Floats = np.zeros((settings.channels, 1), np.float32)
        """The offset of each channel, which `read` subtracts: [C, 1]."""
        self.cancelled = False
        """Whether the loudest of the channels stands for all, since these cancel each other."""
        self._spool = Spool(settings.channels, folder)
        # WAV and FLAC hold the same samples: a file in the other format has the same content.
        shaping = {key: value for key, value in settings.shaping().items() if key != "format"}
        self._hash = hashlib.sha256(repr(shaping).encode())
        self._sum = np.zeros((settings.channels, 1))

    def __enter__(self) -> _Sound:
        return self

    def __exit__(self, *error: object) -> None:
        self._spool.__exit__(*error)

    @property
    def samples(self) -> int:
        return self._spool.samples

    def append(self, block: Floats) -> None:
        self._hash.update(self._spool.append(block))
        self._sum += block.sum(axis=1, dtype=np.float64, keepdims=True)

    @property
    def content(self) -> str:
        """SHA-256 of all that was appended, and of the settings that shape it."""
        return self._hash.hexdigest()

    def mark(self, change: str) -> None:
        """Make this another content: it is written otherwise than the settings alone say, and than it once was."""
        self._hash.update(change.encode())

    def remove_offset(self, start: int, stop: int) -> None:
        """Remove the mean of the samples [start, stop), where it is large enough to be a fault."""
        if stop - start < self.settings.sample_rate // 10:
            return  # the mean of so few samples is part of the sound
        total = self._sum
        if stop - start < self.samples:
            total = sum(block.sum(axis=1, dtype=np.float64, keepdims=True) for block in self.blocks(start, stop))
        mean = total / (stop - start)
        self.offset = np.where(np.abs(mean) > _OFFSET, mean, 0).astype(np.float32)

    def read(self, start: int, stop: int) -> Floats:
        """Samples [start, stop) without their offset, [C, n]."""
        block = self._spool.read(start, stop)
        return block - self.offset if self.offset.any() else block

    def blocks(self, start: int, stop: int) -> Iterator[Floats]:
        """The samples [start, stop) in pieces."""
        for piece in range(start, stop, BLOCK):
            yield self.read(piece, min(piece + BLOCK, stop))
