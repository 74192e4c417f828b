"""How fast is the VAE beside others of its size? `python benchmarks/vae.py [--preset small] [--profile]`

The peers are architectures, untrained: diffusers' `AutoencoderOobleck` (stable-audio-tools' autoencoder) and the
networks of transformers' `DacModel` and `EncodecModel`, their quantizers left out. Each is as wide as it takes to have
the preset's number of parameters, with the preset's hop, rate and channels. All do the same work in turn, and the
figures are medians over the rounds: seconds of audio a second for encoding, for decoding and for a step of training,
which has the preset's loss for everyone, without a discriminator.

`--profile` says where a step of our training spends its time.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from musicldm.codecs.posterior import DiagonalGaussian
from musicldm.codecs.vae.config import VAEConfig
from musicldm.codecs.vae.losses import LossConfig, vae_loss
from musicldm.codecs.vae.model import VAE
from musicldm.core.config import from_dict, preset

OURS = "musicldm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--seconds", type=float, default=10, help="of audio that is encoded and decoded at once")
    parser.add_argument("--crop", type=float, help="seconds of a crop in training; default: the preset's")
    parser.add_argument("--batch-size", type=int, default=2, help="crops in a step of training")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="where a step of training spends its time, instead")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", "`torch.nn.utils.weight_norm`", FutureWarning)  # of diffusers
    settings = preset("musicldm.codecs.vae", options.preset)
    config, loss = from_dict(VAEConfig, settings["model"]), from_dict(LossConfig, settings["loss"])
    torch.manual_seed(0)
    batch = noise(options.batch_size, options.crop or settings["training"]["seconds"], config)
    if options.profile:
        table = profile(VAE(config), batch, loss, options.rounds)
    else:
        table = speed(config, loss, batch, noise(1, options.seconds, config), options.rounds)
    table.title = f"Preset {options.preset}, {options.threads} threads, medians of {options.rounds} rounds"
    Console(width=110).print(table)


def noise(items: int, seconds: float, config: VAEConfig) -> Tensor:
    """[items, C, T], T a multiple of the hop, as some peers need it."""
    frames = max(1, round(seconds * config.spec.frame_rate))
    return 0.1 * torch.randn(items, config.audio_channels, frames * config.hop)


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# ---- Peers


class Peer(nn.Module):
    """Two networks with the face of our VAE."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def encode(self, waveform: Tensor) -> DiagonalGaussian:
        mean = self.encoder(waveform)
        return DiagonalGaussian(mean, torch.zeros_like(mean))

    def decode(self, z: Tensor) -> Tensor:
        waveform: Tensor = self.decoder(z)
        return waveform


def strides(hop: int) -> list[int]:
    """What multiplies to the hop: 2·4·8·8 for 512, as in DAC; 2·4·4·8·8 for 2048, as in stable-audio-tools."""
    found = []
    for largest in itertools.chain((2, 4), itertools.repeat(8)):
        if hop == 1:
            break
        stride = math.gcd(hop, largest)
        found.append(stride if stride > 1 else hop)
        hop //= found[-1]
    return sorted(found)


def oobleck(config: VAEConfig, width: int) -> Peer:
    from diffusers import AutoencoderOobleck

    ratios = strides(config.hop)
    model = AutoencoderOobleck(
        encoder_hidden_size=width,  # also what leaves the encoder: mean and scale
        decoder_input_channels=width,
        decoder_channels=width,
        downsampling_ratios=ratios,
        channel_multiples=[2**i for i in range(len(ratios))],
        audio_channels=config.audio_channels,
        sampling_rate=config.sample_rate,
    )
    return Peer(model.encoder, model.decoder)


def dac(config: VAEConfig, width: int) -> Peer:
    from transformers import DacConfig, DacModel

    ratios = strides(config.hop)
    whole = DacConfig(
        encoder_hidden_size=width,
        decoder_hidden_size=3 * width * 2 ** len(ratios) // 2,  # half as wide again at every rate, as in theirs
        downsampling_ratios=ratios,
        sampling_rate=config.sample_rate,
    )
    model = DacModel(whole)
    return Peer(model.encoder, model.decoder)


def encodec(config: VAEConfig, width: int) -> Peer:
    from transformers import EncodecConfig, EncodecModel

    whole = EncodecConfig(
        num_filters=width,
        hidden_size=config.latent_channels,
        upsampling_ratios=strides(config.hop)[::-1],
        audio_channels=config.audio_channels,
        sampling_rate=config.sample_rate,
        codebook_dim=config.latent_channels,
    )
    model = EncodecModel(whole)
    return Peer(model.encoder, model.decoder)


PEERS: dict[str, Callable[[VAEConfig, int], Peer]] = {"Oobleck": oobleck, "DAC": dac, "EnCodec": encodec}


