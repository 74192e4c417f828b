"""How fast is sampling, beside its own networks and beside others? `python benchmarks/sampling.py [--model RUN]`

Without `--model`, the presets `small` with random weights: how good they are takes no time. All do the same work in
turn, and the figures are medians over the rounds. Three parts, or those of `--only`:

`overhead`: every sampler over as many calls of the bare network with the same tensors; and `Pipeline.sample` over the
calls of network and decoder that it makes, without guidance and with.

`speed`: seconds of audio a second, decoding included. The peers are architectures, untrained, as wide as it takes to
have our denoiser's number of parameters: diffusers' `UNet1DModel` in the layout of DanceDiffusion with its
`DDIMScheduler`, and audio-diffusion-pytorch's `UNetV0` with its `VSampler`, where it is installed (`pip install
--no-deps audio-diffusion-pytorch a-unet einops`: one of its dependencies hides NumPy's types). They denoise latents as
long as ours, and our decoder makes sound of them. Musika (Pasini & Schlüter 2022) is a GAN, its generator and both its
decoders rebuilt here; its blocks are counted whole. It makes 44.1 kHz stereo; the second row is the same networks for
audio of our rate and channels.

`command`: `musicldm sample` in processes of its own: how long until it denoises, beside importing torch alone; how long
until `-o -` gives its first byte; and its peak memory for 10 seconds and for `--long` ones.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from musicldm.codecs.vae.config import VAEConfig
from musicldm.codecs.vae.model import VAE
from musicldm.codecs.windows import decode_long
from musicldm.conditions.base import Conditioning
from musicldm.core import bundle
from musicldm.core.bundle import Component, Role, TrainingFacts
from musicldm.core.config import from_dict, preset
from musicldm.core.devices import autocast
from musicldm.generators.diffusion.config import DiffusionConfig
from musicldm.generators.diffusion.generate import DiffusionGenerator
from musicldm.generators.diffusion.model import Diffusion
from musicldm.latents.statistics import LatentStatistics
from musicldm.noise.samplers import SAMPLERS
from musicldm.noise.schedule import NoiseLevel
from musicldm.sampling import Pipeline

PARTS = ("overhead", "speed", "command")
OURS = "musicldm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a run folder or a bundle; default: random weights")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=30, help="of audio, for the speed")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--long", type=float, default=600, help="seconds of audio, for the memory")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", help="for overhead and speed")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console(width=120)
    figures: dict[str, Any] = {"threads": options.threads, "rounds": options.rounds, "device": options.device}
    with tempfile.TemporaryDirectory() as temporary:
        path = options.model or untrained(Path(temporary) / "bundle")
        for part in options.only:
            measured, tables = {"overhead": overhead, "speed": speed, "command": command}[part](path, options)
            figures[part] = measured
            for table in tables:
                console.print(table)
            if options.out:
                options.out.write_text(json.dumps(figures, indent=1))


Figures = dict[str, Any]


def untrained(path: Path) -> Path:
    """A bundle of the presets `small`; what begins at zero gets values, too, so that nothing is spared."""
    torch.manual_seed(0)
    settings = preset("musicldm.generators.diffusion", "small")
    vae = VAE(from_dict(VAEConfig, preset("musicldm.codecs.vae", "small")["model"]))
    diffusion = Diffusion(from_dict(DiffusionConfig, settings["model"]))
    for weight in diffusion.parameters():
        if not weight.any():
            nn.init.normal_(weight, std=0.02)
    channels, part = vae.config.latent_channels, vae.component()
    statistics = LatentStatistics(1, (0.0,) * channels, (1.0,) * channels)
    parts: dict[Role, Component] = {"codec": part, "generator": diffusion.component(statistics, part.digest)}
    facts: dict[Role, TrainingFacts] = {
        "generator": TrainingFacts({"training": settings["training"]})
    }  # its crops say how long windows are
    bundle.write(path, bundle.Bundle("untrained", parts, facts))
    return path


def in_turn(works: dict[str, Callable[[], object]], rounds: int, device: str = "cpu") -> dict[str, list[float]]:
    """The seconds that each takes in each round; one round before only warms up."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(-1, rounds):
        for name, work in works.items():
            synchronize(device)
            start = time.perf_counter()
            work()
            synchronize(device)
            if number >= 0:
                taken[name].append(time.perf_counter() - start)
    return taken


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """Of two that took turns: the median over the rounds."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def size(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


# ---- Overhead


@torch.inference_mode()
def overhead(path: Path, options: argparse.Namespace) -> tuple[Figures, list[Table]]:
    """Samplers over the bare network, and `Pipeline.sample` over network and decoder."""
    pipeline = Pipeline.load(path, options.device)
    generator = diffusion_of(pipeline)
    samplers, tasks = Figures(), Figures()
    table = Table("sampler", "calls", "bare, ms", "sampler, ms", "over", title=f"{options.steps} steps of one window")
    frames = pipeline.spec.frames(round(16.0 * pipeline.sample_rate))
    null = generator.conditions.null(1)
    levels = generator.diffusion.schedule.levels(options.steps)
    for name, sampler in SAMPLERS.items():
        x, noise = generator.noise(0, 0, frames)

        def denoise(x: Tensor, level: NoiseLevel) -> Tensor:
            return generator.diffusion.denoise(x, level, null)

        run = partial(sampler, denoise, x, levels, noise)
        calls = recorded(pipeline, run)
        taken = in_turn({"bare": partial(replay, pipeline, calls), "ours": run}, options.rounds, options.device)
        samplers[name] = compared(taken, len(calls))
        table.add_row(name, *cells(samplers[name]))

    tasks_table = Table("Pipeline.sample", "calls", "bare, ms", "ours, ms", "over", title="16 s, decoding included")
    for name, guidance in (("conditioned", 1.0), ("guidance 3", 3.0)):
        run = partial(pipeline.sample, seconds=16.0, steps=options.steps, position=0.5, guidance=guidance)
        calls = recorded(pipeline, run)
        z = generator.statistics.denormalise(calls[-1][0][0].float())
        bare = {"bare": partial(replay, pipeline, calls, z)}
        if guidance != 1:
            single = [(x[:1], t[:1], first_of(conditioning)) for x, t, conditioning in calls for _ in range(2)]
            bare["bare, one by one"] = partial(replay, pipeline, single, z)
        taken = in_turn({**bare, "ours": run}, options.rounds, options.device)
        for kind in bare:
            row = f"{name}, over calls one by one" if "one by one" in kind else name
            number = len(calls) * (2 if "one by one" in kind else 1)
            tasks[row] = compared({"bare": taken[kind], "ours": taken["ours"]}, number)
            tasks_table.add_row(row, *cells(tasks[row]))
    return {"samplers": samplers, "tasks": tasks}, [table, tasks_table]


Call = tuple[Tensor, Tensor, Conditioning]


def diffusion_of(pipeline: Pipeline) -> DiffusionGenerator:
    """Its generator, which has to be one of these."""
    if not isinstance(pipeline.generator, DiffusionGenerator):
        raise SystemExit(f"{pipeline.name} is no diffusion model.")
    return pipeline.generator


def first_of(conditioning: Conditioning) -> Conditioning:
    """That of the first item."""
    values, present = conditioning.values.items(), conditioning.present.items()
    return Conditioning(1, {name: each[:1] for name, each in values}, {name: each[:1] for name, each in present})


def recorded(pipeline: Pipeline, run: Callable[[], object]) -> list[Call]:
    """What the network is given meanwhile."""
    calls: list[Call] = []
    hook = diffusion_of(pipeline).diffusion.network.register_forward_pre_hook(lambda _, inputs: calls.append(inputs))
    run()
    hook.remove()
    return calls


def replay(pipeline: Pipeline, calls: Sequence[Call], z: Tensor | None = None) -> None:
    """The network is given the same again, and the decoder for raw latents [D, L] where there are any."""
    network = diffusion_of(pipeline).diffusion.network
    with autocast(pipeline.precision, pipeline.device):
        for call in calls:
            network(*call)
    if z is not None:
        pipeline.codec.decode(z[None]).cpu()


def compared(taken: dict[str, list[float]], calls: int) -> Figures:
    medians = {name: 1000 * statistics.median(seconds) for name, seconds in taken.items()}
    return {"calls": calls, "bare_ms": medians["bare"], "ms": medians["ours"], "over": overhead_of(taken)}


def overhead_of(taken: dict[str, list[float]]) -> float:
    return ratio(taken["ours"], taken["bare"]) - 1


def cells(figures: Figures) -> list[str]:
    return [str(figures["calls"]), f"{figures['bare_ms']:.0f}", f"{figures['ms']:.0f}", f"{figures['over']:+.1%}"]


# ---- Speed


@torch.inference_mode()
def speed(path: Path, options: argparse.Namespace) -> tuple[Figures, list[Table]]:
    """Seconds of audio a second, beside peers."""
    pipeline = Pipeline.load(path, options.device)
    rough = Pipeline.load(path, options.device, "bf16")
    rate, steps, seconds = pipeline.sample_rate, options.steps, options.seconds
    frames = pipeline.spec.frames(round(seconds * rate))
    parameters = size(diffusion_of(pipeline).diffusion)
    ours = partial(pipeline.sample, seconds=seconds, steps=steps)
    contenders: dict[str, tuple[int, float, Callable[[], Tensor]]] = {
        OURS: (parameters, seconds, ours),
        f"{OURS}, windows of 16 s": (parameters, seconds, partial(ours, window=16.0)),
        f"{OURS}, --precision bf16": (parameters, seconds, partial(rough.sample, seconds=seconds, steps=steps)),
    }
    for name, peer in {"diffusers, DanceDiffusion": diffusers_peer, "audio-diffusion-pytorch": adp_peer}.items():
        try:
            model = as_large(partial(peer, pipeline.spec.channels, steps), parameters)
        except ImportError as error:
            print(f"{name} is left out: {error}.", file=sys.stderr)
            continue
        model.eval().requires_grad_(False).to(options.device)
        contenders[name] = size(model), seconds, partial(decoded, pipeline, model, frames)
    musika = Musika().eval().requires_grad_(False).to(options.device)
    for name, their_rate, channels in (
        ("Musika, 44.1 kHz stereo", 44100, 2),
        (f"Musika's networks, {rate / 1000:g} kHz", rate, pipeline.channels),
    ):
        blocks = -(-round(seconds * their_rate) // MUSIKA_BLOCK)
        run = partial(musika, blocks, channels, options.device)
        contenders[name] = size(musika), blocks * MUSIKA_BLOCK / their_rate, run

    taken = in_turn({name: run for name, (_, _, run) in contenders.items()}, options.rounds, options.device)
    title = f"{seconds:g} s of audio, {steps} steps, {options.threads} threads, medians of {options.rounds} rounds"
    table = Table("", "parameters", "s of audio/s", f"× {OURS}", title=title)
    figures: Figures = {}
    for name, (count, made, _) in contenders.items():
        pace = made / statistics.median(taken[name])
        of_ours = ratio([made / each for each in taken[name]], [seconds / each for each in taken[OURS]])
        figures[name] = {"parameters": count, "pace": pace, "of_ours": of_ours}
        table.add_row(name, f"{count / 1e6:.2f} M", f"{pace:.1f}", f"{of_ours:.2f}")
    return figures, [table]


def decoded(pipeline: Pipeline, sampler: nn.Module, frames: int) -> Tensor:
    """A peer's latents of so many frames, filled up to what it can take, and our decoder."""
    z = sampler(torch.randn(1, pipeline.spec.channels, frames + -frames % 8, device=pipeline.device))
    return torch.cat(list(decode_long(pipeline.codec, pipeline.raw(z[..., :frames]))), dim=1)


