"""Toy-sized music, networks and one whole run of the pipeline that many tests look at."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from musicldm.cli.app import main
from musicldm.media import synth
from tests.toys import TOY_LDM, TOY_VAE, Command, Done, Pipeline

settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="fault tests at full size: hours of work in minutes")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that need the toy pipeline come first: with the slowest at the end, one core would work and one wait."""
    slow = {item.path for item in items if "pipeline" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether fault tests run at full size."""
    return bool(request.config.getoption("--full"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Toy networks are faster on one thread than on several that wait for each other."""
    os.environ["OMP_NUM_THREADS"] = "1"  # for the commands that tests start
    torch.set_num_threads(1)


@pytest.fixture
def musicldm(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run a command line as the installed program would, through its own error boundary."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["musicldm", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
        printed = capfd.readouterr()
        return Done(code, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The toy configurations as files for --config."""
    folder = tmp_path_factory.mktemp("configs")
    files = {"vae": f'codec = "vae"\n{TOY_VAE}', "ldm": TOY_LDM}
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text)
    return {name: folder / f"{name}.toml" for name in files}


@pytest.fixture(scope="session")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight short songs by four composed artists, as a crawl would leave them."""
    folder = tmp_path_factory.mktemp("songs")
    synth.compose(folder, songs_each=2, seconds_each=8)
    return folder


@pytest.fixture(scope="session")
def pipeline(songs: Path, configs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """preprocess, train-vae, encode and train-diffusion at toy size, by the commands that a person would type."""
    root = tmp_path_factory.mktemp("pipeline")
    lines: dict[str, list[str | Path]] = {
        "preprocess": [songs, root / "wav"],
        "train-vae": [root / "wav", "-o", root / "vae", "--config", configs["vae"]],
        "encode": [root / "wav", root / "latents.zarr", "--vae", root / "vae"],
        "train-diffusion": [root / "latents.zarr", "-o", root / "ldm", "--config", configs["ldm"]],
    }
    said = {}
    for verb, arguments in lines.items():
        command = [sys.executable, "-m", "musicldm", verb, *map(str, arguments), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"{verb} failed:\n{done.stderr}")
        said[verb] = Done(done.returncode, done.stdout, done.stderr)
    return Pipeline(root / "wav", root / "vae", root / "latents.zarr", root / "ldm", said)
