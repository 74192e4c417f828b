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
    if loss.mel:
        terms["mel"] = (_log_mel(target, config) - _log_mel(estimate, config)).abs().mean()
    # Of all channels of a frame together: a codec with more channels may put its information anywhere.
    terms["kl"] = posterior.kl().mean() / posterior.mean.shape[-1]
    total = loss.magnitude * terms["magnitude"] + loss.kl * terms["kl"]
    if loss.mel:
        total = total + loss.mel * terms["mel"]
    return {"total": total, **terms}


def _log_mel(log_magnitude: Tensor, config: SpectrumConfig) -> Tensor:
    """The same scale, of the magnitudes in mel bands: [B, C, F, K] -> [B, C, bands, K]."""
    bands = bands_on(log_magnitude.device, config.window_size, config.sample_rate)
    # In units of the floor; an untrained decoder's decades may be anything, and their power would overflow.
    magnitude = torch.expm1((log_magnitude * math.log(10)).clamp(-2, 12))
    return torch.log1p((bands @ magnitude).clamp_min(0)) / math.log(10)
