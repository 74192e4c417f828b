"""What the encoder and the magnitudes' decoder are trained by. B batch, C channels, F bins, K columns."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from musicldm.codecs.posterior import DiagonalGaussian
from musicldm.codecs.spectrum.config import SpectrumConfig, SpectrumLossConfig
from musicldm.nn.spectral_losses import bands_on


def magnitude_loss(
    target: Tensor, estimate: Tensor, posterior: DiagonalGaussian, loss: SpectrumLossConfig, config: SpectrumConfig
) -> dict[str, Tensor]:
    """The terms of the loss, and their weighted sum `total`.

    Args:
        target: log-magnitudes [B, C, F, K], in decades above the floor.
        estimate: of the decoder.
    """
    terms = {"magnitude": (target - estimate).abs().mean()}
    if loss.mel or loss.convergence:
        x, y = _linear(target), _linear(estimate)
    if loss.mel:
        bands = bands_on(target.device, config.window_size, config.sample_rate)
        terms["mel"] = ((bands @ x).log1p() - (bands @ y).log1p()).abs().mean() / math.log(10)
    if loss.convergence:
        # Yamamoto et al. 2020, eq. 4, of each item. One is the floor itself, where there is nothing but silence.
        gap, size = ((each.square().mean(dim=(1, 2, 3)) + 1e-6).sqrt() for each in (x - y, x))
        terms["convergence"] = (gap / size.clamp_min(1)).mean()
    # Of all channels of a frame together: a codec with more channels may put its information anywhere.
    terms["kl"] = posterior.kl().mean() / posterior.mean.shape[-1]
    total = torch.stack([getattr(loss, name) * value for name, value in terms.items()]).sum()
    return {"total": total, **terms}


def _linear(log_magnitude: Tensor) -> Tensor:
    """In units of the floor; whatever an untrained decoder emits, its power is a number."""
    return torch.expm1((log_magnitude * math.log(10)).clamp(0, 14))