def as_large(build: Callable[[int], nn.Module], parameters: int) -> nn.Module:
    """The peer in the width whose number of parameters comes nearest."""

    def off(width: int) -> float:
        with torch.device("meta"):
            return abs(size(build(width)) / parameters - 1)

    return build(min(range(16, 257, 8), key=off))


class DiffusersPeer(nn.Module):
    """Noise [1, D, L] -> latents, by diffusers' own network and loop."""

    def __init__(self, channels: int, steps: int, width: int) -> None:
        package: Any = importlib.import_module("diffusers")
        super().__init__()
        # DanceDiffusion's: the time as 16 channels beside the input; attention at the lowest rate and in the middle.
        self.network = package.UNet1DModel(
            in_channels=channels,
            out_channels=channels,
            extra_in_channels=16,
            time_embedding_dim=16,
            block_out_channels=(width, width, 32 * round(1.5 * width / 32)),  # heads have 32 channels
        )
        self.scheduler = package.DDIMScheduler(prediction_type="v_prediction", clip_sample=False)
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        self.scheduler.set_timesteps(self.steps)
        for t in self.scheduler.timesteps:
            x = self.scheduler.step(self.network(x, t).sample, t, x).prev_sample
        return x


def diffusers_peer(channels: int, steps: int, width: int) -> nn.Module:
    return DiffusersPeer(channels, steps, width)