def size(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def as_large(build: Callable[[VAEConfig, int], Peer], config: VAEConfig, parameters: int) -> Peer:
    """The peer in the width whose number of parameters comes nearest."""

    def off(width: int) -> float:
        with torch.device("meta"):
            return abs(size(build(config, width)) / parameters - 1)

    return build(config, min(range(4, 65), key=off))


# ---- Speed


def speed(config: VAEConfig, loss: LossConfig, batch: Tensor, sound: Tensor, rounds: int) -> Table:
    ours = VAE(config)
    models: dict[str, nn.Module] = {OURS: ours}
    models |= {name: as_large(build, config, size(ours)) for name, build in PEERS.items()}
    latents = {name: encode(model.eval(), sound).mode() for name, model in models.items()}
    optimizers = {name: torch.optim.AdamW(model.parameters(), lr=1e-5) for name, model in models.items()}
    works: dict[str, Callable[[str], object]] = {
        "encode": lambda name: encode(models[name].eval(), sound),
        "decode": lambda name: decode(models[name].eval(), latents[name]),
        "train": lambda name: step(models[name].train(), optimizers[name], batch, loss, config.sample_rate),
    }
    taken = {(name, what): [0.0] * rounds for name in models for what in works}
    for number in range(-1, rounds):  # the first round only warms up
        for what, work in works.items():
            for name in models:
                taken_now = seconds_of(lambda work=work, name=name: work(name))  # type: ignore[misc]
                if number >= 0:
                    taken[name, what][number] = taken_now
    lengths = {"encode": sound.shape[-1], "decode": sound.shape[-1], "train": batch.shape[0] * batch.shape[-1]}
    headings = ["", "parameters", *(f"{what}, s/s" for what in works), *(f"× {what}" for what in works)]
    table = Table(*headings, caption="s/s: seconds of audio a second; ×: how many times faster ours is")
    for name, model in models.items():
        rates = [lengths[what] / config.sample_rate / statistics.median(taken[name, what]) for what in works]
        ratios = [
            statistics.median(b / a for a, b in zip(taken[OURS, what], taken[name, what], strict=True))
            for what in works
        ]
        table.add_row(
            name, f"{size(model) / 1e6:.2f} M", *(f"{r:.1f}" for r in rates), *(f"{ratio:.2f}" for ratio in ratios)
        )
    return table


@torch.inference_mode()
def encode(model: nn.Module, sound: Tensor) -> DiagonalGaussian:
    posterior: DiagonalGaussian = model.encode(sound)  # type: ignore[operator]
    return posterior


@torch.inference_mode()
def decode(model: nn.Module, z: Tensor) -> Tensor:
    waveform: Tensor = model.decode(z)  # type: ignore[operator]
    return waveform


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, loss: LossConfig, rate: int) -> None:
    posterior = model.encode(x)  # type: ignore[operator]
    y = model.decode(posterior.sample())  # type: ignore[operator]
    vae_loss(x, y[..., : x.shape[-1]], posterior, loss, rate)["total"].backward()
    optimizer.step()
    optimizer.zero_grad()


# ---- Where a step goes


def profile(vae: VAE, x: Tensor, loss: LossConfig, rounds: int) -> Table:
    """Forwards and backwards, part by part, each from what the one before left."""
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-5)
    terms = [name for name in ("time", "stft", "mel", "study") if getattr(loss, name)]
    only = {name: replace(loss, **{other: 0.0 for other in terms if other != name}) for name in terms}
    taken: dict[tuple[str, str], list[float]] = {}

    @contextmanager
    def timed(part: str, way: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        taken.setdefault((part, way), []).append(time.perf_counter() - start)

    for _ in range(rounds + 1):  # the first only warms up
        with timed("encoder", "forward"):
            posterior = vae.encode(x)
            z = posterior.sample()
        z_in, mean, logvar = (each.detach().requires_grad_() for each in (z, posterior.mean, posterior.logvar))
        with timed("decoder", "forward"):
            y = vae.decode(z_in)[..., : x.shape[-1]]
        y_in = y.detach().requires_grad_()
        for name in terms:
            with timed(f"loss: {name}", "forward"):
                total = vae_loss(x, y_in, DiagonalGaussian(mean, logvar), only[name], vae.config.sample_rate)[
                    "reconstruction"
                ]
            with timed(f"loss: {name}", "backward"):
                total.backward()
        with timed("loss: kl", "forward"):
            divergence = DiagonalGaussian(mean, logvar).kl().mean()
        with timed("loss: kl", "backward"):
            divergence.backward()
        with timed("decoder", "backward"):
            y.backward(y_in.grad)
        ends = [(z, z_in.grad), (posterior.mean, mean.grad), (posterior.logvar, logvar.grad)]
        with timed("encoder", "backward"):
            torch.autograd.backward(*zip(*(end for end in ends if end[1] is not None), strict=True))
        with timed("optimizer", "forward"):
            optimizer.step()
            optimizer.zero_grad()

    ways = ("forward", "backward")
    parts = {part: [statistics.median(taken.get((part, way), [0.0, 0.0])[1:]) for way in ways] for part, _ in taken}
    whole = sum(map(sum, parts.values()))
    table = Table("", "forward, ms", "backward, ms", "share", caption=f"{1000 * whole:.0f} ms in all")
    for part, (forward, backward) in sorted(parts.items(), key=lambda item: -sum(item[1])):
        share = f"{(forward + backward) / whole:.0%}"
        table.add_row(part, f"{1000 * forward:.1f}", f"{1000 * backward:.1f}" if backward else "", share)
    return table


if __name__ == "__main__":
    main()
