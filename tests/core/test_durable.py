"""Files are whole or absent; journals survive what kills their writers."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicldm.core import durable
from musicldm.core.durable import locked
from musicldm.core.errors import OutputError


def test_a_failed_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    durable.write_bytes(target, b"old")
    with pytest.raises(RuntimeError), durable.replacing(target) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        durable.write_bytes(tmp_path / "file", b"data")
    with pytest.raises(OutputError, match="No space left"):
        durable.Journal(tmp_path / "journal", "key").append({"key": "a"})
    assert not (tmp_path / "file").exists()


def test_a_folder_under_a_file_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError):
        durable.make_folder(tmp_path / "file" / "below")


@given(
    records=st.lists(st.tuples(st.sampled_from("abc"), st.text(max_size=20)), min_size=1, max_size=8),
    cut=st.integers(min_value=0, max_value=200),
)
def test_a_journal_cut_anywhere_keeps_its_whole_lines(
    records: list[tuple[str, str]], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    journal = durable.Journal(path, "key")
    for key, value in records:
        journal.append({"key": key, "value": value})
    data = path.read_bytes()
    path.write_bytes(data[: max(0, len(data) - cut)])
    whole = data[: max(0, len(data) - cut)].count(b"\n")

    again = durable.Journal(path, "key")
    kept = dict(records[:whole])
    for key, value in kept.items():
        if key not in [key for key, _ in records[whole : whole + 1]]:  # the next line may be whole but for its newline
            assert again.records[key]["value"] == value
    again.append({"key": "new", "value": "line"})
    assert durable.Journal(path, "key").records["new"]["value"] == "line"


def test_a_folder_has_one_writer_and_a_kill_sets_it_free(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib; from musicldm.core.durable import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match="Another run is writing to"), locked(tmp_path):
            pass
        other.kill()
    for _ in range(2):
        with locked(tmp_path):
            pass