class AudioDiffusionPeer(nn.Module):
    """The same by audio-diffusion-pytorch's."""

    def __init__(self, channels: int, steps: int, width: int) -> None:
        package: Any = importlib.import_module("audio_diffusion_pytorch")
        super().__init__()
        # The growth of width and items from rate to rate is that of its README.
        self.network = package.UNetV0(
            dim=1,
            in_channels=channels,
            channels=[width, 2 * width, 4 * width],
            factors=[1, 2, 2],
            items=[1, 2, 2],
            attentions=[0, 1, 1],
            attention_heads=4,
            attention_features=64,
        )
        self.sampler = package.VSampler(self.network)
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        latents: Tensor = self.sampler(x, num_steps=self.steps)
        return latents


def adp_peer(channels: int, steps: int, width: int) -> nn.Module:
    return AudioDiffusionPeer(channels, steps, width)


# ---- Musika: models.py and utils.py of marcoppasini/musika at b1e6e79, with one axis less

MUSIKA_BLOCK = 256 * 16 * 256  # samples: 256 latents of 16 spectra of 256 samples
PIECE = 4  # latents that are decoded alone
BATCH = 128  # of them at once, as in theirs


class Noisy(nn.Module):
    """A convolution, noise, and what follows it: AdaIN by coordinates where there are any, swish."""

    def __init__(self, conv: nn.Module, outputs: int, told: int = 0) -> None:
        super().__init__()
        self.conv = conv
        self.noise = nn.Parameter(torch.zeros(1))
        self.style = nn.Conv1d(told, outputs, 1) if told else None

    def forward(self, x: Tensor, told: Tensor | None = None) -> Tensor:
        x = self.conv(x)
        x = x + self.noise * torch.randn_like(x[:, :1])
        if self.style is not None:
            x = x / (x.std(dim=-1, correction=0, keepdim=True) + 1e-5) * self.style(told)
        return F.silu(x)


