"""The samplers against diffusers' schedulers step by step, and against the exact answer for Gaussian data."""

from __future__ import annotations

import functools
import math
import warnings
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what diffusers says of its own dependencies
    import diffusers


from musicldm.noise.samplers import (
    SAMPLERS,
    ddim,
    ddpm,
    dpmpp_2m,
    dpmpp_2m_sde,
    euler,
    euler_ancestral,
    heun,
    unipc,
)
from musicldm.noise.schedule import NoiseConfig, NoiseLevel, NoiseSchedule

THEIR_NAMES = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
SHAPE = (2, 3, 16)
CONFIGS = [
    NoiseConfig(schedule, objective=objective)  # type: ignore[arg-type]
    for schedule in ("linear", "cosine")
    for objective in THEIR_NAMES
]


def network(x: Tensor, t: float) -> Tensor:
    """Some smooth function of both, in place of a trained network."""
    return 0.7 * torch.tanh(x + t / 500) + 0.2 * x.roll(1, dims=-1)


def quietly(function: Any) -> Any:
    """diffusers has much to say of NumPy."""

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*args, **options)

    return run


def draws(seed: int) -> Any:
    """Standard normal noise as diffusers draws it: in float32 first."""
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=generator).double()


def ours(sampler: Any, config: NoiseConfig, count: int, seed: int = 0) -> Tensor:
    noise = draws(seed)

    def denoise(x: Tensor, level: NoiseLevel) -> Tensor:
        return level.x0(config.objective, x, network(x, float(level.time)))

    levels = NoiseSchedule(config).levels(count)
    made: Tensor = sampler(denoise, noise(torch.empty(SHAPE)), levels, noise)
    return made


