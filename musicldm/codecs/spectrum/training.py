"""Prepared waveforms -> a trained codec of spectra: its magnitudes first, and then its adversarial decoder, if any."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from musicldm.codecs.adversarial import adversarial_backward
from musicldm.codecs.spectrum.config import SpectrumRunConfig
from musicldm.codecs.spectrum.losses import magnitude_loss
from musicldm.codecs.spectrum.model import SpectrumCodec
from musicldm.codecs.training import CodecTraining, Material, train_codec
from musicldm.core.devices import autocast
from musicldm.nn.discriminator import Discriminator
from musicldm.nn.spectral_losses import spectral_distances


class SpectrumTraining(CodecTraining[SpectrumCodec]):
    """A codec of spectra in training.

    The encoder and the magnitudes' decoder learn first; then both stand still, and the adversarial decoder learns.
    """

    config: SpectrumRunConfig
    model_class = SpectrumCodec

    def __init__(self, config: SpectrumRunConfig, material: Material) -> None:
        super().__init__(config, material)
        has_head = config.model.decoder == "adversarial"
        self.discriminator = Discriminator(config.discriminator, config.model.audio_channels) if has_head else None

    @property
    def trains_head(self) -> bool:
        """Whether the adversarial decoder's time has come."""
        return self.discriminator is not None and self.step >= self.config.loss.head_start

    @property
    def stage(self) -> range:
        """The magnitudes' steps or the adversarial decoder's: each begins at its full rate."""
        steps, head_start = self.training_config.steps, self.config.loss.head_start
        if self.trains_head:
            return range(head_start, max(steps, self.step + 1))
        return range(min(head_start, steps) if self.discriminator is not None else steps)

    def losses_of(self, codec: SpectrumCodec, crops: Tensor) -> dict[str, Tensor]:
        """Those of the magnitudes; in training, of a draw from the posterior."""
        return self._decoded(codec, crops)[1]

    def _decoded(self, codec: SpectrumCodec, crops: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The log-magnitudes that a codec decodes of crops, and their losses; see `losses_of`."""
        target = codec.log_magnitude(crops)
        posterior = codec.posterior(target)
        z = posterior.at(self.randn_like(posterior.mean)) if codec is self.model else posterior.mode()
        decoded = codec.decoder(z)
        return decoded, magnitude_loss(target, decoded, posterior, self.config.loss, self.config.model)

    def forward_backward(self, batch: Tensor) -> dict[str, Tensor]:
        """Add the gradients of a micro-batch: of the magnitudes, or of the adversarial decoder and its critic."""
        loss = self.config.loss
        if self.discriminator is None or not self.trains_head:
            return super().forward_backward(batch)
        if self.step == loss.head_start:
            self._settle()
        with autocast(self.training_config.precision, self.device):
            with torch.no_grad():
                posterior = self.model.encode(batch)
                magnitudes = self.model.decoder(posterior.at(self.randn_like(posterior.mean)))
            output = self.model.waveform(magnitudes)[..., : batch.shape[-1]]
        terms = self._distances(batch, output)
        if self.step < loss.adversarial_start:
            self.backward(terms["total"])
            return {name: value.detach() for name, value in terms.items()}
        return adversarial_backward(self, self.discriminator, batch, output, terms, loss.adversarial, loss.features)

    @torch.no_grad()
    def _settle(self) -> None:
        """From here on the averaged weights are the trained ones: what is shipped is what the head learns on."""
        for part in ("encoder", "decoder"):
            self.model.get_submodule(part).load_state_dict(self.ema.get_submodule(part).state_dict())

    def heldout_losses(self, crops: Tensor) -> dict[str, Tensor]:
        """Of the mode's magnitudes and, where there is an adversarial decoder, of its waveforms too.

        From the first step on: so the sum falls through both stages, and the best of all checkpoints can be told.
        """
        decoded, losses = self._decoded(self.ema, crops)
        if self.discriminator is not None:
            distances = self._distances(crops, self.ema.waveform(decoded)[..., : crops.shape[-1]])
            losses |= {**distances, "total": losses["total"] + distances["total"]}
        return losses

    def _distances(self, target: Tensor, output: Tensor) -> dict[str, Tensor]:
        """Of waveforms [B, C, T], by their spectrograms: nothing here asks for the phases that were lost."""
        loss = self.config.loss
        with torch.autocast(output.device.type, enabled=False):
            found = spectral_distances(target.float(), output.float(), loss.fft_sizes, self.config.model.sample_rate)
        total = loss.stft * found["stft"] + loss.stft_mel * found["mel"]
        return {"total": total, "reconstruction": total, "stft": found["stft"], "stft-mel": found["mel"]}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """All of it: a parameter without a gradient is left as it is."""
        groups = super().parameter_groups()
        if self.discriminator is not None:
            weights = list(self.discriminator.parameters())
            groups.append({"params": weights, "name": "discriminator", "lr": self.config.discriminator.learning_rate})
        return groups


train_spectrum = partial(train_codec, SpectrumTraining)
"""(data, run, config, device, …) -> the result; see `train_codec`."""
