"""The U-Net: any length, every block hears the noise level, and it can learn whatever it is to predict."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from musicldm.conditions.base import Conditioning
from musicldm.core.errors import ConfigError
from musicldm.generators.diffusion.config import DiffusionConfig
from musicldm.generators.diffusion.model import Diffusion
from musicldm.generators.diffusion.unet import UNet, UNetConfig
from musicldm.nn.blocks import ResnetBlock
from musicldm.noise.samplers import ddim
from musicldm.noise.schedule import NoiseConfig
from tests.toy_conditions import conditioning, usual

TOY = UNetConfig(latent_channels=3, widths=(16, 24, 32), blocks=1, attention_stages=1, heads=4)
CONDITIONS = usual("Abba", "Zoë")


def artists_in_turn(batch: int) -> Conditioning:
    """The first artist and the second in turn, all over their tracks."""
    return conditioning(torch.eye(2)[torch.arange(batch) % 2], torch.linspace(0, 0.9, batch))


@pytest.mark.parametrize("frames", [1, 2, 5, 8, 63])
@pytest.mark.parametrize("blocks", [1, 2])
def test_any_length_keeps_its_shape(frames: int, blocks: int) -> None:
    unet = UNet(UNetConfig(latent_channels=3, widths=(16, 24), blocks=blocks), CONDITIONS)
    x = torch.randn(2, 3, frames)
    assert unet(x, torch.tensor([0, 999]), artists_in_turn(2)).shape == x.shape


def test_every_block_is_steered_by_the_noise_level() -> None:
    blocks = [module for module in UNet(TOY, CONDITIONS).modules() if isinstance(module, ResnetBlock)]
    assert blocks and all(block.film is not None for block in blocks)


def test_every_weight_takes_part() -> None:
    unet = UNet(TOY, CONDITIONS)
    optimizer = torch.optim.SGD(unet.parameters(), lr=0.1)
    half = artists_in_turn(4).without(
        {
            "artist": torch.tensor([False, False, True, True]),
            "position": torch.tensor([False, True, False, True]),
        }
    )
    for _ in range(3):  # what starts at zero opens the way for what lies before it
        optimizer.zero_grad()
        (unet(torch.randn(4, 3, 16), torch.tensor([10, 500, 600, 700]), half) - 1).square().mean().backward()
        optimizer.step()
    silent = [name for name, weight in unet.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert silent == []


@pytest.mark.parametrize(
    "noise",
    [
        NoiseConfig("linear", objective="eps"),
        NoiseConfig("cosine", objective="eps"),
        NoiseConfig("cosine", levels="continuous", min_snr=5.0),
        NoiseConfig("cosine", objective="x0", zero_terminal_snr=True),
        NoiseConfig("flow", objective="flow", levels="continuous"),
    ],
    ids=lambda noise: f"{noise.schedule}-{noise.objective}",
)
def test_what_it_learned_comes_out(noise: NoiseConfig) -> None:
    """Trained on waves of unit variance, every objective samples waves, and at their level."""
    torch.manual_seed(0)
    diffusion = Diffusion(DiffusionConfig(unet=TOY, noise=noise))
    null = diffusion.conditions.null(32)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=3e-3)
    wave = 2**0.5 * torch.sin(torch.arange(32) / 2)
    losses = []
    for _ in range(250):
        x0 = wave * torch.randn(32, 1, 1).sign() * torch.ones(3, 1)
        time = 999 * torch.rand(32) if noise.levels == "continuous" else torch.randint(1000, (32,))
        loss = (diffusion.loss(x0, time, torch.randn_like(x0), null) * diffusion.weight(time, x0)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-30:]) < 0.6 * sum(losses[:30])

    with torch.inference_mode():
        denoise = partial(diffusion.denoise, conditioning=diffusion.conditions.null(64))
        samples = ddim(denoise, torch.randn(64, 3, 32), diffusion.schedule.levels(20))
    # Without its limit on x0, ε-prediction gives 86 here on the cosine schedule and 5.6 on the linear one.
    assert 0.7 < samples.std().item() < (2.5 if noise.objective == "eps" else 1.3)
    likeness = (samples * wave).mean(dim=-1) / (samples.std(dim=-1) * wave.std())
    assert likeness.abs().median() > 0.7


def test_bfloat16_gives_nearly_the_same() -> None:
    torch.manual_seed(0)
    unet = UNet(TOY, CONDITIONS)
    with torch.no_grad():
        for weight in unet.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    x, t = torch.randn(2, 3, 16), torch.tensor([10, 500])
    with torch.autocast("cpu", torch.bfloat16):
        rough = unet(x, t, artists_in_turn(2))
    exact = unet(x, t, artists_in_turn(2))
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max() + 0.02


def test_widths_must_suit_the_heads() -> None:
    with pytest.raises(ConfigError):
        UNetConfig(widths=(20,), heads=4)
