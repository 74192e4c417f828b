"""How a network is trained, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass

from musicldm.errors import ConfigError


@dataclass(frozen=True)
class TrainingConfig:
    """The optimisation, and how often to look and to save."""

    steps: int = 10000
    """Optimizer steps in all."""
    batch_size: int = 8
    """Crops in a step."""
    seconds: float = 2.0
    """Length of a crop; rounded up to whole blocks of the VAE's attention, or to whole latent frames."""
    learning_rate: float = 1e-3
    """Of AdamW, at its peak."""
    warmup: int = 100
    """Steps over which the rate climbs from zero; afterwards it falls along a cosine to a twentieth."""
    betas: tuple[float, ...] = (0.9, 0.99)
    """AdamW's memory of gradients and of their squares."""
    weight_decay: float = 1e-3
    """AdamW's pull of the weights to zero, relative to the rate."""
    gradient_clip: float = 1.0
    """Largest norm of a gradient."""
    ema: float = 0.999
    """Memory of the averaged weights, which are validated and shipped; it grows towards this from zero."""
    validate_every: int = 500
    """Steps between two looks at the held-out tracks, each followed by a checkpoint."""
    demo_every: int = 2000
    """Steps between two listening demos."""
    validation_crops: int = 32
    """Fixed crops of the held-out tracks that a validation looks at."""
    workers: int = 0
    """Processes that read crops beside the training, no more than there are cores; 0 reads in between."""
    seed: int = 0
    """Where weights, crops and noise come from."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "validate_every", "demo_every", "validation_crops"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} must be at least 1.")
        if self.seconds <= 0 or self.learning_rate <= 0:
            raise ConfigError("training.seconds and training.learning_rate must be positive.")
        if self.workers < 0 or self.warmup < 0:
            raise ConfigError("training.workers and training.warmup cannot be negative.")
        if not 0 <= self.ema < 1:
            raise ConfigError("training.ema must lie in [0, 1).")
        if len(self.betas) != 2:
            raise ConfigError("training.betas must be two numbers.")
