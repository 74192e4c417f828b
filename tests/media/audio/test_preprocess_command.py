"""The installed command, from the outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.media.audio.sounds import Encode, Tone


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "musicldm", "preprocess", *map(str, arguments)], capture_output=True, text=True
    )


@pytest.fixture
def source(tmp_path: Path, tone: Tone, encode: Encode) -> Path:
    encode(tmp_path / "in" / "Ann" / "one.mp3", tone(300))
    encode(tmp_path / "in" / "Bob" / "two.m4a", tone(400))
    (tmp_path / "in" / "bad.mp3").write_text("no music")
    return tmp_path / "in"


def test_partly_done_is_done_with_a_count(source: Path, tmp_path: Path) -> None:
    done = run(source, tmp_path / "out", "--jobs", 2)
    assert done.returncode == 0
    assert done.stdout == f"{tmp_path / 'out'}\n"
    assert "Left out bad.mp3: It cannot be read as audio" in done.stderr
    rows = {tuple(line.split()[:2]) for line in done.stderr.splitlines()}
    assert {("prepared", "2"), ("failed", "1"), ("duplicates", "0")} <= rows


def test_strict_and_json(source: Path, tmp_path: Path) -> None:
    done = run(source, tmp_path / "out", "--strict", "--json", "--quiet", "--bit-depth", 24)
    assert done.returncode == 1
    summary = json.loads(done.stdout)
    assert (summary["files"], summary["prepared"], summary["tracks"], summary["heldout"]) == (3, 2, 2, 1)
    assert list(summary["failed"]) == ["bad.mp3"]
    # Quiet still names what failed, and says what was changed or guessed.
    failed, converted, guessed, strict = done.stderr.splitlines()
    assert "bad.mp3" in failed and "2 files are converted" in converted and "folder names: 2 of 2" in guessed
    assert strict.startswith("Left out: 1.")


def test_failures_have_a_sentence_a_hint_and_a_code(tmp_path: Path, source: Path) -> None:
    missing = run(tmp_path / "nowhere", tmp_path / "out")
    assert missing.returncode == 1
    assert missing.stderr.startswith("Error: There is no folder") and "Hint:" in missing.stderr
    assert run(source, tmp_path / "out", "--bit-depth", 12).returncode == 2
    assert run(source, tmp_path / "out", "--jobs", 0).returncode == 2


def test_ctrl_c_ends_it_quietly_and_nothing_is_lost(tmp_path: Path, encode: Encode) -> None:
    noise = (0.1 * np.random.default_rng(0).standard_normal((2, 20 * 44100))).astype(np.float32)
    first = encode(tmp_path / "in" / "0.flac", noise)
    for number in range(1, 40):  # seconds of work, so that a slow machine does not miss the moment
        os.link(first, tmp_path / "in" / f"{number}.flac")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "musicldm", "preprocess", str(tmp_path / "in"), str(out), "--jobs", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    manifest = out / "manifest.jsonl"
    # Until a first file is done; before that, its line says that it is about to get its name.
    while process.poll() is None and not (manifest.exists() and '"status":"done"' in manifest.read_text()):
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert output == ""
    assert "Traceback" not in errors
    again = json.loads(run(tmp_path / "in", out, "--json").stdout)
    assert (again["tracks"], again["skipped"] + again["prepared"] + len(again["duplicates"])) == (1, 40)
    assert again["skipped"] >= 1


def test_a_file_that_takes_too_long_is_given_up_and_the_rest_goes_on(
    tmp_path: Path, source: Path, encode: Encode
) -> None:
    chance = np.random.default_rng(0)
    for half in (1, 2):
        encode(tmp_path / "in" / f"long {half}.wav", chance.standard_normal((2, 600 * 44100)).astype(np.float32) / 9)
    done = run(source, tmp_path / "out", "--json", "--time-limit", 0.4)
    summary = json.loads(done.stdout)
    late = [name for name, reason in summary["failed"].items() if reason == "It took longer than 0.4 s."]
    assert sorted(late) == ["long 1.wav", "long 2.wav"] and summary["prepared"] == 2
    assert json.loads(run(source, tmp_path / "out", "--json").stdout)["prepared"] == 2


def test_the_form_of_the_waveforms_is_a_matter_of_options(source: Path, tmp_path: Path) -> None:
    options = "--format flac --sample-rate 22050 --channels 2 --bit-depth 24 --loudness -30 --trim-silence".split()
    summary = json.loads(run(source, tmp_path / "out", "--json", *options).stdout)
    assert summary["prepared"] == 2 and summary["quieter"] == 0
    for path in (tmp_path / "out").rglob("*.flac"):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (22050, 2, "PCM_24")
    lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    loudness = {record["loudness"] for record in map(json.loads, lines) if record["status"] == "done"}
    assert all(-30.1 < value < -29.9 for value in loudness)
    assert run(source, tmp_path / "other", "--format", "mp3").returncode == 2
    assert "2 tracks are quieter than the target loudness" in run(source, tmp_path / "loud", "--loudness", -2).stderr
