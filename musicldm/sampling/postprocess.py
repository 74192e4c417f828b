"""The last touches to waveforms [C, n], piece by piece: levels, joins, and where a piece repeats itself."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from musicldm.core.errors import DataError

PEAK = 0.98
"""What would clip is lowered to this."""


def finite(pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """The pieces, all of them numbers.

    Raises:
        DataError: one is not.
    """
    for piece in pieces:
        if not torch.isfinite(piece).all():
            raise DataError("The model produced values that are no numbers.", "Try --precision 32, or train it longer.")
        yield piece


def lowered(waveform: Tensor) -> Tensor:
    """The whole of it made softer where it would clip."""
    peak = waveform.abs().max()
    return waveform * (PEAK / peak) if peak > PEAK else waveform


def limited(pieces: Iterable[Tensor], look_ahead: int) -> Iterator[Tensor]:
    """No sample beyond PEAK: the gain sinks over `look_ahead` samples before a peak and rises as long after it.

    Where it would not clip, not a bit is changed. As many samples come out, a little later.
    """
    held: Tensor | None = None  # [C, look_ahead that are out, what is not]
    for piece in pieces:
        if held is None:
            held = piece.new_zeros(piece.shape[0], look_ahead)
        held = torch.cat([held, piece], dim=1)
        ready = held.shape[1] - 2 * look_ahead
        if ready > 0:
            yield _limit(held, look_ahead)
            held = held[:, ready:]
    if held is not None and held.shape[1] > look_ahead:
        yield _limit(F.pad(held, (0, look_ahead)), look_ahead)


def _limit(audio: Tensor, look_ahead: int) -> Tensor:
    """[C, look_ahead + n + look_ahead] -> its middle [C, n]."""
    middle = audio[:, look_ahead : audio.shape[1] - look_ahead]
    peaks = audio.abs().amax(dim=0)
    if peaks.max() <= PEAK:
        return middle
    gain = PEAK / peaks.clamp_min(PEAK)
    # The lowest gain of what follows, then the mean of it over what came before: never above the gain of the sample.
    lowest = -F.max_pool1d(-gain[None, None], look_ahead + 1, stride=1)[0]  # [1, look_ahead + n]
    return middle * F.avg_pool1d(lowest, look_ahead + 1, stride=1)


def at_loudness(pieces: Iterable[Tensor], lufs: float, sample_rate: int, channels: int) -> Iterator[Tensor]:
    """A sound in pieces, made so loud as a whole, its peaks limited; silence stays what it is.

    How loud it is shows only at its end: until then it lies on disk.
    """
    from musicldm.media.audio.loudness import LoudnessMeter  # not for those who leave the loudness alone
    from musicldm.media.audio.spool import Spool

    meter = LoudnessMeter(sample_rate, channels)
    with Spool(channels, Path(tempfile.gettempdir())) as sound:
        for piece in pieces:
            sound.append(piece.numpy())
            meter.add(piece.numpy())
        loudness = meter.integrated()
        gain = 1.0 if loudness is None else 10 ** ((lufs - loudness) / 20)
        blocks = (torch.from_numpy(sound.read(a, a + sample_rate)) for a in range(0, sound.samples, sample_rate))
        yield from limited((block * gain for block in blocks), sample_rate // 100)


def passing(pieces: Iterable[Tensor], skipped: int, samples: int) -> Iterator[Tensor]:
    """Of a sound in pieces, `samples` samples after the first `skipped`."""
    at, end = 0, skipped + samples
    for piece in pieces:
        kept = piece[:, max(0, skipped - at) : max(0, end - at)]
        at += piece.shape[1]
        if kept.shape[1]:
            yield kept


def leading_over(old: Tensor, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """The pieces, their beginning cross-faded with `old` [C, n], out of which they lead."""
    fade, at = old.shape[1], 0
    for piece in pieces:
        n = min(fade - at, piece.shape[1])
        if n:
            begin = crossfade(old, torch.cat([old[:, :at], piece[:, :n], old[:, at + n :]], dim=1))[:, at : at + n]
            piece, at = torch.cat([begin, piece[:, n:]], dim=1), at + n
        yield piece


def after(kept: Tensor, pieces: Iterator[Tensor]) -> Iterator[Tensor]:
    """`kept` [C, n] and then the pieces; it waits for the first of them, or a failure would pass for music."""
    first = next(pieces)
    if kept.shape[1]:
        yield kept
    yield first
    yield from pieces


def crossfade(old: Tensor, new: Tensor) -> Tensor:
    """From one [C, n] to the other, evenly."""
    rise = torch.arange(1, old.shape[1] + 1, dtype=old.dtype) / (old.shape[1] + 1)
    return old + (new - old) * rise


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Along the great circle from a to b, which keeps the spread of noise (Shoemake 1985)."""
    # On the CPU: not every device has 64 bits.
    cosine = F.cosine_similarity(a.cpu().double().flatten(), b.cpu().double().flatten(), dim=0).item()
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if math.sin(angle) < 1e-4:  # one direction, or no circle that would be the shortest
        return torch.lerp(a, b, share)
    return math.sin((1 - share) * angle) / math.sin(angle) * a + math.sin(share * angle) / math.sin(angle) * b
