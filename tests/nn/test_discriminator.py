"""The discriminator, its losses, and how its gradients are weighed against the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from musicldm.codecs.training import Material
from musicldm.codecs.vae.config import VAERunConfig
from musicldm.codecs.vae.losses import vae_loss
from musicldm.codecs.vae.training import VAETraining
from musicldm.core import config
from musicldm.core.errors import ConfigError
from musicldm.nn.discriminator import (
    Discriminator,
    DiscriminatorConfig,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)


def judged(*values: float) -> list[list[torch.Tensor]]:
    return [[torch.full((2, 3), value), torch.tensor([value])] for value in values]


def test_hinge_losses_are_their_formulas() -> None:
    # max(0, 1 - real) + max(0, 1 + fake), mean over resolutions
    assert discriminator_loss(judged(0.5, 3), judged(-2, 1)).item() == pytest.approx((0.5 + 0 + 0 + 2) / 2)
    assert adversarial_loss(judged(-2, 1)).item() == pytest.approx(0.5)
    assert feature_loss(judged(2, 4), judged(3, 4)).item() == pytest.approx((1 / 2 + 0) / 2)


@pytest.mark.parametrize("channels", [1, 2])
def test_it_learns_to_tell_music_from_noise(channels: int) -> None:
    torch.manual_seed(0)
    critic = Discriminator(DiscriminatorConfig(fft_sizes=(256, 64), width=4), channels)
    time = torch.arange(1000) / 16000
    pitches = 200 + 400 * torch.rand(4, channels, 1)
    music, noise = torch.sin(2 * torch.pi * pitches * time) * 0.3, torch.randn(4, channels, 1000) * 0.2
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = discriminator_loss(critic(music), critic(noise))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(2, abs=0.2) and losses[-1] < 0.3
    assert adversarial_loss(critic(music)) < adversarial_loss(critic(noise))


def training(**loss: float) -> VAETraining:
    plan: dict[str, Any] = {
        "model": {"front_end": "spectral", "patch": 32, "patch_kernel": 128, "widths": [16], "strides": []},
        "loss": {"time": 10.0, "kl": 1e-2, "fft_sizes": [256], **loss},
        "discriminator": {"fft_sizes": [128], "width": 4},
        "training": {"batch_size": 2, "precision": "32"},
    }
    torch.manual_seed(0)
    return VAETraining(config.from_dict(VAERunConfig, plan), Material())


def test_each_adversarial_gradient_has_the_strength_asked_for() -> None:
    module = training(adversarial=0.25, features=0.5)
    audio = 0.1 * torch.randn(2, 1, 2048)
    torch.manual_seed(1)
    terms = module.forward_backward(audio)
    assert module.discriminator is not None

    # The same by hand, with losses of known strength at the waveform.
    torch.manual_seed(1)
    posterior = module.model.encode(audio)
    z = posterior.mean + torch.exp(0.5 * posterior.logvar) * torch.randn_like(posterior.mean)
    output = module.model.decode(z)
    plain = vae_loss(audio, output, posterior, module.config.loss, 16000)
    real, fake = module.discriminator(audio), module.discriminator(output)
    wanted = torch.autograd.grad(plain["reconstruction"], output, retain_graph=True)[0]
    total = plain["total"]
    for share, loss in ((0.25, adversarial_loss(fake)), (0.5, feature_loss(real, fake))):
        own = torch.autograd.grad(loss, output, retain_graph=True)[0]
        total = total + loss * share * wanted.norm() / own.norm()
    weights = list(module.model.parameters())
    for got, by_hand in zip(weights, torch.autograd.grad(total, weights, retain_graph=True), strict=True):
        torch.testing.assert_close(got.grad, by_hand, atol=1e-5, rtol=1e-3)
    critics = list(module.discriminator.parameters())
    hinge = discriminator_loss(real, module.discriminator(output.detach()))
    for got, by_hand in zip(critics, torch.autograd.grad(hinge, critics), strict=True):
        torch.testing.assert_close(got.grad, by_hand, atol=1e-5, rtol=1e-3)
    assert {"adversarial", "features", "discriminator", "time", "stft", "kl"} <= terms.keys()


def test_the_discriminator_waits_for_its_step() -> None:
    module = training(adversarial=1.0, adversarial_start=5)
    assert module.discriminator is not None
    assert "adversarial" not in module.forward_backward(0.1 * torch.randn(2, 1, 2048))
    assert all(weight.grad is None for weight in module.discriminator.parameters())
    module.state.step = 5
    assert "adversarial" in module.forward_backward(0.1 * torch.randn(2, 1, 2048))
    assert training().discriminator is None


@pytest.mark.parametrize("wrong", [{"fft_sizes": ()}, {"fft_sizes": (100,)}, {"width": 0}, {"learning_rate": 0.0}])
def test_impossible_discriminators_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DiscriminatorConfig(**wrong)
