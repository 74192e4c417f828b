"""Any audio file -> samples, as a stream. The only file that decodes foreign formats and resamples.

Shapes: C channels, n samples; audio is float32 [C, n] in [-1, 1], and beyond where a lossy decoder overshoots.

PyAV (ffmpeg's libraries in a wheel) decodes and soxr changes the rate. A file is not trusted: whatever its name says,
its content may not lead the decoder to other files, its packets' errors are counted, and its length is compared with
the one that it states.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from musicldm.core.errors import DataError
from musicldm.media.audio.mixing import Mixer, mixers
from musicldm.media.audio.wav import wav_data

Floats = NDArray[np.float32]

BLOCK = 1 << 16  # samples that are processed at once

# Containers that hold sound themselves. A demuxer outside this list (hls, concat, dash, lavfi …) may be led by the
# file's content to open other files, whatever the file is called.
_CONTAINERS = (
    "aac,ac3,adx,aiff,amr,ape,asf,ast,au,avi,caf,dff,dsf,dts,dtshd,eac3,flac,flv,gsm,iff,loas,matroska,mov,mp3,mpc,"
    "mpc8,mpeg,mpegts,mxf,nut,ogg,oma,qoa,rm,shn,sox,tak,truehd,tta,voc,w64,wav,wsd,wtv,wv,xwma"
)
_CONTAINER_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}

# These state no length: ffmpeg guesses one from the bit rate or from time stamps, which may be far off. An AVI counts
# what comes before a sound that begins late.
_LENGTH_IS_A_GUESS = {"aac", "ac3", "amr", "avi", "dts", "dtshd", "eac3", "gsm", "loas", "mpeg", "mpegts", "truehd"}

_ARTIST_TAGS = ("artist", "album_artist", "albumartist", "album artist")

_RATES = (1000, 6_000_000)  # plausible samples a second; a damaged header may state any number

_DAMAGED_PACKETS = 0.01  # the fraction that may fail to decode
_MISSING_LENGTH = 0.02  # the fraction of the stated length that may be missing …
_MISSING_SECONDS = 0.2  # … and in a short file, the padding of encoders, which decoders remove


@dataclass(frozen=True)
class AudioInfo:
    """The metadata of a file."""

    container: str
    codec: str
    sample_rate: int
    channels: int
    seconds: float | None
    """As the file declares it; None where it declares none that can be trusted."""
    artist: str
    title: str
    comment: str
    """With its white space as it is."""
    beyond_header: float = 0.0
    """Seconds of sound that are there beyond what a WAV file's header states; they are decoded, too."""


def probe(path: Path) -> AudioInfo:
    """Read the header and tags of any audio or video file.

    Raises:
        DataError: it holds no audio that can be read.
    """
    with _opened(path) as (container, stream):
        tags = {key.lower(): text for key, text in (*container.metadata.items(), *stream.metadata.items())}
        artist = next((tags[key] for key in _ARTIST_TAGS if tags.get(key, "").strip()), "")
        wav = wav_data(path)
        return AudioInfo(
            container=container.format.name,
            codec=stream.codec_context.name,
            sample_rate=stream.codec_context.sample_rate,
            channels=stream.codec_context.channels,
            seconds=_declared_seconds(path, container, stream),
            artist=" ".join(artist.split()),
            title=" ".join(tags.get("title", "").split()),
            comment=tags.get("comment", ""),
            beyond_header=wav.beyond_seconds if wav else 0.0,
        )


# ---- Decoding ----------------------------------------------------------------------------------------------------


def decode(path: Path, sample_rate: int, channels: int, mixer: Mixer | None = None) -> Iterator[Floats]:
    """Stream the best audio track of any file as float32 [channels, n], about BLOCK samples of the source at a time.

    A file's faults may show only at its end, so what was yielded counts only once the iterator is exhausted.

    Args:
        mixer: of as many channels; one of `mixers`, by which channels that cancel each other can be found. None: means.

    Raises:
        DataError: no audio, damaged or truncated, or samples that are not finite numbers.
    """
    return _resampled(_mixed(_joined(path), mixer or Mixer(channels)), sample_rate)


LARGEST_SOUND = 1 << 30
"""Bytes of a sound that is held in memory as a whole: 4½ hours of 16 kHz mono, 50 minutes of 44.1 kHz stereo."""


