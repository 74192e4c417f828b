"""What a file was before a model heard it: what is made is brought to its rate and channels, and not the other way.

Audio is [C, T].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from musicldm.media.audio.decode import Floats, resample, resample_pieces
from musicldm.sampling.coder import LOOK_AHEAD
from musicldm.sampling.postprocess import limiter
from musicldm.sampling.tasks import Form

_BEYOND = 8  # samples by which an end is prolonged, since rates do not divide each other


def fitted(made: Tensor, begin: int, form: Form, wanted: Form) -> tuple[Tensor, int]:
    """A piece of one form as a piece of another.

    Args:
        made: [C, n].
        begin: the sample of the whole with which it begins.

    Returns:
        The piece, and the sample of the whole with which it begins at the other rate.
    """
    if form == wanted:
        return made, begin
    ours, theirs = _steps(form.rate, wanted.rate)
    # Sample k·ours falls on sample k·theirs of the other rate: from there on both count alike.
    before = begin % ours
    whole = F.pad(made, (before, _beyond(form, wanted)), mode="replicate")
    audio = torch.from_numpy(resample(whole.numpy(), form.rate, wanted.rate)) if ours != theirs else whole
    filled = -(-before * theirs // ours)
    audio = with_channels(audio[:, filled:], wanted.channels)
    # Between the old samples lie new ones, which may reach a little higher.
    audio = torch.cat(list(limiter(iter([audio]), round(LOOK_AHEAD * wanted.rate))), dim=1)
    return audio, (begin - before) // ours * theirs + filled


def fitted_pieces(pieces: Iterable[Tensor], form: Form, wanted: Form) -> Iterator[Tensor]:
    """The same of a sound that comes in pieces [C, n] and begins where both rates count alike; see `aligned`."""

    def prolonged() -> Iterator[Floats]:
        last = np.zeros((form.channels, 1), np.float32)
        for piece in pieces:
            yield piece.numpy()
            last = piece.numpy()[:, -1:]
        yield np.repeat(last, _beyond(form, wanted), axis=1)

    tensors = (
        with_channels(torch.from_numpy(np.ascontiguousarray(piece)), wanted.channels)
        for piece in resample_pieces(prolonged(), form.rate, wanted.rate)
        if piece.shape[1]
    )
    return limiter(tensors, round(LOOK_AHEAD * wanted.rate))


def aligned(sample: int, least: int, rate: int, wanted: int) -> tuple[int, int]:
    """The last sample up to `sample`, but not before `least`, that falls on one of the other rate; and which that is.

    Where there is none, it is `least`, and the nearest.
    """
    ours, theirs = _steps(rate, wanted)
    begin = sample // ours * ours
    if begin < least:
        return least, round(least * wanted / rate)
    return begin, begin // ours * theirs


def with_channels(audio: Tensor, channels: int) -> Tensor:
    """One channel is the mean of all; mono goes to every channel."""
    if len(audio) == channels:
        return audio
    return audio.mean(dim=0, keepdim=True).expand(channels, -1)


def _beyond(form: Form, wanted: Form) -> int:
    return math.ceil(_BEYOND * max(1, form.rate / wanted.rate))


def _steps(rate: int, wanted: int) -> tuple[int, int]:
    """After how many samples of each rate both count alike."""
    divisor = math.gcd(rate, wanted)
    return rate // divisor, wanted // divisor
