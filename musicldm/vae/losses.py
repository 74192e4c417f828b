"""What the VAE is asked for: the waveform, its spectrograms at several resolutions, and a quiet posterior."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from musicldm.errors import ConfigError
from musicldm.vae.gaussian import DiagonalGaussian


@dataclass(frozen=True)
class LossConfig:
    """The weight of each term; a term of weight 0 is not computed."""

    time: float = 1.0
    """Mean absolute error of the waveform."""
    stft: float = 1.0
    """Multi-resolution spectrogram distance, see `multi_resolution_stft`."""
    study: float = 0.0
    """The loss of the 2023 study, see `study_loss`."""
    kl: float = 1e-4
    """KL divergence to N(0, 1) in nats per latent number."""
    fft_sizes: tuple[int, ...] = (2048, 512, 128)
    """Window lengths in samples of the multi-resolution distance; the hop is a quarter."""

    def __post_init__(self) -> None:
        if min(self.time, self.stft, self.study, self.kl) < 0:
            raise ConfigError("A loss weight cannot be negative.")


def magnitude(x: Tensor, fft_size: int, hop: int) -> Tensor:
    """|STFT| of waveforms [..., T] with a periodic Hann window of unit sum: [..., F, frames]; float32 throughout.

    With unit sum a full-scale sine reads 0.5 whatever the size.
    """
    window = torch.hann_window(fft_size, device=x.device)
    spectrum = torch.stft(
        x.float().reshape(-1, x.shape[-1]),
        fft_size,
        hop,
        window=window / window.sum(),
        return_complex=True,
        pad_mode="constant",
    )
    # The floor keeps the gradient of the root finite at silence.
    power = spectrum.real.square() + spectrum.imag.square()
    return power.clamp_min(1e-14).sqrt().reshape(*x.shape[:-1], *spectrum.shape[-2:])


def multi_resolution_stft(x: Tensor, y: Tensor, fft_sizes: tuple[int, ...]) -> Tensor:
    """Distance of waveforms [B, C, T] by their spectrograms: linear and logarithmic magnitude, averaged over sizes.

    The linear part is the spectral convergence ‖|X| − |Y|‖ / ‖|X|‖ of each item, which says how much of the energy is
    wrong; the logarithmic part, in nepers, hears the quiet (Yamamoto et al. 2020, eq. 4 and 5). `x` is the target.
    """
    total = x.new_zeros(())
    for size in fft_sizes:
        target, estimate = magnitude(x, size, size // 4), magnitude(y, size, size // 4)
        energy = target.square().mean(dim=(1, 2, 3)).clamp_min(1e-8)
        convergence = ((target - estimate).square().mean(dim=(1, 2, 3)) / energy).clamp_min(1e-9).sqrt().mean()
        floor = 1e-4  # -80 dB under a full-scale sine: what lies below is not worth learning
        logarithmic = ((target + floor).log() - (estimate + floor).log()).abs().mean()
        total = total + 0.5 * (convergence + 0.5 * logarithmic)
    return total / len(fft_sizes)


def study_loss(x: Tensor, y: Tensor) -> Tensor:
    """The loss of the 2023 study, 0.5·L1(waveform) + 0.5·L1(|STFT|, 1024/256, no window): the mean over [B, C, T].

    It grows with the level, so it means something only beside its value for silence, `study_loss(x, 0)`.
    """

    def spectrogram(z: Tensor) -> Tensor:
        window = torch.ones(1024, device=z.device)
        spectrum = torch.stft(
            z.float().flatten(0, 1), 1024, 256, window=window, return_complex=True, pad_mode="constant"
        )
        return (spectrum.real.square() + spectrum.imag.square()).clamp_min(1e-10).sqrt()

    return 0.5 * (x - y).abs().mean() + 0.5 * (spectrogram(x) - spectrogram(y)).abs().mean()


def vae_loss(x: Tensor, y: Tensor, posterior: DiagonalGaussian, config: LossConfig) -> dict[str, Tensor]:
    """Every term of the loss and their weighted sum, under the names of `LossConfig` and `total`.

    Args:
        x: target waveforms [B, C, T].
        y: their reconstructions.
    """
    terms: dict[str, Tensor] = {"time": (x - y).abs().mean(), "kl": posterior.kl().mean() / posterior.mean[0].numel()}
    if config.stft:
        terms["stft"] = multi_resolution_stft(x, y, config.fft_sizes)
    if config.study:
        terms["study"] = study_loss(x, y)
    total = sum((getattr(config, name) * value for name, value in terms.items()), start=x.new_zeros(()))
    return {"total": total, **terms}
