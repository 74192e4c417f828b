"""README cannot promise what is not there: its options exist, and its tables are those that the commands print."""

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

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (.+?)\n(.*?)(?=^##)", README, re.MULTILINE | re.DOTALL))
COMMANDS: dict[str, Any] = vars(typer.main.get_command(app))["commands"]


def options(verb: str) -> set[str]:
    commands = getattr(COMMANDS[verb], "commands", {verb: COMMANDS[verb]}).values()
    parameters = [parameter for command in commands for parameter in command.params]
    return {name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("title", [title for title in SECTIONS if title.split()[0] in COMMANDS])
def test_every_option_that_a_section_names_exists(title: str) -> None:
    verbs = [word for word in title.split() if word in COMMANDS]
    code = re.findall(r"^(?:\$ )?(musicldm .*)|`(--[^`]+|musicldm [^`]+)`", SECTIONS[title], re.MULTILINE)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", " ".join(map(" ".join, code))))
    assert code
    verbs += [verb for verb in COMMANDS if f"`{verb}`" in SECTIONS[title]]
    assert named <= set().union(*map(options, verbs))


def test_every_verb_has_a_section() -> None:
    assert {word for title in SECTIONS for word in title.split()} >= set(COMMANDS) - {"demo"}


def test_latents_info_prints_what_stands_here(pipeline: Pipeline, musicldm: Command) -> None:
    (shown,) = re.findall(r"^\$ musicldm latents info .*?\n(.*?)```", SECTIONS["latents"], re.MULTILINE | re.DOTALL)
    told = musicldm("latents", "info", pipeline.store)
    assert [line.split()[0] for line in told.out.splitlines()] == [line.split()[0] for line in shown.splitlines()]
    assert "frames a second, float16" in told.out and "frames a second, float16" in shown


def test_the_python_under_latents_runs(pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "latents.zarr").symlink_to(pipeline.store)
    ours, plain = re.findall(r"```python\n(.*?)```", SECTIONS["latents"], re.DOTALL)
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
    (shown,) = re.findall(r"^\$ (musicldm preprocess .*?)\n(.*?)```", SECTIONS["preprocess"], re.MULTILINE | re.DOTALL)
    command = [sys.executable, "-m", *shown[0].split()]
    done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0

    def shape(text: str) -> list[str]:
        """Without numbers, names of files and alignment, each kind of line once."""
        text = re.sub(r"Left out .*?: (It is truncated|the same audio as).*", r"Left out: \1", text)
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
