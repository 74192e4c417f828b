"""Every verb at toy size with whatever Python runs this: `nox -s fresh` runs it in a plain installation."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

STEPS = "--steps 3 --batch-size 2".split()

COMPOSE = (
    "import pathlib, sys; from musicldm.media import synth; "
    "synth.compose(pathlib.Path(sys.argv[1]), songs_each=4, seconds_each=8)"
)


def musicldm(folder: Path, line: str) -> None:
    """Run a command line in `folder`; whoever is left with an error sees what was printed."""
    print(f"$ musicldm {line}", flush=True)
    subprocess.run([sys.executable, "-m", "musicldm", *line.split()], cwd=folder, check=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-c", COMPOSE, folder / "songs"], check=True)
        training = "--preset tiny --seconds 2 --steps 3 --batch-size 2 --quiet"
        for line in (
            "--version",
            "crawl --help",
            "preprocess songs wav --quiet",
            f"train-vae wav -o vae {training}",
            "reconstruct songs/Bells/1.wav back.wav --vae vae",
            "encode wav latents.zarr --vae vae --quiet",
            "latents info latents.zarr",
            "latents verify latents.zarr",
            "latents stats latents.zarr",
            f"train-diffusion latents.zarr -o ldm {training}",
            "bundle export ldm -o half --half",
            "sample -m half --seconds 2 --steps 2 -o out.wav --quiet",
            "sample -m half --seconds 2 --steps 2 -o out.mp3 --quiet",
            "sample -m piano --seconds 2 --steps 2 -o piano.flac --quiet",
            "evaluate vae vae --data wav",
            "evaluate samples out.wav --reference wav",
            "evaluate memory out.wav --store latents.zarr",
            "models",
            "doctor wav latents.zarr half",
        ):
            musicldm(folder, line)
        for file in ("back.wav", "out.wav", "out.mp3", "piano.flac"):
            if not (folder / file).stat().st_size > 1000:
                sys.exit(f"{file} is all but empty.")
    print("Every verb works.")


if __name__ == "__main__":
    main()
