"""Every verb at toy size with whatever Python runs this: `nox -s fresh` runs it in a plain installation.

It needs nothing but the standard library and the installed package. Networks learn nothing in three steps: what is
tested is that each verb finds its dependencies and leaves what it promises.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

TRAINING = "--preset tiny --seconds 2 --steps 3 --batch-size 2 --quiet"
SAMPLING = "--seconds 5 --steps 2 --quiet"
LINES = (
    "--version",
    "preprocess songs wav --quiet",
    f"train-vae wav -o vae {TRAINING}",
    "reconstruct song.wav back.wav --vae vae --quiet",
    "encode wav latents.zarr --vae vae --quiet",
    "latents info latents.zarr",
    "latents verify latents.zarr",
    "latents stats latents.zarr",
    f"train-diffusion latents.zarr -o ldm {TRAINING}",
    "bundle export ldm/checkpoints/last.ckpt -o half --half",
    f"sample -m half {SAMPLING} -o out.wav",
    f"sample -m half {SAMPLING} -o out.mp3",
    f"sample -m piano {SAMPLING} -o piano.flac",
    "evaluate vae vae wav --quiet",
    "evaluate samples out.wav --reference wav --quiet",
    # A passage that can be compared has to sound of something, as the bundled model's do.
    "encode wav piano.zarr --vae piano --quiet",
    "evaluate memory piano.flac --store piano.zarr --quiet",
    "models",
    "doctor piano",
)
LEAVES = ("back.wav", "out.wav", "out.mp3", "piano.flac", "demo/out.wav", "demo/out.png")

COMPOSE = (
    "import pathlib, shutil; from musicldm.media import synth; "
    "songs = synth.compose(pathlib.Path('songs'), songs_each=4, seconds_each=8); shutil.copy(songs[0], 'song.wav')"
)
DEMO = (
    "import re; from musicldm.cli import demo, app; demo.STEPS = re.sub(r'--steps [0-9]+', '--steps 2', demo.STEPS); "
    "app.app(['demo', '--quiet'])"
)


def python(folder: Path, *arguments: str, code: int = 0) -> None:
    """Run Python in `folder`; whoever is left with an error has seen what it printed."""
    print("$", shlex.join(arguments[1:]), flush=True)
    # No server listens there, so that a crawl ends before it asks anybody.
    environment = os.environ | {"MUSICLDM_MUSICBRAINZ": "127.0.0.1:9", "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, check=False)
    if done.returncode != code:
        sys.exit(f"It ended with {done.returncode} and not with {code}.")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python(folder, "-c", COMPOSE)
        python(folder, "-m", "musicldm", "crawl", "Nobody", "--dry-run", code=1)
        for line in LINES:
            python(folder, "-m", "musicldm", *line.split())
        python(folder, "-c", DEMO)
        for file in LEAVES:
            if (folder / file).stat().st_size < 1000:
                sys.exit(f"{file} is all but empty.")
    print("Every verb works.")


if __name__ == "__main__":
    main()
