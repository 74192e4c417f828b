"""How to sample, whichever way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import get_args

from torch import Tensor

from musicldm.core.errors import UsageError
from musicldm.noise.guidance import resampling
from musicldm.noise.samplers import SAMPLERS, ddim
from musicldm.noise.schedule import NoiseLevel, Spacing

_SIGMA_SPACE = ("euler", "euler-a", "heun")  # they divide by the share of the signal


@dataclass(frozen=True)
class Sampling:
    """Everything that a take is a function of, beside the model and the way.

    Raises:
        UsageError: an option that makes no sense.
    """

    seed: int = 0
    """Where all chance comes from."""
    take: int = 0
    """Which of the takes of this seed; each is independent of how many there are."""
    sampler: str = "unipc"
    """One of SAMPLERS."""
    steps: int = 50
    """Denoising steps."""
    spacing: Spacing = "trailing"
    """Where the steps lie in time."""
    eta: float = 0.0
    """Of DDIM: 0 deterministic, 1 as random as DDPM."""
    artist: str = ""
    """A name, or a mixture such as "Chopin:0.7,Bach:0.3"; empty: none is told."""
    position: float | None = None
    """Where in a track, from 0 to 1; None: it is not told."""
    guidance: float = 1.0
    """The scale: 1 does as told, more exaggerates it."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels where to guide, from 0, clean, to 1, noise."""
    guidance_rescale: float = 0.0
    """φ of Lin et al. 2023, from 0 to 1."""
    window: float | None = None
    """Seconds that are denoised at once, at most; None: as the model was trained, 16 at least, or 1.15 times that."""
    joint: bool = False
    """Of a long piece: all windows together rather than one after another."""
    resample: int = 1
    """How often each step is taken where something is kept (RePaint)."""

    def __post_init__(self) -> None:
        low, high = self.guidance_interval
        if not 0 <= low < high <= 1:
            raise UsageError(
                "A guidance interval goes from a share to a larger one.", "Such as 0.1 0.8, within 0 to 1."
            )
        if not math.isfinite(self.guidance):
            raise UsageError(f"{self.guidance:g} is no guidance scale.", "Such as 3; 1 does as told.")
        if not 0 <= self.guidance_rescale <= 1 or not 0 <= self.eta <= 1:
            raise UsageError("eta and the guidance rescale lie between 0 and 1.", "Give them such a number.")
        if self.position is not None and not 0 <= self.position <= 1:
            raise UsageError(f"There is no position {self.position:g} in a track.", "0 is its start, 1 its end.")
        if self.window is not None and not 0 < self.window < math.inf:
            raise UsageError(f"There is no window of {self.window:g} seconds.", "Such as 16.")
        if self.resample < 1:
            raise UsageError(f"A step cannot be taken {self.resample} times.", "Take it once or more often.")
        if self.spacing not in get_args(Spacing):
            raise UsageError(f"There is no spacing {self.spacing!r}.", f"Known: {', '.join(get_args(Spacing))}.")
        pick_sampler(self.sampler, self.eta)


def pick_sampler(
    name: str, eta: float = 0.0, levels: Sequence[NoiseLevel] = (), repeats: int = 1
) -> Callable[..., Tensor]:
    """A sampler by name, with its η bound, fit for these levels.

    Raises:
        UsageError: no such sampler, one that has no η, or one that cannot begin at the first level.
    """
    if name not in SAMPLERS:
        raise UsageError(f"There is no sampler {name!r}.", f"Known: {', '.join(SAMPLERS)}.")
    if eta and name != "ddim":
        raise UsageError(f"The sampler {name} has no eta.", "Leave --eta out, or choose --sampler ddim.")
    if levels and not levels[0].alpha and name in _SIGMA_SPACE:
        fitting = ", ".join(each for each in SAMPLERS if each not in _SIGMA_SPACE)
        raise UsageError(
            f"The sampler {name} cannot begin where nothing is left of the signal, as this model does.",
            f"Choose one of {fitting}.",
        )
    return resampling(partial(ddim, eta=eta) if name == "ddim" else SAMPLERS[name], repeats)
