"""Denoisers and samplers made of others: guidance, what is known, windows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from musicldm.noise.guidance import classifier_free_guidance, inpainting, multidiffusion, repaint
from musicldm.noise.samplers import SAMPLERS, ddim
from musicldm.noise.schedule import NoiseConfig, NoiseLevel, NoiseSchedule


def test_guidance_goes_away_from_the_unconditional_estimate() -> None:
    c, u = torch.randn(2, 4, 16), torch.randn(2, 4, 16)
    x, level, steps = torch.randn(2, 4, 16), NoiseSchedule(NoiseConfig()).at(600), 1000
    pairs = 0

    def pair(x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        nonlocal pairs
        pairs += 1
        return c, u

    def conditioned(x: Tensor, level: NoiseLevel) -> Tensor:
        return c

    def guided(scale: float = 1.0, interval: tuple[float, float] = (0.0, 1.0), rescale: float = 0.0) -> Tensor:
        return classifier_free_guidance(pair, conditioned, scale, steps, interval, rescale)(x, level)

    torch.testing.assert_close(guided(3.0), u + 3 * (c - u))
    torch.testing.assert_close(guided(0.0), u)
    torch.testing.assert_close(guided(3.0, (0.5, 0.7)), u + 3 * (c - u))
    assert pairs == 3
    torch.testing.assert_close(guided(), c)
    torch.testing.assert_close(guided(3.0, (0.0, 0.5)), c)
    assert pairs == 3  # where there is no guidance, the unconditional estimate is not computed
    torch.testing.assert_close(guided(3.0, rescale=1.0).std(dim=(1, 2)), c.std(dim=(1, 2)))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_keeps_what_is_known(name: str) -> None:
    """With any denoiser and on every step: what is known is at its noise level, and comes out as it was."""
    torch.manual_seed(0)
    schedule = NoiseSchedule(NoiseConfig())
    levels = schedule.levels(8)
    known, noise = torch.randn(1, 2, 30, dtype=torch.float64), torch.randn(1, 2, 30, dtype=torch.float64)
    mask = (torch.arange(30) < 12)[None, None]
    seen: list[tuple[NoiseLevel, Tensor]] = []

    def denoise(x: Tensor, level: NoiseLevel) -> Tensor:
        seen.append((level, x))
        return x.roll(1, dims=-1).tanh()

    x = torch.where(mask, levels[0].mix(known, noise), noise)
    out = SAMPLERS[name](inpainting(denoise, known, mask), x, levels)
    torch.testing.assert_close(out[..., :12], known[..., :12], rtol=0, atol=1e-9)
    assert (out - known)[..., 12:].abs().min() > 0
    residues = torch.stack([(x - level.alpha * known)[..., :12].std() / level.sigma for level, x in seen])
    assert ((0.5 < residues) & (residues < 1.6)).all()


def test_repaint_brings_the_made_nearer_to_the_kept() -> None:
    """Data of one number throughout: the model knows it only from what it sees, so the made must follow the kept."""
    levels = NoiseSchedule(NoiseConfig()).levels(20)
    calls = 0

    def denoise(x: Tensor, level: NoiseLevel) -> Tensor:
        nonlocal calls
        calls += 1
        # The posterior mean of a common value of variance 1 in 20 frames.
        mean = x.mean(dim=-1, keepdim=True) / level.alpha
        return (mean / (1 + level.ratio**2 / x.shape[-1])).expand_as(x)

    mask = (torch.arange(20) < 10)[None, None]
    known = torch.full((1, 1, 20), 1.5)
    error = {}
    for repeats in (1, 5):
        chance = torch.Generator().manual_seed(0)
        noise = torch.randn(1, 1, 20, generator=chance)
        x = torch.where(mask, levels[0].mix(known, noise), noise)
        calls, steps = 0, []
        out = repaint(ddim, repeats)(
            inpainting(denoise, known, mask),
            x,
            levels,
            lambda x: torch.randn(x.shape, generator=chance),  # noqa: B023
            lambda i, _: steps.append(i),  # noqa: B023
        )
        assert steps == list(range(20)) and calls == 20 * repeats
        error[repeats] = (out[..., 10:].mean() - 1.5).abs().item()
    assert error[5] < 0.5 * error[1]


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("frames", [10, 16, 17, 40, 101])
def test_windows_give_what_a_local_denoiser_gives_whole(frames: int, circular: bool) -> None:
    def local(x: Tensor, level: NoiseLevel) -> Tensor:
        assert x.shape[-1] <= 16 and x.shape[0] <= 3
        return 2 * x

    x = torch.randn(1, 3, frames)
    level = NoiseLevel(0.6, 0.8, 3.0)
    torch.testing.assert_close(multidiffusion(local, 16, 4, 3, circular)(x, level), 2 * x)


def test_around_a_circle_there_is_no_beginning() -> None:
    """Estimates that depend on the neighbour: turned input gives turned output but for where windows lie."""

    def blurred(x: Tensor, level: NoiseLevel) -> Tensor:
        return torch.nn.functional.avg_pool1d(x, 3, 1, 1)

    x, level = torch.randn(1, 2, 40), NoiseLevel(0.6, 0.8, 3.0)
    around = (x.roll(1, -1) + x + x.roll(-1, -1)) / 3
    far = (multidiffusion(blurred, 16, 4, 2, True)(x, level) - around).abs().max()
    straight = (multidiffusion(blurred, 16, 4, 2, False)(x, level) - around)[..., [0, -1]].abs().max()
    assert far < 0.2 * straight
