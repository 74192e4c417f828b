"""Long pieces as they come: through a pipe, and until Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from musicldm.media.audio import files
from musicldm.sampling import Pipeline, Request, Task
from tests.toy_model import RATE, heard
from tests.toys import Command


def process(model: Path, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "musicldm", "sample", "-m", str(model), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ})


def test_a_pipe_hears_the_first_window_before_the_last_is_made(model: Path) -> None:
    running = process(model, "--seconds", 3600, "--window", 1, "--steps", 2, "-o", "-", "--device", "cpu")
    assert running.stdout is not None
    try:
        begin = running.stdout.read(RATE)
        assert begin[:4] == b"RIFF" and running.poll() is None
        assert soundfile.info(io.BytesIO(begin)).samplerate == RATE
    finally:
        running.kill()
        running.communicate()


@pytest.mark.parametrize("name", ["long.wav", "long.mp3"])
def test_ctrl_c_saves_what_is_done(model: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    running = process(model, "--seconds", 36000, "--window", 1, "--steps", 2, "-o", out, "--device", "cpu")
    until = time.monotonic() + 60
    while time.monotonic() < until and not any(path.stat().st_size > 10**5 for path in tmp_path.iterdir()):
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130 and b"Stopped: " in said and b"Traceback" not in said, said
    seconds = float(said.split(b"Stopped: ")[1].split()[0])
    assert 1 < seconds < 36000
    assert heard(out).shape[1] / RATE == pytest.approx(seconds, abs=0.2)
    assert Path(f"{out}.json").exists() and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("loudness", [[], ["--normalize", -30]])
def test_ctrl_c_while_a_window_is_made_keeps_those_before(
    sample: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loudness: list[object]
) -> None:
    long = ["--seconds", 6, "--window", 1, "--bit-depth", "float"]
    assert sample(*long, "-o", tmp_path / "whole.wav").code == 0
    original = Pipeline.stream

    def stream(self: Pipeline, task: Task, request: Request, **options: Any) -> Any:
        pieces = original(self, task, request, **options)
        yield next(pieces)
        yield next(pieces)
        raise KeyboardInterrupt

    monkeypatch.setattr(Pipeline, "stream", stream)
    done = sample(*long, *loudness, "-o", tmp_path / "part.wav")
    assert done.code == 130 and "Stopped: " in done.err and done.out == f"{tmp_path / 'part.wav'}\n"
    part, whole = files.read(tmp_path / "part.wav"), files.read(tmp_path / "whole.wav")
    assert 0 < part.shape[1] < whole.shape[1] == 6 * RATE
    gain = part.std() / whole[:, : part.shape[1]].std()
    assert np.allclose(part, gain * whole[:, : part.shape[1]], atol=1e-6) and (gain == 1) == (not loudness)


def test_ctrl_c_between_takes_names_those_that_are_made(
    sample: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Pipeline.stream

    def stream(self: Pipeline, task: Task, request: Request, **options: Any) -> Any:
        if request.take == 2:
            raise KeyboardInterrupt
        return original(self, task, request, **options)

    monkeypatch.setattr(Pipeline, "stream", stream)
    done = sample("--seconds", 1, "-n", 4, "-o", tmp_path / "x-{i}.wav")
    assert done.code == 130 and "2 of 4 takes were made" in done.err
    assert done.out.splitlines() == [str(tmp_path / f"x-{i}.wav") for i in (1, 2)]
    monkeypatch.undo()


def test_a_second_ctrl_c_is_heard_while_a_piece_is_written(
    sample: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = files.piecewise

    @contextmanager
    def watched(*arguments: Any) -> Iterator[Any]:
        with original(*arguments) as append:

            def put(audio: Any) -> None:
                append(audio)
                signal.raise_signal(signal.SIGINT)  # heard, and the piece would yet be saved
                signal.raise_signal(signal.SIGINT)

            yield put

    monkeypatch.setattr(files, "piecewise", watched)
    done = sample("--seconds", 4, "--window", 1, "-o", tmp_path / "x.wav")
    assert done.code == 130 and list(tmp_path.iterdir()) == []


def test_only_what_is_made_counts(sample: Command, song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = sample("--extend", song, "--seconds", 1, "-o", tmp_path / "a.wav", "--json")
    assert json.loads(done.out)["seconds"] == [4.0] and "1 s of audio in" in done.err
    assert "0.5 s of audio in" in sample("--infill", song, "--from", 1, "--to", 1.5, "-o", tmp_path / "b.wav").err
    original = Pipeline.stream

    def stream(self: Pipeline, task: Task, request: Request, **options: Any) -> Any:
        pieces = original(self, task, request, **options)
        yield next(pieces)
        yield next(pieces)
        raise KeyboardInterrupt

    monkeypatch.setattr(Pipeline, "stream", stream)
    done = sample("--extend", song, "--seconds", 5, "--window", 1, "-o", tmp_path / "c.wav", "--json")
    result = json.loads(done.out)
    # Heard at the model's rate, where the file has its own: a sample more or less.
    assert done.code == 130
    assert result["seconds"] == [pytest.approx(heard(tmp_path / "c.wav").shape[1] / RATE, abs=2 / RATE)]
    assert 3 < result["seconds"][0] < 8 and f"{result['seconds'][0] - 3:.4g} s of audio in" in done.err


def test_nothing_of_the_input_goes_out_before_all_is_known(model: Path, song: Path) -> None:
    running = process(model, "--extend", song, "--artist", "Nobody", "-o", "-", "--device", "cpu")
    out, said = running.communicate(timeout=60)
    assert running.returncode == 1 and out == b"" and b"no artist" in said
