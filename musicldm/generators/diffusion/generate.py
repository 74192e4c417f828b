"""A trained diffusion model as a generator: noise levels, sampler, guidance, known parts, windows, scarce memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import get_args

import torch
from torch import Tensor

from musicldm.conditions.base import Conditioning
from musicldm.core.bundle import Component
from musicldm.core.capacity import out_of_memory
from musicldm.core.devices import autocast
from musicldm.core.errors import CapacityError, UsageError
from musicldm.core.progress import Progress, silent
from musicldm.core.seeding import derive
from musicldm.generators.base import LatentRequest, OnHalved
from musicldm.generators.diffusion.model import Diffusion
from musicldm.latents.statistics import LatentStatistics
from musicldm.noise.guidance import classifier_free_guidance, inpainting, multidiffusion, repaint
from musicldm.noise.interpolation import slerp
from musicldm.noise.samplers import SAMPLERS, Denoise, Noise, Sampler, ddim
from musicldm.noise.schedule import NoiseLevel, Spacing

SHORTEST_WINDOW = 16.0
"""Seconds that are denoised at once even by a model that was trained on shorter crops."""
OVERLAP = 0.25
"""Of a window: what it shares with the next one, where windows are denoised together."""
TOGETHER = 8
"""Windows that a GPU denoises at once; a CPU gains nothing from several."""

_SIGMA_SPACE = ("euler", "euler-a", "heun")  # they divide by α


@dataclass(frozen=True)
class DiffusionOptions:
    """How to sample from a diffusion model.

    Raises:
        UsageError: an option that makes no sense.
    """

    sampler: str = "unipc"
    """One of SAMPLERS."""
    steps: int = 50
    """Denoising steps."""
    spacing: Spacing = "trailing"
    """How the steps are spaced in time."""
    eta: float = 0.0
    """Of DDIM: 0 deterministic, 1 as random as DDPM."""
    guidance: float = 1.0
    """The scale of classifier-free guidance: 1 follows the conditions as learned, more exaggerates them."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels at which to guide, from 0, clean, to 1, noise."""
    guidance_rescale: float = 0.0
    """φ of Lin et al. 2023, from 0 to 1."""
    repaint: int = 1
    """How often each step is taken where something is kept (RePaint)."""

    def __post_init__(self) -> None:
        low, high = self.guidance_interval
        if not 0 <= low < high <= 1:
            raise UsageError(
                f"({low:g}, {high:g}) is not a valid guidance interval: expected two fractions in ascending order.",
                "For example 0.1 0.8, within 0 to 1.",
            )
        if not math.isfinite(self.guidance):
            raise UsageError(f"{self.guidance:g} is not a valid guidance scale: expected a finite number.")
        if not 0 <= self.guidance_rescale <= 1 or not 0 <= self.eta <= 1:
            raise UsageError("eta and the guidance rescale must be between 0 and 1.", "Choose numbers in that range.")
        if self.repaint < 1:
            raise UsageError(f"{self.repaint} is not a valid number of repaints: expected 1 or more.")
        if self.spacing not in get_args(Spacing):
            raise UsageError(
                f"{self.spacing!r} is not a valid spacing: expected one of {', '.join(get_args(Spacing))}."
            )
        pick_sampler(self.sampler, self.eta)


def pick_sampler(name: str, eta: float = 0.0, levels: Sequence[NoiseLevel] = ()) -> Sampler:
    """A sampler by name, with its η bound, fit for these levels.

    Raises:
        UsageError: no such sampler, one that has no η, or one that cannot begin at the first level.
    """
    if name not in SAMPLERS:
        raise UsageError(f"{name!r} is not a valid sampler: expected one of {', '.join(SAMPLERS)}.")
    if eta and name != "ddim":
        raise UsageError(f"The sampler {name} has no eta.", "Leave eta out, or choose the sampler ddim.")
    if levels and not levels[0].alpha and name in _SIGMA_SPACE:
        fitting = ", ".join(each for each in SAMPLERS if each not in _SIGMA_SPACE)
        raise UsageError(
            f"The sampler {name} cannot start from pure noise, as this model does.",
            f"Choose one of {fitting}.",
        )
    return partial(ddim, eta=eta) if name == "ddim" else SAMPLERS[name]


