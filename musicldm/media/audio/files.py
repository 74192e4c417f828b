"""Audio files that musicldm reads and writes itself: waveforms for models, and files for people to listen to.

Shapes: C channels, T samples; audio is float32 [C, T] in [-1, 1]. Files of other origin are read by `decode`.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
import warnings
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from musicldm.core import durable
from musicldm.core.errors import DataError, MissingProgramError, UsageError
from musicldm.media.audio import wav_stream
from musicldm.media.audio.ffmpeg import check_end
from musicldm.media.audio.wav_stream import BitDepth
from musicldm.media.audio.wav_stream import Floats as Floats
from musicldm.media.audio.wav_stream import quantise as quantise

BIT_DEPTHS = (8, 16, 24)

# ---- Waveforms for models ------------------------------------------------------------------------------------------

WAVEFORMS = ("wav", "flac")

Append = Callable[[NDArray[np.int32]], None]


def read(path: Path, start: int = 0, stop: int | None = None) -> Floats:
    """Samples [start, stop) of a prepared file as float32 [C, n]; fewer where the file ends before.

    Raises:
        DataError: the file is missing, or is neither WAV nor FLAC.
    """
    try:
        samples, _ = soundfile.read(path, start=start, stop=stop, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"Cannot read {path}: {error}.", "Run musicldm preprocess again to recreate it.") from error
    return np.ascontiguousarray(samples.T)


def fits_wav(samples: int, channels: int, bit_depth: int) -> bool:
    """Whether so many samples fit into a WAV file."""
    return samples * channels * bit_depth // 8 <= wav_stream.LARGEST


@contextmanager
def writer(path: Path, format: str, sample_rate: int, channels: int, bit_depth: int) -> Iterator[Append]:
    """Write one of WAVEFORMS piece by piece: yields a function that appends integers [C, n], see `quantise`.

    Raises:
        OutputError: the disk is full, or the path cannot be written.
    """
    open_writer = {"wav": _wav_writer, "flac": _flac_writer}[format]
    try:
        with path.open("wb") as file, open_writer(file, sample_rate, channels, bit_depth) as append:
            yield append
    except OSError as error:
        raise durable.cannot_write(path, error) from error


@contextmanager
def _wav_writer(file: BinaryIO, sample_rate: int, channels: int, bit_depth: int) -> Iterator[Append]:
    # The standard library's writer, since libsndfile does not report a full disk.
    with wave.open(file, "wb") as wav:
        wav.setnchannels(channels)
        wav.setframerate(sample_rate)
        wav.setsampwidth(bit_depth // 8)

        def append(samples: NDArray[np.int32]) -> None:
            # Raw: `writeframes` would seek back to correct the header after every block. Closing corrects it once.
            wav.writeframesraw(wav_stream.packed(samples, bit_depth))

        yield append


@contextmanager
def _flac_writer(
    file: BinaryIO, sample_rate: int, channels: int, bit_depth: int, comment: str = ""
) -> Iterator[Append]:
    subtype = {8: "PCM_S8", 16: "PCM_16", 24: "PCM_24"}[bit_depth]
    watched = _Watched(file)
    try:
        with soundfile.SoundFile(watched, "w", sample_rate, channels, subtype, format="FLAC") as flac:
            if comment:
                flac.comment = comment

            def append(samples: NDArray[np.int32]) -> None:
                flac.write(samples.T << (32 - bit_depth))  # soundfile takes the upper bits
                watched.check()

            yield append
    except soundfile.SoundFileError:
        watched.check()
        raise
    watched.check()


class _Watched:
    """A file for soundfile that keeps errors of writing, which its C code would ignore."""

    def __init__(self, file: BinaryIO) -> None:
        self._error: OSError | None = None
        self.write, self.read = self._watched(file.write), self._watched(file.read)
        self.seek, self.tell = self._watched(file.seek), self._watched(file.tell)

    def _watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            try:
                return call(*arguments)
            except OSError as error:
                # An exception could not pass through the C code that calls this: cffi would print it and go on.
                self._error = self._error or error
                return 0

        return watched

    def check(self) -> None:
        if self._error:
            raise self._error


# ---- Files for people ----------------------------------------------------------------------------------------------

_LOSSLESS = {"wav": "WAV", "flac": "FLAC"}
_LOSSY = {  # ffmpeg's container and codec, and a quality that few can distinguish from the original
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
        raise UsageError(
            f"{target} would hold {name}, contrary to its suffix.", "Change the suffix, or leave --format out."
        )
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
        OutputError: the path cannot be written.
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


@contextmanager
def piecewise(
    target: Path | BinaryIO,
    sample_rate: int,
    channels: int,
    samples: int,
    format: str | None = None,
    bit_depth: BitDepth = 16,
    comment: str = "",
    commit: durable.Commit | None = None,
) -> Iterator[Callable[[Floats], object]]:
    """`write`, for a sound that comes piece by piece: yields a function that appends float [C, n].

    A WAV file beyond 4 GiB becomes RF64 (EBU Tech 3306), which is a WAV file with wider sizes.

    Args:
        target: a path, which gets its file whole or not at all, or a stream.
        samples: how many there will be in all; where there are fewer in the end, the header of a file is corrected.
        bit_depth: of wav and flac; "float" of wav alone, which then keeps samples beyond ±1.
        comment: put into the file's metadata.
        commit: see `durable.replacing`; of a path.

    Raises:
        UsageError, MissingProgramError, OutputError: as `write`; and for a format that has no such bit depth.
    """
    format = format_of(target, format)
    check_depth(format, bit_depth)
    if not isinstance(target, Path):
        if format == "wav":
            with wav_stream.writer(target, sample_rate, channels, samples, bit_depth, comment) as append:
                yield append
            target.flush()
            return
        with (
            tempfile.TemporaryDirectory() as folder
        ):  # these formats' writers seek back to the header, which a pipe cannot
            path = Path(folder) / f"sound.{format}"
            with piecewise(path, sample_rate, channels, samples, format, bit_depth, comment) as append:
                yield append
            with path.open("rb") as made:
                shutil.copyfileobj(made, target)
            target.flush()
        return
    durable.make_folder(target.parent)
    with durable.replacing(target, commit) as temporary:
        if format == "wav":
            try:
                with (
                    temporary.open("wb") as file,
                    wav_stream.writer(file, sample_rate, channels, samples, bit_depth, comment) as append,
                ):
                    yield append
            except OSError as error:
                raise durable.cannot_write(target, error) from error
        elif format == "flac":
            depth = int(bit_depth)
            try:
                with temporary.open("wb") as file, _flac_writer(file, sample_rate, channels, depth, comment) as put:
                    yield lambda audio: put(quantise(audio, depth))
            except OSError as error:
                raise durable.cannot_write(target, error) from error
        else:
            with _ffmpeg(temporary, format, sample_rate, channels, comment) as pipe:
                yield lambda audio: pipe.write(wav_stream.pcm(audio, 16))


def check_depth(format: str, bit_depth: BitDepth) -> None:
    """Check that a format has such a bit depth.

    Raises:
        UsageError: it has not.
    """
    if bit_depth == "float" and format != "wav":
        raise UsageError(f"{format} cannot hold floats.", "Write wav, or choose 16 or 24 bits.")
    if format in _LOSSY and bit_depth != 16:
        raise UsageError(f"{format} has no bit depth.", "Leave --bit-depth out, or write wav or flac.")
    if bit_depth != "float" and bit_depth not in BIT_DEPTHS:
        raise UsageError(f"There is no bit depth {bit_depth}.", f"Known: {', '.join(map(str, BIT_DEPTHS))}, float.")


@contextmanager
def _ffmpeg(path: Path, format: str, sample_rate: int, channels: int, comment: str = "") -> Iterator[Any]:
    """A pipe into ffmpeg, which takes 16-bit samples and writes one of the lossy formats."""
    container, codec, quality = _LOSSY[format]
    program = find_ffmpeg()
    sound = ["-f", "s16le", "-ar", str(sample_rate), "-ac", str(channels), "-i", "pipe:0"]
    tags = ["-metadata", f"comment={comment}"] if comment else []
    # "file:", so that no path is taken for a protocol. "-y", or ffmpeg would ask before it overwrites.
    command = [program, "-v", "error", "-y", *sound, *tags, "-c:a", codec, *quality, "-f", container, f"file:{path}"]
    # A file for what it says, and not a pipe, which nobody would read: ffmpeg would block once it is full. In the C
    # locale, in which errors of the system have one name each.
    with tempfile.TemporaryFile() as said:
        streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": said}
        # In a process group of its own: Ctrl-C must not end it before the finished samples are saved.
        process = subprocess.Popen(command, **streams, start_new_session=True, env={**os.environ, "LC_ALL": "C"})
        try:
            with process:
                yield process.stdin
        except BrokenPipeError:
            pass  # it has ended before its time, and its exit status says so
        said.seek(0)
        check_end(program, format, path, process.returncode, said.read(1 << 16).decode(errors="replace"))


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
        data=wav_stream.pcm(audio, 16), sample_width=2, frame_rate=sample_rate, channels=len(audio)
    )
    segment.converter = program
    container, codec, quality = _LOSSY[format]
    try:
        with segment.export(format=container, codec=codec, parameters=quality) as file:
            return bytes(file.read())
    except pydub.exceptions.CouldntEncodeError as error:
        check_end(program, format, Path(tempfile.gettempdir()), 1, str(error))
        raise


def find_ffmpeg() -> str:
    """The system's ffmpeg program, else the one in the imageio-ffmpeg wheel.

    Raises:
        MissingProgramError: there is neither.
    """
    # The user's own goes first: the one in the wheel is there so that nobody has to install any.
    if program := shutil.which("ffmpeg"):
        return program
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise MissingProgramError(
            "Writing mp3, ogg or m4a needs the ffmpeg program, which was not found.",
            "Install ffmpeg with the system's package manager, or write wav or flac.",
        ) from error