def decode_whole(path: Path, sample_rate: int, channels: int) -> tuple[Floats, bool]:
    """All of a file, [channels, n]; and whether its channels cancel each other, so that one of them stands for all.

    Raises:
        DataError: as `decode`; or it is longer than `LARGEST_SOUND`, as a small file may be. No more is decoded then.
    """
    limit = LARGEST_SOUND // (4 * channels)
    for mixer in mixers(channels):
        blocks, samples = [np.zeros((channels, 0), np.float32)], 0
        for block in decode(path, sample_rate, channels, mixer):
            samples += block.shape[1]
            if samples > limit:
                raise DataError(f"It is longer than {limit / sample_rate / 60:.3g} minutes.")
            blocks.append(block)
    return np.concatenate(blocks, axis=1), bool(mixer.alone)


def resample(audio: Floats, from_rate: int, to_rate: int) -> Floats:
    """A whole sound [C, n] at another rate, as `decode` would give it: [C, about n · to_rate / from_rate]."""
    return np.ascontiguousarray(soxr.resample(audio.T, from_rate, to_rate, quality="HQ").T)


def resample_pieces(pieces: Iterable[Floats], from_rate: int, to_rate: int) -> Iterator[Floats]:
    """`resample`, for a sound that comes in pieces [C, n]: the same samples, in other pieces."""
    return _resampled(((from_rate, piece) for piece in pieces), to_rate)


def _joined(path: Path) -> Iterator[av.AudioFrame]:
    """The decoder's frames, joined to a second or so each: all that follows takes long blocks much faster."""
    with _opened(path) as (container, stream):
        _check_end(path, container.format.name)
        packets = damaged = 0
        seconds = 0.0
        form, held = None, av.AudioFifo()
        demuxer = _Demuxer(container, stream)
        for packet in demuxer:
            packets += 1
            try:
                frames = packet.decode()
            except av.FFmpegError:
                damaged += 1
                continue
            for frame in frames:
                seconds += frame.samples / frame.sample_rate
                if form != (form := (frame.format.name, frame.layout.name, frame.sample_rate)):
                    yield from _drained(held)
                    held = av.AudioFifo()
                frame.pts = None  # frames are joined in order, whatever their time stamps say
                held.write(frame)
            if held.samples >= BLOCK:
                yield from _drained(held)
        yield from _drained(held)
        # One is forgiven in any file: in a short one it would be far more than the fraction.
        if damaged > max(1, _DAMAGED_PACKETS * packets):
            raise DataError(f"It is damaged: {damaged} of {packets} packets cannot be decoded.")
        declared = _declared_seconds(path, container, stream)
        if declared is not None and "matroska" in container.format.name:
            declared -= demuxer.start  # its stated length is the time of the end
        if declared is not None and declared - seconds > max(_MISSING_SECONDS, _MISSING_LENGTH * declared):
            raise DataError(f"It is truncated: {seconds:.1f} of {declared:.1f} s are there.")
        if demuxer.broke_off and (declared is None or container.format.name == "ogg"):
            raise DataError(f"It is damaged: it cannot be read beyond {seconds:.1f} s.")


def _drained(held: av.AudioFifo) -> Iterator[av.AudioFrame]:
    """What is in the queue as one frame; nothing where it is empty."""
    frame = held.read()
    if frame is not None:
        yield frame


def _mixed(frames: Iterator[av.AudioFrame], mixer: Mixer) -> Iterator[tuple[int, Floats]]:
    """Frames to [channels, n], each beside its sample rate."""
    for frame in frames:
        layout = tuple(channel.name for channel in frame.layout.channels)
        block = mixer.mix(_floats(frame), layout)
        if not np.isfinite(block).all():
            raise DataError("It holds samples that are not finite numbers.")
        yield frame.sample_rate, block


