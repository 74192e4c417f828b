"""Files that anybody may have written: what is read of them, and what they may name."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated

import pytest
from rich.table import Table

from musicldm.cli.console import Console
from musicldm.core import durable
from musicldm.core.config import Between, Matching, from_dict
from musicldm.core.errors import ConfigError, DataError, MusicLDMError
from musicldm.core.reading import DEEPEST, inside, parse_json, read_file
from musicldm.core.text import escaped_json, printable


@pytest.mark.parametrize(
    "name",
    [
        *("../thesis.txt", "a/../../thesis.txt", "..", "a/..", ".", "", "/etc/passwd", "a\0b", "..\\thesis.txt"),
        *("C:\\thesis.txt", "c:/thesis.txt", "\\\\server\\share\\x", "link/thesis.txt", "file-link", "loop/x"),
        *(None, 3, ["a"], "x" * 5000 + "/../.."),
    ],
)
def test_a_path_leads_nowhere_else(tmp_path: Path, name: object) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "thesis.txt").touch()
    (folder / "link").symlink_to(tmp_path)
    (folder / "file-link").symlink_to(tmp_path / "thesis.txt")
    (folder / "loop").symlink_to(folder / "loop")
    with pytest.raises(DataError, match=r"leads out of|not a valid path"):
        inside(folder, name)


@pytest.mark.parametrize(
    "name", ["a.wav", "a/b/c.wav", "a..b/...wav", "\\xe9tude.wav", "a: b.wav", "kept/a.wav", "é/ü"]
)
def test_paths_that_stay(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    (folder / "there").mkdir(parents=True)
    (folder / "kept").symlink_to("there")
    (tmp_path / "another name").symlink_to(folder)  # the folder itself may be reached in any way
    assert inside(folder, name) == folder / name
    assert inside(tmp_path / "another name", name) == tmp_path / "another name" / name


@pytest.mark.parametrize(
    "text",
    [
        *('{"a": NaN}', "[Infinity]", "-Infinity", "[1e999]", '"\\ud800"', "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1)),
        *("[" * 100_000, '{"a":' * 500 + "0" + "}" * 500, "", "{", "\xff", "9" * 5000),
    ],
)
def test_json_that_is_not_taken(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text.encode("latin-1"))


def test_json_that_is_taken() -> None:
    deep = "[" * DEEPEST + '"[[[\\"{{{"' + "]" * DEEPEST
    assert parse_json(deep) == json.loads(deep)
    many = json.dumps([{"a": [1, 2], "b": "\U0001f3b9"}] * 200)
    assert parse_json(many) == json.loads(many)


def test_only_regular_files_of_some_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "zero").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(100))
    for name in ("zero", "pipe", "large"):
        with pytest.raises(DataError, match=r"regular|too large"):
            read_file(tmp_path / name, limit=99)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none")
    assert read_file(tmp_path / "large", limit=100) == bytes(100)


@dataclass(frozen=True)
class Some:
    count: Annotated[int, Between(1, 10)]
    name: Annotated[str, Between(1, 3), Matching("[a-z]+")] = "a"
    numbers: Annotated[tuple[Annotated[float, Between(0, 1)], ...], Between(0, 2)] = ()
    table: dict[str, list[int]] | None = None


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({}, "Incomplete"),
        ({"count": 0}, "count is 0: expected 1 to 10"),
        ({"count": 1 << 70}, "count is too large"),
        ({"count": 1, "name": ""}, "name has 0 items"),
        ({"count": 1, "name": "A"}, "name is 'A'"),
        ({"count": 1, "numbers": [0.5, 2]}, r"numbers\[1\] is 2"),
        ({"count": 1, "numbers": [float("nan")]}, "finite"),
        ({"count": 1, "numbers": [0, 0, 0]}, "numbers has 3 items"),
        ({"count": 1, "table": {"a": 3}}, "table.a must be a list"),
        ({"count": 1, "table": {"a": [1.5]}}, r"table.a\[0\] must be of type int"),
    ],
)
def test_every_field_has_a_type_and_a_range(data: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        from_dict(Some, data)
    assert from_dict(Some, {"count": 3, "other": 1, "table": {"a": [1]}}, unknown="pass over").table == {"a": [1]}


# ---- What is printed -------------------------------------------------------------------------------------------------

EVIL = "a\x1b[31mb\nError: c\r\x07\x9b2J\u202ed\u2066e\u2028\x7f"


def test_nothing_steers_the_terminal(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    console = Console()
    console.note(EVIL)
    console.warn(EVIL)
    console.error(MusicLDMError(EVIL, EVIL))
    console.command(EVIL)
    table = Table(EVIL)
    table.add_row(EVIL)
    console.show(table)
    printed = capfd.readouterr().err
    assert printed.count("a�[31mb") == 7
    assert printed.replace("\n", "").isprintable()
    assert sum(line.startswith("Error:") for line in printed.splitlines()) == 1  # none of these are its own lines


def test_a_terminal_gets_results_that_are_fit_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    for stdout, wanted in ((Terminal(), printable(EVIL, keep="\n")), (StringIO(), EVIL)):
        monkeypatch.setattr(sys, "stdout", stdout)
        Console().result({}, [EVIL])
        assert stdout.getvalue() == f"{wanted}\n"
    made = StringIO()
    monkeypatch.setattr(sys, "stdout", made)
    Console(as_json=True).result({"file": EVIL}, [])
    assert json.loads(made.getvalue()) == {"file": EVIL} and made.getvalue().strip().isprintable()
    assert escaped_json('{"a": "é"}') == '{"a": "é"}'


# ---- On the way to the disk ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_called_one(tmp_path: Path, number: int) -> None:
    error = durable.cannot_write(tmp_path / "a", OSError(number, "…"))
    assert os.strerror(number) in error.message and "Free some space" in error.hint


_HALF_WRITTEN = """
import os, signal, sys
from pathlib import Path
from musicldm.cli import signals
from musicldm.core import durable

with signals.ending_tidily(), durable.replacing(Path(sys.argv[1]) / "take.wav") as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), int(sys.argv[2]))
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_half_written(tmp_path: Path, number: signal.Signals) -> None:
    done = subprocess.run([sys.executable, "-c", _HALF_WRITTEN, tmp_path, str(number.value)], check=False, timeout=300)
    assert done.returncode == 128 + number and list(tmp_path.iterdir()) == []
