"""A file of any kind and length through the VAE and back, and how near what comes out is: in little memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from musicldm.codecs.base import Codec
from musicldm.codecs.windows import reconstruct_long
from musicldm.core import durable
from musicldm.core.errors import DataError, UsageError
from musicldm.core.progress import Progress, silent
from musicldm.evaluate.metrics import Judge, Reconstruction
from musicldm.media.audio import files
from musicldm.media.audio.decode import decode
from musicldm.media.audio.spool import Spool

_WINDOW_SECONDS = 30.0


@dataclass(frozen=True)
class Result:
    """What came of a file."""

    figures: Reconstruction
    spent: float
    """Seconds that encoding and decoding took, without reading, judging and writing."""


def reconstruct_file(
    source: Path,
    target: Path | BinaryIO,
    vae: Codec,
    start: float = 0.0,
    seconds: float | None = None,
    progress: Progress = silent,
) -> Result:
    """Write what the VAE makes of `source` by its posterior's mode, at the VAE's rate and with its channels.

    Args:
        source: any file with audio in it.
        target: as `files.piecewise` takes it.
        start: seconds to pass over.
        seconds: to take from there, as far as there are so many; None: all.

    Raises:
        DataError: `source` is no usable audio, or the VAE makes no numbers of it.
        UsageError: `source` ends before `start`, or `target` has a format that is not known.
        OutputError: `target` cannot be written.
    """
    files.format_of(target)
    folder = durable.make_folder(target.parent) if isinstance(target, Path) else Path(tempfile.gettempdir())
    rate, channels = vae.spec.rate, vae.spec.media_channels
    judge, spent, done = Judge(rate), 0.0, 0
    with Spool(channels, folder) as sound:
        # All of it comes first: only its end shows that a file is whole, and how long it is.
        _fill(sound, source, rate, start, seconds, progress)

        def read(first: int, last: int) -> Tensor:
            return torch.from_numpy(sound.read(first, last))

        pieces = _timed(reconstruct_long(vae, read, sound.samples, round(_WINDOW_SECONDS * vae.spec.frame_rate)))
        with files.piecewise(target, rate, channels, sound.samples) as append:
            for piece, took in pieces:
                if not piece.isfinite().all():
                    raise DataError(f"The VAE makes values of {source} that are no numbers.", "Take another VAE.")
                append(piece.numpy())
                judge.add(read(done, done + piece.shape[-1]), piece)
                spent, done = spent + took, done + piece.shape[-1]
                progress(done / rate, sound.samples / rate, "encoding and decoding")
    return Result(judge.result(), spent)


def _fill(sound: Spool, source: Path, rate: int, start: float, seconds: float | None, progress: Progress) -> None:
    """Decode `seconds` seconds of `source` from `start` on; no more of it is looked at."""
    first = round(start * rate)
    most = max(1, round(seconds * rate)) if seconds else None
    passed = 0
    try:
        for block in decode(source, rate, sound.channels):
            begin = max(0, first - passed)
            sound.append(block[:, begin : None if most is None else begin + most - sound.samples])
            passed += block.shape[1]
            progress(passed / rate, None, "reading")
            if sound.samples == most:
                break
    except DataError as error:
        reason = error.message[0].lower() + error.message[1:]
        raise DataError(
            f"{source} cannot be used: {reason}", "Name a file with audio in it, and a whole one."
        ) from error
    if not passed:
        raise DataError(f"There is no sound in {source}.", "Name a file with audio in it.")
    if not sound.samples:
        raise UsageError(f"{source} ends before {start:g} s.", "Let --start be less than its length.")


def _timed(pieces: Iterator[Tensor]) -> Iterator[tuple[Tensor, float]]:
    """Each beside the seconds that it took."""
    began = time.perf_counter()
    for piece in pieces:
        yield piece, time.perf_counter() - began
        began = time.perf_counter()
