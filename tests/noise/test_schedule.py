"""Noise levels: their tables, the times between them, spacings, and what networks predict of them."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers

from musicldm.core.errors import ConfigError, UsageError
from musicldm.noise.schedule import NoiseConfig, NoiseSchedule

THEIRS: Any = diffusers  # which has types for some of its methods only
THEIR_NAMES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
OBJECTIVES = ["eps", "x0", "v", "flow"]
PROCESSES = [
    NoiseConfig("linear"),
    NoiseConfig("linear", beta=(1e-6, 0.01)),
    NoiseConfig("cosine"),
    NoiseConfig("cosine", zero_terminal_snr=True),
    NoiseConfig("flow", objective="flow"),
]


@pytest.mark.parametrize("schedule", THEIR_NAMES)
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("beta", [(1e-4, 0.02), (1e-6, 0.01)])
def test_tables_agree_with_diffusers(schedule: str, zero: bool, beta: tuple[float, float]) -> None:
    scheduler = THEIRS.DDIMScheduler(
        1000, beta_start=beta[0], beta_end=beta[1], beta_schedule=THEIR_NAMES[schedule], rescale_betas_zero_snr=zero
    )
    table = NoiseSchedule(NoiseConfig(schedule, beta, zero_terminal_snr=zero))  # type: ignore[arg-type]
    alpha_bar = torch.tensor([table.at(t).alpha ** 2 for t in range(1000)])
    # They leave the last one a little above 0.
    torch.testing.assert_close(alpha_bar, scheduler.alphas_cumprod, rtol=2e-3, atol=1e-6)
    assert not zero or alpha_bar[-1] == 0


@pytest.mark.parametrize("count", [1, 3, 20, 50, 1000])
def test_trailing_times_are_those_of_diffusers(count: int) -> None:
    scheduler = THEIRS.DDPMScheduler(1000, timestep_spacing="trailing")
    scheduler.set_timesteps(count)
    levels = NoiseSchedule(NoiseConfig()).levels(count)
    assert [level.time for level in levels[:-1]] == scheduler.timesteps.tolist()
    assert (levels[-1].alpha, levels[-1].sigma) == (1, 0)


def test_uniform_times_end_at_the_first_step() -> None:
    levels = NoiseSchedule(NoiseConfig()).levels(4, "uniform")
    assert [level.time for level in levels[:-1]] == [999, 666, 333, 0]


def test_karras_ratios_are_their_formula() -> None:
    schedule = NoiseSchedule(NoiseConfig("cosine", levels="continuous"))
    levels = schedule.levels(20, "karras")
    high, low = schedule.at(999).ratio ** (1 / 7), schedule.at(0).ratio ** (1 / 7)
    wanted = [(high + i / 19 * (low - high)) ** 7 for i in range(20)]
    assert [level.ratio for level in levels[:-1]] == pytest.approx(wanted, rel=1e-6)
    assert any(level.time % 1 for level in levels)


@pytest.mark.parametrize("config", PROCESSES, ids=lambda config: f"{config.schedule}-{config.zero_terminal_snr}")
def test_between_two_steps(config: NoiseConfig) -> None:
    schedule = NoiseSchedule(config)
    times = torch.linspace(0, 999, 3997, dtype=torch.float64)
    levels = [schedule.at(time) for time in times.tolist()]
    ratios = [level.sigma / max(level.alpha, 1e-300) for level in levels]
    assert ratios == sorted(ratios)
    for level in levels:
        whole = level.alpha + level.sigma if config.schedule == "flow" else math.hypot(level.alpha, level.sigma)
        assert whole == pytest.approx(1, abs=1e-12)
    back = [schedule.time_of(float(level.ratio)) for level in levels if level.alpha]
    assert back == pytest.approx(times[: len(back)].tolist(), abs=1e-6)
    # A batch of times at once, as training has them, is the same.
    tensor = schedule.of(times, torch.empty(len(times), 1, 1, dtype=torch.float64))
    alpha, sigma = (torch.as_tensor(side).flatten() for side in (tensor.alpha, tensor.sigma))
    torch.testing.assert_close(alpha, torch.tensor([level.alpha for level in levels]).double())
    torch.testing.assert_close(sigma, torch.tensor([level.sigma for level in levels]).double())


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("config", PROCESSES, ids=lambda config: f"{config.schedule}-{config.zero_terminal_snr}")
def test_what_the_network_predicts_gives_the_signal_back(objective: str, config: NoiseConfig) -> None:
    x0, eps = torch.randn(2, 4, 3, 8, dtype=torch.float64)
    level = NoiseSchedule(config).of(torch.tensor([1, 300, 600, 990]), x0)
    x, output = level.mix(x0, eps), level.target(objective, x0, eps)
    torch.testing.assert_close(level.x0(objective, x, output), x0)
    torch.testing.assert_close(level.eps(x, x0), eps)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_min_snr_weighs_the_error_of_the_signal(objective: str) -> None:
    """Whatever is predicted, the weighted loss is min(SNR, γ) times the squared error of x0 (Hang et al. 2023)."""
    x0, eps, error = torch.randn(3, 5, 3, 8, dtype=torch.float64)
    level = NoiseSchedule(NoiseConfig()).of(torch.tensor([5, 100, 400, 700, 950]), x0)
    x, output = level.mix(x0, eps), level.target(objective, x0, eps) + 0.1 * error
    loss = (0.1 * error).square().mean(dim=(1, 2)) * torch.as_tensor(level.weight(objective, 5.0)).flatten()
    snr = torch.as_tensor(level.alpha / level.sigma).square().flatten()
    wanted = snr.clamp(max=5) * (level.x0(objective, x, output) - x0).square().mean(dim=(1, 2))
    torch.testing.assert_close(loss, wanted)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 1},
        {"beta": (0.02,)},
        {"beta": (0.02, 1e-4)},
        {"min_snr": -1.0},
        {"objective": "eps", "zero_terminal_snr": True},
        {"objective": "eps", "schedule": "flow"},
    ],
)
def test_impossible_processes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        NoiseConfig(**wrong)


def test_impossible_spacings_are_refused() -> None:
    schedule = NoiseSchedule(NoiseConfig())
    for count in (0, -1, 1001):
        with pytest.raises(UsageError, match="cannot be taken") as caught:
            schedule.levels(count)
        assert "1 to 1000" in caught.value.hint
    with pytest.raises(UsageError, match="karras"):
        schedule.levels(10, "karras")
    with pytest.raises(UsageError, match="cannot start from pure noise"):
        NoiseSchedule(NoiseConfig(zero_terminal_snr=True, levels="continuous")).levels(10, "karras")
