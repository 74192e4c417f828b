"""One optimizer step, on one device or several: micro-batches, gradients, the verdict on the loss, the weights."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from musicldm.core.errors import DataError
from musicldm.core.padded import groups
from musicldm.training.data import micro_batch
from musicldm.training.processes import Processes
from musicldm.training.state import Origin, StepResult, TrainState
from musicldm.training.trainable import Trainable

SETTLING = 50
"""Steps before a jump of the loss can be told from a beginning."""
JUMP = (8.0, math.log(4.0))
"""How far the loss's logarithm must rise above its mean to be a jump: in standard deviations, and at least."""
LOSS_WINDOW = 100
"""Steps over which the mean and the deviation of the loss are taken."""
OVERFLOWS = 20
"""Consecutive steps whose gradients a scaled loss may drive out of 16 bits."""


class TrainStep:
    """Takes a batch, trains the module on it, and says what became of it.

    Args:
        module: on its device already.
        processes: that train together; each is given its share of every batch.
    """

    def __init__(self, module: Trainable[Any], processes: Processes) -> None:
        self.module = module
        self.processes = processes
        self.optimizer = module.make_optimizer()
        module.scaler = GradScaler(processes.device.type, enabled=module.training_config.precision == "16")

    def __call__(self, batch: Any) -> StepResult:
        """Make a whole optimizer step, unless the loss or a gradient forbids it."""
        module, state = self.module, self.module.state
        names, table = self._forward_backward(batch)
        # Before they are unscaled: an overflow in one process then shows in all, which must pass over the step
        # together.
        self.processes.average([weight.grad for weight in module.parameters() if weight.grad is not None])
        module.scaler.unscale_(self.optimizer)
        norms = self._clip()
        # The one moment at which the processor waits for the device.
        numbers = torch.cat([table.flatten(), torch.stack(list(norms.values()))]).tolist()
        rows = [dict(zip(names, numbers[i * len(names) :], strict=False)) for i in range(len(table))]
        terms = {name: sum(row[name] for row in rows) / len(rows) for name in names}
        gradients = dict(zip(norms, numbers[-len(norms) :], strict=True))
        result = judge(
            state, [row["total"] for row in rows], terms["total"], gradients, scaled=module.scaler.is_enabled()
        )
        if result.counted:
            rate = self._set_learning_rate()
            module.scaler.step(self.optimizer)
            module.update_ema()
            state.step += 1
            result = StepResult(True, {**terms, **gradients, "rate": rate})
        # After a step that does not count as well: this is what lowers a scale that was too large.
        module.scaler.update()
        # To None and not to 0: their memory is free for the activations of the next step.
        self.optimizer.zero_grad(set_to_none=True)
        return result

    def _forward_backward(self, batch: Any) -> tuple[list[str], Tensor]:
        """Gradients of this device's share; the names of the loss's terms, and their values in all micro-batches of all
        devices [micro-batches, terms]."""
        module, config = self.module, self.module.training_config
        position, size = module.state.position, config.micro_batch_size
        found = []
        for i in range(config.accumulate):
            number = self.processes.rank * config.accumulate + i
            terms: dict[str, Tensor] = {}
            for group in groups(micro_batch(batch, slice(i * size, (i + 1) * size)), module.cut):
                # Every micro-batch has its own seed, so that a resumed run draws what an undisturbed one would.
                module.rng.seed(self.processes.device, config.seed, position, number, size, group.rows, group.missing)
                module.weight_of_group = group.weight
                for name, value in module.forward_backward(group.batch).items():
                    terms[name] = terms.get(name, 0.0) + group.weight * value
            found.append(terms)
        module.state.position += 1
        names = list(found[0])
        table = torch.stack([torch.stack([terms[name].float() for name in names]) for terms in found])
        return names, self.processes.gathered(table)

    def _clip(self) -> dict[str, Tensor]:
        """Shorten the gradients of each group that are too long; their norms before that."""
        norms = {}
        for group in self.optimizer.param_groups:
            name = f"gradient-{group['name']}" if "name" in group else "gradient"
            # A norm that is infinite spoils the gradients here. `judge` sees it, and they are dropped.
            norm = nn.utils.clip_grad_norm_(group["params"], self.module.training_config.gradient_clip)
            norms[name] = norm.to(self.processes.device)
        return norms

    def _set_learning_rate(self) -> float:
        state = self.module.state
        stage = self.module.stage
        warmup = self.module.training_config.warmup
        factor = state.lr_factor * lr_schedule(state.step - stage.start, len(stage), warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["peak"]
        return float(self.optimizer.param_groups[0]["lr"])

    def checkpoint(self) -> dict[str, Any]:
        """All that is needed to resume exactly here: tensors and plain data, between two steps."""
        module = self.module
        return {
            "state": asdict(module.state),
            "origin": module.origin.to_dict() if module.origin else {},
            "state_dict": module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": module.scaler.state_dict(),
        }

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Be in all as when the checkpoint was taken."""
        restore_weights(self.module, checkpoint)
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        if checkpoint["scaler"]:
            self.module.scaler.load_state_dict(checkpoint["scaler"])


def restore_weights(module: Trainable[Any], checkpoint: dict[str, Any]) -> None:
    """Give the module the weights of a checkpoint, to look at and to ship."""
    module.state = TrainState(**checkpoint["state"])
    module.origin = Origin.from_dict(checkpoint["origin"]) if checkpoint["origin"] else None
    module.load_state_dict(checkpoint["state_dict"])


def check_fit(module: Trainable[Any], checkpoint: dict[str, Any]) -> None:
    """See that a checkpoint can be resumed from; the module has its weights then.

    Raises:
        Exception: of whatever kind, where it cannot.
    """
    restore_weights(module, checkpoint)
    optimizer = module.make_optimizer()
    optimizer.load_state_dict(checkpoint["optimizer"])
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in checkpoint["scaler"].values()):
        raise DataError("The scale of the loss is not a number.")
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            # torch does not compare them before it adds them up. What has no dimension counts steps.
            if isinstance(value, Tensor) and value.dim() and value.shape != weight.shape:
                raise DataError(f"The optimizer's {name} has the shape {list(value.shape)}, not {list(weight.shape)}.")


def lr_schedule(step: int, steps: int, warmup: int) -> float:
    """The learning rate relative to its peak: a climb from zero, then a cosine that falls to a twentieth."""
    falling = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps))
    # + 1, so that the first step is not one of length 0.
    return min(1.0, (step + 1) / max(1, warmup)) * (0.05 + 0.95 * falling)


def judge(state: TrainState, totals: list[float], loss: float, gradients: dict[str, float], scaled: bool) -> StepResult:
    """Whether a step may be made; what the loss usually is, is noted in `state`.

    Args:
        totals: the loss of every micro-batch.
        loss: their mean.
        gradients: norms.
        scaled: the loss is scaled for 16 bits, where a gradient that overflows is usual and passed over.
    """
    if bad := tuple(number for number, total in enumerate(totals) if not math.isfinite(total)):
        return StepResult(False, fault="was no longer a number", micro_batches=bad)
    if not all(map(math.isfinite, gradients.values())):
        state.overflows += 1
        if scaled and state.overflows < OVERFLOWS:
            return StepResult(False)  # the scaler found too large a scale, and will lower it
        return StepResult(False, fault="had a gradient that is not a number")
    state.overflows = 0
    if loss > 0:
        # By the logarithm, since losses change by factors: a jump is one at any height. A loss of 0 or less has none.
        rise = math.log(loss) - state.loss_mean
        deviations, least = JUMP
        if state.step >= SETTLING and rise > max(deviations * math.sqrt(state.loss_variance), least):
            return StepResult(False, fault=f"jumped from about {math.exp(state.loss_mean):.3g} to {loss:.3g}")
        # At first a plain mean over all steps, then an exponential one.
        weight = 1 / min(state.step + 1, LOSS_WINDOW)
        state.loss_mean += weight * rise
        # The exponentially weighted variance in one pass, from the deviation before the mean has moved.
        state.loss_variance = (1 - weight) * (state.loss_variance + weight * rise * rise)
    return StepResult(True)
