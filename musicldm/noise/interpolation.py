"""Between two noises, or two latents."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """From a (weight 0) to b (weight 1) along the great circle, which keeps the standard deviation of noise
    (spherical linear interpolation: Shoemake 1985)."""
    # On the CPU: not every device has 64 bits.
    cosine = F.cosine_similarity(a.cpu().double().flatten(), b.cpu().double().flatten(), dim=0).item()
    # Rounding may carry the cosine a hair beyond 1, where there is no angle.
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if math.sin(angle) < 1e-4:  # one direction, or no circle that would be the shortest
        return torch.lerp(a, b, weight)
    return math.sin((1 - weight) * angle) / math.sin(angle) * a + math.sin(weight * angle) / math.sin(angle) * b
