"""A diffusion model in training: its loss at random noise levels, and at fixed ones on held-out crops."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from musicldm.core.padded import Padded, groups
from musicldm.generators.base import DemoRequest
from musicldm.generators.diffusion import upgrade
from musicldm.generators.diffusion.config import DiffusionRunConfig
from musicldm.generators.diffusion.generate import DiffusionOptions
from musicldm.generators.diffusion.model import Diffusion
from musicldm.generators.training import DEMO_CHOICES, DEMO_SECONDS, GeneratorTraining, train_generator
from musicldm.latents.dataset import LatentBatch

DEMO_STEPS = 20
VALIDATION_LEVELS = 8  # noise levels at which each held-out crop is judged


class DiffusionTraining(GeneratorTraining[Diffusion]):
    """A diffusion model, its loss, and held-out crops [N, D, L] of normalised latents to judge it by."""

    config: DiffusionRunConfig
    model_class = Diffusion

    def losses(self, batch: LatentBatch) -> dict[str, Tensor]:
        x0, config = batch.latents, self.config.model
        # One number for each crop, [B]. What is drawn first, second and third is part of what a seed means.
        time = self.rand_like(x0[:, 0, 0])
        if config.noise.levels == "discrete":
            # Below N, since the numbers are below 1.
            time = (time * len(self.model.schedule)).long()
        else:
            time = time * (len(self.model.schedule) - 1)
        conditions, chance = self.model.conditions, self.rand_like(x0[:, 0, 0])
        conditioning = conditions.dropped(conditions.of_batch(batch), chance, config.conditions.dropout)
        loss = self.model.loss(x0, time, self.randn_like(x0), conditioning)
        return {"total": (loss * self.model.weight(time, x0)).mean(), "mse": loss.mean()}

    def validate(self) -> dict[str, float]:
        """At fixed noise levels with fixed noise: `loss` over all of them and one figure for each, and as `raw` the
        same of the weights that are trained, before they are averaged."""
        if self.heldout is None:
            return {}
        averaged, raw = (self._heldout_losses(model, self.heldout) for model in (self.ema, self.model))
        return {
            "loss": sum(averaged.values()) / len(averaged),
            **{f"t{time}": value for time, value in averaged.items()},
            "raw": sum(raw.values()) / len(raw),
            **{f"raw-t{time}": value for time, value in raw.items()},
        }

    def _heldout_losses(self, model: Diffusion, heldout: LatentBatch | Padded) -> dict[int, float]:
        """The loss of a model at each of the fixed times."""
        steps, size = len(model.schedule), self.training_config.micro_batch_size
        # For all crops at once, so that the figures do not depend on the size of a micro-batch.
        whole = heldout.batch if isinstance(heldout, Padded) else heldout
        noise = torch.randn(whole.latents.shape, generator=torch.Generator().manual_seed(0))
        # The noise goes along with its crops.
        noisy = Padded((whole, noise), heldout.missing) if isinstance(heldout, Padded) else (whole, noise)

        def cut(both: tuple[LatentBatch, Tensor], missing: int) -> tuple[LatentBatch, Tensor]:
            return self.cut(both[0], missing), both[1][..., : both[1].shape[-1] - missing]

        losses = {}
        # The middles of equal stretches, so that neither end of the process is among them.
        for time in [int((i + 0.5) * steps / VALIDATION_LEVELS) for i in range(VALIDATION_LEVELS)]:
            total = 0.0
            for first in range(0, len(noise), size):
                part = tree_map(lambda column, of=slice(first, first + size): column[of].to(self.device), noisy)
                for group in groups(part, cut):
                    crops, eps = group.batch
                    t = torch.full((len(eps),), time, device=self.device)
                    total += model.loss(crops.latents, t, eps, model.conditions.of_batch(crops)).sum().item()
            losses[time] = total / len(noise)
        return losses

    def demo_requests(self) -> list[DemoRequest]:
        """New music in a few steps; then the first take for some values of each condition that goes by names."""
        options = DiffusionOptions(steps=min(DEMO_STEPS, len(self.model.schedule)))
        takes = [replace(request, options=options) for request in super().demo_requests()]
        return takes + [
            DemoRequest(value, DEMO_SECONDS, conditions={condition.name: value}, options=options)
            for condition in self.ema.conditions
            for value in condition.demos(self.tracks, DEMO_CHOICES)
        ]


train_diffusion = partial(
    train_generator, DiffusionTraining, upgrade=upgrade.run_config, upgrade_component=upgrade.component
)
"""(store, run, config, device, …) -> the result; see `train_generator`."""
