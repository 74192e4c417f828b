"""Phases for magnitudes that have lost theirs: a single pass over time, and Griffin and Lim's iterations.

The pass is in the manner of Beauregard, Harish & Wyse 2015: between two columns the phase of each spectral peak turns
by its own frequency, and the bins around it turn with it, so that a partial stays one. Frequencies are read off the
slope of the log-magnitude, as the Gaussian window allows exactly and Hann's nearly (Průša, Balazs & Søndergaard 2017,
eq. 14 and table I).

Such an integral would begin with the track, and a window in its middle would not know it. So a *block* of columns
begins with phases that depend on nothing but its first column, and ends where the next begins: what is missing to a
whole turn is spread over the block. At two seconds that detunes a partial by a quarter of a hertz at most.

Shapes: N signals, F bins, L columns.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from musicldm.nn.stft import STFT

MOMENTUM = 0.99
"""Of the fast variant (Perraudin, Balazs & Søndergaard 2013)."""
REACH = 32
"""Bins around a peak that may turn with it."""

_HANN = 0.25645
"""γ of the Gaussian nearest to Hann's window, over the square of its length (Průša et al. 2017, table I)."""


def griffin_lim(magnitude: Tensor, phase: Tensor, stft: STFT, iterations: int) -> Tensor:
    """The waveform that has nearly these magnitudes [N, F, L], sought from these phases on: [N, L·hop].

    With no iterations, it is the waveform whose transform is nearest to both.
    """
    spectrum, previous = torch.polar(magnitude, phase), None
    for _ in range(iterations):
        consistent = stft(stft.inverse(spectrum[:, None]))[:, 0]
        # What no waveform has is taken away, and what the last iteration changed is overshot.
        ahead = consistent if previous is None else torch.add(consistent, consistent - previous, alpha=MOMENTUM)
        previous = consistent
        spectrum = ahead * (magnitude / ahead.abs().clamp_min(1e-12))
    return stft.inverse(spectrum[:, None])[:, 0]


def integrated_phase(magnitude: Tensor, hop: int, block: int) -> Tensor:
    """Phases, as `STFT` has them, for magnitudes [N, F, L], by one pass over each block of columns: [N, F, L]."""
    count, bins, columns = magnitude.shape
    blocks = math.ceil(columns / block)
    nearest, step = _peaks(magnitude), hop * _frequencies(magnitude)
    # One column more, for the beginning of a block that is not there: the last block ends as if it went on unchanged.
    more = blocks * block + 1 - columns
    nearest, step = (torch.cat([each, each[..., -1:].expand(-1, -1, more)], dim=2) for each in (nearest, step))
    # [N, F, blocks · block + 1] -> [block + 1, N, blocks, F]: the columns of all blocks are passed at once.
    nearest, step = (each.unfold(2, block + 1, block).permute(3, 0, 2, 1).contiguous() for each in (nearest, step))
    start = _start(bins, magnitude.device)
    phase = start[nearest[0]]
    passed = [phase]
    for column in range(1, block + 1):
        peaks = nearest[column]
        turned = phase + 0.5 * (step[column - 1] + step[column])
        phase = turned.gather(2, peaks)
        passed.append(phase)
    # To the next block's first phases, the shorter way round, a little at a time.
    missing = torch.remainder(start[nearest[block]] - phase + math.pi, 2 * math.pi) - math.pi
    fractions = torch.arange(block, device=magnitude.device) / block
    whole = torch.stack(passed[:block]) + torch.stack([missing.gather(2, each) for each in nearest[:block]]) * (
        fractions.view(-1, 1, 1, 1)
    )
    integrated = whole.permute(1, 3, 2, 0).reshape(count, bins, blocks * block)[..., :columns]
    # So far of the windows' middles. A transform counts from their beginning: half a turn for each bin.
    odd = torch.arange(bins, device=magnitude.device) % 2
    return torch.remainder(integrated, 2 * math.pi) + math.pi * odd[:, None]


def _start(bins: int, device: torch.device) -> Tensor:
    """The phases that a block begins with, [F]: quadratic in frequency, so that partials do not pile up to a click
    (Schroeder 1970)."""
    k = torch.arange(bins, device=device, dtype=torch.float64)
    return torch.remainder(math.pi * k.square() / bins, 2 * math.pi).float()


def _frequencies(magnitude: Tensor) -> Tensor:
    """The frequency in radians a sample of what sounds in each bin, [N, F, L]."""
    bins = magnitude.shape[1]
    size = 2 * (bins - 1)
    bin_width = 2 * math.pi / size
    logarithm = magnitude.clamp_min(1e-9).log()
    slope = torch.zeros_like(magnitude)
    slope[:, 1:-1] = (logarithm[:, 2:] - logarithm[:, :-2]) / (2 * bin_width)
    # |X| falls as exp(-σ²(ω - ω₀)²/2) about a partial at ω₀, whence ω₀ = ω + slope / σ², σ² = γ/2π.
    offset = slope * (2 * math.pi / (_HANN * size**2))
    # A peak's neighbours are no further off; whatever is, is no partial.
    offset = offset.clamp_(-2 * bin_width, 2 * bin_width)
    return offset + torch.arange(bins, device=magnitude.device)[:, None] * bin_width


def _peaks(magnitude: Tensor) -> Tensor:
    """The nearest peak of each bin, no further off than `REACH`, [N, F, L]; where there is none, the bin itself."""
    bins = magnitude.shape[1]
    bin_of = torch.arange(bins, device=magnitude.device, dtype=torch.int32)[:, None]
    is_peak = torch.zeros_like(magnitude, dtype=torch.bool)
    is_peak[:, 1:-1] = (magnitude[:, 1:-1] > magnitude[:, :-2]) & (magnitude[:, 1:-1] >= magnitude[:, 2:])
    below = torch.where(is_peak, bin_of, -2 * bins)
    above = torch.where(is_peak, bin_of, 3 * bins)
    shift = 1
    while shift < REACH:
        # Each round looks twice as far: many times faster than a running maximum.
        below = torch.maximum(below, F.pad(below[:, :-shift], (0, 0, shift, 0), value=-2 * bins))
        above = torch.minimum(above, F.pad(above[:, shift:], (0, 0, 0, shift), value=3 * bins))
        shift *= 2
    nearest = torch.where(bin_of - below <= above - bin_of, below, above)
    return torch.where((nearest < 0) | (nearest >= bins), bin_of, nearest).long()
