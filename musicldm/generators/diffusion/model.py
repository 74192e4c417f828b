"""A diffusion model as it is trained, shipped and used: the network, the noise process, the scale of its latents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from musicldm.conditions.base import Conditioning, ConditionSet
from musicldm.generators.diffusion import upgrade
from musicldm.generators.diffusion.config import DiffusionConfig
from musicldm.generators.diffusion.transformer import Transformer
from musicldm.generators.diffusion.unet import UNet
from musicldm.generators.module import GeneratorModule
from musicldm.noise.schedule import NoiseLevel, NoiseSchedule

LIMIT = 5.0  # in standard deviations of a channel: 3 in 1,000 of a piano's normalised latents lie further out


class Diffusion(GeneratorModule):
    """The forward process, the network that learned to undo it, and its loss. Latents are normalised, [B, D, L]."""

    kind = "diffusion"
    config: DiffusionConfig
    config_class = DiffusionConfig

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__(config)
        self.schedule = NoiseSchedule(config.noise)
        self.network: UNet | Transformer = (
            UNet(config.unet, config.conditions)
            if config.network == "unet"
            else Transformer(config.transformer, config.conditions)
        )
        self.register_load_state_dict_pre_hook(_upgrade_tensors)  # type: ignore[no-untyped-call]

    @property
    def conditions(self) -> ConditionSet:
        """What it can be conditioned on."""
        return self.network.conditions

    def loss(self, x0: Tensor, time: Tensor, eps: Tensor, conditioning: Conditioning) -> Tensor:
        """Mean squared error of the prediction for clean latents x0, times [B] and noise ε: one for each item, [B].

        As it is, without the weights of `noise.min_snr`.
        """
        level = self.schedule.of(time, x0)
        # Under autocast it comes with 16 bits, in which the squared error would be too coarse.
        prediction: Tensor = self.network(level.mix(x0, eps), time, conditioning).float()
        target = level.target(self.config.noise.objective, x0, eps)
        return (prediction - target).square().mean(dim=(1, 2))

    def weight(self, time: Tensor, like: Tensor) -> Tensor:
        """The weight of the loss at times [B] in training: [B]."""
        noise = self.config.noise
        if not noise.min_snr:
            return torch.ones_like(time, dtype=like.dtype)
        return torch.as_tensor(self.schedule.of(time, like).weight(noise.objective, noise.min_snr)).flatten()

    def denoise(self, x: Tensor, level: NoiseLevel, conditioning: Conditioning) -> Tensor:
        """The estimate of the clean signal in x [B, D, L] at a level, kept where latents can be: what samplers call."""
        time = torch.full((x.shape[0],), float(level.time), device=x.device)
        output = self.network(x, time, conditioning).to(x.dtype)
        # Where hardly any signal is left, ε-prediction divides its error by a tiny α.
        return level.x0(self.config.noise.objective, x, output).clamp(-LIMIT, LIMIT)

    @classmethod
    def upgraded(cls, config: dict[str, Any]) -> dict[str, Any]:
        return upgrade.model_config(config)


def _upgrade_tensors(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before weights are loaded: those of release 0.1 get their names of today."""
    upgrade.tensors(state)
