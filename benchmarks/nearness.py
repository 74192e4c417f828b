"""How near are a model's samples to the music it learned from? `python benchmarks/nearness.py runs/ldm data/wav`

Fréchet distances between Gaussians of log-mel frames, each set against the whole corpus: the model's samples, those of
the same denoiser untrained, decoded noise with the latents' own mean and spread, and the corpus in two halves. With
them the model's distance over that of noise, and the samples' level. N, length and seeds are printed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from musicldm.audio.manifest import read_tracks
from musicldm.diffusion.model import Diffusion
from musicldm.evaluate.frechet import frechet_distance, mel_gaussian
from musicldm.generate import Generator
from musicldm.vae.windows import reconstruct


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help="what preprocess made")
    parser.add_argument("--takes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()

    generator = Generator.load(options.model)
    rate, trained = generator.sample_rate, generator.diffusion
    torch.manual_seed(0)
    untrained = Diffusion(trained.config).eval().requires_grad_(False).to(generator.device)
    tracks = read_tracks(options.data)
    music = [torch.from_numpy(track.read(0, track.samples)) for track in tracks]
    corpus = mel_gaussian(music, rate)

    def distance(waveforms: list[torch.Tensor]) -> float:
        return frechet_distance(mel_gaussian(waveforms, rate), corpus)

    def samples(diffusion: Diffusion, seed: int) -> list[torch.Tensor]:
        generator.diffusion = diffusion
        takes = range(options.takes)
        return [generator.sample(options.seconds, seed=seed, take=take, steps=options.steps) for take in takes]

    def noise(seed: int) -> list[torch.Tensor]:
        frames = generator.frames(options.seconds)
        latents = (generator.noise(seed, take, frames)[0] for take in range(options.takes))
        return [generator.decode(generator.statistics.denormalise(z)[0]) for z in latents]

    console = Console()
    table = Table("seed", "trained", "untrained", "noise", "trained / noise", "peak", "RMS", "× real time")
    for seed in options.seeds:
        began = time.monotonic()
        made = samples(trained, seed)
        speed = options.takes * options.seconds / (time.monotonic() - began)
        far = distance(noise(seed))
        near = distance(made)
        every = torch.cat(made, dim=-1)
        table.add_row(
            str(seed),
            f"{near:.1f}",
            f"{distance(samples(untrained, seed)):.1f}",
            f"{far:.1f}",
            f"{near / far:.3f}",
            f"{every.abs().max():.3f}",
            f"{every.square().mean().sqrt():.4f}",
            f"{speed:.1f}",
        )
    console.print(
        f"Fréchet distance of 64 log-mel bands; {options.takes} takes of {options.seconds:g} s a seed, DDIM in "
        f"{options.steps} steps; reference: {len(music)} tracks, {sum(track.seconds for track in tracks) / 3600:.2f} h."
    )
    console.print(table)
    halves = frechet_distance(mel_gaussian(music[::2], rate), mel_gaussian(music[1::2], rate))
    heldout = [wave for wave, track in zip(music, tracks, strict=True) if track.split == "heldout"]
    through = frechet_distance(
        mel_gaussian([reconstruct(generator.vae, wave) for wave in heldout], rate), mel_gaussian(heldout, rate)
    )
    console.print(f"Corpus, one half against the other: {halves:.1f}. Held-out tracks through the VAE: {through:.1f}.")


if __name__ == "__main__":
    main()
