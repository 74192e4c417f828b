"""From sound to passages, the unit of `evaluate memory`: about four seconds as log-mel levels, [FRAMES, BANDS].

Each band is taken about its own mean, so that level and timbre do not matter, and nothing lower than DEPTH below the
loudest frame does. Shapes: C channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from musicldm.media.audio.mel import hop, log_mel

Levels = NDArray[np.float16]
"""Frames of log-mel power, [n, BANDS]."""
Vectors = NDArray[np.float32]

BANDS = 32
FRAMES = 31
"""In a passage."""
SPAN = 2 * FRAMES - 1
"""Frames from a passage's first to its last: it takes every second, since each averages two frames' time."""
STRIDE = 8
"""Frames from one training passage to the next."""
DEPTH = 5.0
"""In levels, which are natural logarithms of power: 22 dB."""
NO_LEVELS: Levels = np.empty((0, BANDS), np.float16)

_FRAME = 0.064  # seconds from one frame to the next, about
_QUIET = -3.0  # of log power, some 60 dB below a tone at full scale
_LOUD = 0.75 * DEPTH, 0.75  # so near the loudest for such a fraction of its frames: else music stops in the passage
_STILL = 0.2  # root mean square of levels about their bands' means: a tone that is merely held
_BLOCK = 2048  # passages that are described at once


def levels(sound: Iterable[Tensor], sample_rate: int) -> Iterator[Levels]:
    """The frames of a sound that comes in pieces [C, n] of any length: [n, BANDS].

    A frame is the log of the mel power in two successive steps of about 64 ms; another begins with every step. Only
    what lies wholly within the sound is one.
    """
    width = hop(sample_rate)
    every = max(1, round(_FRAME * sample_rate / width))
    step, needed = every * width, (2 * every + 3) * width
    held = torch.empty(0)
    for piece in sound:
        held = torch.cat([held, piece.mean(dim=0).float()])
        if (count := (len(held) - needed) // step + 1) > 0:
            # The first two and the last two windows lie half beyond the ends.
            mel = log_mel(held[: (count - 1) * step + needed], sample_rate, 2 * BANDS)[:, 2:-2].exp()
            power = mel.reshape(BANDS, 2, count + 1, every).mean(dim=(1, 3))
            yield ((power[:, 1:] + power[:, :-1]) / 2).log().T.half().numpy()
            # A copy, since a view would keep the whole piece in memory.
            held = held[count * step :].clone()


def frame_seconds(sample_rate: int) -> float:
    """From one frame of `levels` to the next."""
    width = hop(sample_rate)
    return max(1, round(_FRAME * sample_rate / width)) * width / sample_rate


def count_passages(frames: int, step: int) -> int:
    """How many passages so many frames contain, one every `step` frames."""
    return max(0, (frames - SPAN) // step + 1)


def passages_of(frames: Levels, step: int) -> Iterator[tuple[Vectors, NDArray[np.bool_]]]:
    """Passages every `step` frames, block by block: [m, FRAMES · BANDS], and whether each can be recognised, [m].

    None can be where the music is silent or stops, or a tone is merely held: such passages are all alike.
    """
    if len(frames) < SPAN:
        return
    views = sliding_window_view(frames, SPAN, axis=0)[::step, :, ::2]  # [passages, BANDS, FRAMES]
    for start in range(0, len(views), _BLOCK):
        level = views[start : start + _BLOCK].astype(np.float32)
        loudest = level.max(axis=(1, 2), keepdims=True)
        below, fraction = _LOUD
        goes_on = (level.max(axis=1) > loudest[:, 0] - below).mean(axis=1) >= fraction
        # Before the means are taken: what nobody hears should not move them.
        np.maximum(level, loudest - DEPTH, out=level)
        level -= level.mean(axis=2, keepdims=True)
        moves = np.sqrt(np.square(level).mean(axis=(1, 2))) > _STILL
        yield level.reshape(len(level), -1), goes_on & moves & (loudest[:, 0, 0] > _QUIET)
