"""The loss of the VAE: distances of the waveform and of its spectrograms at several resolutions, and the KL term.

What a discriminator adds is in `codecs.adversarial`. Every distance is float32 whatever the autocast, and averaged over
the items of a batch.

Shapes: B batch, C audio channels, T samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from musicldm.codecs.posterior import DiagonalGaussian
from musicldm.core.errors import ConfigError
from musicldm.media.audio.l1 import waveform_spectrogram_l1
from musicldm.nn.spectral_losses import spectral_distances


@dataclass(frozen=True)
class LossConfig:
    """The weight of each term; of those with weight 0 only `time` and `kl` are computed, to be logged."""

    time: float = 1.0
    """Mean absolute error of the waveform."""
    stft: float = 1.0
    """Multi-resolution spectrogram distance, see `multi_resolution_stft`."""
    mel: float = 0.0
    """Multi-resolution mel distance, see `multi_resolution_mel`."""
    study: float = 0.0
    """The loss of the 2023 study, see `waveform_spectrogram_l1`."""
    kl: float = 1e-4
    """β (Higgins et al. 2017): weight of the KL divergence to N(0, 1) in nats for each latent element."""
    free_bits: float = 0.0
    """Bits for each latent element up to which the divergence of a crop costs nothing."""
    kl_warmup: int = 0
    """Steps over which β climbs from zero."""
    fft_sizes: tuple[int, ...] = (2048, 512, 128)
    """Window lengths in samples of the multi-resolution distances; the hop is a quarter."""
    adversarial: float = 0.0
    """Adversarial loss: the norm of its gradient at the waveform, as a fraction of that of the terms above."""
    features: float = 0.0
    """Feature matching inside the discriminator, likewise."""
    adversarial_start: int = 0
    """First step with a discriminator: what it would see before is not worth telling from music."""

    def __post_init__(self) -> None:
        weights = (self.time, self.stft, self.mel, self.study, self.kl, self.adversarial, self.features)
        if min(weights) < 0:
            raise ConfigError("A loss weight cannot be negative.")
        if min(self.free_bits, self.kl_warmup, self.adversarial_start) < 0:
            raise ConfigError("free_bits, kl_warmup and adversarial_start cannot be negative.")
        if not self.time + self.stft + self.mel + self.study:
            raise ConfigError("A VAE needs one of the losses time, stft, mel and study.")

    def beta(self, step: int | None) -> float:
        """The weight of the KL term at a step; None: after its warm-up."""
        return self.kl if step is None else self.kl * min(1.0, (step + 1) / max(1, self.kl_warmup))


def vae_loss(
    x: Tensor, y: Tensor, posterior: DiagonalGaussian, config: LossConfig, sample_rate: int, step: int | None = None
) -> dict[str, Tensor]:
    """Every term but the adversarial ones, under the names of `LossConfig`, and their weighted sums.

    `reconstruction` sums the terms that compare waveforms, `prior` is what the KL divergence costs, `total` is both.

    Args:
        x: target waveforms [B, C, T].
        y: their reconstructions.
        step: of the training, by which β warms up; None: when it has.
    """
    with torch.autocast(x.device.type, enabled=False):
        return _vae_loss(x.float(), y.float(), posterior, config, sample_rate, step)


def _vae_loss(
    x: Tensor, y: Tensor, posterior: DiagonalGaussian, config: LossConfig, sample_rate: int, step: int | None
) -> dict[str, Tensor]:
    terms: dict[str, Tensor] = {"time": (x - y).abs().mean()}
    if config.stft or config.mel:
        spectral = spectral_distances(x, y, config.fft_sizes, sample_rate if config.mel else 0)
        terms |= {name: value for name, value in spectral.items() if getattr(config, name)}
    if config.study:
        terms["study"] = waveform_spectrogram_l1(x, y)
    reconstruction = sum((getattr(config, name) * value for name, value in terms.items()), start=x.new_zeros(()))
    kl = posterior.kl() / posterior.mean[0].numel()
    # Cut off for each crop before the mean, or rich crops would live on what poor ones leave unused.
    beyond = (kl - config.free_bits * math.log(2)).clamp_min(0).mean()  # Roberts et al. 2018, eq. 2
    prior = config.beta(step) * beyond
    return {
        "total": reconstruction + prior,
        "reconstruction": reconstruction,
        "prior": prior,
        **terms,
        "kl": kl.mean(),
    }
