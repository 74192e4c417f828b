"""How a network is trained, whatever it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from musicldm.core.errors import ConfigError


@dataclass(frozen=True)
class TrainingConfig:
    """The optimisation, and how often to validate and to save."""

    steps: int = 10000
    """Optimizer steps in all."""
    batch_size: int = 8
    """Crops in a step, over all micro-batches and all devices."""
    accumulate: int = 1
    """Micro-batches into which a device's crops of a step are split: they go through the network one after another,
    their gradients add up, and less memory is needed."""
    checkpointing: bool = False
    """Activation checkpointing: the network's blocks are computed again for the gradient, to need less memory."""
    precision: str = "auto"
    """auto, 32, 16 or bf16. auto: bf16 or 16 on a GPU, 32 on a CPU; a resumed run keeps what it had."""
    seconds: float = 2.0
    """Length of a crop, of notes in beats; rounded up to whole blocks of the codec, or to whole latent frames."""
    learning_rate: float = 1e-3
    """Of AdamW, at its peak."""
    warmup: int = 100
    """Steps over which the learning rate climbs from zero; afterwards it falls along a cosine to a twentieth."""
    betas: tuple[float, ...] = (0.9, 0.99)
    """AdamW's decay rates of the moving averages of gradients and of their squares."""
    weight_decay: float = 1e-3
    """AdamW's pull of the weights to zero, relative to the learning rate."""
    gradient_clip: float = 1.0
    """Largest norm of a gradient."""
    ema: float = 0.999
    """Decay of the moving average (EMA) of the weights, which is validated and shipped; it grows to this from zero."""
    validate_every: int = 500
    """Steps between two validations on the held-out tracks, each followed by a checkpoint."""
    demo_every: int = 2000
    """Steps between two listening demos."""
    validation_crops: int = 32
    """Fixed crops of the held-out tracks on which the model is validated."""
    workers: int = 0
    """Processes that read crops beside the training, no more than there are cores; 0: it reads them itself."""
    seed: int = 0
    """Of all random choices: first weights, crops, noise."""
    patience: int = 5
    """Rollbacks to the last good checkpoint, each halving the learning rate, before the training gives up."""
    devices: int = 1
    """GPUs of a machine, or processes on a CPU, that share the crops of a step."""
    nodes: int = 1
    """Machines that train together, all with this folder and with as many devices."""
    strategy: Literal["auto", "ddp"] = "auto"
    """How several devices train together: ddp, each with all the weights, as also auto has it."""
    wandb: str = ""
    """A project of Weights & Biases to which the metrics go too; empty: none."""

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "validate_every", "demo_every", "validation_crops")
        for name in (*counts, "accumulate", "devices", "nodes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} must be at least 1.")
        if self.seconds <= 0 or self.learning_rate <= 0:
            raise ConfigError("training.seconds and training.learning_rate must be positive.")
        if self.workers < 0 or self.warmup < 0 or self.patience < 0:
            raise ConfigError("training.workers, training.warmup and training.patience cannot be negative.")
        if self.batch_size % self.micro_batches:
            raise ConfigError(
                f"A batch of {self.batch_size} crops does not divide into {self.micro_batches} equal micro-batches "
                f"({self.accumulate} on each of {self.processes} devices).",
                "Choose a training.batch_size that is a multiple of accumulate × devices × nodes.",
            )
        if not 0 <= self.ema < 1:
            raise ConfigError("training.ema must be in [0, 1).")
        if len(self.betas) != 2:
            raise ConfigError("training.betas must be two numbers.")

    @property
    def processes(self) -> int:
        """Processes that train together, one on each device."""
        return self.devices * self.nodes

    @property
    def micro_batches(self) -> int:
        """Micro-batches in a step, over all devices."""
        return self.processes * self.accumulate

    @property
    def micro_batch_size(self) -> int:
        """Crops that go through the network at once."""
        return self.batch_size // self.micro_batches


@dataclass(frozen=True)
class PlanConfig:
    """What was requested before the training was fitted into a GPU's memory; a resumed run keeps its plan."""

    vram: float = 0.0
    """Gigabytes of the GPU; 0: what it has."""
    batch_size: int = 1
    """Crops in a step."""
    seconds: float = 0.0
    """Length of a crop."""
    accumulate: int = 1
    """Micro-batches of a device in a step."""
    checkpointing: bool = False
    """Whether activations are recomputed in any case."""


def crop_length(seconds: float, unit: int, rate: float) -> int:
    """The least multiple of `unit` that lasts `seconds` at `rate` a second."""
    # The small number keeps a product that rounding left a hair above a whole unit from costing one more.
    return max(1, math.ceil(seconds * rate / unit - 1e-6)) * unit
