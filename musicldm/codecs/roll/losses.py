"""What the codec of rolls is trained by, and how well it does. B batch, C rows of a roll, T steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from musicldm.codecs.posterior import DiagonalGaussian
from musicldm.codecs.roll.config import RollLossConfig
from musicldm.media.notes.roll import Channels
from musicldm.media.notes.score import STEPS


def roll_loss(target: Tensor, logits: Tensor, posterior: DiagonalGaussian, loss: RollLossConfig) -> dict[str, Tensor]:
    """The terms of the loss, and their weighted sum `total`.

    Args:
        target: rolls [B, C, T].
        logits: of the decoder, likewise.
    """
    beats = target.shape[0] * target.shape[-1] / STEPS
    struck = target[:, Channels.ONSET]
    velocity = (logits[:, Channels.VELOCITY].sigmoid() - target[:, Channels.VELOCITY]).abs() * struck
    terms = {
        "onset": _entropy(target, logits, Channels.ONSET, 1 + (loss.struck - 1) * struck) / beats,
        "hold": _entropy(target, logits, Channels.HOLD) / beats,
        "velocity": velocity.sum() / beats,
        "pedal": _entropy(target, logits, slice(Channels.PEDAL, Channels.PEDAL + 1)) / beats,
        "beat": _entropy(target, logits, slice(Channels.DOWNBEAT, Channels.BEAT + 1)) / beats,
        "tempo": (logits[:, Channels.TEMPO] - target[:, Channels.TEMPO]).abs().sum() / beats,
        # Of all channels of a frame together: a codec with more channels may put its information anywhere.
        "kl": posterior.kl().mean() / posterior.mean.shape[-1],
    }
    total = torch.stack([getattr(loss, name) * value for name, value in terms.items()]).sum()
    return {"total": total, **terms}


def agreement(target: Tensor, roll: Tensor) -> dict[str, Tensor]:
    """F1 of onsets on the exact step, and of keys held down, and the error of velocities of 127, of rolls [B, C, T]."""
    found = {name: roll[:, rows] >= 0.5 for name, rows in (("onset", Channels.ONSET), ("hold", Channels.HOLD))}
    struck = target[:, Channels.ONSET] > 0
    error = (roll[:, Channels.VELOCITY] - target[:, Channels.VELOCITY]).abs()[struck]
    return {
        "onset_f1": _f1(struck, found["onset"]),
        "hold_f1": _f1(target[:, Channels.HOLD] > 0, found["hold"]),
        "velocity_error": 127 * error.mean() if len(error) else error.new_zeros(()),
    }


def _entropy(target: Tensor, logits: Tensor, rows: slice, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of some rows of a roll, summed."""
    return F.binary_cross_entropy_with_logits(logits[:, rows], target[:, rows], weight, reduction="sum")


def _f1(wanted: Tensor, found: Tensor) -> Tensor:
    both = (wanted & found).sum()
    return 2 * both / (wanted.sum() + found.sum()).clamp_min(1)
