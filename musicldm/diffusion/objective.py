"""What the network predicts, and how to read x0 and ε out of it."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Objective = Literal["eps", "v"]


def target(objective: Objective, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What the network should say when it sees α·x0 + σ·ε."""
    return eps if objective == "eps" else alpha * eps - sigma * x0


def to_x0_eps(objective: Objective, x: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The clean signal and the noise that the network's output means at x = α·x0 + σ·ε, where α² + σ² = 1."""
    if objective == "eps":
        return (x - sigma * output) / alpha, output
    return alpha * x - sigma * output, sigma * x + alpha * output
