"""Seed -> normalised latents -> raw latents -> waveform: a bundle made ready to sample from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from musicldm import bundle
from musicldm.config import from_dict, to_dict
from musicldm.devices import autocast, pick_device, pick_precision
from musicldm.diffusion.conditions import Conditions
from musicldm.diffusion.model import Diffusion, DiffusionConfig
from musicldm.diffusion.samplers import SAMPLERS, ddim
from musicldm.errors import BundleError, DataError, MismatchError, UsageError
from musicldm.latents.statistics import LatentStatistics
from musicldm.seeding import derive
from musicldm.vae.model import VAE
from musicldm.vae.windows import decode_long

PEAK = 0.98  # what a take that would clip is lowered to


def denoiser_part(diffusion: Diffusion, statistics: LatentStatistics, vae_hash: str) -> bundle.Part:
    """A denoiser as a part of a bundle, with the scale of its latents and the VAE that they belong to."""
    config = {**to_dict(diffusion.config), "statistics": statistics.to_dict(), "vae": vae_hash}
    return bundle.Part(config, diffusion.state_dict())


class Generator:
    """A VAE and a denoiser that were made for each other.

    Args:
        source: a bundle with both.
        device: where to compute, as `pick_device` takes it.
        precision: of the denoiser, as `pick_precision` takes it.

    Raises:
        BundleError: a part is missing or damaged.
        MismatchError: the denoiser was trained on another VAE's latents.
    """

    def __init__(self, source: bundle.Bundle, device: str = "auto", precision: str = "auto") -> None:
        part = source.part("denoiser")
        try:
            about = dict(part.config)
            statistics, vae_hash = LatentStatistics.from_dict(about.pop("statistics")), about.pop("vae")
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                "The bundle does not say how its latents are scaled.",
                bundle.MEND,
            ) from error
        self.device = pick_device(device)
        self.precision = pick_precision(precision, self.device)
        self.facts = source.facts
        self.statistics = statistics
        self.vae = VAE.from_bundle(source).to(self.device)
        if self.vae.weights_hash != vae_hash:
            raise MismatchError(
                f"The denoiser of {source.name} was trained on the latents of another VAE.",
                bundle.MEND,
            )
        self.diffusion = Diffusion(from_dict(DiffusionConfig, about))
        bundle.fill(self.diffusion, part)
        self.diffusion.eval().requires_grad_(False).to(self.device)

    @classmethod
    def load(cls, path: Path | str, device: str = "auto", precision: str = "auto") -> Generator:
        """From a bundle's folder, or a run's; see `bundle.read`."""
        return cls(bundle.read(Path(path)), device, precision)

    @property
    def sample_rate(self) -> int:
        return self.vae.config.sample_rate

    def frames(self, seconds: float) -> int:
        """Latent frames that cover so many seconds."""
        return max(1, -(-round(seconds * self.sample_rate) // self.vae.config.hop))

    def noise(self, seed: int, take: int, frames: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Where a take starts, [1, D, L], and where its further noise comes from.

        Drawn on the CPU, so that the same seed means the same noise on every device.
        """
        generator = torch.Generator().manual_seed(derive(seed, "take", take))

        def fresh(x: Tensor) -> Tensor:
            return torch.randn(x.shape, generator=generator).to(x)

        return fresh(torch.empty(1, self.vae.config.latent_channels, frames, device=self.device)), fresh

    @torch.inference_mode()
    def latents(
        self,
        frames: int,
        seed: int = 0,
        take: int = 0,
        sampler: str = "ddim",
        steps: int = 20,
        eta: float = 0.0,
        callback: Callable[[int], None] | None = None,
    ) -> Tensor:
        """One take of raw latents [D, L]: a function of its arguments and, on a CPU, of nothing else.

        Args:
            take: which of the takes of this seed; each is independent of how many there are.
            eta: of DDIM: 0 deterministic, 1 as random as DDPM.
            callback: hears how many steps are done.

        Raises:
            UsageError: an unknown sampler, an η that it does not have, or too few or too many steps.
        """
        levels = self.diffusion.schedule.levels(steps)
        told = Conditions.none(1, max(1, len(self.diffusion.config.conditions.artists)), self.device)
        x, fresh = self.noise(seed, take, frames)
        with autocast(self.precision, self.device):
            z = pick_sampler(sampler, eta)(
                partial(self.diffusion.denoise, conditions=told),
                x,
                levels,
                fresh,
                lambda i, _: callback and callback(i + 1),
            )
        return self.statistics.denormalise(z.float())[0]  # normalised until here, raw from here

    def sample(self, seconds: float, **options: Any) -> Tensor:
        """One take as a waveform [C, T] on the CPU, never beyond full scale; the options are those of `latents`.

        Raises:
            UsageError: as `latents`, or no length at all.
        """
        if seconds <= 0:
            raise UsageError(f"{seconds:g} seconds cannot be sampled.", "Give --seconds a positive number.")
        z = self.latents(self.frames(seconds), **options)
        return self.decode(z)[:, : max(1, round(seconds * self.sample_rate))]

    def decode(self, z: Tensor) -> Tensor:
        """Raw latents [D, L] -> a waveform [C, L·hop] on the CPU, lowered as a whole where it would clip.

        Raises:
            DataError: latents or output are not finite.
        """
        waveform = torch.cat(list(decode_long(self.vae, z)), dim=-1)
        peak = waveform.abs().max()
        if not torch.isfinite(peak):
            raise DataError("The model produced values that are no numbers.", "Try --precision 32, or train it longer.")
        return waveform * (PEAK / peak) if peak > PEAK else waveform


def pick_sampler(name: str, eta: float = 0.0) -> Callable[..., Tensor]:
    """A sampler by name, with its η bound.

    Raises:
        UsageError: no such sampler, or one that has no η.
    """
    if name not in SAMPLERS:
        raise UsageError(f"There is no sampler {name!r}.", f"Known: {', '.join(SAMPLERS)}.")
    if name == "ddim":
        return partial(ddim, eta=eta)
    if eta:
        raise UsageError(f"The sampler {name} has no eta.", "Leave --eta out, or choose --sampler ddim.")
    return SAMPLERS[name]
