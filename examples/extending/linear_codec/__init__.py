"""A codec of one linear layer: a latent frame is `hop` samples, projected onto a few learned directions."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from musicldm.codecs.base import LatentSpec
from musicldm.codecs.family import codec_family
from musicldm.codecs.module import CodecModule
from musicldm.codecs.posterior import Deterministic
from musicldm.codecs.training import CodecTraining
from musicldm.training.config import PlanConfig, TrainingConfig


@dataclass(frozen=True)
class LinearConfig:
    sample_rate: int = 16000
    latent_channels: int = 64
    hop: int = 256
    grid = 1  # windows begin anywhere

    @property
    def spec(self) -> LatentSpec:
        return LatentSpec("audio", self.latent_channels, 1, self.sample_rate, self.hop, "linear", codec_hash="")


class Linear(CodecModule):
    config_class = LinearConfig
    context = 0  # a frame depends on its own samples alone

    def __init__(self, config: LinearConfig) -> None:
        super().__init__(config)
        self.analysis = nn.Conv1d(1, config.latent_channels, config.hop, config.hop, bias=False)
        self.synthesis = nn.ConvTranspose1d(config.latent_channels, 1, config.hop, config.hop, bias=False)

    def encode(self, x: Tensor, /) -> Deterministic:
        return Deterministic(self.analysis(F.pad(x, (0, -x.shape[-1] % self.config.hop))))

    def decode(self, z: Tensor, /, noise: Tensor | None = None, steps: int | None = None) -> Tensor:
        waveform: Tensor = self.synthesis(z)
        return waveform


class LinearTraining(CodecTraining[Linear]):
    model_class = Linear

    def losses_of(self, codec: Linear, crops: Tensor) -> dict[str, Tensor]:
        return {"total": F.mse_loss(codec.decode(codec.encode(crops).mode()), crops)}


@dataclass(frozen=True)
class LinearRun:
    model: LinearConfig = field(default_factory=LinearConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    plan: PlanConfig | None = None


FAMILY = codec_family(Linear, LinearRun, f"{__name__}:LinearTraining", __name__)