def _resampled(blocks: Iterable[tuple[int, Floats]], sample_rate: int) -> Iterator[Floats]:
    """[C, n] at any rates to [C, n] at `sample_rate`; a stream whose rate changes midway is resampled piecewise."""
    rate, resampler = 0, None
    for source_rate, block in blocks:
        if not _RATES[0] <= source_rate <= _RATES[1]:
            raise DataError(f"It is damaged: no sound has {source_rate} samples a second.")
        if source_rate != rate:
            if resampler:
                yield resampler.resample_chunk(np.zeros((0, len(block)), np.float32), last=True).T
            rate, resampler = source_rate, None
            if rate != sample_rate:  # HQ: flat to 0.91 of Nyquist, aliases below -139 dB
                resampler = soxr.ResampleStream(rate, sample_rate, len(block), dtype="float32", quality="HQ")
        if not resampler:
            yield block
            continue
        step = max(1, BLOCK * rate // max(rate, sample_rate))  # limits the size of the output blocks, too
        for start in range(0, block.shape[1], step):
            yield resampler.resample_chunk(np.ascontiguousarray(block[:, start : start + step].T)).T
    if resampler:
        yield resampler.resample_chunk(np.zeros((0, len(block)), np.float32), last=True).T


def _floats(frame: av.AudioFrame) -> Floats:
    """A frame of any sample format as float32 [C, n]."""
    samples: NDArray[Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(frame.samples, -1).T  # packed: [1, n·C], the channels in turn
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif np.issubdtype(samples.dtype, np.integer):
        samples = samples / -float(np.iinfo(samples.dtype).min)
    return samples.astype(np.float32, copy=False)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A PyAV container and its best audio stream."""
    try:
        if path.stat().st_size == 0:
            raise DataError("It is empty.")
        # "file:" and an absolute path, so that no name is taken for a protocol or an option.
        # Tags in an unstated encoding are common, and no reason to refuse the sound.
        wav = wav_data(path)
        # What a recorder that was killed left behind its last header is sound as well.
        options = {"ignore_length": "1"} if wav and wav.beyond else {}
        with av.open(
            f"file:{path.absolute()}", container_options=_CONTAINER_OPTIONS | options, metadata_errors="replace"
        ) as container:
            stream: Any = container.streams.best("audio")
            codec = stream and stream.codec_context  # None where ffmpeg has no decoder for it
            if not codec or not codec.sample_rate:
                raise DataError("There is no audio in it that can be read.")
            yield container, stream
    except av.FFmpegError as error:
        raise DataError(f"It cannot be read as audio ({(error.strerror or str(error)).lower()}).") from error
    except OSError as error:
        raise DataError(f"It cannot be opened: {error.strerror or error}.") from error


class _Demuxer:
    """The stream's packets; one that the container cannot deliver ends them."""

    def __init__(self, container: Any, stream: Any) -> None:
        self._packets = container.demux(stream)
        self.broke_off = False
        self.start = 0.0
        """When the first begins, in seconds."""

    def __iter__(self) -> Iterator[Any]:
        try:
            first = next(self._packets, None)
            if first is None:
                return
            if first.pts is not None:
                self.start = float(first.pts * first.time_base)
            yield first
            yield from self._packets
        except av.FFmpegError:
            self.broke_off = True


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
    # The lowest of Xing's flags says that the number of frames follows at once. VBRI has ten bytes before it: version,
    # delay, quality and size.
    count = re.search(rb"(?:Xing|Info)\0\0\0[\x01\x03\x05\x07\x09\x0b\x0d\x0f](.{4})|VBRI.{10}(.{4})", start, re.DOTALL)
    if count is None:
        return None
    frame = 1152 if sample_rate >= 32000 else 576  # MPEG-1; MPEG-2 and 2.5
    return int.from_bytes(count[1] or count[2]) * frame / sample_rate


def _check_end(path: Path, container: str) -> None:
    """Check that the end of a WAV or Ogg file is there: ffmpeg takes their length from what it finds."""
    if container == "wav" and (wav := wav_data(path)) and wav.fraction < 1 - _MISSING_LENGTH:
        raise DataError(f"It is truncated: {wav.fraction:.0%} of its samples are there.")
    if container == "ogg" and not _ogg_has_end(path):
        raise DataError("It is truncated: the page that ends it is missing.")


def _ogg_has_end(path: Path) -> bool:
    """Whether the last page is whole and says that it is the last."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 17)))  # more than two pages
        end = file.read()
    page = end[max(0, end.rfind(b"OggS")) :]
    if len(page) < 27 or not page[5] & 4:
        return False
    segments = page[27 : 27 + page[26]]
    return len(segments) == page[26] and len(page) >= 27 + len(segments) + sum(segments)
