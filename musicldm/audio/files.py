"""Audio files to samples and back. The only file that knows PyAV, soxr, soundfile, pydub and ffmpeg.

Shapes: C channels, T samples; audio is float32 [C, T] in [-1, 1].

Foreign files are decoded by PyAV as a stream and changed in rate by soxr; our own WAV files, which need random access,
are read by soundfile.
"""

from __future__ import annotations

import io
import re
import shutil
import warnings
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from musicldm import durable
from musicldm.errors import DataError, MissingProgramError, OutputError, UsageError

Floats = NDArray[np.float32]

BLOCK = 1 << 16  # samples in every block that `decode` yields, but the last

BIT_DEPTHS = (8, 16, 24)

# Containers that hold sound themselves. A demuxer outside this list (hls, concat, dash, lavfi …) may be led by the
# file's content to open other files, whatever the file is called.
_CONTAINERS = (
    "aac,ac3,adx,aiff,amr,ape,asf,ast,au,avi,caf,dff,dsf,dts,dtshd,eac3,flac,flv,gsm,iff,loas,matroska,mov,mp3,mpc,"
    "mpc8,mpeg,mpegts,mxf,nut,ogg,oma,qoa,rm,shn,sox,tak,truehd,tta,voc,w64,wav,wsd,wtv,wv,xwma"
)
_CONTAINER_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}

# These state no length: ffmpeg guesses one from the bit rate or from time stamps, which may be far off.
_LENGTH_IS_A_GUESS = {"aac", "ac3", "amr", "dts", "dtshd", "eac3", "gsm", "loas", "mpeg", "mpegts", "truehd"}

_DAMAGED_PACKETS = 0.01  # the share that may fail to decode
_MISSING_LENGTH = 0.02  # the share of the stated length that may be missing …
_MISSING_SECONDS = 0.2  # … and of a short file, what encoders pad it with, which decoders take off


@dataclass(frozen=True)
class AudioInfo:
    """What a file says of itself."""

    container: str
    codec: str
    sample_rate: int
    channels: int
    seconds: float | None
    """As the file declares it; None where it declares nothing that could be trusted."""
    artist: str
    title: str


def probe(path: Path) -> AudioInfo:
    """Read the header and tags of any audio or video file.

    Raises:
        DataError: it holds no audio that can be read.
    """
    with _opened(path) as (container, stream):
        tags = {
            key.lower(): " ".join(text.split()) for key, text in (*container.metadata.items(), *stream.metadata.items())
        }
        return AudioInfo(
            container=container.format.name,
            codec=stream.codec_context.name,
            sample_rate=stream.codec_context.sample_rate,
            channels=stream.codec_context.channels,
            seconds=_declared_seconds(path, container, stream),
            artist=tags.get("artist") or tags.get("album_artist", ""),
            title=tags.get("title", ""),
        )


# ---- Decoding ----------------------------------------------------------------------------------------------------


def decode(path: Path, sample_rate: int, channels: int) -> Iterator[Floats]:
    """Stream the best audio track of any file as float32 [channels, BLOCK] blocks, the last one shorter.

    One channel is the mean of all. Of two, each is the mean of the channels on its side and of those on neither; mono
    is doubled. The blocks depend on the sound alone, not on the packets or the container that it came in. A
    file's faults may show only at its end, so what was yielded counts only once the iterator is exhausted.

    Raises:
        DataError: no audio, damaged or truncated, or samples that are not finite numbers.
    """
    return _regrouped(_resampled(_mixed(path, channels), sample_rate))


def _mixed(path: Path, channels: int) -> Iterator[tuple[int, Floats]]:
    """The decoded sound, mixed to [channels, n], each block beside its sample rate."""
    with _opened(path) as (container, stream):
        packets = damaged = 0
        seconds = 0.0
        for packet in _packets(container, stream):
            packets += 1
            try:
                frames = packet.decode()
            except av.FFmpegError:
                damaged += 1
                continue
            for frame in frames:
                seconds += frame.samples / frame.sample_rate
                block = _mix(_floats(frame), [channel.name for channel in frame.layout.channels], channels)
                if not np.isfinite(block).all():
                    raise DataError("It holds samples that are not finite numbers.")
                yield frame.sample_rate, block
        if damaged > max(1, _DAMAGED_PACKETS * packets):
            raise DataError(f"It is damaged: {damaged} of {packets} packets cannot be decoded.")
        declared = _declared_seconds(path, container, stream)
        if declared is not None and declared - seconds > max(_MISSING_SECONDS, _MISSING_LENGTH * declared):
            raise DataError(f"It is truncated: {seconds:.1f} of {declared:.1f} s are there.")