class DiffusionGenerator:
    """A `LatentGenerator` of a diffusion model.

    Args:
        diffusion: in evaluation mode.
        statistics: of the latents that it was trained on.
        codec_hash: the digest of the codec whose latents these are.
        precision: as `autocast` takes it.
        on_halved: see `OnHalved`.
    """

    name = Diffusion.kind
    tasks = frozenset({"new", "vary", "infill", "extend", "interpolate", "interpolate_seeds", "loop"})

    def __init__(
        self,
        diffusion: Diffusion,
        statistics: LatentStatistics,
        codec_hash: str,
        device: torch.device,
        precision: str,
        on_halved: OnHalved,
    ) -> None:
        self.diffusion = diffusion.to(device)
        self.statistics = statistics
        self.codec_hash = codec_hash
        self.device = device
        self.precision = precision
        self.channels = diffusion.config.shape.latent_channels
        self.multiple = diffusion.config.multiple
        self.conditions = diffusion.conditions
        self.limit: int | None = None
        """Frames that the memory is known to hold at once; None: no limit has shown yet."""
        self._on_halved = on_halved
        self._together = 1 if device.type == "cpu" else TOGETHER

    @classmethod
    def from_component(
        cls, component: Component, device: torch.device, precision: str, on_halved: OnHalved
    ) -> DiffusionGenerator:
        """The generator of a bundle.

        Raises:
            BundleError: the component is damaged.
        """
        return cls(*Diffusion.from_component(component), device, precision, on_halved)

    def natural_window(self, trained: float) -> float:
        """Seconds that it makes best at once, having been trained on crops of so many."""
        # A U-Net knows no positions: in windows twice as long as its crops it loses nothing (benchmarks/README.md).
        return max(SHORTEST_WINDOW, 2 * trained if self.diffusion.config.network == "unet" else trained)

    def compile(self) -> None:
        """Compile the network: pays off over many takes."""
        self.diffusion.network.compile()

    def check(self, request: LatentRequest) -> None:
        """Refuse what cannot be generated, before anything is computed.

        Raises:
            UsageError: a strength, a number of steps, a spacing or a sampler that this model's noise process does not
                have; a condition that it was trained without; guidance without a condition.
            NotFoundError: a value that a condition does not know.
        """
        options = _options(request)
        self._conditioning(request, options)
        pick_sampler(options.sampler, options.eta, self._levels(options, request.strength))

    @torch.inference_mode()
    def generate(self, request: LatentRequest, progress: Progress = silent) -> Tensor:
        """See `LatentGenerator.generate`. Where the memory is short, it goes on in shorter windows, denoised together.

        Raises:
            UsageError, NotFoundError: as `check`.
            CapacityError: the memory does not hold even a short window.
        """
        options = _options(request)
        levels = self._levels(options, request.strength)
        guided = self.denoiser(self._conditioning(request, options), options)
        frames = request.frames
        if request.known is None and not request.circular:
            # What the network would fill up with zeros is made as well, and cut off.
            frames += -frames % self.multiple
        while True:
            # Asked again in every attempt: `_halve` may have lowered the limit. The noise is drawn from its address
            # each time, so that another attempt begins where the first did.
            width = self._width(frames, request.at_once)
            try:
                return self._sample(request, options, levels, guided, frames, width, progress)[..., : request.frames]
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
            # No longer in the clause above: there, the traceback keeps alive the very tensors that are to go.
            self._halve(width, self._together if request.circular or frames > width else 1)

    @torch.inference_mode()
    def remaining_error(self, z: Tensor) -> float:
        """Its squared error on normalised latents [B, D, L] under as much noise, beside that of a guess.

        The guess is what is best for one who knows the loudness alone: the linear one for white latents of that power.
        """
        schedule = self.diffusion.schedule
        # Nearer to pure signal or to pure noise, there is little to win over a good guess.
        level = schedule.at(schedule.time_of(1.0))  # as much noise as signal
        noisy = level.mix(z, torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).to(z))
        left = (self.diffusion.denoise(noisy, level, self.conditions.null(len(z))) - z).square().mean()
        alpha, sigma, power = float(level.alpha), float(level.sigma), float(z.square().mean())
        # Wiener's: E[z | noisy] for independent normal z of that power.
        guess = (alpha * power / (alpha**2 * power + sigma**2) * noisy - z).square().mean()
        return float(left / guess)

    # ---- One attempt -----------------------------------------------------------------------------------------------

    def _sample(
        self,
        request: LatentRequest,
        options: DiffusionOptions,
        levels: list[NoiseLevel],
        denoise: Denoise,
        frames: int,
        width: int,
        progress: Progress,
    ) -> Tensor:
        """[1, D, frames], in windows of `width` frames."""
        sampler = pick_sampler(options.sampler, options.eta, levels)
        x, fresh = self._noise(request, frames)
        # Windows are the innermost: what is known, and where, is told for the whole piece.
        denoise = multidiffusion(denoise, width, int(OVERLAP * width), self._together, request.circular)
        if request.known is not None:
            noisy = levels[0].mix(request.known, x)
            if request.mask is None:
                x = noisy
            else:
                x = torch.where(request.mask, noisy, x)
                denoise = inpainting(denoise, request.known, request.mask)
                sampler = repaint(sampler, options.repaint)
        steps = len(levels) - 1

        def report(step: int, _: Tensor) -> None:
            progress(step + 1, steps, f"step {step + 1} of {steps}")

        # Only the network's products take 16 bits in here. The sampler's own sums are elementwise and stay in 32.
        with autocast(self.precision, self.device):
            return sampler(denoise, x, levels, fresh, report)

    def _width(self, frames: int, at_once: int | None) -> int:
        """How many of the frames are denoised at once."""
        width = frames if at_once is None else min(frames, at_once)
        if self.limit is None or width <= self.limit:
            return width
        return max(2, self.multiple, self.limit // self.multiple * self.multiple)

    def _halve(self, width: int, together: int) -> None:
        """Denoise half as much at once from now on: half as many windows together, or else windows half as long.

        Raises:
            CapacityError: they would be too short to be of use.
        """
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        # First fewer windows at once, which costs only time; shorter ones can be heard.
        if together > 1:
            self._together = together // 2
            return
        self.limit = width // 2
        if self.limit < 8:
            raise CapacityError(
                "There is not enough memory for even a short window.", "Close other programs, or use a CPU."
            )
        self._on_halved(self.limit)

    # ---- What the samplers are given -------------------------------------------------------------------------------

    def _noise(self, request: LatentRequest, frames: int) -> tuple[Tensor, Noise]:
        """Where a window starts, [1, D, frames], and where its further noise comes from."""
        if request.seeds is None:
            return self.noise(request.seed, request.take, frames, request.window)
        (a, fresh_a), (b, fresh_b) = (self.noise(seed, request.take, frames, request.window) for seed in request.seeds)
        return slerp(a, b, request.weight), lambda x: slerp(fresh_a(x), fresh_b(x), request.weight)

    def noise(self, seed: int, take: int, frames: int, window: int = 0) -> tuple[Tensor, Noise]:
        """The noise of a window of a take, [1, D, frames], and what draws more.

        Drawn on the CPU, so that the same seed means the same noise on every device.
        """
        address: tuple[int | str, ...] = (seed, "take", take, "window", window) if window else (seed, "take", take)
        # A generator of its own, which no other draw can move on. The numbers depend on the whole shape: of another
        # length, a take is another one.
        rng = torch.Generator().manual_seed(derive(*address))

        def fresh(x: Tensor) -> Tensor:
            return torch.randn(x.shape, generator=rng).to(x)

        return fresh(torch.empty(1, self.channels, frames, device=self.device)), fresh

    def _levels(self, options: DiffusionOptions, strength: float | None) -> list[NoiseLevel]:
        """The noise levels from pure noise down, or from `strength` of the way there.

        Raises:
            UsageError: an impossible strength, more steps than the process has, or a spacing that it does not have
                from there.
        """
        schedule = self.diffusion.schedule
        schedule.levels(options.steps)  # which counts them, before they become fewer
        if strength is None:
            return schedule.levels(options.steps, options.spacing)
        if not 0 < strength <= 1:
            raise UsageError(
                f"{strength:g} is not a valid strength: expected more than 0 and up to 1.", "For example 0.6."
            )
        start = strength * (len(schedule) - 1)
        # Below `start` there are only so many steps to take.
        return schedule.levels(min(options.steps, int(start) + 1), options.spacing, start)

    def _conditioning(self, request: LatentRequest, options: DiffusionOptions) -> Conditioning:
        """That of one item.

        Raises:
            UsageError, NotFoundError: as `check`.
        """
        conditioning = self.conditions.parse(request.conditions).to(self.device)
        if options.guidance != 1 and conditioning.is_null:
            names = " or ".join(self.conditions.names)
            hint = f"Give the {names}." if names else "This model has no conditions: leave guidance out."
            raise UsageError("Guidance needs a condition to follow, and there is none.", hint)
        return conditioning

    def denoiser(self, conditioning: Conditioning, options: DiffusionOptions) -> Denoise:
        """The conditioned denoiser, with classifier-free guidance where it is wanted.

        Args:
            conditioning: of one item, for any number of them, or of as many as there will be.
        """
        null = self.conditions.null(1)

        def conditioned(x: Tensor, level: NoiseLevel) -> Tensor:
            return self.diffusion.denoise(x, level, conditioning.expanded(x.shape[0]))

        def pair(x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
            batch = x.shape[0]
            both = Conditioning.cat([conditioning.expanded(batch), null.expanded(batch)])
            c, u = self.diffusion.denoise(torch.cat([x, x]), level, both).chunk(2)
            return c, u

        return classifier_free_guidance(
            pair,
            conditioned,
            options.guidance,
            len(self.diffusion.schedule),
            options.guidance_interval,
            options.guidance_rescale,
        )


def _options(request: LatentRequest) -> DiffusionOptions:
    if request.options is None:
        return DiffusionOptions()
    if not isinstance(request.options, DiffusionOptions):
        raise UsageError(f"{type(request.options).__name__} is not for this generator: expected DiffusionOptions.")
    return request.options
