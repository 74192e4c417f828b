"""What preprocess finds in its output folder and has not written, and outputs whose names are nearly the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from musicldm.core import durable, filenames
from musicldm.core.errors import OutputError
from musicldm.media import preprocess as module
from musicldm.media.audio.prepare import PrepareSettings
from musicldm.media.ledger import Ledger
from musicldm.media.manifest import MANIFEST, read_tracks
from musicldm.media.preprocess import preprocess
from tests.media.audio.sounds import Encode, Tone

MINE = b"RIFF: a person's own"


@pytest.fixture
def source(tmp_path: Path, tone: Tone, encode: Encode) -> Path:
    encode(tmp_path / "in" / "song.mp3", tone(300, 0.5))
    encode(tmp_path / "in" / "Ann" / "other.flac", tone(400, 0.5))
    return tmp_path / "in"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(source: Path, out: Path, **options: Any) -> Any:
    return preprocess(source, out, PrepareSettings(sample_rate=8000), **options)


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def records(out: Path) -> dict[str, dict[str, Any]]:
    return {record["source"]: record for record in map(json.loads, (out / MANIFEST).read_text().splitlines())}


@pytest.mark.parametrize("inside", [False, True])
def test_a_persons_own_file_is_refused_before_any_work(
    source: Path, tmp_path: Path, inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = source / "wav" if inside else tmp_path / "out"
    (out / "Ann").mkdir(parents=True)
    for name in ("song.wav", "Ann/other.wav", "unrelated.wav"):
        (out / name).write_bytes(MINE)
    before = contents(out)
    with monkeypatch.context() as idle:
        idle.setattr(module, "run_all", None)
        with pytest.raises(OutputError, match=r"^2 files are not replaced: .*other\.wav, .*song\.wav\.$") as refused:
            run(source, out)
    assert "--overwrite" in refused.value.hint
    assert before.items() <= contents(out).items() and contents(out).keys() - before.keys() <= {".lock"}
    assert run(source, out, overwrite=True).prepared == 2
    assert (out / "unrelated.wav").read_bytes() == MINE and (out / "song.wav").read_bytes() != MINE
    assert run(source, out).skipped == 2, "now they are ours"


def test_by_the_command(source: Path, out: Path) -> None:
    out.mkdir()
    (out / "song.wav").write_bytes(MINE)

    def command(*options: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "musicldm", "preprocess", str(source), str(out), "--jobs", "1", *options]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    done = command()
    assert done.returncode == 1 and done.stdout == "" and "song.wav is not replaced" in done.stderr
    assert (out / "song.wav").read_bytes() == MINE
    done = command("--overwrite", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["prepared"] == 2, done.stderr


def test_a_waveform_that_was_edited_is_neither_trained_on_nor_replaced(source: Path, out: Path) -> None:
    """Even where its size is the same: today's audio editors save in place."""
    run(source, out)
    edited = bytearray((out / "song.wav").read_bytes())
    edited[-50] ^= 1
    (out / "song.wav").write_bytes(edited)
    for _ in range(2):
        with pytest.raises(OutputError, match=r"song\.wav is not replaced: .* or it was changed since"):
            run(source, out)
        assert (out / "song.wav").read_bytes() == edited
    assert [track.title for track in read_tracks(out)] == ["other"]
    assert run(source, out, overwrite=True).prepared == 1 and (out / "song.wav").read_bytes() != edited


def test_an_edited_waveform_of_a_source_that_is_gone_stays(source: Path, out: Path) -> None:
    run(source, out)
    (out / "song.wav").write_bytes(MINE)
    (source / "song.mp3").rename(source / "after.mp3")
    run(source, out)
    assert (out / "song.wav").read_bytes() == MINE and (out / "after.wav").is_file()


def test_another_manifest_is_not_added_to(source: Path, out: Path) -> None:
    out.mkdir()
    theirs = '{"audio_filepath": "a.wav", "duration": 3}\n{"audio_filepath": "b.wav", "duration": 4}\n'
    (out / MANIFEST).write_text(theirs)
    with pytest.raises(OutputError, match=r"manifest\.jsonl is not replaced"):
        run(source, out)
    assert (out / MANIFEST).read_text() == theirs and not list(out.rglob("*.wav"))
    assert run(source, out, overwrite=True).tracks == 2 and "audio_filepath" not in (out / MANIFEST).read_text()


