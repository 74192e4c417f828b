"""Our own files: waveforms for models, and files for people."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Literal

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile

from musicldm.core.errors import DataError, MissingProgramError, OutputError, UsageError
from musicldm.media.audio import files
from musicldm.media.audio.decode import decode, probe
from tests.media.audio.sounds import Tone, decoded, level


def test_read_takes_any_piece(tmp_path: Path, tone: Tone) -> None:
    sound = np.concatenate([tone(rate=16000), tone(880, rate=16000)])
    files.write(tmp_path / "a.wav", sound, 16000)
    np.testing.assert_allclose(files.read(tmp_path / "a.wav", 100, 200), sound[:, 100:200], atol=1e-4)
    assert files.read(tmp_path / "a.wav", 15990, 16100).shape == (2, 10)


def test_read_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.wav"):
        files.read(tmp_path / "gone.wav", 0, 10)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
@pytest.mark.parametrize("bit_depth", [8, 16, 24])
def test_lossless_files_hold_what_was_written(tmp_path: Path, tone: Tone, name: str, bit_depth: int) -> None:
    sound = np.concatenate([tone(), tone(880)])
    files.write(tmp_path / name, sound, 44100, bit_depth=bit_depth)
    assert soundfile.info(tmp_path / name).subtype[-2:].strip("_SU") == str(bit_depth)
    read, rate = soundfile.read(tmp_path / name, always_2d=True)
    assert rate == 44100
    np.testing.assert_allclose(read.T, sound, atol=1.01 / 2**bit_depth)


def test_samples_beyond_full_scale_are_clipped(tmp_path: Path) -> None:
    files.write(tmp_path / "a.wav", np.array([[2.0, -2.0, 1.0, 0.0]], np.float32), 16000)
    np.testing.assert_allclose(files.read(tmp_path / "a.wav"), [[1, -1, 1, 0]], atol=1e-4)


def test_a_wav_on_a_pipe_has_its_true_sizes(tone: Tone) -> None:
    code = (
        "import sys, numpy; from musicldm.media.audio import files;"
        "files.write(sys.stdout.buffer, numpy.zeros((2, 1000), numpy.float32), 16000)"
    )
    data = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout
    assert struct.unpack("<I", data[4:8])[0] == len(data) - 8
    at = data.index(b"data")
    assert struct.unpack("<I", data[at + 4 : at + 8])[0] == 2 * 1000 * 2 == len(data) - at - 8


@pytest.mark.parametrize("suffix", [".mp3", ".ogg", ".m4a"])
@pytest.mark.parametrize("own", [False, True], ids=["the system's ffmpeg", "the wheel's ffmpeg"])
def test_lossy_files_last_as_long_as_the_sound(
    tmp_path: Path, tone: Tone, monkeypatch: pytest.MonkeyPatch, suffix: str, own: bool
) -> None:
    if own:
        monkeypatch.setenv("PATH", str(tmp_path))
    elif shutil.which("ffmpeg") is None:
        pytest.skip("this system has no ffmpeg")
    path = tmp_path / f"a{suffix}"
    files.write(path, np.repeat(tone(seconds=2, rate=16000), 2, axis=0), 16000)
    audio = decoded(path)
    assert audio.shape[1] == pytest.approx(32000, rel=0.06)
    assert level(audio) == pytest.approx(-6, abs=0.5)


def test_without_any_ffmpeg_one_sentence_says_what_to_install(
    tmp_path: Path, tone: Tone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", none)
    with pytest.raises(MissingProgramError, match="needs the ffmpeg program") as caught:
        files.write(tmp_path / "a.mp3", tone(), 44100)
    assert "Install ffmpeg" in caught.value.hint
    assert not (tmp_path / "a.mp3").exists()


def test_an_unknown_format_is_wrong_usage(tmp_path: Path, tone: Tone) -> None:
    with pytest.raises(UsageError, match="'xyz'"):
        files.write(tmp_path / "a.xyz", tone(), 44100)
    with pytest.raises(UsageError, match="without a suffix"):
        files.write(tmp_path / "a", tone(), 44100)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, tone: Tone) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        files.write(tmp_path / "file" / "a.wav", tone(), 44100)


def test_a_stream_takes_any_format(tone: Tone) -> None:
    buffer = io.BytesIO()
    files.write(buffer, tone(), 44100, format="flac")
    assert buffer.getvalue()[:4] == b"fLaC"


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg", "a.m4a"])
def test_a_comment_comes_back(name: str, tmp_path: Path, tone: Tone) -> None:
    comment = '{"artist": "Frédéric Chopin", "seed": 3}'
    with files.piecewise(tmp_path / name, 44100, 1, 44100, comment=comment) as append:
        append(tone(seconds=1, rate=44100))
    assert probe(tmp_path / name).comment == comment
    assert abs(sum(block.shape[1] for block in decode(tmp_path / name, 44100, 1)) - 44100) < 4000


@pytest.mark.parametrize("comment", ["", "odd", "even"])
@pytest.mark.parametrize(("depth", "error"), [(8, 2**-8), (16, 2**-16), (24, 2**-24), ("float", 0.0)])
@pytest.mark.parametrize("samples", [1001, 400])
def test_pieces_make_the_file_that_one_piece_makes(
    depth: int | Literal["float"], error: float, comment: str, samples: int, tmp_path: Path
) -> None:
    """Also where fewer samples come than were planned."""
    sound = np.random.default_rng(0).uniform(-0.9, 0.9, (1, samples)).astype(np.float32)
    with files.piecewise(tmp_path / "a.wav", 8000, 1, 1001, bit_depth=depth, comment=comment) as append:
        append(sound[:, :333])
        append(sound[:, 333:])
    for read in (files.read(tmp_path / "a.wav"), np.concatenate(list(decode(tmp_path / "a.wav", 8000, 1)), axis=1)):
        assert read.shape == sound.shape and np.abs(read - sound).max() <= error
    size = (tmp_path / "a.wav").stat().st_size
    assert int.from_bytes((tmp_path / "a.wav").read_bytes()[4:8], "little") == size - 8


@pytest.mark.parametrize("mode", ["r+b", "ab"])
def test_what_a_stream_holds_already_stays(mode: Literal["r+b", "ab"], tmp_path: Path) -> None:
    """Also where fewer samples come than were planned; the sizes then are true where one can go back."""
    path, before = tmp_path / "out", b"what was there before"
    path.write_bytes(before)
    sound = np.full((1, 100), 0.5, np.float32)
    with path.open(mode) as file:
        file.seek(0, io.SEEK_END)
        with files.piecewise(file, 8000, 1, 1000) as append:
            append(sound)
        file.write(b"after")
    written = path.read_bytes()
    assert written.startswith(before) and written.endswith(b"after")
    wav = written[len(before) : -len(b"after")]
    assert wav[:4] == b"RIFF" and len(wav) == 44 + 200
    assert int.from_bytes(wav[40:44], "little") == (200 if mode == "r+b" else 2000)


def test_the_sizes_of_a_wav_count_its_comment() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    samples = ((1 << 32) - 5000) // 2
    for comment, form in (("", b"RIFF"), ("x" * 10000, b"RF64")):
        pipe = Pipe()
        with files.piecewise(pipe, 44100, 1, samples, comment=comment):
            pass
        assert pipe.getvalue()[:4] == form


def test_a_pipe_is_told_the_sizes_before_the_samples() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    for samples, form in ((2**20, b"RIFF"), (2**30, b"RF64")):
        pipe = Pipe()
        with files.piecewise(pipe, 44100, 2, samples, bit_depth=24) as append:
            append(np.zeros((2, 10), np.float32))
        written = pipe.getvalue()
        assert written[:4] == form and written[8:12] == b"WAVE"
        if form == b"RIFF":
            assert int.from_bytes(written[40:44], "little") == 6 * samples
        else:  # EBU Tech 3306: the size of the form, of the data, and the number of samples
            assert struct.unpack("<QQQ", written[20:44]) == (len(written) - 60 - 8 + 6 * samples, 6 * samples, samples)


def test_depths_that_a_format_does_not_have(tmp_path: Path) -> None:
    cases: list[tuple[str, int | Literal["float"]]] = [("a.flac", "float"), ("a.mp3", 24), ("a.wav", 12)]
    for name, depth in cases:
        with pytest.raises(UsageError), files.piecewise(tmp_path / name, 8000, 1, 10, bit_depth=depth):
            pass
    assert list(tmp_path.iterdir()) == []
