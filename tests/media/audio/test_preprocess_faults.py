"""What happens to a run of preprocess when the world is against it. `pytest --full -rP` shows the counts."""

from __future__ import annotations

import collections
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.clusters import scheduler, worker_processes, workers
from tests.media.audio.sounds import Floats, encode_file

COMMAND = [sys.executable, "-m", "musicldm", "preprocess"]


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, **options)


def waveforms(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.wav")}


def finished(out: Path) -> list[Path]:
    return list(out.rglob("[!.]*.wav"))


def manifest(out: Path) -> dict[str, dict[str, Any]]:
    """The last record of each source."""
    lines = (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    # Without the dates of the waveforms, which are those of the run.
    return {record["source"]: {**record, "mtime_ns": None} for record in map(json.loads, lines)}


def melody(chance: np.random.Generator, seconds: int, rate: int = 22050) -> Floats:
    """A tune of decaying notes, float32 [1, T]."""
    t = np.arange(rate // 4) / rate
    notes = [np.exp(-6 * t) * np.sin(2 * np.pi * 220 * 2 ** (chance.integers(24) / 12) * t) for _ in range(4 * seconds)]
    return (0.5 * np.concatenate(notes)[None]).astype(np.float32)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A dozen tunes of many seconds, one of them twice, and two bad files."""
    folder = tmp_path / "in"
    chance = np.random.default_rng(0)
    for number in range(12):
        encode_file(folder / f"{number % 3}" / f"{number:02}.flac", melody(chance, 60), rate=22050)
    shutil.copy(folder / "0" / "00.flac", folder / "2" / "again.flac")
    (folder / "bad.mp3").write_text("no music")
    (folder / "0" / "none.m4a").touch()
    return folder


# ---- Kills


def test_killed_at_any_moment_and_begun_again_the_outputs_are_the_same(
    tmp_path: Path, source: Path, full: bool
) -> None:
    began = time.monotonic()
    assert run(source, tmp_path / "calm", "--jobs", 2).returncode == 0
    whole = time.monotonic() - began
    calm, calm_manifest = waveforms(tmp_path / "calm"), manifest(tmp_path / "calm")
    assert len(calm) == 12

    chance = random.Random(0)
    kills: collections.Counter[str] = collections.Counter()
    wanted, storms = 50 if full else 4, 0
    while kills.total() < wanted:
        storms += 1
        out = tmp_path / f"storm {storms}"
        finished = False
        while not finished and kills.total() < wanted:
            # From its first breath to just before its end; what is done already makes it shorter.
            moment = chance.uniform(0.1, whole)
            process = subprocess.Popen(
                [*COMMAND, source, out, "--jobs", "2"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            try:
                _, errors = process.communicate(timeout=moment)
                assert process.returncode == 0, errors
                finished = True
            except subprocess.TimeoutExpired:
                if chance.random() < 0.5:
                    os.killpg(process.pid, signal.SIGKILL)
                    kills["with its workers"] += 1
                else:
                    process.kill()  # its workers are to follow it by themselves
                    kills["alone"] += 1
                process.communicate()
        assert run(source, out, "--jobs", 2).returncode == 0
        assert waveforms(out) == calm
        assert manifest(out) == calm_manifest
        assert not list(out.rglob(".tmp-*"))
    print(f"kills: {dict(kills)} over {storms} output folders, all byte-identical to the undisturbed run")


def test_a_killed_worker_costs_a_retry(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*COMMAND, source, out, "--jobs", "1", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    killed = False
    while not killed and process.poll() is None:
        with suppress(OSError):  # one of them has gone meanwhile
            for child in children.read_text().split():
                if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text() and finished(out):
                    os.kill(int(child), signal.SIGKILL)
                    killed = True
        time.sleep(0.01)
    output, _ = process.communicate()
    assert killed and process.returncode == 0
    summary = json.loads(output)
    assert summary["tracks"] == 12 and set(summary["failed"]) == {"bad.mp3", "0/none.m4a"}


def test_a_cluster_does_the_same_and_survives_the_death_of_a_worker(tmp_path: Path, source: Path) -> None:
    pytest.importorskip("distributed")
    run(source, tmp_path / "here", "--jobs", 2)
    out = tmp_path / "out"
    with scheduler(tmp_path) as (address, _), workers(address, 2, tmp_path):
        command = [*COMMAND, str(source), str(out), "--json", "--cluster", address]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            while process.poll() is None and len(finished(out)) < 3:
                time.sleep(0.005)
            os.kill(worker_processes(address)[0], signal.SIGKILL)
            output, errors = process.communicate()
    assert (process.returncode, errors.count("Left out")) == (0, 3)
    assert json.loads(output)["tracks"] == 12
    assert waveforms(out) == waveforms(tmp_path / "here") and manifest(out) == manifest(tmp_path / "here")


# ---- The disk


def files_up_to(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def check_full_disk(done: subprocess.CompletedProcess[str], out: Path) -> None:
    assert done.returncode == 1
    assert done.stderr.count("\n") == 2 and done.stderr.startswith("Error: Cannot write") and "Hint:" in done.stderr
    assert not list(out.rglob("*.wav")) and not list(out.rglob(".tmp-*"))


@pytest.mark.parametrize("format", ["wav", "flac"])
@pytest.mark.parametrize("size", ["half", "all but a byte"])
def test_a_file_that_cannot_grow_is_one_sentence(tmp_path: Path, source: Path, format: str, size: str) -> None:
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(source / "0" / "00.flac", one)
    options = ("--format", format, "--bit-depth", 24)
    run(one, tmp_path / "whole", *options)
    whole = (tmp_path / "whole" / f"00.{format}").stat().st_size
    limit = whole // 2 if size == "half" else whole - 1
    out = tmp_path / "out"
    check_full_disk(run(one, out, *options, preexec_fn=files_up_to(limit)), out)
    assert json.loads(run(one, out, "--json", *options).stdout)["tracks"] == 1


def test_after_the_disk_was_too_small_all_is_done(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    check_full_disk(run(source, out, preexec_fn=files_up_to(500_000)), out)
    assert json.loads(run(source, out, "--json").stdout)["tracks"] == 12


def test_a_full_disk_is_one_sentence_and_nothing_is_lost(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(out)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be made here")
    try:
        check_full_disk(run(source, out), out)
        subprocess.run(["mount", "-o", "remount,size=10m", out], check=True)
        run(source, out)
        done = len(finished(out))
        subprocess.run(["mount", "-o", "remount,size=100m", out], check=True)
        summary = json.loads(run(source, out, "--json").stdout)
        assert 3 <= done < 12 and summary["tracks"] == 12
        assert summary["skipped"] == len(waveforms(out)) - summary["prepared"] >= done
    finally:
        subprocess.run(["umount", out], check=True)


# ---- Two at once


def test_two_runs_on_one_output_do_not_meet(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    command = [*COMMAND, str(source), str(out), "--jobs", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        while first.poll() is None and not (out / "manifest.jsonl").exists():
            time.sleep(0.005)
        first.send_signal(signal.SIGSTOP)
        second = run(source, out)
        first.send_signal(signal.SIGCONT)
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr.startswith(f"Error: Another run is writing to {out}.") and "Hint:" in second.stderr
    assert first.returncode == 0 and len(waveforms(out)) == 12
    assert json.loads(run(source, out, "--json").stdout)["skipped"] == 13


# ---- Damage


def mutated(original: bytes, chance: random.Random) -> bytes:
    """A copy of the bytes with one of the accidents that happen to files."""
    data = bytearray(original)
    place = chance.randrange(len(data))
    length = chance.randrange(1, max(2, len(data) // 8))
    match chance.randrange(7):
        case 0:  # flipped bits
            for _ in range(chance.choice((1, 10, 200))):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case 1:  # cut short
            del data[place:]
        case 2:  # a hole
            del data[place : place + length]
        case 3:  # a block that was never written
            data[place : place + length] = bytes(len(data[place : place + length]))
        case 4:  # noise over a block
            data[place : place + length] = chance.randbytes(len(data[place : place + length]))
        case 5:  # a piece twice
            data[place:place] = data[place : place + length]
        case 6:  # a number in the header that is far too large
            place = chance.randrange(min(len(data) - 4, 600))
            data[place : place + 4] = chance.choice((b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 4, b"\x80\0\0\0"))
    return bytes(data)


def test_mutated_files_neither_hang_nor_take_the_run_down(tmp_path: Path, full: bool) -> None:
    notes = np.random.default_rng(1)
    originals = []
    for suffix in (".m4a", ".mp3", ".ogg", ".flac", ".wav", ".webm", ".aiff"):
        rate = 48000 if suffix == ".webm" else 22050
        path = encode_file(tmp_path / f"original{suffix}", melody(notes, 2, rate), rate=rate)
        originals.append((suffix, path.read_bytes()))
    folder = tmp_path / "in"
    folder.mkdir()
    chance, count = random.Random(0), 2000 if full else 70
    for number in range(count):
        suffix, data = originals[number % len(originals)]
        (folder / f"{number:04}{suffix}").write_bytes(mutated(data, chance))
    began = time.monotonic()
    done = run(folder, tmp_path / "out", "--json", "--quiet", "--time-limit", 20)
    seconds = time.monotonic() - began
    assert done.returncode == 0 and "Traceback" not in done.stderr
    summary = json.loads(done.stdout)
    assert summary["files"] == count == summary["prepared"] + len(summary["failed"]) + len(summary["duplicates"])
    assert summary["prepared"] and all(summary["failed"].values())
    for record in manifest(tmp_path / "out").values():
        if record["status"] == "done":
            assert soundfile.info(tmp_path / "out" / record["path"]).frames == record["samples"] <= 20 * 16000
    reasons = collections.Counter(reason.split(":")[0].split("(")[0].strip() for reason in summary["failed"].values())
    counts = {key: len(summary[key]) for key in ("duplicates", "failed")}
    print(f"{count} mutated files in {seconds:.0f} s: {summary['prepared']} prepared, {counts}")
    for reason, times in reasons.most_common():
        print(f"{times:5} {reason}")
    assert all(reason.startswith(("It is ", "It cannot be ", "It holds ", "There is no ")) for reason in reasons)


# ---- Memory


def test_an_hour_takes_no_more_memory_than_it_may(tmp_path: Path, full: bool) -> None:
    """Ten hours with --full; and a small file that unfolds to hours of silence."""
    hours, rate = (10 if full else 1), 16000
    folder = tmp_path / "in"
    folder.mkdir()
    block = (0.1 * np.random.default_rng(0).standard_normal(60 * rate)).astype(np.float32)
    for name, sound, length in (("long.flac", block, hours), ("bomb.flac", 0 * block, 2 * hours)):
        with soundfile.SoundFile(folder / name, "w", rate, 1, "PCM_16") as file:
            for minute in range(60 * length):
                file.write(np.roll(sound, minute))
    encode_file(folder / "short.wav", block[None, : 10 * rate], rate=rate)
    code = (
        "import sys; from pathlib import Path; from musicldm.media.audio.prepare import *\n"
        "try: prepare(Path(sys.argv[1]), Path(sys.argv[2]), PrepareSettings(loudness=-23.0, trim_silence=True))\n"
        "except DataError as error: print(error)\n"
        "print(Path('/proc/self/status').read_text())"
    )
    peaks = {}
    for name in ("short.wav", "long.flac", "bomb.flac"):
        command = [sys.executable, "-c", code, str(folder / name), str(tmp_path / "out.wav")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        (peak,) = re.findall(r"VmHWM:\s*(\d+) kB", done.stdout)
        peaks[name] = int(peak) / 1024
        assert ("silent" in done.stdout) is (name == "bomb.flac")
    short, long, bomb = peaks.values()
    print(
        f"peak memory: {short:.0f} MB for 10 s, {long:.0f} MB for {hours} h, {bomb:.0f} MB for {2 * hours} h of silence"
    )
    assert max(peaks.values()) < 250
