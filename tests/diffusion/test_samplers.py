"""The samplers against diffusers' schedulers step by step, and against the exact answer for Gaussian data."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what diffusers says of its own dependencies
    from diffusers import DDIMScheduler, DDPMScheduler

from musicldm.diffusion.objective import target, to_x0_eps
from musicldm.diffusion.samplers import ddim, ddpm
from musicldm.diffusion.schedule import NoiseConfig, NoiseSchedule
from musicldm.errors import ConfigError, UsageError

SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
OBJECTIVES = {"eps": "epsilon", "v": "v_prediction"}
SHAPE = (2, 3, 16)


def network(x: Tensor, t: int) -> Tensor:
    """Some smooth function of both, in place of a trained network."""
    return 0.7 * torch.tanh(x + t / 500) + 0.2 * x.roll(1, dims=-1)


def ours(sampler: Any, schedule: NoiseSchedule, count: int, seed: int) -> Tensor:
    def denoise(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        alpha, sigma = schedule.alpha_sigma(torch.full((len(x),), t), x)
        return to_x0_eps(schedule.config.objective, x, network(x, t), alpha, sigma)

    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SHAPE, generator=generator, dtype=torch.float64)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    return sampler(denoise, x, schedule, schedule.timesteps(count), noise)


def theirs(cls: type, config: NoiseConfig, count: int, seed: int, **options: Any) -> Tensor:
    extra = {"set_alpha_to_one": True} if cls is DDIMScheduler else {"variance_type": "fixed_small"}
    scheduler = cls(
        num_train_timesteps=config.steps,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule=SCHEDULES[config.schedule],
        prediction_type=OBJECTIVES[config.objective],
        clip_sample=False,
        timestep_spacing="trailing",
        **extra,
    )
    # diffusers keeps its tables in float32; the comparison is of formulas, so it gets ours in float64
    scheduler.alphas_cumprod = NoiseSchedule(config).alpha_bar
    scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(count)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    for t in scheduler.timesteps.tolist():
        x = scheduler.step(network(x, t), t, x, generator=generator, **options).prev_sample
    return x


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_tables_agree_with_diffusers(schedule: str) -> None:
    scheduler = DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule=SCHEDULES[schedule])
    alpha_bar = NoiseSchedule(NoiseConfig(schedule=schedule)).alpha_bar
    torch.testing.assert_close(alpha_bar.float(), scheduler.alphas_cumprod, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("count", [1, 3, 20, 50, 1000])
def test_spacing_agrees_with_diffusers(count: int) -> None:
    scheduler = DDIMScheduler(1000, timestep_spacing="trailing")
    scheduler.set_timesteps(count)
    assert NoiseSchedule(NoiseConfig()).timesteps(count) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("count", [1, 20, 1000])
def test_ddpm_agrees_with_diffusers(schedule: str, objective: str, count: int) -> None:
    config = NoiseConfig(schedule, objective)  # type: ignore[arg-type]
    wanted = theirs(DDPMScheduler, config, count, seed=count)
    assert relative(ours(ddpm, NoiseSchedule(config), count, seed=count), wanted) <= 1e-5


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("count", [1, 20, 1000])
def test_ddim_agrees_with_diffusers(schedule: str, objective: str, eta: float, count: int) -> None:
    config = NoiseConfig(schedule, objective)  # type: ignore[arg-type]
    wanted = theirs(DDIMScheduler, config, count, seed=count, eta=eta)
    assert relative(ours(partial(ddim, eta=eta), NoiseSchedule(config), count, seed=count), wanted) <= 1e-5


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_ddim_at_eta_one_is_ddpm(objective: str) -> None:
    schedule = NoiseSchedule(NoiseConfig("cosine", objective))  # type: ignore[arg-type]
    assert relative(ours(partial(ddim, eta=1.0), schedule, 50, 0), ours(ddpm, schedule, 50, 0)) <= 1e-9


@pytest.mark.parametrize(("sampler", "count"), [(ddim, 200), (partial(ddim, eta=1.0), 1000), (ddpm, 1000)])
def test_gaussian_data_comes_out_exactly(sampler: Any, count: int) -> None:
    """For data N(m, s²) the best denoiser is known in closed form; the samples must have that mean and spread."""
    mean, spread = 0.8, 0.5
    schedule = NoiseSchedule(NoiseConfig("cosine"))

    def denoise(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        alpha, sigma = schedule.alpha_sigma(torch.full((1,), t), x)
        eps = sigma * (x - alpha * mean) / (alpha**2 * spread**2 + sigma**2)
        return (x - sigma * eps) / alpha, eps

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 40000, generator=generator, dtype=torch.float64)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    out = sampler(denoise, x, schedule, schedule.timesteps(count), noise)
    assert out.mean().item() == pytest.approx(mean, abs=0.015)
    assert out.std().item() == pytest.approx(spread, rel=0.03)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_what_the_network_predicts_gives_signal_and_noise_back(objective: str) -> None:
    schedule = NoiseSchedule(NoiseConfig())
    x0, eps = torch.randn(2, 4, 3, 8, dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(torch.tensor([1, 300, 600, 990]), x0)
    output = target(objective, x0, eps, alpha, sigma)  # type: ignore[arg-type]
    for got, wanted in zip(
        to_x0_eps(objective, alpha * x0 + sigma * eps, output, alpha, sigma), (x0, eps), strict=True
    ):  # type: ignore[arg-type]
        torch.testing.assert_close(got, wanted)


def test_every_step_is_heard_of_and_may_stop_the_work() -> None:
    schedule = NoiseSchedule(NoiseConfig())
    heard: list[int] = []

    def callback(i: int, x0: Tensor) -> None:
        heard.append(i)
        if i == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ddim(lambda x, t: (x, x), torch.zeros(1, 1, 4), schedule, schedule.timesteps(10), callback=callback)
    assert heard == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [0, -1, 1001])
def test_steps_that_the_schedule_does_not_have(count: int) -> None:
    with pytest.raises(UsageError, match=str(count)):
        NoiseSchedule(NoiseConfig()).timesteps(count)


def test_a_schedule_of_one_step_is_refused() -> None:
    with pytest.raises(ConfigError):
        NoiseConfig(steps=1)
