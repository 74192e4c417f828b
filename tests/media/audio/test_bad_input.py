"""Files as the world has them, all in one folder, through the installed command: taken, or refused with a reason."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from tests.media.audio.sounds import RATE, Floats, cut_file, encode_file

PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2


def sine(seconds: float = 1.0, hertz: float = 440.0, rate: int = RATE, channels: int = 1) -> Floats:
    """float32 [C, T], another tone in each channel and for each file."""
    t = np.arange(round(seconds * rate)) / rate
    return np.stack([0.3 * np.sin(2 * np.pi * (hertz + 7 * c) * t) for c in range(channels)]).astype(np.float32)


def noise(seconds: int) -> Floats:
    return (0.1 * np.random.default_rng(0).standard_normal((1, seconds * RATE))).astype(np.float32)


World = tuple[Path, subprocess.CompletedProcess[str], dict[str, Any], dict[str, dict[str, Any]]]
"""The root folder, how the command ended, its JSON, and the manifest by source."""


class Maker:
    """Writes files that differ in sound, so that none is another's duplicate."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def sine(self, **form: Any) -> Floats:
        self.count += 1
        return sine(hertz=300 + 10 * self.count, **form)

    def plain(
        self, name: str, rate: int = RATE, subtype: str | None = None, channels: int = 1, seconds: float = 1.0
    ) -> Path:
        return encode_file(self.folder / name, self.sine(rate=rate, channels=channels, seconds=seconds), rate, subtype)

    def cut(self, name: str, **form: Any) -> Path:
        return cut_file(self.plain(name, seconds=4.0, **form), 0.6)


def wav_with_odd_chunks(sound: Floats) -> bytes:
    """A WAV with chunks of odd sizes before and after its data, each padded by a byte."""
    data = (sound[0] * 32767).astype("<i2").tobytes()
    chunks = b"".join(
        name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
        for name, body in (
            (b"junk", b"x" * 13),
            (b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)),
            (b"LIST", b"INFOISFT" + struct.pack("<I", 5) + b"odd!\0\0"[:5]),
            (b"data", data),
            (b"id3 ", b"y" * 7),
        )
    )
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def id3_with_cover(picture: bytes) -> bytes:
    body = b"\0image/png\0\3\0" + picture
    frame = b"APIC" + struct.pack(">I", len(body)) + b"\0\0" + body
    size = len(frame)
    return b"ID3\3\0\0" + bytes((size >> shift) & 127 for shift in (21, 14, 7, 0)) + frame


def video(path: Path, sound: Floats) -> None:
    """An mp4 with a second of moving pictures, which come first, and sound."""
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        voice = container.add_stream("aac", rate=RATE, layout="mono")
        for number in range(25):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number * 10, np.uint8), format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 25)
            container.mux(pictures.encode(picture))
        container.mux(pictures.encode(None))
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), format="fltp", layout="mono")
        frame.sample_rate = RATE
        container.mux(voice.encode(frame))
        container.mux(voice.encode(None))


Make = Callable[[Maker, Path], object]

ACCEPTED: dict[str, Make] = {
    "8 channels.wav": lambda make, path: make.plain(path.name, channels=8),
    "192 kHz.flac": lambda make, path: make.plain(path.name, rate=192000),
    "8 kHz.wav": lambda make, path: make.plain(path.name, rate=8000),
    "8 bit.wav": lambda make, path: make.plain(path.name, subtype="PCM_U8"),
    "offset.wav": lambda make, path: encode_file(path, make.sine() + np.float32(0.4)),
    "odd chunks.wav": lambda make, path: path.write_bytes(wav_with_odd_chunks(make.sine())),
    "cover.mp3": lambda make, path: path.write_bytes(
        id3_with_cover(b"\x89PNG\r\n\x1a\n" + bytes(3000)) + make.plain(path.name).read_bytes()
    ),
    "film.mp4": lambda make, path: video(path, make.sine()),
    "new\nline.wav": lambda make, path: make.plain(path.name),
    'it\'s "quoted".wav': lambda make, path: make.plain(path.name),
    "-rf.wav": lambda make, path: make.plain(path.name),
    "x" * 251 + ".wav": lambda make, path: make.plain("x.wav").rename(path),
    "é" * 60 + ".wav": lambda make, path: make.plain("e.wav").rename(
        os.fsdecode(os.fsencode(path.parent) + b"/" + path.name.encode("latin-1"))
    ),
}

PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{}'\n",
}


def playlist(text: str, make: Maker, path: Path) -> int:
    return path.write_text(text.format(make.folder.parent / "foreign.wav"))


