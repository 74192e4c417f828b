"""The VAE through its public face: shapes, the posterior, and windows that agree with the whole."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from musicldm.codecs.posterior import DiagonalGaussian
from musicldm.codecs.vae.config import VAEConfig
from musicldm.codecs.vae.model import VAE
from musicldm.codecs.windows import decode_long, encode_long, reconstruct
from musicldm.core import config
from musicldm.core.errors import ConfigError
from tests.codecs.toy_vaes import TOYS, awake


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("samples", [1, 7, 333, 4000])
def test_shapes_and_lengths(name: str, samples: int) -> None:
    toy = TOYS[name]
    vae = VAE(toy)
    waveform = torch.randn(3, toy.audio_channels, samples)
    output, posterior = vae(waveform)
    frames = -(-samples // toy.hop)
    assert posterior.mean.shape == posterior.logvar.shape == (3, toy.latent_channels, frames)
    assert vae.decode(posterior.mode()).shape == (3, toy.audio_channels, frames * toy.hop)
    assert output.shape == waveform.shape


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("frames", [3, 100, 517])
def test_windows_agree_with_the_whole_track(name: str, frames: int) -> None:
    toy = TOYS[name]
    vae = awake(VAE(toy))
    samples = frames * toy.hop - toy.hop // 3
    torch.manual_seed(frames)
    waveform = torch.randn(toy.audio_channels, samples)
    with torch.inference_mode():
        whole = vae.encode(waveform[None])
        pieces = list(encode_long(vae, lambda a, b: waveform[:, a:b], samples, window_frames=3 * toy.attention_block))
        for got, wanted in ((0, whole.mean[0]), (1, whole.logvar[0])):
            joined = torch.cat([piece[got] for piece in pieces], dim=-1)
            assert torch.linalg.norm(joined - wanted) <= 1e-4 * torch.linalg.norm(wanted)
            assert (joined - wanted).abs().max() <= 1e-4 * wanted.abs().max()
        audio = vae.decode(whole.mean)[0]
        joined = torch.cat(list(decode_long(vae, whole.mean[0], window_frames=2 * toy.attention_block)), dim=-1)
        assert (joined - audio).abs().max() <= 1e-4 * audio.abs().max()


def test_a_context_too_small_would_show() -> None:
    """The test above has teeth: without context the same windows disagree."""
    toy = TOYS["patched"]
    vae = awake(VAE(toy))
    waveform = torch.randn(1, 100 * toy.hop)
    with torch.inference_mode():
        whole = vae.encode(waveform[None]).mean[0]
        parts = [vae.encode(part[None]).mean[0] for part in torch.split(waveform, 24 * toy.hop, dim=-1)]
    assert (torch.cat(parts, dim=-1) - whole).abs().max() > 1e-2 * whole.abs().max()


def test_one_frame_depends_on_no_more_than_the_context() -> None:
    """The context is what the configuration says, measured by the gradient of one latent frame."""
    for toy in TOYS.values():
        vae = awake(VAE(toy))
        waveform = torch.randn(1, toy.audio_channels, 6 * toy.context * toy.hop, requires_grad=True)
        middle = 3 * toy.context
        (gradient,) = torch.autograd.grad(vae.encode(waveform).mean[..., middle].sum(), waveform)
        touched = gradient.abs().sum(dim=(0, 1)).nonzero().flatten() // toy.hop
        assert middle - toy.context <= touched.min() and touched.max() <= middle + toy.context


def test_bfloat16_rounds_inside_but_not_what_comes_out() -> None:
    vae = awake(VAE(TOYS["patched"]))
    waveform = torch.randn(1, 1, 640)
    exact, _ = vae(waveform, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        rough, posterior = vae(waveform, torch.Generator().manual_seed(0))
    assert rough.dtype == posterior.mean.dtype == torch.float32
    assert not torch.equal(rough, rough.bfloat16().float())
    assert (rough - exact).norm() < 0.1 * exact.norm()


def test_reconstruct_keeps_the_length() -> None:
    vae = awake(VAE(TOYS["patched"]))
    assert reconstruct(vae, torch.randn(1, 1001)).shape == (1, 1001)


def test_posterior_agrees_with_torch() -> None:
    mean, logvar = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    posterior = DiagonalGaussian(mean, logvar)
    normal = Normal(mean, (0.5 * logvar).exp())
    torch.testing.assert_close(posterior.kl(), kl_divergence(normal, Normal(0.0, 1.0)).sum(dim=(1, 2)))
    x = torch.randn(2, 3, 5)
    log_prob = normal.log_prob(x).sum(dim=(1, 2))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(posterior.nll(x), -log_prob)
    assert posterior.mode() is mean
    draws = torch.stack([posterior.sample(torch.Generator().manual_seed(i)) for i in range(2000)])
    torch.testing.assert_close(draws.mean(dim=0), mean, atol=0.2, rtol=0)
    torch.testing.assert_close(draws.std(dim=0), (0.5 * logvar).exp(), rtol=0.1, atol=0)


def test_a_posterior_far_out_of_range_comes_back() -> None:
    """Held inside its range it has no more width than does good, and its divergence still draws it inwards."""
    logvar = torch.tensor([90.0, -90.0]).view(1, 2, 1).requires_grad_()
    posterior = DiagonalGaussian(torch.zeros(1, 2, 1), logvar)
    width = (posterior.sample(torch.Generator().manual_seed(0)) - posterior.mean).abs()
    assert width[0, 0].item() < 10 and 0 < width[0, 1].item() < 0.01
    (gradient,) = torch.autograd.grad(posterior.kl().sum(), logvar)
    wide, narrow = gradient.flatten().tolist()
    assert wide > 1 and narrow < -0.4


def test_a_tanh_bottleneck_has_neither_noise_nor_divergence() -> None:
    vae = awake(VAE(TOYS["spectral stereo, polar, tanh"]))
    waveform = torch.randn(2, 2, 400)
    once, posterior = vae(waveform)
    assert 0.5 < posterior.mean.abs().max() <= 1
    assert posterior.kl().tolist() == [0, 0]
    torch.testing.assert_close(vae(waveform)[0], once, atol=0.05 * once.abs().max().item(), rtol=0)


def test_presets_are_what_the_issue_of_size_promises() -> None:
    small = config.from_dict(VAEConfig, config.preset("musicldm.codecs.vae", "small")["model"])
    assert small.spec.compression >= 16 and (small.sample_rate, small.audio_channels) == (16000, 1)
    assert sum(weight.numel() for weight in VAE(small).parameters()) <= 7.5e6
    paper = config.from_dict(VAEConfig, config.preset("musicldm.codecs.vae", "paper")["model"])
    assert (paper.hop, paper.latent_channels) == (8, 64)


@pytest.mark.parametrize(
    "wrong",
    [
        {"strides": (2, 2)},
        {"strides": (2, 2, 3)},
        {"patch": 4, "patch_kernel": 7},
        {"patch": 4, "patch_kernel": 6},
        {"patch": 0},
        {"heads": 3},
        {"audio_channels": 3},
        {"front_end": "spectral", "patch": 1, "patch_kernel": 1},
    ],
)
def test_impossible_configurations_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        VAEConfig(**wrong)  # type: ignore[arg-type]