def _resampled(blocks: Iterator[tuple[int, Floats]], sample_rate: int) -> Iterator[Floats]:
    """[C, n] at any rates to [C, n] at `sample_rate`; a stream whose rate changes midway is resampled piecewise."""
    rate, resampler = 0, None
    for source_rate, block in _gathered(blocks):
        if source_rate != rate:
            if resampler:
                yield resampler.resample_chunk(np.zeros((0, len(block)), np.float32), last=True).T
            rate, resampler = source_rate, None
            if rate != sample_rate:  # HQ: flat to 0.91 of Nyquist, aliases below -139 dB
                resampler = soxr.ResampleStream(rate, sample_rate, len(block), dtype="float32", quality="HQ")
        yield resampler.resample_chunk(np.ascontiguousarray(block.T)).T if resampler else block
    if resampler:
        yield resampler.resample_chunk(np.zeros((0, len(block)), np.float32), last=True).T


def _gathered(blocks: Iterator[tuple[int, Floats]]) -> Iterator[tuple[int, Floats]]:
    """Join the decoder's small frames to about a second each, which soxr takes much faster."""
    held: list[Floats] = []
    length = rate = 0
    for block_rate, block in blocks:
        if held and (length >= BLOCK or block_rate != rate):
            yield rate, np.concatenate(held, axis=1)
            held, length = [], 0
        rate = block_rate
        held.append(block)
        length += block.shape[1]
    if held:
        yield rate, np.concatenate(held, axis=1)


def _regrouped(blocks: Iterator[Floats]) -> Iterator[Floats]:
    """Cut a stream of [C, n] into [C, BLOCK], whatever the n."""
    held: list[Floats] = []
    length = 0
    for block in blocks:
        held.append(block)
        length += block.shape[1]
        if length >= BLOCK:
            joined = np.concatenate(held, axis=1)
            whole = length - length % BLOCK
            for start in range(0, whole, BLOCK):
                yield joined[:, start : start + BLOCK]
            held, length = [joined[:, whole:]], length - whole
    if length:
        yield np.concatenate(held, axis=1)


