"""The last touches to waveforms [C, n], piece by piece: levels, joins and cuts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from musicldm.core.errors import DataError

PEAK = 0.98
"""The level to which what would clip is brought down."""


def check_finite(pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """The pieces as they come, as long as all samples are finite.

    Raises:
        DataError: one is not.
    """
    for piece in pieces:
        if not torch.isfinite(piece).all():
            raise DataError("The model produced values that are not numbers.", "Try precision 32, or train it longer.")
        yield piece


def peak_normalize(waveform: Tensor) -> Tensor:
    """A waveform, made softer as a whole where it would clip."""
    peak = waveform.abs().max()
    return waveform * (PEAK / peak) if peak > PEAK else waveform


def limiter(pieces: Iterable[Tensor], look_ahead: int) -> Iterator[Tensor]:
    """No sample beyond PEAK: the gain falls over `look_ahead` samples before a peak and rises for as long after it.

    Where nothing would clip, not a bit is changed. As many samples come out, a little later.
    """
    held: Tensor | None = None  # [C, look_ahead that are out, what is not]
    for piece in pieces:
        if held is None:
            held = piece.new_zeros(piece.shape[0], look_ahead)
        held = torch.cat([held, piece], dim=1)
        # The gain of a sample depends on those before and after it: on either side as many are held back.
        ready = held.shape[1] - 2 * look_ahead
        if ready > 0:
            yield _limit(held, look_ahead)
            held = held[:, ready:]
    if held is not None and held.shape[1] > look_ahead:
        yield _limit(F.pad(held, (0, look_ahead)), look_ahead)


def _limit(audio: Tensor, look_ahead: int) -> Tensor:
    """[C, look_ahead + n + look_ahead] -> its middle [C, n]."""
    middle = audio[:, look_ahead : audio.shape[1] - look_ahead]
    # Of all channels together: a gain for each would move sounds from one side to the other.
    peaks = audio.abs().amax(dim=0)
    if peaks.max() <= PEAK:
        return middle
    gain = PEAK / peaks.clamp_min(PEAK)
    # The lowest gain of what follows, then the mean of it over what came before: never above the gain of the sample.
    # A minimum, for which torch has no pooling of its own.
    lowest = -F.max_pool1d(-gain[None, None], look_ahead + 1, stride=1)[0]  # [1, look_ahead + n]
    return middle * F.avg_pool1d(lowest, look_ahead + 1, stride=1)


def at_loudness(pieces: Iterable[Tensor], lufs: float, sample_rate: int, channels: int) -> Iterator[Tensor]:
    """A sound in pieces, brought as a whole to a loudness in LUFS, its peaks limited; silence stays silence.

    How loud it is shows only at its end: until then it lies on disk.
    """
    from musicldm.media.audio.loudness import LoudnessMeter  # only where it is asked for
    from musicldm.media.audio.spool import Spool

    meter = LoudnessMeter(sample_rate, channels)
    with Spool(channels, Path(tempfile.gettempdir())) as sound:
        for piece in pieces:
            sound.append(piece.numpy())
            meter.add(piece.numpy())
        loudness = meter.integrated()
        gain = 1.0 if loudness is None else 10 ** ((lufs - loudness) / 20)
        # A second at a time: nothing here should hold a whole piece in memory.
        blocks = (torch.from_numpy(sound.read(a, a + sample_rate)) for a in range(0, sound.samples, sample_rate))
        yield from limiter((block * gain for block in blocks), sample_rate // 100)


def cut(pieces: Iterable[Tensor], skipped: int, samples: int) -> Iterator[Tensor]:
    """Of a sound in pieces, `samples` samples after the first `skipped`."""
    at, end = 0, skipped + samples
    for piece in pieces:
        kept = piece[:, max(0, skipped - at) : max(0, end - at)]
        at += piece.shape[1]
        if kept.shape[1]:
            yield kept


def crossfade_into(old: Tensor, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """The pieces, their beginning cross-faded out of `old` [C, n]."""
    fade, at = old.shape[1], 0
    for piece in pieces:
        n = min(fade - at, piece.shape[1])
        if n:
            # A piece may be shorter than the fade. What comes before and after it is then still `old`, which changes
            # nothing.
            begin = crossfade(old, torch.cat([old[:, :at], piece[:, :n], old[:, at + n :]], dim=1))[:, at : at + n]
            piece, at = torch.cat([begin, piece[:, n:]], dim=1), at + n
        yield piece


def after(kept: Tensor, pieces: Iterator[Tensor]) -> Iterator[Tensor]:
    """`kept` [C, n] and then the pieces. It waits for the first of them: where that fails, nothing was handed out."""
    first = next(pieces)
    if kept.shape[1]:
        yield kept
    yield first
    yield from pieces


def crossfade(old: Tensor, new: Tensor) -> Tensor:
    """From one [C, n] to the other, linearly."""
    # Never 0 nor 1: the samples beside the fade are these already.
    rise = torch.arange(1, old.shape[1] + 1, dtype=old.dtype) / (old.shape[1] + 1)
    return old + (new - old) * rise