REFUSED: dict[str, tuple[Make, str]] = {
    "empty.mp3": (lambda make, path: path.touch(), "It is empty"),
    "cut.m4a": (lambda make, path: make.cut(path.name), r"truncated: 2\.\d of 4\.\d s"),
    "cut.mp3": (lambda make, path: make.cut(path.name), r"truncated: 2\.\d of 4\.\d s"),
    "cut.flac": (lambda make, path: make.cut(path.name), r"truncated|cannot be read"),
    "cut.ogg": (
        lambda make, path: cut_file(encode_file(path, noise(20)), 0.6),
        "truncated: the page",
    ),
    "cut.wav": (lambda make, path: make.cut(path.name), "truncated: 60% of its samples"),
    "cut.webm": (lambda make, path: make.cut(path.name, rate=48000), "truncated|damaged"),
    "text.mp3": (
        lambda make, path: path.write_text("All work and no play.\n" * 999),
        "read as audio|no audio",
    ),
    "sample.wav": (
        lambda make, path: encode_file(path, np.full((1, 1), 0.5, np.float32), 16000),
        r"too short: 0\.000 s",
    ),
    "silence.flac": (lambda make, path: encode_file(path, 0 * make.sine()), "silent from end to end"),
    "nan.wav": (lambda make, path: encode_file(path, make.sine() * np.nan, subtype="FLOAT"), "not finite"),
    "infinite.wav": (lambda make, path: encode_file(path, make.sine() + np.inf, subtype="FLOAT"), "not finite"),
    "unreadable.wav": (lambda make, path: make.plain(path.name).chmod(0), "cannot be read: Permission denied"),
    "nowhere.wav": (lambda make, path: path.symlink_to("not there"), "cannot be read: No such file"),
    "circle.wav": (lambda make, path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links"),
    **{
        f"{kind}{suffix}": (
            functools.partial(playlist, text),
            "cannot be read as audio",
        )
        for kind, text in PLAYLISTS.items()
        for suffix in (".mp3", ".m4a")
    },
}


def as_plain_user() -> None:
    """Give up root's right to read everything; where there is no such right, nothing happens."""
    libc = ctypes.CDLL(None)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """All those files through one run of the command: its exit code, its JSON, and the manifest by source."""
    root = tmp_path_factory.mktemp("world")
    folder = root / "in"
    folder.mkdir()
    foreign = root / "foreign.wav"
    soundfile.write(foreign, sine()[0], RATE)
    yesterday = foreign.stat().st_mtime - 86400
    for path in (foreign, root / "control"):
        path.touch()
        os.utime(path, (yesterday, yesterday + 3600))  # older than its last change: reading renews the time of access
    make = Maker(folder)
    for name, maker in ACCEPTED.items():
        maker(make, folder / name)
    for name, (maker, _) in REFUSED.items():
        maker(make, folder / name)
    (folder / "loop").symlink_to(folder)
    done = subprocess.run(
        [sys.executable, "-m", "musicldm", "preprocess", folder, root / "out", "--json", "--time-limit", "60"],
        capture_output=True,
        text=True,
        preexec_fn=as_plain_user,
    )
    assert "Traceback" not in done.stderr
    summary = json.loads(done.stdout)
    lines = (root / "out" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    return root, done, summary, {record["source"]: record for record in map(json.loads, lines)}


def spelled(name: str) -> str:
    """As the manifest spells it."""
    return name.replace("é", "\\xe9")


def test_the_run_goes_on_to_its_end(world: World) -> None:
    _, done, summary, _ = world
    assert done.returncode == 0
    assert summary["files"] == len(ACCEPTED) + len(REFUSED)
    assert summary["prepared"] == summary["tracks"] == len(ACCEPTED)
    assert set(summary["failed"]) == set(REFUSED)


@pytest.mark.parametrize("name", ACCEPTED)
def test_odd_files_are_taken(world: World, name: str) -> None:
    root, _, _, manifest = world
    record = manifest[spelled(name)]
    assert (record["status"], record["reason"]) == ("done", "")
    audio, rate = soundfile.read(root / "out" / record["path"])
    assert rate == 16000 and len(audio) == record["samples"] == pytest.approx(16000, abs=900)
    middle = audio[2000:-2000]
    assert abs(middle.mean()) < 1e-3 and np.abs(middle).max() > 0.05
    assert record["loudness"] is not None and record["source_sha256"] and record["clipped"] == 0


@pytest.mark.parametrize("name", REFUSED)
def test_bad_files_are_named_with_their_reason(world: World, name: str) -> None:
    root, done, summary, manifest = world
    assert re.search(REFUSED[name][1], summary["failed"][name])
    assert manifest[name]["status"] == "failed" and manifest[name]["reason"] == summary["failed"][name]
    assert f"Left out {name}: {summary['failed'][name]}" in done.stderr
    assert not (root / "out" / Path(name).with_suffix(".wav")).exists()


def test_a_playlist_reads_no_byte_of_another_file(world: World) -> None:
    root, *_ = world
    untouched = (root / "control").stat().st_atime
    (root / "control").write_bytes((root / "control").read_bytes())
    (root / "control").read_bytes()
    if (root / "control").stat().st_atime == untouched:
        pytest.skip("this file system does not note who reads")
    assert (root / "foreign.wav").stat().st_atime == untouched
