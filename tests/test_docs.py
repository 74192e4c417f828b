"""README and docs/ promise what is there: options and links exist, tables are those that the commands print."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from musicldm.cli.app import app
from musicldm.latents.store import LatentStore
from tests import fresh
from tests.toys import Command, Pipeline

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS: dict[str, Any] = vars(typer.main.get_command(app))["commands"]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def options(verb: str) -> set[str]:
    commands = getattr(COMMANDS[verb], "commands", {verb: COMMANDS[verb]}).values()
    parameters = [parameter for command in commands for parameter in command.params]
    return {name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_command_on_a_page_has_the_options_that_it_shows(file: Path) -> None:
    text = file.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"\bmusicldm ([a-z-]+(?: [^`\n]*)?)", text):
        verb, _, rest = line.partition(" ")
        if verb in COMMANDS:
            rest = re.split(r"\s#|\||&&", rest)[0]
            assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest)) <= options(verb), line


def test_every_option_that_a_guide_names_exists() -> None:
    every = set().union(*map(options, COMMANDS)) | {"--nworkers", "--nthreads", "--no-deps"}  # of dask and of pip
    for file in (ROOT / "docs" / "guide").glob("*.md"):
        assert set(re.findall(r"`(--[a-z][a-z-]*)", file.read_text(encoding="utf-8"))) <= every, file


def test_every_verb_has_a_guide() -> None:
    guides = {file.stem for file in (ROOT / "docs" / "guide").glob("*.md")}
    assert guides >= set(COMMANDS) - {"bundle"}
    assert "bundle export" in page("guide/train-vae.md")


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_link_leads_somewhere(file: Path) -> None:
    text = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        there = (file.parent / path).resolve() if path else file
        assert there.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target


def test_readme_is_a_page_and_not_a_book() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_references_are_those_of_the_code() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_latents_info_prints_what_stands_here(pipeline: Pipeline, musicldm: Command) -> None:
    (shown,) = re.findall(
        r"^\$ musicldm latents info .*?\n(.*?)```", page("guide/latents.md"), re.MULTILINE | re.DOTALL
    )
    told = musicldm("latents", "info", pipeline.store)
    assert [line.split()[0] for line in told.out.splitlines()] == [line.split()[0] for line in shown.splitlines()]
    assert "frames a second, float16" in told.out and "frames a second, float16" in shown


def test_the_python_under_latents_runs(pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "latents.zarr").symlink_to(pipeline.store)
    ours, plain = re.findall(r"```python\n(.*?)```", page("guide/latents.md"), re.DOTALL)
    for code in (ours, plain):
        names: dict[str, Any] = {}
        exec(code, names)
        assert names["mean"].shape[1] == LatentStore.open(pipeline.store).header.channels


def test_preprocess_prints_the_table_that_stands_here(songs: Path, tmp_path: Path) -> None:
    raw = tmp_path / "data" / "raw"
    shutil.copytree(songs, raw)
    first, second = sorted(raw.rglob("*.wav"))[:2]
    shutil.copy(first, raw / "copy.wav")
    second.write_bytes(second.read_bytes()[:99999])
    (shown,) = re.findall(
        r"^\$ (musicldm preprocess .*?)\n(.*?)```", page("guide/preprocess.md"), re.MULTILINE | re.DOTALL
    )
    command = [sys.executable, "-m", *shown[0].split()]
    done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0

    def shape(text: str) -> list[str]:
        """Without numbers, names of files and alignment, each kind of line once."""
        text = re.sub(r"Left out .*?: (It is truncated|the same as).*", r"Left out: \1", text)
        text = re.sub(r"Artists: .*", "Artists:", text)
        text = re.sub(r"Artists guessed from .*\n", "", text)  # the songs here have no tags
        lines = [" ".join(re.sub(r"[\d.]+", "0", line).split()) for line in text.splitlines()]
        return list(dict.fromkeys(lines))

    assert shape(done.stdout) == shape(shown[1])


def test_fresh_runs_every_verb() -> None:
    """Also each one's subcommands; `crawl` and `demo` are run apart, and need arguments of their own."""
    verbs = {
        f"{verb} {name}" if name else verb
        for verb, command in COMMANDS.items()
        for name in (getattr(command, "commands", None) or [""])
    }
    run = {" ".join(line.split()[:2]) for line in fresh.LINES} | {line.split()[0] for line in fresh.LINES}
    assert verbs - {"crawl", "demo"} <= run
