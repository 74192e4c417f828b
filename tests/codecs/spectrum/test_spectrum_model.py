"""The codec of spectra: any length, any window, mono and stereo, both decoders."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from musicldm.codecs.base import codec_of
from musicldm.codecs.spectrum.config import SpectrumConfig
from musicldm.codecs.spectrum.model import SpectrumCodec
from musicldm.codecs.windows import decode_long, encode_long
from musicldm.core import bundle
from musicldm.core.bundle import Component
from musicldm.core.errors import ConfigError, UsageError

TOY = SpectrumConfig(
    sample_rate=8000, latent_channels=6, window_size=256, column_hop=32, columns=2, width=24, blocks=2, iterations=2,
    phase_block=8, head_width=16,
)  # fmt: skip
SHAPES = {
    "griffinlim": TOY,
    "no iterations": replace(TOY, iterations=0),
    "adversarial": replace(TOY, decoder="adversarial"),
    "stereo": replace(TOY, audio_channels=2),
    "stereo, adversarial": replace(TOY, decoder="adversarial", audio_channels=2),
    "tanh, a column a frame": replace(TOY, bottleneck="tanh", columns=1),
}


def codec_of_shape(name: str) -> SpectrumCodec:
    torch.manual_seed(0)
    codec = SpectrumCodec(SHAPES[name]).eval()
    for weight in codec.parameters():  # those that begin at zero too, or half of the network would be the identity
        weight.data += 0.05 * torch.randn(weight.shape)
    return codec


def music(config: SpectrumConfig, samples: int) -> Tensor:
    time = torch.arange(samples) / config.sample_rate
    tones = [torch.sin(2 * math.pi * f * time) * torch.exp(-3 * (time % 0.25)) for f in (220.0, 277.2, 329.6, 440.0)]
    return 0.1 * torch.stack([sum(tones[i:], torch.zeros(samples)) for i in range(config.audio_channels)])


@pytest.mark.parametrize("name", SHAPES)
@torch.inference_mode()
def test_windows_agree_with_the_whole(name: str) -> None:
    codec, config = codec_of_shape(name), SHAPES[name]
    x = music(config, 300 * config.hop + 5)
    whole = codec.encode(x[None])
    assert whole.mean.shape == (1, config.latent_channels, 301)
    pieces = list(encode_long(codec, lambda a, b: x[:, a:b], x.shape[-1], window_frames=16))
    assert len(pieces) > 3
    torch.testing.assert_close(torch.cat([mean for mean, _ in pieces], dim=1), whole.mean[0], atol=1e-5, rtol=1e-4)
    # Latents of another kind than what was encoded: a decoder must take whatever a generator makes.
    z = whole.mean[0] + 0.3 * torch.randn(whole.mean[0].shape)
    decoded = codec.decode(z[None])[0]
    assert decoded.shape == (config.audio_channels, 301 * config.hop) and decoded.isfinite().all()
    windows = list(decode_long(codec, z, window_frames=16))
    assert len(windows) > 3
    torch.testing.assert_close(torch.cat(windows, dim=1), decoded, atol=1e-4 * float(decoded.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
@torch.inference_mode()
def test_one_frame_and_silence(name: str) -> None:
    codec, config = codec_of_shape(name), SHAPES[name]
    short = codec.decode(codec.encode(torch.zeros(2, config.audio_channels, 3)).mode())
    assert short.shape == (2, config.audio_channels, config.hop) and short.isfinite().all()


@pytest.mark.parametrize("name", ["griffinlim", "stereo"])
@torch.inference_mode()
def test_magnitudes_come_back_in_the_waveform(name: str) -> None:
    """Without a bottleneck between them: what is lost, the phases lost."""
    codec, config = codec_of_shape(name), replace(SHAPES[name], iterations=16)
    codec.config = config
    x = music(config, 64 * config.hop)[None]
    target = codec.log_magnitude(x)
    torch.testing.assert_close(codec.magnitude(target), codec.stft(mixed(x)).abs(), atol=1e-5, rtol=1e-3)
    made = codec.waveform(target)
    assert made.shape == x.shape
    assert (codec.log_magnitude(made) - target).abs().mean() < 0.1  # decades
    assert made.square().mean().sqrt() == pytest.approx(float(x.square().mean().sqrt()), rel=0.05)


def mixed(x: Tensor) -> Tensor:
    """Mid and side, by their formulas."""
    return x if x.shape[1] == 1 else torch.stack([x[:, 0] + x[:, 1], x[:, 0] - x[:, 1]], dim=1) / math.sqrt(2)


@torch.inference_mode()
def test_a_gain_and_a_flipped_sign_are_all_that_it_hears_of_a_waveform() -> None:
    codec = codec_of_shape("griffinlim")
    x = music(TOY, 40 * TOY.hop)[None]
    torch.testing.assert_close(codec.encode(-x).mean, codec.encode(x).mean)
    assert not codec.keeps_phase
    louder = codec.log_magnitude(10 * x) - codec.log_magnitude(x)
    assert louder.max() <= 1 + 1e-4, "a decade for twenty decibels, and less below the floor"


@torch.inference_mode()
def test_an_untrained_head_changes_nothing_but_the_way() -> None:
    torch.manual_seed(0)
    single = SpectrumCodec(SHAPES["no iterations"]).eval()
    torch.manual_seed(0)
    head = SpectrumCodec(SHAPES["adversarial"]).eval()
    x = music(TOY, 40 * TOY.hop)[None]
    torch.testing.assert_close(head.waveform(head.log_magnitude(x)), single.waveform(single.log_magnitude(x)))


@torch.inference_mode()
def test_wild_latents_stay_finite() -> None:
    for name in ("griffinlim", "adversarial"):
        y = codec_of_shape(name).decode(1e4 * torch.randn(1, TOY.latent_channels, 20))
        assert y.isfinite().all() and y.abs().max() < 1e3


@pytest.mark.parametrize(
    "change",
    [
        {"window_size": 250}, {"audio_channels": 3}, {"columns": 0}, {"phase_block": 1}, {"iterations": -1},
        {"floor": 0.0},
    ],
)  # fmt: skip
def test_impossible_shapes_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        replace(TOY, **change)  # type: ignore[arg-type]


def test_it_takes_neither_noise_nor_steps() -> None:
    with pytest.raises(UsageError, match="neither noise nor steps"):
        codec_of_shape("griffinlim").decode(torch.zeros(1, 6, 4), steps=3)


def test_another_way_to_phases_is_no_other_codec_and_half_precision_is() -> None:
    """A generator belongs to latents, not to how they are decoded."""

    def hashed(codec: SpectrumCodec) -> str:
        return codec_of(bundle.Bundle("x", {"codec": codec.component()})).spec.codec_hash

    codec = codec_of_shape("adversarial")
    other = codec_of_shape("griffinlim")
    other.load_state_dict(codec.state_dict(), strict=False)
    assert hashed(codec) == hashed(other) != hashed(codec_of_shape("stereo"))
    generator = Component("diffusion", {"codec": hashed(codec)}, {})
    whole = bundle.Bundle("x", {"codec": codec.component(), "generator": generator})
    half = bundle.halved(whole, lambda made: codec_of(made).spec.codec_hash)
    assert half.component("generator").config["codec"] == codec_of(half).spec.codec_hash != hashed(codec)
