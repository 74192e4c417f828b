"""The denoiser: any length, every block hears the noise level, and it can learn."""

from __future__ import annotations

import pytest
import torch

from musicldm.diffusion.model import Diffusion, DiffusionConfig
from musicldm.diffusion.samplers import ddim
from musicldm.diffusion.schedule import NoiseConfig
from musicldm.diffusion.unet import UNet, UNetConfig
from musicldm.errors import ConfigError
from musicldm.layers import ResnetBlock

TOY = UNetConfig(latent_channels=3, widths=(16, 24, 32), blocks=1, attention_stages=1, heads=4)


@pytest.mark.parametrize("frames", [1, 2, 5, 8, 63])
@pytest.mark.parametrize("blocks", [1, 2])
def test_any_length_keeps_its_shape(frames: int, blocks: int) -> None:
    unet = UNet(UNetConfig(latent_channels=3, widths=(16, 24), blocks=blocks))
    x = torch.randn(2, 3, frames)
    assert unet(x, torch.tensor([0, 999])).shape == x.shape


def test_every_block_is_steered_by_the_noise_level() -> None:
    blocks = [module for module in UNet(TOY).modules() if isinstance(module, ResnetBlock)]
    assert blocks and all(block.film is not None for block in blocks)


def test_every_weight_takes_part() -> None:
    unet = UNet(TOY)
    optimizer = torch.optim.SGD(unet.parameters(), lr=0.1)
    for _ in range(3):  # what starts at zero opens the way for what lies before it
        optimizer.zero_grad()
        (unet(torch.randn(2, 3, 16), torch.tensor([10, 500])) - 1).square().mean().backward()
        optimizer.step()
    silent = [name for name, weight in unet.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert silent == []


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("objective", ["eps", "v"])
def test_what_it_learned_comes_out(objective: str, schedule: str) -> None:
    """Trained on waves of unit spread, every objective on every schedule samples waves, and at their level."""
    torch.manual_seed(0)
    diffusion = Diffusion(DiffusionConfig(TOY, NoiseConfig(schedule, objective)))  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=3e-3)
    wave = 2**0.5 * torch.sin(torch.arange(32) / 2)
    losses = []
    for _ in range(250):
        x0 = wave * torch.randn(32, 1, 1).sign() * torch.ones(3, 1)
        loss = diffusion.loss(x0, torch.randint(1000, (32,)), torch.randn_like(x0)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-30:]) < 0.6 * sum(losses[:30])

    steps = diffusion.schedule.timesteps(20)
    with torch.inference_mode():
        samples = ddim(diffusion.denoise, torch.randn(64, 3, 32), diffusion.schedule, steps)
    # Without its limit on x0, ε-prediction gives 86 here on the cosine schedule and 5.6 on the linear one.
    assert 0.7 < samples.std().item() < (1.3 if objective == "v" else 2.5)
    likeness = (samples * wave).mean(dim=-1) / (samples.std(dim=-1) * wave.std())
    assert likeness.abs().median() > 0.7


def test_bfloat16_gives_nearly_the_same() -> None:
    torch.manual_seed(0)
    unet = UNet(TOY)
    with torch.no_grad():
        for weight in unet.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    x, t = torch.randn(2, 3, 16), torch.tensor([10, 500])
    with torch.autocast("cpu", torch.bfloat16):
        rough = unet(x, t)
    assert (rough - unet(x, t)).abs().max() < 0.05 * unet(x, t).abs().max() + 0.02


def test_widths_must_suit_the_heads() -> None:
    with pytest.raises(ConfigError):
        UNetConfig(widths=(20,), heads=4)
