"""The installed command, from outside."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from musicldm.cli.crawl import Retry, artist_names, crawl
from musicldm.core.durable import locked
from musicldm.core.errors import UsageError
from tests.crawl.conftest import World
from tests.crawl.crawl_services import Person, Release, Song

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
    assert [name["message"] for name in answer["unknown"]] == ["MusicBrainz knows no artist 'Nobody'."]
    assert len(world.youtube.downloads) == 4


def test_names_from_stdin_must_be_text(environment: dict[str, str], tmp_path: Path) -> None:
    line = [*COMMAND, "-", "-o", str(tmp_path)]
    done = subprocess.run(line, env=environment, input=b"Los R\xedos\n", capture_output=True, timeout=60)
    assert done.returncode == 2 and b"names in stdin cannot be read: it is not UTF-8 text" in done.stderr


def test_cookies_are_looked_at_before_anybody_is_asked(
    world: World, environment: dict[str, str], tmp_path: Path
) -> None:
    cookies = tmp_path / "cookies.txt"
    cookies.write_text("no cookies at all\n")
    done = command(environment, "Los Ríos", "-o", tmp_path / "raw", "--cookies", cookies)
    assert done.returncode == 2 and "not a cookie file" in done.stderr and not world.musicbrainz.requests
    cookies.write_text("# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tTRUE\t0\tSID\tsesame\n")
    environment["PATH"] = ""  # no JavaScript runtime there
    done = command(environment, "Los Ríos", "-o", tmp_path / "raw", "--cookies", cookies, "--dry-run")
    assert done.returncode == 0 and "needs a JavaScript runtime" in done.stderr


def test_no_secret_of_a_cookie_file_is_printed(environment: dict[str, str], tmp_path: Path) -> None:
    cookies = tmp_path / "cookies.txt"
    good = "127.0.0.1\tFALSE\t/\tTRUE\t0\tSID\t"
    for text in (
        f"# Netscape HTTP Cookie File\n{good}sesame\n{good}sesame\tmore\nsesame\n#HttpOnly_{good}sesame\n",
        f"{good}sesame\n",
        '[{"value": "sesame"}]\n',
    ):
        cookies.write_text(text)
        # With the traceback, in which the library would quote the line.
        line = [*COMMAND, "Los Ríos", "-o", str(tmp_path), "--cookies", str(cookies), "--dry-run"]
        done = subprocess.run(
            line, env=environment | {"MUSICLDM_DEBUG": "1"}, capture_output=True, text=True, timeout=60
        )
        assert "sesame" not in done.stdout + done.stderr
        assert ("has 2 lines that are not cookies" in done.stderr) == (done.returncode == 0), done.stderr


def test_no_plugin_of_yt_dlp_is_run(environment: dict[str, str], tmp_path: Path) -> None:
    package = tmp_path / "home/.config/yt-dlp/plugins/own/yt_dlp_plugins/extractor"
    package.mkdir(parents=True)
    (package / "own.py").write_text(f"open({str(tmp_path / 'was here')!r}, 'w')")
    environment |= {"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "home/.config")}
    assert command(environment, "Los Ríos", "-o", tmp_path / "raw").returncode == 0
    assert not (tmp_path / "was here").exists()


def test_a_failure_is_said_under_quiet_too(world: World, environment: dict[str, str], tmp_path: Path) -> None:
    world.youtube.videos["vidagua0001"].refusal = "This video is private"
    done = command(environment, "Los Ríos", "-o", tmp_path, "--quiet")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"No song could be fetched; {tmp_path / 'catalog.jsonl'} says why.\n"
    done = command(environment, "Los Ríos, Glass Bells", "-o", tmp_path, "--quiet", "--strict")
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 3
    assert done.stderr == "Left out: 1. With --strict that counts as a failure.\n"


@pytest.mark.parametrize("jobs", ["1", "4"])
def test_ctrl_c_loses_nothing(world: World, environment: dict[str, str], tmp_path: Path, jobs: str) -> None:
    for video in world.youtube.videos.values():
        if video.id != "vidgruen001":
            video.audio += bytes(200_000)
            video.cut_at = 100_000
    out = tmp_path / "raw"
    arguments = ["Glass Bells, Los Ríos", "-o", str(out), "--jobs", jobs]
    with subprocess.Popen(
        [*COMMAND, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert world.youtube.cut.wait(30)
        while not list(out.rglob("Gr*.m4a")):
            assert run.poll() is None
            time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        _, told = run.communicate(timeout=15)  # less than the 20 s after which a silent server is given up
    assert run.returncode == 130 and b"Traceback" not in told
    for video in world.youtube.videos.values():
        video.cut_at = 0
    again = command(environment, *arguments)
    assert again.returncode == 0 and len(again.stdout.splitlines()) == 3
    assert "1 there already" in again.stderr
    assert world.youtube.downloads.count("/media/vidgruen001") == 1
    for line in again.stdout.splitlines():
        assert Path(line).read_bytes() in [video.audio for video in world.youtube.videos.values()]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["Nobody"], 1, "knows no artist 'Nobody'"),
        ([" , "], 2, "No artist is named"),
        (["@/no/such/file"], 2, "cannot be read"),
        (["Los Ríos", "--include", "live,bootleg"], 2, "cannot be bootleg"),
        (["Los Ríos", "--rate-limit", "fast"], 2, "not a number of bytes"),
        (["Los Ríos", "--override", "x=https://example.org"], 2, "not RECORDING=URL"),
        (["Los Ríos", "--override", "x=dQw4w9WgXcQ"], 2, "not a recording by Los Ríos"),
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


def test_a_crawl_that_is_blocked_says_so_and_what_it_has(
    world: World, environment: dict[str, str], tmp_path: Path
) -> None:
    world.youtube.videos["vidseven001"].refusal = "Sign in to confirm you’re not a bot"
    done = command(environment, "Glass Bells, Los Ríos", "-o", tmp_path, "--json")
    assert (
        done.returncode == 1 and "Error: YouTube has blocked us: Sign in" in done.stderr and "--cookies" in done.stderr
    )
    answer = json.loads(done.stdout)
    assert len(answer["fetched"]) == 2 and "blocked us" in answer["stopped"]
    assert [(row["songs"], row["fetched"], row["missing"]) for row in answer["counts"]] == [(3, 2, 1), (1, 0, 1)]


def test_a_crawl_at_work_keeps_another_out(environment: dict[str, str], tmp_path: Path) -> None:
    with locked(tmp_path):
        done = command(environment, "Los Ríos", "-o", tmp_path)
    assert done.returncode == 1 and "Another run is writing" in done.stderr


def small_files_only() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))


def test_a_full_disk_ends_the_crawl_with_one_sentence_and_blames_no_song(
    world: World, environment: dict[str, str], tmp_path: Path
) -> None:
    line = [*COMMAND, "Glass Bells", "-o", str(tmp_path / "raw")]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, preexec_fn=small_files_only)
    assert done.returncode == 1 and "Error: Cannot write" in done.stderr and "Hint:" in done.stderr
    assert not list((tmp_path / "raw").glob("catalog.jsonl"))
    assert len(command(environment, "Glass Bells", "-o", tmp_path / "raw").stdout.splitlines()) == len(world.songs)


def test_the_same_line_with_two_of_a_name(world: World, environment: dict[str, str], tmp_path: Path) -> None:
    twin = Person("c0000000-0000-0000-0000-000000000003", "Los Ríos", country="MX", note="a trio")
    world.musicbrainz.people.append(twin)
    done = command(environment, "Glass Bells, Los Ríos", "-o", tmp_path)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3
    assert "2 artists named 'Los Ríos', equally likely; none was chosen" in done.stderr
    assert f"{twin.id}  Los Ríos (a trio, MX)" in done.stderr
    assert command(environment, "Glass Bells, Los Ríos", "-o", tmp_path, "--strict").returncode == 1
    assert command(environment, "Los Ríos", "-o", tmp_path).returncode == 1
    chosen = command(environment, "b0000000-0000-0000-0000-000000000002", "-o", tmp_path)
    assert chosen.returncode == 0 and "Agua Clara" in chosen.stdout


def test_changed_pages_are_worth_a_sentence(world: World, environment: dict[str, str], tmp_path: Path) -> None:
    songs = [Song(f"{number}", f"Song {number}", 100.0) for number in range(6)]
    world.musicbrainz.people[0].releases = [Release("r", "Album", "2000", [songs])]
    world.youtube.redesigned = True
    done = command(environment, "Glass Bells", "-o", tmp_path)
    assert done.returncode == 1 and "nothing at all for 6 songs in a row" in done.stderr


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
    crawl(["Glass Bells"], tmp_path, limit=2, retry=Retry.refused)
    told = capsys.readouterr()
    assert told.out.count("\n") == 1 and "This video is private" in told.err and "1 left out" in told.err
    with pytest.raises(typer.Exit):
        crawl(["Glass Bells"], tmp_path, limit=2, strict=True)
    assert "Given up on by an earlier crawl and not tried again: 1" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("dry_run", [False, True])
def test_nothing_found_is_a_failure_under_strict(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], dry_run: bool
) -> None:
    glass, rios = world.musicbrainz.people
    rios.releases = []
    glass.releases = [Release("r9", "Stage", "2001", [[Song("9", "Loud", 100.0)]], ("Live",))]
    for artist, reason in (("Los Ríos", "Left out: 1."), ("Glass Bells", "Nothing was found.")):
        crawl([artist], tmp_path, dry_run=dry_run)  # without --strict it has said so, and that is all
        capsys.readouterr()
        with pytest.raises(typer.Exit) as stop:
            crawl([artist], tmp_path, dry_run=dry_run, strict=True)
        assert stop.value.exit_code == 1 and reason in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_the_summary_counts_by_artist_and_reason(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    world.musicbrainz.people[0].releases.append(Release("r9", "Stage", "2001", [[Song("9", "Loud", 100.0)]], ("Live",)))
    world.youtube.videos["vidmonday01"].refusal = "This video is private"
    world.youtube.videos["vidseven001"].seconds = 90
    crawl(["Glass Bells, Los Ríos"], tmp_path)
    told = capsys.readouterr().err
    cells = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in told.splitlines() if "│" in line]
    assert cells == [["The Glass Bells", "3", "1", "0", "1", "1"], ["Los Ríos", "1", "1", "0", "0", "0"]]
    assert "No match" in told and "Refused" in told and "Network failed" not in told
    assert "Not selected: 1 live." in told


def test_names_may_hold_commas_in_quotes() -> None:
    assert artist_names(['"Tyler, the Creator", Björk', " AC/DC ,, "]) == ["Tyler, the Creator", "Björk", "AC/DC"]
    with pytest.raises(UsageError):
        artist_names(["", " , "])


def test_names_come_from_files_too(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text('\ufeffBjörk\r\n\n"Tyler, the Creator", AC/DC\n', encoding="utf-8")
    assert artist_names([f"@{file}", "Los Ríos", '"@onefive"']) == [
        "Björk", "Tyler, the Creator", "AC/DC", "Los Ríos", "@onefive"
    ]  # fmt: skip
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        artist_names([f"@{file}"])