def test_what_comes_during_the_work_stays(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = Ledger.commit

    def late(self: Ledger, task: Any, outcome: Any) -> None:
        if task.name == "song.mp3":
            task.target.write_bytes(MINE)
        commit(self, task, outcome)

    monkeypatch.setattr(Ledger, "commit", late)
    with pytest.raises(OutputError, match=r"song\.wav is not replaced"):
        run(source, out)
    assert (out / "song.wav").read_bytes() == MINE and not list(out.rglob(".tmp-*"))


@pytest.mark.parametrize("again", ["the same sound", "another sound"])
def test_a_kill_between_the_file_and_its_record_makes_nothing_foreign(
    source: Path, out: Path, again: str, monkeypatch: pytest.MonkeyPatch, tone: Tone, encode: Encode
) -> None:
    append = durable.Journal.append

    def killed(self: durable.Journal, record: dict[str, Any]) -> None:
        if record["status"] == "done" and record["source"] == "song.mp3":
            raise KeyboardInterrupt
        append(self, record)

    with monkeypatch.context() as dying:
        dying.setattr(durable.Journal, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            run(source, out)
    assert (out / "song.wav").is_file() and records(out)["song.mp3"]["status"] == "failed"
    if again == "another sound":
        encode(source / "song.mp3", tone(700, 0.5))
    assert run(source, out).tracks == 2


def test_a_copy_of_the_output_elsewhere_is_still_ours(source: Path, out: Path, tmp_path: Path) -> None:
    run(source, out)
    for path in out.rglob("*.wav"):
        os.utime(path, ns=(1, 1))
    shutil.copytree(out, tmp_path / "copy")
    assert run(source, tmp_path / "copy").skipped == 2
    dates = {record["mtime_ns"] for record in records(tmp_path / "copy").values()}
    assert dates == {1}, "so that they need not be read each time"
    assert preprocess(source, tmp_path / "copy", PrepareSettings(sample_rate=4000)).prepared == 2


def test_a_manifest_without_hashes_is_trusted_by_size(source: Path, out: Path) -> None:
    run(source, out)
    former = [{k: v for k, v in r.items() if k not in ("sha256", "mtime_ns")} for r in records(out).values()]
    (out / MANIFEST).write_text("".join(json.dumps(record) + "\n" for record in former))
    assert run(source, out).skipped == 2
    (out / "song.wav").write_bytes(MINE)
    with pytest.raises(OutputError, match="not replaced"):
        run(source, out)
    assert preprocess(source, out, PrepareSettings(sample_rate=4000), overwrite=True).prepared == 2


def test_where_a_failed_source_would_go_nothing_is_ours(source: Path, out: Path, tone: Tone, encode: Encode) -> None:
    (source / "bad.mp3").write_text("no music")
    run(source, out)
    (out / "bad.wav").write_bytes(MINE)
    encode(source / "bad.mp3", tone(600, 0.5))
    with pytest.raises(OutputError, match=r"bad\.wav is not replaced"):
        run(source, out)
    assert (out / "bad.wav").read_bytes() == MINE


# ---- Names that differ here and nowhere else

NEARLY = (
    "Song.wav",
    "SONG.wav",
    "song.mp3",
    "\u00e9.flac",
    "e\u0301.flac",
    "Ann/a.wav",
    "ANN/A.wav",
    "x.wav/y.flac",
    "X.flac",
    "CON.flac",
    "_con.flac",
    "what?.flac",
    "what*.flac",
    "dots .../z.flac",
    "dots/z.flac",
)


def test_outputs_differ_on_any_file_system(tmp_path: Path, out: Path, tone: Tone, encode: Encode) -> None:
    for number, name in enumerate(NEARLY):
        encode(tmp_path / "in" / name, tone(200 + 20 * number, 0.2))
    assert run(tmp_path / "in", out).tracks == len(NEARLY)
    made = {record["source"]: record["path"] for record in records(out).values()}
    assert set(made) == set(NEARLY)
    assert sorted(made.values()) == sorted(track.path.relative_to(out).as_posix() for track in read_tracks(out))
    whole = {filenames.key(each) for each in made.values()}
    folders = {filenames.key(folder) for path in made.values() for folder in PurePosixPath(path).parents}
    assert len(whole) == len(NEARLY) and not whole & folders
    for path in made.values():
        assert str(filenames.portable_path(path)) == path, "valid on Windows, too"
    # Again, anew, and with more of them that sort first, each keeps its name.
    assert run(tmp_path / "in", out).skipped == len(NEARLY)
    run(tmp_path / "in", tmp_path / "anew")
    assert {record["source"]: record["path"] for record in records(tmp_path / "anew").values()} == made
    encode(tmp_path / "in" / "SOng.wav", tone(900, 0.2))
    assert run(tmp_path / "in", out).prepared == 1
    assert {r["source"]: r["path"] for r in records(out).values() if r["source"] in made} == made