@quietly
def theirs(name: str, config: NoiseConfig, count: int, seed: int = 0, **options: Any) -> Tensor:
    """diffusers' scheduler, on our own tables in float64: the comparison is of formulas."""
    cls = getattr(diffusers, f"{name}Scheduler")
    scheduler = cls(prediction_type=THEIR_NAMES[config.objective], timestep_spacing="trailing", **options)
    scheduler.set_timesteps(count)
    levels = NoiseSchedule(config).levels(count)
    noise = draws(seed)
    x: Tensor = noise(torch.empty(SHAPE))
    by_ratio = "Euler" in name or "Heun" in name  # these work on x / α
    times = torch.tensor([level.time for level in levels[:-1]], dtype=torch.float64)
    if name in ("DDIM", "DDPM"):
        scheduler.alphas_cumprod = torch.tensor([NoiseSchedule(config).at(t).alpha ** 2 for t in range(1000)])
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
        times = times.long()
    else:
        scheduler.sigmas = torch.tensor([level.ratio for level in levels], dtype=torch.float64)
        if name == "HeunDiscrete":
            ratios = scheduler.sigmas
            scheduler.sigmas = torch.cat([ratios[:1], ratios[1:-1].repeat_interleave(2), ratios[-1:]])
            times = torch.cat([times[:1], times[1:].repeat_interleave(2)])
        scheduler.timesteps = times
        scheduler.is_scale_input_called = True
    if by_ratio:
        x = x / levels[0].alpha
    # Their noise comes from a generator of their own; it must be the same numbers.
    at = {float(level.time): level for level in levels}
    module: Any = import_module(cls.__module__)
    original, module_has = getattr(module, "randn_tensor", None), hasattr(module, "randn_tensor")
    if module_has:
        module.randn_tensor = lambda shape, **_: noise(torch.empty(shape))
    try:
        for t in times.tolist():
            output = network(x * at[t].alpha if by_ratio else x, t)
            x = scheduler.step(output, t if name in ("DDIM", "DDPM") else torch.tensor(t, dtype=torch.float64), x)[0]
    finally:
        if module_has:
            module.randn_tensor = original
    return x


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.schedule}-{config.objective}")
@pytest.mark.parametrize("count", [1, 2, 4, 20, 200])
@pytest.mark.parametrize(
    ("sampler", "name", "options"),
    [
        (ddim, "DDIM", {"clip_sample": False}),
        (ddpm, "DDPM", {"clip_sample": False, "variance_type": "fixed_small"}),
        (euler, "EulerDiscrete", {}),
        (euler_ancestral, "EulerAncestralDiscrete", {}),
        (heun, "HeunDiscrete", {}),
        (dpmpp_2m, "DPMSolverMultistep", {"final_sigmas_type": "zero"}),
        (dpmpp_2m_sde, "DPMSolverMultistep", {"final_sigmas_type": "zero", "algorithm_type": "sde-dpmsolver++"}),
        (unipc, "UniPCMultistep", {"final_sigmas_type": "zero"}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_every_sampler_agrees_with_diffusers(
    sampler: Any, name: str, options: dict[str, Any], count: int, config: NoiseConfig
) -> None:
    if name == "EulerAncestralDiscrete" and config.objective == "x0":
        pytest.skip("diffusers has it not")
    assert relative(ours(sampler, config, count), theirs(name, config, count, **options)) <= 1e-5


# ---- Gaussian data, for which everything is known -------------------------------------------------------------------

MEAN, STD = 0.8, 0.5
PROCESSES = [
    NoiseConfig("cosine"),
    NoiseConfig("linear", beta=(1e-6, 0.01)),
    NoiseConfig("cosine", zero_terminal_snr=True),
    NoiseConfig("flow", objective="flow"),
]


def best(x: Tensor, level: NoiseLevel) -> Tensor:
    """E[x0 | x] where x0 is normal."""
    gain = level.alpha * STD**2 / (level.alpha**2 * STD**2 + level.sigma**2)
    return MEAN + gain * (x - level.alpha * MEAN)


def along(x: Tensor, t: NoiseLevel, s: NoiseLevel) -> Tensor:
    """The exact solution of the probability flow from one level to another: it keeps the quantile."""
    stds = [math.hypot(level.alpha * STD, level.sigma) for level in (t, s)]
    return s.alpha * MEAN + (x - t.alpha * MEAN) * stds[1] / stds[0]


@pytest.mark.parametrize("config", PROCESSES, ids=lambda config: f"{config.schedule}-{config.zero_terminal_snr}")
@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("euler", 1), ("heun", 2), ("dpm++2m", 2), ("unipc", 2)])
def test_the_order_of_convergence(name: str, order: int, config: NoiseConfig) -> None:
    """Between two levels, the error falls with the number of steps to the power of the order, or faster.

    Those that look back begin with a step of order 1, which many steps forget.
    """
    schedule = NoiseSchedule(config)
    x = torch.randn(1, 1, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = []
    for count in (200, 400):
        times = torch.linspace(800, 200, count + 1, dtype=torch.float64).tolist()
        levels = [schedule.at(time) for time in times]
        out = SAMPLERS[name](best, x, levels)
        errors.append(float((out - along(x, levels[0], levels[-1])).norm()))
    assert errors[1] > 0 and math.log2(errors[0] / errors[1]) > order - 0.15


@pytest.mark.parametrize("config", PROCESSES, ids=lambda config: f"{config.schedule}-{config.zero_terminal_snr}")
@pytest.mark.parametrize("name", SAMPLERS)
def test_gaussian_data_comes_out_exactly(name: str, config: NoiseConfig) -> None:
    """The samples have the data's mean and standard deviation, the random samplers' too."""
    if name in ("euler", "euler-a", "heun") and config.ends_in_noise:
        pytest.skip("not defined where nothing is left of the signal")
    count = {"ddpm": 1000, "euler-a": 1000, "dpm++2m-sde": 200}.get(name, 100)
    noise = draws(0)
    levels = NoiseSchedule(config).levels(count)
    start = levels[0]
    x = start.alpha * MEAN + math.hypot(start.alpha * STD, start.sigma) * noise(torch.empty(1, 1, 40000))
    out = SAMPLERS[name](best, x, levels, noise)
    assert out.mean().item() == pytest.approx(MEAN, abs=0.015)
    assert out.std().item() == pytest.approx(STD, rel=0.03)


def test_the_random_ones_are_random_and_the_others_not() -> None:
    levels = NoiseSchedule(NoiseConfig()).levels(10)
    x = torch.randn(SHAPE, dtype=torch.float64)
    for name, sampler in SAMPLERS.items():
        same = torch.equal(sampler(best, x, levels, draws(0)), sampler(best, x, levels, draws(1)))
        assert same == (name not in ("ddpm", "euler-a", "dpm++2m-sde")), name
    once, again = (ddim(best, x, levels, draws(seed), eta=0.5) for seed in (0, 1))
    assert not torch.equal(once, again)


def test_ddim_at_eta_one_is_ddpm() -> None:
    levels = NoiseSchedule(NoiseConfig("cosine")).levels(50)
    x = torch.randn(SHAPE, dtype=torch.float64)
    assert relative(ddim(best, x, levels, draws(0), eta=1.0), ddpm(best, x, levels, draws(0))) <= 1e-9


def test_every_step_is_heard_of_and_may_stop_the_work() -> None:
    levels = NoiseSchedule(NoiseConfig()).levels(8)
    x = torch.randn(SHAPE, dtype=torch.float64)
    for sampler in SAMPLERS.values():
        heard: list[int] = []

        def callback(i: int, x0: Tensor, heard: list[int] = heard) -> None:
            assert x0.shape == SHAPE
            heard.append(i)
            if i == 5:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            sampler(best, x, levels, torch.randn_like, callback)
        assert heard == [0, 1, 2, 3, 4, 5]
