"""A codec that makes phases up, for tests: the waveform VAE, each of whose decoded frequencies is turned by 90°."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from musicldm.codecs import base
from musicldm.codecs.vae import FAMILY
from musicldm.codecs.vae.model import VAE
from musicldm.core.registry import Registry


class PhaselessVAE(VAE):
    """What it decodes sounds like the VAE's, and no sample of it is the same."""

    @property
    def keeps_phase(self) -> bool:
        return False

    def decode(self, z: Tensor, /, noise: Tensor | None = None, steps: int | None = None) -> Tensor:
        sound = super().decode(z, noise, steps)
        turned: Tensor = torch.fft.irfft(1j * torch.fft.rfft(sound), sound.shape[-1])
        return turned


PHASELESS = replace(FAMILY, from_bundle=PhaselessVAE.from_bundle)


def without_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, bundles of the waveform VAE are read as those of this codec."""
    monkeypatch.setattr(base, "CODECS", Registry("codec", {"vae": "tests.codecs.phaseless:PHASELESS"}))
