"""What we did not make, we do not replace; and names that differ on any file system."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from musicldm.core import durable, filenames
from musicldm.core.errors import OutputError
from musicldm.core.guard import Guard, check_folder

OURS = b"ours"


def is_ours(path: Path) -> bool:
    return path.read_bytes().startswith(OURS)


def write(path: Path, guard: Guard) -> None:
    durable.write_bytes(path, OURS + b" new", guard.commit)


@pytest.fixture(params=["links", "no links"])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems with hard links and without, such as FAT."""

    def unsupported(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if request.param == "no links":
        monkeypatch.setattr(os, "link", unsupported)


@pytest.mark.usefixtures("links")
def test_what_is_ours_or_not_there_is_written_and_nothing_else(tmp_path: Path) -> None:
    guard, file = Guard(is_ours), tmp_path / "file"
    for before in (None, OURS):
        if before:
            file.write_bytes(before)
        guard.check(file)
        write(file, guard)
        assert file.read_bytes() == OURS + b" new"
    file.write_bytes(b"mine")
    for attempt in (lambda: guard.check(file), lambda: write(file, guard)):
        with pytest.raises(OutputError, match="is not replaced: musicldm did not write it") as refused:
            attempt()  # type: ignore[no-untyped-call]
        assert "--overwrite" in refused.value.hint
    assert file.read_bytes() == b"mine" and os.listdir(tmp_path) == ["file"]
    insisting = Guard(is_ours, overwrite=True)
    insisting.check(file)
    write(file, insisting)
    assert file.read_bytes() == OURS + b" new" and os.listdir(tmp_path) == ["file"]


@pytest.mark.usefixtures("links")
def test_a_file_that_comes_after_the_look_stays(tmp_path: Path) -> None:
    """Between a look and a rename there is time; the name is taken in one step."""

    def ours(path: Path) -> bool:
        raise AssertionError("it was not there")

    file = tmp_path / "file"
    with pytest.raises(FileExistsError):
        (tmp_path / "new").write_bytes(OURS)
        file.write_bytes(b"mine")
        durable.move(tmp_path / "new", file, replace=False)
    assert file.read_bytes() == b"mine"
    file.unlink()
    with durable.replacing(file, Guard(ours).commit) as temporary:
        temporary.write_bytes(OURS)
    assert file.read_bytes() == OURS


def test_a_name_that_cannot_be_taken_is_not_left_on_an_empty_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for call in ("link", "replace"):
        monkeypatch.setattr(os, call, broken)
    with pytest.raises(OutputError, match="Cannot write"):
        write(tmp_path / "file", Guard(is_ours))
    assert not os.listdir(tmp_path)


def test_a_dangling_link_is_somebodys(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "disk that is not mounted")
    with pytest.raises(OutputError, match="not replaced"):
        Guard(is_ours).check(tmp_path / "link")


def test_nobody_can_insist_on_a_folder_or_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, sentence in (("folder", "is a folder"), ("pipe", "is not a file")):
        with pytest.raises(OutputError, match=sentence):
            Guard(is_ours, overwrite=True).check(tmp_path / name)


def test_many_are_counted_and_some_are_named(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "abcde"]
    for file in files:
        file.write_bytes(OURS if file.name == "b" else b"mine")
    with pytest.raises(OutputError, match=r"^4 files are not replaced: .*/a, .*/c, .*/d, …\.$"):
        Guard(is_ours).check(*files)


def test_folders_are_looked_at_and_not_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    check_folder(tmp_path / "new" / "deep")
    assert not (tmp_path / "new").exists()
    with pytest.raises(OutputError, match="is not a folder"):
        check_folder(tmp_path / "file" / "deep")


def test_making_way(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    guard = Guard(lambda path: durable.is_journal(path, "key", "status"))
    guard.clear(file)
    for ours in (
        b"",
        b'{"ke',
        b'{"key":"a","stat',
        b'{"key":"a","status":1}\n{"key',
        b'torn\n{"key":"a","status":1}\n',
    ):
        file.write_bytes(ours)
        guard.clear(file)
        assert file.read_bytes() == ours
    for theirs in (b"notes", b'{"key":1}\n{"key":2}\n', b'{"audio": "a.wav"}', b"\xff\n\xff\n", b"[]\n[]\n"):
        file.write_bytes(theirs)
        with pytest.raises(OutputError, match="not replaced"):
            guard.clear(file)
        assert file.read_bytes() == theirs
    Guard(guard.ours, overwrite=True).clear(file)
    assert not file.exists()


def test_names_that_some_file_system_takes_for_one_have_one_key() -> None:
    for one, other in (
        ("Song", "SONG"),
        ("\u00e9", "e\u0301"),
        ("\u00c9", "e\u0301"),
        ("Straße", "STRASSE"),
        ("ﬀ", "FF"),
    ):
        assert filenames.key(f"a/{one}.wav") == filenames.key(f"A/{other}.WAV")
    assert filenames.key("e") != filenames.key("é")


def test_a_path_is_portable_name_by_name() -> None:
    assert str(filenames.portable_path("AC/DC: live?/CON/aux.wav/dot. /e\u0301.wav")) == (
        "AC/DC_ live_/_CON/_aux.wav/dot/\u00e9.wav"
    )
