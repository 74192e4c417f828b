"""A file of any kind and length through a codec and back, and how close the result is: in little memory."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from musicldm import __version__
from musicldm.codecs.base import Codec
from musicldm.codecs.windows import Reader, reconstruct_long
from musicldm.core import durable
from musicldm.core.errors import DataError, UsageError
from musicldm.core.guard import Guard
from musicldm.core.progress import Progress, silent
from musicldm.core.reading import parse_json
from musicldm.evaluate.metrics import Comparison, Reconstruction
from musicldm.evaluate.notes import OnsetScore, onset_score
from musicldm.evaluate.sounds import require_audio
from musicldm.evaluate.transcription import Transcriber, transcribe
from musicldm.media.audio import files
from musicldm.media.audio.decode import decode
from musicldm.media.audio.mixing import mixers
from musicldm.media.audio.spool import Spool
from musicldm.media.comments import comment_of

REMARK = "reconstruction"
"""The key in a file's comment that says that it is one."""

_WINDOW_SECONDS = 30.0


@dataclass(frozen=True)
class Result:
    """The outcome for a file."""

    figures: Reconstruction
    spent: float
    """Seconds that encoding and decoding took, without reading, measuring and writing."""
    notes: OnsetScore | None = None
    """The notes of the file that are heard in the reconstruction; None without a transcriber."""
    cancelled: bool = False
    """Whether the file's channels cancel each other, so that the loudest of them was taken."""


def reconstruct_file(
    source: Path,
    target: Path | BinaryIO,
    codec: Codec,
    start: float = 0.0,
    seconds: float | None = None,
    progress: Progress = silent,
    transcriber: Transcriber | None = None,
    overwrite: bool = False,
) -> Result:
    """Write the codec's reconstruction of `source` by the posterior's mode, at the codec's rate and with its channels.

    Args:
        source: any file with audio in it.
        target: as `files.piecewise` takes it.
        start: seconds to skip.
        seconds: to take from there, or as many as there are; None: all.
        transcriber: compare the notes that it hears in the file and in the reconstruction.
        overwrite: replace a file at `target` that is no reconstruction of ours.

    Raises:
        DataError: `source` is no usable audio, or its reconstruction is not finite.
        UsageError: `source` ends before `start`, `target` has an unknown format, or the codec is not of audio.
        OutputError: `target` cannot be written, or is not ours to replace.
    """
    require_audio(codec)
    files.format_of(target)
    guard, comment = Guard(is_reconstruction, overwrite), ""
    if isinstance(target, Path):
        guard.check(target)
        comment = remark()
    folder = durable.make_folder(target.parent) if isinstance(target, Path) else Path(tempfile.gettempdir())
    rate, channels = codec.spec.rate, codec.spec.media_channels
    comparison, spent, done = Comparison(rate, keeps_phase=codec.keeps_phase), 0.0, 0
    with Spool(channels, folder) as sound, Spool(channels, folder) as made:
        # All of it comes first: only its end shows that a file is whole, and how long it is.
        cancelled = _fill(sound, source, rate, start, seconds, progress)

        read, window = _reader(sound), round(_WINDOW_SECONDS * codec.spec.frame_rate)
        pieces = _timed(reconstruct_long(codec, read, sound.samples, window))
        with files.piecewise(target, rate, channels, sound.samples, comment=comment, commit=guard.commit) as append:
            for piece, took in pieces:
                if not piece.isfinite().all():
                    raise DataError(f"The codec's reconstruction of {source} is not finite.", "Use another codec.")
                append(piece.numpy())
                comparison.add(read(done, done + piece.shape[-1]), piece)
                if transcriber is not None:
                    made.append(piece.numpy())
                spent, done = spent + took, done + piece.shape[-1]
                progress(done / rate, sound.samples / rate, "encoding and decoding")
        notes = None
        if transcriber is not None:
            # After the file is written: it is slow, and whoever listens meanwhile should not wait for it.
            reference, found = (
                transcribe(transcriber, _reader(each), each.samples, rate, progress) for each in (sound, made)
            )
            notes = onset_score(reference, found)
    return Result(comparison.result(), spent, notes, cancelled)


def remark() -> str:
    """The comment of a reconstruction, by which it is known as ours."""
    return json.dumps({"musicldm": __version__, REMARK: True})


def is_reconstruction(path: Path) -> bool:
    """Whether a file's metadata say that it is a reconstruction of ours."""
    try:
        return REMARK in dict(parse_json(comment_of(path)))
    except (DataError, ValueError, TypeError):
        return False


def _fill(sound: Spool, source: Path, rate: int, start: float, seconds: float | None, progress: Progress) -> bool:
    """Decode `seconds` seconds of `source` from `start` on; no more of it is read. See `Result.cancelled`."""
    first = round(start * rate)
    most = max(1, round(seconds * rate)) if seconds else None
    try:
        for mixer in mixers(sound.channels):
            sound.clear()
            passed = 0
            for block in decode(source, rate, sound.channels, mixer):
                begin = max(0, first - passed)
                sound.append(block[:, begin : None if most is None else begin + most - sound.samples])
                passed += block.shape[1]
                progress(passed / rate, None, "reading")
                # No more is wanted, so the rest of a long file is not even decoded.
                if sound.samples == most:
                    break
    except DataError as error:
        reason = error.message[0].lower() + error.message[1:]
        raise DataError(f"{source} cannot be used: {reason}", "Give a complete file with audio in it.") from error
    if not passed:
        raise DataError(f"There is no sound in {source}.", "Give a file with audio in it.")
    if not sound.samples:
        raise UsageError(f"{source} ends before {start:g} s.", "Choose a --start below its length.")
    return bool(mixer.alone)


def _reader(spool: Spool) -> Reader:
    def read(first: int, last: int) -> Tensor:
        return torch.from_numpy(spool.read(first, last))

    return read


def _timed(pieces: Iterator[Tensor]) -> Iterator[tuple[Tensor, float]]:
    """Each with the seconds that it took."""
    began = time.perf_counter()
    for piece in pieces:
        yield piece, time.perf_counter() - began
        began = time.perf_counter()