def filters(inputs: int, outputs: int, kernel: int) -> nn.Module:
    """A convolution with padding as TensorFlow's "same"."""
    if kernel % 2:
        return nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2)
    return nn.Sequential(nn.ConstantPad1d((kernel // 2 - 1, kernel // 2), 0.0), nn.Conv1d(inputs, outputs, kernel))


def same(inputs: int, outputs: int, kernel: int, told: int = 0) -> Noisy:
    return Noisy(filters(inputs, outputs, kernel), outputs, told)


def down(inputs: int, outputs: int) -> Noisy:
    return Noisy(nn.Conv1d(inputs, outputs, 3, 2, padding=1), outputs)


def up(inputs: int, outputs: int, told: int = 0) -> Noisy:
    return Noisy(nn.ConvTranspose1d(inputs, outputs, 4, 2, padding=1), outputs, told)


class MusikaLevel(nn.Module):
    """Twice the rate: two convolutions, and a residual path that shuffles channels into time."""

    def __init__(self, inputs: int, outputs: int, told: int) -> None:
        super().__init__()
        self.up = up(inputs, outputs, told)
        self.conv = same(outputs, outputs, 4, told)
        self.skip = nn.Conv1d(inputs // 2, outputs, 1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        shuffled = x.view(len(x), -1, 2, x.shape[-1]).transpose(2, 3).flatten(2)
        h = 0.5**0.5 * self.conv(0.5**0.5 * self.up(x, told), told)
        out: Tensor = h + self.skip(shuffled)
        return out


class MusikaGenerator(nn.Module):
    """Coordinates [B, 128, 256] -> latents of left and right [B, 2 · 64, 256]."""

    def __init__(self, told: int = 128, base: int = 128) -> None:
        super().__init__()
        self.begin = nn.Linear(2 * told, 4 * 7 * base)
        self.first = Noisy(nn.Identity(), 7 * base, told)
        self.levels = nn.ModuleList(MusikaLevel((i + 1) * base, i * base, told) for i in (6, 5, 4, 3))
        self.last = up(3 * base, 2 * base, told)
        self.head = filters(2 * base, told, 4)

    def forward(self, coordinates: Tensor) -> Tensor:
        told = [torch.cat(coordinates.chunk(2, dim=-1))]
        for _ in range(6):
            told.append(F.avg_pool1d(told[-1], 2))
        h = self.begin(told[6].transpose(1, 2).flatten(1)).view(len(told[6]), 4, -1).transpose(1, 2)
        h = self.first(h, told[5])
        for level, some in zip(self.levels, told[4:0:-1], strict=True):
            h = level(h, some)
        return torch.cat(self.head(self.last(h, told[0])).chunk(2), dim=-1)


class MusikaLatentDecoder(nn.Sequential):
    """[B, 64, 4] -> [B, 64, 64]."""

    def __init__(self, hop: int = 256) -> None:
        wide = 5 * hop // 2
        super().__init__(
            same(64, 3 * hop, 3),
            *(up(3 * hop, wide), same(wide, wide, 3)),
            *(up(wide, 2 * hop), same(2 * hop, 2 * hop, 3)),
            *(up(2 * hop, 3 * hop // 2), up(3 * hop // 2, hop)),
            nn.Conv1d(hop, hop // 4, 1),
        )


class MusikaSpectrumDecoder(nn.Module):
    """[B, 64, 64] -> log-magnitude and phase [B, 513, 64]: a U-Net with two ways up, of which one branches off."""

    def __init__(self, hop: int = 256) -> None:
        super().__init__()
        one, two, three = hop, 2 * hop, 3 * hop
        self.stem = same(64, three, 3)
        # Their fourth way down leads nowhere, and Keras leaves it out.
        self.down1, self.down2, self.down3 = down(three, three), down(three, two), down(two, one)
        self.up2, self.up1, self.up0 = up(one, two), up(two, three), up(three, three)
        self.phase1, self.phase0 = up(two, three), up(three, three)
        self.magnitude = nn.Conv1d(three, two + 1, 1)
        self.phase = nn.Conv1d(three, two + 1, 1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        h0 = self.stem(z)
        h1 = self.down1(h0)
        h2 = self.down2(h1)
        g2 = self.up2(self.down3(h2))
        g1 = self.up1(g2 + h2)
        g0 = self.up0(g1 + h1)
        phase = self.phase(self.phase0(self.phase1(g2) + g1) + g0)
        return self.magnitude(g0 + h0).clamp(-1, 1), phase.clamp(-1, 1)


class Musika(nn.Module):
    """Nothing -> waveforms [channels, blocks · MUSIKA_BLOCK]."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = MusikaGenerator()
        self.latents = MusikaLatentDecoder()
        self.spectra = MusikaSpectrumDecoder()

    def forward(self, blocks: int, channels: int, device: str) -> Tensor:
        anchors = torch.randn(1, 128, blocks + 1, device=device)
        coordinates = F.interpolate(anchors, size=256 * blocks, mode="linear", align_corners=True)
        latents = self.generator(torch.cat(coordinates.chunk(blocks, dim=-1)))
        z = torch.cat(list(latents), dim=-1)  # [128, 256 · blocks]
        return torch.stack([self.decode(side) for side in z.chunk(2)[:channels]])

    def decode(self, z: Tensor) -> Tensor:
        """Latents [64, L] -> a waveform."""
        pieces = torch.stack(torch.split(z, PIECE, dim=-1))
        decoded = [self.spectra(self.latents(some)) for some in torch.split(pieces, BATCH)]
        level, phase = (
            torch.cat([each for part in parts for each in part], -1) for parts in zip(*decoded, strict=True)
        )
        magnitude = (10 ** (0.1 * (75 * level - 25)) + 1e-7).sqrt()
        spectrum = torch.polar(magnitude, torch.pi * phase)
        window = torch.hann_window(1024, device=z.device)
        return torch.istft(spectrum, 1024, 256, window=window, length=256 * spectrum.shape[-1]).clamp(-1, 1)


# ---- The command

# What a process says at its end of its peak memory, in MB; getrusage would count its parent's, whose pages it had.
PEAK = """
import atexit, re, resource, sys
def say():
    try:
        peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(peak / 1e6, file=sys.stderr)
atexit.register(say)
from musicldm.__main__ import main
main()
"""
# Until the network is asked for the first time.
START = """
import os, torch
from musicldm.generators.diffusion.model import Diffusion
Diffusion.denoise = lambda *_: os._exit(0)
from musicldm.__main__ import main
main()
"""


def command(path: Path, options: argparse.Namespace) -> tuple[Figures, list[Table]]:
    """Start, first byte and memory."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    sample = ["sample", "--model", str(path), "--device", "cpu", "--quiet", "--steps", str(options.steps)]

    def python(script: str, *arguments: str) -> None:
        subprocess.run(
            [sys.executable, "-c", script, *arguments], env=environment, stdout=subprocess.DEVNULL, check=True
        )

    def first_byte() -> None:
        asked = [sys.executable, "-m", "musicldm", *sample, "--seconds", f"{options.long:g}", "-o", "-"]
        with subprocess.Popen(asked, env=environment, stdout=subprocess.PIPE) as process:
            if process.stdout is None or not process.stdout.read(1):
                raise RuntimeError("musicldm sample wrote nothing.")
            process.kill()

    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "out.wav")
        works: dict[str, Callable[[], object]] = {
            "python": partial(python, ""),
            "import torch": partial(python, "import torch, os; os._exit(0)"),
            "sample --help": partial(python, "from musicldm.__main__ import main; main()", "sample", "--help"),
            "sample, until it denoises": partial(python, START, *sample, "-o", output),
            f"sample --seconds {options.long:g} -o -, until the first byte": first_byte,
        }
        taken = in_turn(works, options.rounds)
        table = Table("a process", "s", "over import torch, s")
        figures: Figures = {"seconds": {}, "peak_mb": {}}
        for name, seconds in taken.items():
            over = statistics.median(a - b for a, b in zip(seconds, taken["import torch"], strict=True))
            figures["seconds"][name] = {"median": statistics.median(seconds), "over_torch": over}
            table.add_row(name, f"{statistics.median(seconds):.2f}", f"{over:+.2f}")

        memory = Table("musicldm sample", "peak memory, MB", "× 10 s", "s of audio/s")
        for length in (10.0, options.long):
            asked = [sys.executable, "-c", PEAK, *sample, "--seconds", f"{length:g}", "-o", output]
            start = time.perf_counter()
            found = subprocess.run(asked, env=environment, stderr=subprocess.PIPE, text=True, check=True)
            pace = length / (time.perf_counter() - start)
            peak = float(found.stderr.split()[-1])
            figures["peak_mb"][f"{length:g}"] = peak
            over = peak / figures["peak_mb"]["10"]
            memory.add_row(f"--seconds {length:g}", f"{peak:.0f}", f"{over:.2f}", f"{pace:.1f}")
    return figures, [table, memory]


if __name__ == "__main__":
    main()