def _floats(frame: Any) -> Floats:
    """One decoded frame, of any sample format, as float32 [C, n]."""
    samples: NDArray[Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(frame.samples, -1).T  # packed: [1, n·C], the channels in turn
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif np.issubdtype(samples.dtype, np.integer):
        samples = samples / -float(np.iinfo(samples.dtype).min)
    return samples.astype(np.float32, copy=False)


def _mix(audio: Floats, names: list[str], channels: int) -> Floats:
    """[C, n] to [channels, n]; `names` are ffmpeg's: FL FR FC LFE BL BR SL SR …"""
    if channels == len(audio):
        return audio
    if channels == 1:
        mono: Floats = audio.mean(axis=0, keepdims=True)
        return mono
    # The left side is every channel but those on the right: FL, BL, SL and, in the middle, FC, BC and LFE.
    left = [i for i, name in enumerate(names) if "R" not in name]
    right = [i for i, name in enumerate(names) if "L" not in name or name.startswith("LFE")]
    sides = [np.mean(audio[side or slice(None)], axis=0) for side in (left, right)]
    return np.stack(sides, dtype=np.float32)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A PyAV container and its best audio stream."""
    try:
        if path.stat().st_size == 0:
            raise DataError("It is empty.")
        # "file:" and an absolute path, so that no name is taken for a protocol or an option.
        with av.open(
            f"file:{path.absolute()}", container_options=_CONTAINER_OPTIONS, metadata_errors="replace"
        ) as container:
            stream: Any = container.streams.best("audio")
            if stream is None or not stream.codec_context.sample_rate:
                raise DataError("There is no audio in it that can be read.")
            yield container, stream
    except av.FFmpegError as error:
        raise DataError(f"It cannot be read as audio ({(error.strerror or str(error)).lower()}).") from error
    except OSError as error:
        raise DataError(f"It cannot be opened: {error.strerror or error}.") from error


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """The stream's packets; one that the container cannot deliver ends it, and then the length will tell."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            return
        if packet is None:
            return
        yield packet


def _declared_seconds(path: Path, container: Any, stream: Any) -> float | None:
    """The length that the file itself states, None where ffmpeg could only guess."""
    name = container.format.name
    if name in _LENGTH_IS_A_GUESS:
        return None
    if name == "mp3":
        return _declared_mp3_seconds(path, stream.codec_context.sample_rate)
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:  # else it may be the length of a video
        return float(container.duration / av.time_base)
    return None


def _declared_mp3_seconds(path: Path, sample_rate: int) -> float | None:
    """An mp3's length, where its first frame counts the others (Xing's, LAME's and Fraunhofer's tags)."""
    with path.open("rb") as file:
        start = file.read(10)
        if start[:3] == b"ID3":  # a tag with artist, cover and so on, whose size is in bytes of seven bits
            file.seek(sum(byte << shift for byte, shift in zip(start[6:10], (21, 14, 7, 0), strict=True)), io.SEEK_CUR)
            start = b""
        start += file.read(4096)
    count = re.search(rb"(?:Xing|Info)\0\0\0[\x01\x03\x05\x07\x09\x0b\x0d\x0f](.{4})|VBRI.{10}(.{4})", start, re.DOTALL)
    if count is None:
        return None
    frame = 1152 if sample_rate >= 32000 else 576  # MPEG-1; MPEG-2 and 2.5
    return int.from_bytes(count[1] or count[2]) * frame / sample_rate


# ---- Our own WAV files -------------------------------------------------------------------------------------------


def read(path: Path, start: int = 0, stop: int | None = None) -> Floats:
    """Samples [start, stop) of a prepared WAV as float32 [C, n]; fewer where the file ends before.

    Raises:
        DataError: the file is missing, or no WAV.
    """
    try:
        samples, _ = soundfile.read(path, start=start, stop=stop, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"Cannot read {path}: {error}.", "Run musicldm preprocess again to make it anew.") from error
    return np.ascontiguousarray(samples.T)


@contextmanager
def wav_writer(
    path: Path, sample_rate: int, channels: int, bit_depth: int
) -> Iterator[Callable[[NDArray[np.int32]], None]]:
    """Write a WAV piece by piece: yields a function that appends integers [C, n], see `quantise`.

    Raises:
        OutputError: the disk is full, or the place cannot be written.
    """
    width = bit_depth // 8
    try:
        # The standard library's writer, since libsndfile does not report a full disk.
        with path.open("wb") as file, wave.open(file, "wb") as wav:
            wav.setnchannels(channels)
            wav.setframerate(sample_rate)
            wav.setsampwidth(width)

            def append(samples: NDArray[np.int32]) -> None:
                if width == 1:
                    wav.writeframesraw((samples.T + 128).astype(np.uint8).tobytes())  # 8-bit WAV alone is unsigned
                else:
                    littles = np.ascontiguousarray(samples.T, dtype="<i4").view(np.uint8)
                    wav.writeframesraw(littles.reshape(-1, 4)[:, :width].tobytes())

            yield append
    except OSError as error:
        raise durable.cannot_write(path, error) from error


def quantise(audio: Floats, bit_depth: int, chance: np.random.Generator | None = None) -> NDArray[np.int32]:
    """Float [C, n] to integers of `bit_depth` bits, clipped; with `chance`, under triangular dither of two steps."""
    full = 1 << (bit_depth - 1)
    steps = audio.astype(np.float64) * full
    if chance is not None:
        steps += chance.random(audio.shape) - chance.random(audio.shape)
    return np.clip(np.rint(steps), -full, full - 1).astype(np.int32)


# ---- Files for people ----------------------------------------------------------------------------------------------

_LOSSLESS = {"wav": "WAV", "flac": "FLAC"}
_LOSSY = {  # ffmpeg's container and codec, and a quality that few can tell from the original
    "mp3": ("mp3", "libmp3lame", ["-q:a", "0"]),
    "ogg": ("ogg", "libvorbis", ["-q:a", "6"]),
    "m4a": ("ipod", "aac", ["-b:a", "192k"]),
}

FORMATS = (*_LOSSLESS, *_LOSSY)


def format_of(target: Path | BinaryIO | None, format: str | None = None) -> str:
    """The format that `write` would use: as given, else by the suffix of a path, else wav.

    Raises:
        UsageError: one that is not known, or that contradicts the suffix.
    """
    suffix = target.suffix[1:].lower() if isinstance(target, Path) else "wav"
    name = format or suffix
    if name not in FORMATS:
        raise UsageError(
            f"Cannot write audio as {name or 'a file without a suffix'!r}.", f"Known: {', '.join(FORMATS)}."
        )
    if isinstance(target, Path) and suffix in FORMATS and suffix != name:
        raise UsageError(f"{target} would hold {name}.", "Give it that suffix, or leave --format out.")
    return name


def write(
    target: Path | BinaryIO, audio: Floats, sample_rate: int, format: str | None = None, bit_depth: int = 16
) -> None:
    """Write float [C, T] to a path, whole or not at all, or to a binary stream such as a pipe.

    Args:
        target: a path, whose suffix names the format, or a stream, which gets a WAV unless `format` says otherwise.
        format: one of FORMATS, whatever the suffix.
        bit_depth: of wav and flac; samples beyond ±1 are clipped.

    Raises:
        UsageError: a format that is not known.
        MissingProgramError: mp3, ogg or m4a, and no ffmpeg to be found.
        OutputError: the place cannot be written.
    """
    format = format_of(target, format)
    if format in _LOSSLESS:
        data = _encode_lossless(audio, sample_rate, format, bit_depth)
    else:
        data = _encode_lossy(audio, sample_rate, format)
    if isinstance(target, Path):
        durable.make_folder(target.parent)
        durable.write_bytes(target, data)
    else:
        target.write(data)
        target.flush()


def _encode_lossless(audio: Floats, sample_rate: int, format: str, bit_depth: int) -> bytes:
    # Made in memory: a pipe cannot be sought, yet the sizes in the header must be true. A shift to 32 bits, since
    # soundfile takes the upper ones.
    samples = quantise(audio, bit_depth) << (32 - bit_depth)
    subtype = {8: "PCM_U8" if format == "wav" else "PCM_S8", 16: "PCM_16", 24: "PCM_24"}[bit_depth]
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.T, sample_rate, format=_LOSSLESS[format], subtype=subtype)
    return buffer.getvalue()


def _encode_lossy(audio: Floats, sample_rate: int, format: str) -> bytes:
    program = find_ffmpeg()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing pydub warns where the system has no ffmpeg; we bring one
        import pydub
    segment = pydub.AudioSegment(
        data=quantise(audio, 16).T.astype("<i2").tobytes(), sample_width=2, frame_rate=sample_rate, channels=len(audio)
    )
    segment.converter = program
    container, codec, quality = _LOSSY[format]
    try:
        with segment.export(format=container, codec=codec, parameters=quality) as file:
            return bytes(file.read())
    except pydub.exceptions.CouldntEncodeError as error:
        raise OutputError(f"ffmpeg ({program}) could not write {format}.", "Write wav or flac instead.") from error


def find_ffmpeg() -> str:
    """The system's ffmpeg program, else the one in the imageio-ffmpeg wheel.

    Raises:
        MissingProgramError: there is neither.
    """
    if program := shutil.which("ffmpeg"):
        return program
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise MissingProgramError(
            "Writing mp3, ogg or m4a needs the ffmpeg program, and there is none.",
            "Install ffmpeg with the system's package manager, or write wav or flac.",
        ) from error
