"""The installed command, from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from conftest import World

from musicldm.cli.crawl import artist_names, crawl
from musicldm.errors import UsageError

COMMAND = [sys.executable, "-m", "musicldm", "crawl"]


@pytest.fixture
def environment(world: World, fence_folder: Path) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(fence_folder), os.environ.get("PYTHONPATH"))))
    return {**os.environ, **world.environment, "PYTHONPATH": path, "COLUMNS": "200"}


def command(environment: dict[str, str], *arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], env=environment, input=stdin, capture_output=True, text=True, timeout=60
    )
    assert "reached for" not in done.stderr and "Traceback" not in done.stderr
    return done


def test_from_names_to_files(world: World, environment: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "raw"
    plan = command(environment, "Glass Bells, Nobody", "-o", out, "--dry-run")
    assert (plan.returncode, plan.stdout) == (0, "") and not out.exists()
    assert "Blue Monday Morning" in plan.stderr and "4:05" in plan.stderr and "knows no artist 'Nobody'" in plan.stderr

    first = command(environment, "-", "-o", out, "--quiet", stdin="Glass Bells\nLos Ríos\n")
    assert first.returncode == 0, first.stderr
    paths = [Path(line) for line in first.stdout.splitlines()]
    assert len(paths) == 4 and all(path.is_file() and path.is_relative_to(out) for path in paths)
    assert first.stderr == ""

    second = command(environment, "Glass Bells, Nobody", "-o", out, "--json", "--strict")
    assert second.returncode == 1  # one name was left out
    answer = json.loads(second.stdout)
    assert (answer["songs"], answer["present"], answer["fetched"], answer["left_out"]) == (3, 3, [], [])
    assert len(world.youtube.downloads) == 4


def test_ctrl_c_loses_nothing(world: World, environment: dict[str, str], tmp_path: Path) -> None:
    world.youtube.videos["vidmonday01"].cut_at = 4096
    arguments = ["Glass Bells", "-o", str(tmp_path / "raw")]
    with subprocess.Popen(
        [*COMMAND, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert world.youtube.cut.wait(30)
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=10)
    assert run.returncode == 130
    again = command(environment, *arguments)
    assert again.returncode == 0 and len(again.stdout.splitlines()) == 2
    assert "1 there already" in again.stderr
    assert world.youtube.downloads.count("/media/vidgruen001") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["Nobody"], 1, "knows no artist 'Nobody'"),
        ([" , "], 2, "No artist is named"),
        (["Los Ríos", "-o", "/proc/here"], 1, "Cannot write"),
    ],
)
def test_one_sentence_for_each_mistake(
    environment: dict[str, str], tmp_path: Path, arguments: list[str], code: int, sentence: str
) -> None:
    environment["MUSICLDM_DEBUG"] = "0"
    done = (
        command(environment, *arguments, "-o", tmp_path) if "-o" not in arguments else command(environment, *arguments)
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr and "Hint:" in done.stderr


def test_no_network_is_one_sentence(environment: dict[str, str], tmp_path: Path) -> None:
    environment["MUSICLDM_MUSICBRAINZ"] = "127.0.0.1:9"
    done = command(environment, "Los Ríos", "-o", tmp_path)
    assert done.returncode == 1 and "cannot be reached" in done.stderr and "Hint:" in done.stderr


@pytest.fixture
def here(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins, for the command called as a function."""
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("here")
def test_the_plan_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crawl(["Glass Bells, Los Ríos"], tmp_path, limit=1, dry_run=True, as_json=True)
    plan = json.loads(capsys.readouterr().out)
    assert [artist["name"] for artist in plan["artists"]] == ["The Glass Bells", "Los Ríos"]
    assert [(song["title"], song["seconds"], song["fetched"]) for song in plan["tracks"]] == [
        ("Grün", 200.0, False),
        ("Agua Clara", 180.0, False),
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("here")
def test_partly_done_is_done_unless_strict(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world.youtube.videos["vidgruen001"].refusal = "This video is private"
    with pytest.raises(typer.Exit):  # nothing at all was had
        crawl(["Glass Bells"], tmp_path, limit=1)
    crawl(["Glass Bells"], tmp_path, limit=2)
    told = capsys.readouterr()
    assert told.out.count("\n") == 1 and "This video is private" in told.err and "1 left out" in told.err
    with pytest.raises(typer.Exit):
        crawl(["Glass Bells"], tmp_path, limit=2, strict=True)


def test_names_may_hold_commas_in_quotes() -> None:
    assert artist_names(['"Tyler, the Creator", Björk', " AC/DC ,, "]) == ["Tyler, the Creator", "Björk", "AC/DC"]
    with pytest.raises(UsageError):
        artist_names(["", " , "])
