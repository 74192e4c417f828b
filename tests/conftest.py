"""Toy-sized music, networks and one whole run of the pipeline that many tests look at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import settings

from musicldm.cli.app import main
from musicldm.core.durable import LOCK
from musicldm.media import synth
from tests.toys import TOY_LDM, TOY_VAE, Command, Done, Pipeline

settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="fault tests at full size: hours of work in minutes")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that need the toy pipeline come early: with the slowest at the end, one core would work and one wait.

    The first of them makes it, which takes a minute; so that the other workers need not wait for it, a quarter of the
    files without it comes next.
    """
    files = list(dict.fromkeys(item.path for item in items))
    slow = [path for path in files if any(item.path == path and _needs_the_pipeline(item) for item in items)]
    others = [path for path in files if path not in slow]
    quarter = len(others) // 4
    order = [*slow[:1], *others[:quarter], *slow[1:], *others[quarter:]]
    items.sort(key=lambda item: order.index(item.path))


def _needs_the_pipeline(item: pytest.Item) -> bool:
    return "pipeline" in getattr(item, "fixturenames", ())


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
def pipeline(songs: Path, configs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """preprocess, train-vae, encode and train-diffusion at toy size, by the commands that a person would type.

    One for all workers of pytest-xdist: the first that needs it makes it. So a test changes copies only.
    """
    root = tmp_path_factory.getbasetemp()
    root = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "pipeline"
    told = root.with_suffix(".json")
    with FileLock(f"{told}.lock"):
        if not told.exists():
            told.write_text(json.dumps({"said": _made(root, songs, configs), "files": _files(root)}))
    made = json.loads(told.read_text())
    said = {verb: Done(*ended) for verb, ended in made["said"].items()}
    if failed := [f"{verb} failed:\n{done.err}" for verb, done in said.items() if done.code]:
        pytest.fail(failed[0])
    yield Pipeline(root / "wav", root / "vae", root / "latents.zarr", root / "ldm", said)
    assert _files(root) == made["files"], "a test has changed the pipeline, which others use, too"


def _made(root: Path, songs: Path, configs: dict[str, Path]) -> dict[str, tuple[int, str, str]]:
    """How the commands ended, up to the first that failed: exit code, stdout, stderr."""
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
        said[verb] = done.returncode, done.stdout, done.stderr
        if done.returncode:
            break
    return said


def _files(root: Path) -> dict[str, list[int]]:
    """Size and time of every file; without those that only lock a folder."""
    seen = {path.relative_to(root): path.stat() for path in root.rglob("*") if path.is_file() and path.name != LOCK}
    return {path.as_posix(): [stat.st_size, stat.st_mtime_ns] for path, stat in sorted(seen.items())}
