"""`musicldm sample`, every way of it, with a toy model: what is written, and what is refused."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
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
import torch

from musicldm.core import bundle
from musicldm.media.audio import files
from musicldm.media.audio.decode import decode, probe
from musicldm.media.audio.loudness import LoudnessMeter
from musicldm.sampling import Generator
from tests.toy_model import ARTISTS, HOP, RATE, toy_bundle
from tests.toys import Command


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    bundle.write(folder / "bundle", toy_bundle())
    return folder


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds in stereo, at another rate."""
    path = tmp_path_factory.mktemp("song") / "song.flac"
    time = np.arange(3 * 11025) / 11025
    sound = [0.4 * np.sin(2 * math.pi * pitch * time) for pitch in (220, 330)]
    files.write(path, np.array(sound, np.float32), 11025)
    return path


def heard(path: Path) -> np.ndarray:
    return np.concatenate(list(decode(path, RATE, 1)), axis=1)


@pytest.fixture
def sample(musicldm: Command, model: Path) -> Command:
    return lambda *arguments: musicldm("sample", "-m", model, "--steps", 3, "--device", "cpu", *arguments)


# ---- Ways ------------------------------------------------------------------------------------------------------------


def test_every_way_leaves_a_file_and_says_how(sample: Command, song: Path, tmp_path: Path) -> None:
    for name, arguments, samples in (
        ("new", ["--seconds", 2], 2 * RATE),
        ("artist", ["--seconds", 1, "--artist", "johann sebastian bach", "--guidance", 3, "--position", 0.2], RATE),
        ("init", ["--init", song, "--strength", 0.4], 3 * RATE),
        ("infill", ["--infill", song, "--from", 0.5, "--to", 1, "--from", 2, "--to", 2.5], 3 * RATE),
        ("continue", ["--continue", song, "--seconds", 1.5], 4.5 * RATE),
        ("loop", ["--loop", "--seconds", 1], RATE),
        ("long", ["--seconds", 4, "--window", 1], 4 * RATE),
        ("joint", ["--seconds", 4, "--window", 1, "--joint"], 4 * RATE),
    ):
        out = tmp_path / f"{name}.wav"
        done = sample(*arguments, "-o", out, "--json")
        assert done.code == 0, (name, done.err)
        assert json.loads(done.out)["files"] == [str(out)]
        assert abs(heard(out).shape[1] - samples) <= HOP, name
        told = json.loads(out.with_suffix(".json").read_text())
        assert json.loads(probe(out).comment) == told
        assert told["trained_on"] == {"tracks": 1, "artists": {ARTISTS[0]: 1}, "licences": {"CC0-1.0": 1}}
        assert told["options"]["steps"] == 3 and len(told["model"]["hash"]) == 64


def test_the_command_does_what_the_library_does(sample: Command, model: Path, song: Path, tmp_path: Path) -> None:
    generator = Generator.load(model, "cpu")
    audio = torch.from_numpy(heard(song))
    how = {"steps": 3, "seed": 5, "artist": ARTISTS[0], "guidance": 2.0, "sampler": "dpm++2m"}
    given = ["--seed", 5, "--artist", ARTISTS[0], "--guidance", 2, "--sampler", "dpm++2m", "--bit-depth", "float"]
    for way, wanted in (
        (["--seconds", 1], generator.sample(1.0, **how)),
        (["--init", song, "--strength", 0.3], generator.vary(audio, 0.3, **how)),
        (["--infill", song, "--from", 1, "--to", 2], generator.infill(audio, [(1.0, 2.0)], **how)),
        (["--continue", song, "--seconds", 1], torch.cat(list(generator.extend(audio, 1.0, **how)), dim=1)),
        (["--loop", "--seconds", 1], generator.loop(1.0, **how)),
    ):
        assert sample(*given, *way, "-o", tmp_path / "out.wav").code == 0
        assert np.array_equal(files.read(tmp_path / "out.wav"), wanted.numpy()), way


def test_an_infill_is_exact_in_the_file(sample: Command, tmp_path: Path) -> None:
    """Even beyond full scale, since a float WAV holds it."""
    sound = np.random.default_rng(0).normal(0, 0.5, (1, 2 * RATE)).astype(np.float32)
    soundfile.write(tmp_path / "in.wav", sound.T, RATE, subtype="FLOAT")
    assert sample("--infill", tmp_path / "in.wav", "--from", 0.5, "--to", 1, "-o", tmp_path / "out.wav").code == 0
    out, fade = files.read(tmp_path / "out.wav"), round(0.02 * RATE)
    assert np.array_equal(out[:, : RATE // 2 - fade], sound[:, : RATE // 2 - fade])
    assert np.array_equal(out[:, RATE + fade :], sound[:, RATE + fade :])
    assert not np.array_equal(out, sound)


def test_from_one_to_another(sample: Command, song: Path, tmp_path: Path) -> None:
    shutil.copy(song, tmp_path / "b.flac")
    for way in (["--interpolate", song, tmp_path / "b.flac", "-n", 3], ["--interpolate-seeds", 1, 2, "--seconds", 1]):
        done = sample(*way, "-o", tmp_path / "x-{i}.wav")
        assert done.code == 0, done.err
        takes = [Path(line) for line in done.out.splitlines()]
        assert len(takes) == (3 if "-n" in way else 5)
    assert sample("--seed", 1, "--seconds", 1, "-o", tmp_path / "seed1.wav").code == 0
    assert np.array_equal(files.read(takes[0]), files.read(tmp_path / "seed1.wav"))
    assert sample("--like", takes[3].with_suffix(".json"), "-o", tmp_path / "again.wav").code == 0
    assert (tmp_path / "again.wav").read_bytes() == takes[3].read_bytes()


# ---- Made again ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["take.wav", "take.flac", "take.mp3"])
def test_a_take_is_made_again_from_its_recipe(
    musicldm: Command, sample: Command, song: Path, tmp_path: Path, name: str
) -> None:
    odd = ["--init", song, "--strength", 0.3, "--seed", 4, "--sampler", "ddim", "--eta", 0.5, "-n", 2]
    odd += ["--artist", f"{ARTISTS[0]}:3,{ARTISTS[1]}:1", "--guidance-interval", 0.2, 0.8, "--guidance", 2]
    assert sample(*odd, "-o", tmp_path / name).code == 0
    second = tmp_path / name.replace("take", "take-2")
    wanted = second.read_bytes()
    for source in (second, second.with_suffix(".json")):
        again = tmp_path / f"again{second.suffix}"
        done = musicldm("sample", "--like", source, "-o", again, "--device", "cpu")
        assert done.code == 0, done.err
        assert again.read_bytes() == wanted
    done = musicldm("sample", "--like", second, "-o", again, "--device", "cpu", "--seed", 5)
    assert again.read_bytes() != wanted and json.loads(again.with_suffix(".json").read_text())["options"]["eta"] == 0.5


def test_a_place_with_odd_blanks_is_found_again(sample: Command, song: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two  and one\u00a0that holds"
    folder.mkdir()
    mine = shutil.copy(song, folder / "in.flac")
    for name in ("a.wav", "a.flac", "a.mp3"):
        assert sample("--init", mine, "-o", tmp_path / name).code == 0
        done = sample("--like", tmp_path / name, "-o", tmp_path / f"again-{name}")
        assert done.code == 0, done.err


def test_a_recipe_goes_on_from_other_music_and_with_other_takes(
    musicldm: Command, sample: Command, song: Path, tmp_path: Path
) -> None:
    mine = Path(shutil.copy(song, tmp_path / "in.flac"))
    assert sample("--init", mine, "-o", tmp_path / "a.wav").code == 0
    mine.unlink()
    again = ("--like", tmp_path / "a.json", "-o", tmp_path / "b.wav")
    done = musicldm("sample", *again)
    assert done.code == 1 and "not there as it was" in done.err and "where the take was made" in done.err
    assert musicldm("sample", *again, "--init", song).code == 0
    assert (tmp_path / "b.wav").read_bytes()[-1000:] == (tmp_path / "a.wav").read_bytes()[-1000:]
    way = ["--interpolate-seeds", 1, 2, "--seconds", 0.5]
    assert sample(*way, "-n", 3, "-o", tmp_path / "c-{i}.wav").code == 0
    done = musicldm("sample", "--like", tmp_path / "c-2.json", "-n", 4, "-o", tmp_path / "d-{i}.wav")
    assert [Path(line).name for line in done.out.splitlines()] == [f"d-{i}.wav" for i in (1, 2, 3, 4)]
    assert np.array_equal(files.read(tmp_path / "d-4.wav"), files.read(tmp_path / "c-3.wav"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("steps", "many"), ("steps", 2.5), ("seconds", True), ("model", 5), ("guidance_interval", [0.1])),
        *(("start", [["a"]]), ("spacing", "odd"), ("interpolate_seeds", 3), ("joint", 1), ("artist", {})),
    ],
)
def test_a_recipe_with_odd_values(musicldm: Command, model: Path, tmp_path: Path, key: str, value: object) -> None:
    made = {"options": {"model": str(model), key: value}, "take": 1, "of": 1, "model": {"hash": "0" * 64}}
    (tmp_path / "odd.json").write_text(json.dumps(made))
    done = musicldm("sample", "--like", tmp_path / "odd.json", "-o", tmp_path / "out.wav")
    assert done.code == 1 and f"its {key} is" in done.err and "Hint:" in done.err


def test_recipes_that_cannot_be_followed(
    musicldm: Command, sample: Command, song: Path, model: Path, tmp_path: Path
) -> None:
    mine = shutil.copy(song, tmp_path / "in.flac")
    assert sample("--init", mine, "-o", tmp_path / "a.wav").code == 0
    (tmp_path / "bad.json").write_text('{"options": 3}')
    (tmp_path / "none.json").write_text("[]")
    bundle.write(tmp_path / "other", toy_bundle(artists=()))
    for arguments, sentence in (
        (["--like", tmp_path / "a.json", "-m", tmp_path / "other"], "another model"),
        (["--like", tmp_path / "bad.json"], "does not tell"),
        (["--like", tmp_path / "none.json"], "does not tell"),
        (["--like", tmp_path / "nowhere.json"], "cannot be read"),
        (["--like", song], "does not tell"),
        (["--like", model / "bundle" / "bundle.json"], "does not tell"),
    ):
        done = musicldm("sample", *arguments, "-o", tmp_path / "out.wav")
        assert done.code == 1 and sentence in done.err and "Hint:" in done.err, (arguments, done.err)
    Path(mine).write_bytes(song.read_bytes() + b"x")
    done = musicldm("sample", "--like", tmp_path / "a.json", "-o", tmp_path / "out.wav")
    assert done.code == 1 and "not there as it was" in done.err
    assert not (tmp_path / "out.wav").exists()


# ---- Output ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [2, 5])
def test_normalized_to_a_loudness(sample: Command, tmp_path: Path, seconds: int) -> None:
    for lufs in (-30.0, -16.0):
        out = tmp_path / "out.wav"
        assert sample("--seconds", seconds, "--window", 2, "--normalize", lufs, "-o", out).code == 0
        meter = LoudnessMeter(RATE, 1)
        meter.add(files.read(out))
        assert meter.integrated() == pytest.approx(lufs, abs=0.2)


def test_depths_and_formats(sample: Command, tmp_path: Path) -> None:
    for name, depth, subtype in (
        ("a.wav", "16", "PCM_16"),
        ("b.wav", "24", "PCM_24"),
        ("c.wav", "float", "FLOAT"),
        ("d.flac", "24", "PCM_24"),
    ):
        assert sample("--seconds", 1, "-o", tmp_path / name, "--bit-depth", depth).code == 0
        assert soundfile.info(str(tmp_path / name)).subtype == subtype
    for name in ("e.mp3", "f.ogg", "g.m4a"):
        assert sample("--seconds", 1, "-o", tmp_path / name).code == 0
        assert abs(heard(tmp_path / name).shape[1] - RATE) < RATE // 2


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
    assert out.with_suffix(".json").exists() and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("loudness", [[], ["--normalize", -30]])
def test_ctrl_c_while_a_window_is_made_keeps_those_before(
    sample: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loudness: list[object]
) -> None:
    long = ["--seconds", 6, "--window", 1, "--bit-depth", "float"]
    assert sample(*long, "-o", tmp_path / "whole.wav").code == 0
    original = Generator.stream

    def stream(self: Generator, seconds: float, **options: Any) -> Any:
        pieces = original(self, seconds, **options)
        yield next(pieces)
        yield next(pieces)
        raise KeyboardInterrupt

    monkeypatch.setattr(Generator, "stream", stream)
    done = sample(*long, *loudness, "-o", tmp_path / "part.wav")
    assert done.code == 130 and "Stopped: " in done.err and done.out == f"{tmp_path / 'part.wav'}\n"
    part, whole = files.read(tmp_path / "part.wav"), files.read(tmp_path / "whole.wav")
    assert 0 < part.shape[1] < whole.shape[1] == 6 * RATE
    gain = part.std() / whole[:, : part.shape[1]].std()
    assert np.allclose(part, gain * whole[:, : part.shape[1]], atol=1e-6) and (gain == 1) == (not loudness)


def test_ctrl_c_between_takes_names_those_that_are_made(
    sample: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Generator.stream

    def stream(self: Generator, seconds: float, **options: Any) -> Any:
        if options["take"] == 2:
            raise KeyboardInterrupt
        return original(self, seconds, **options)

    monkeypatch.setattr(Generator, "stream", stream)
    done = sample("--seconds", 1, "-n", 4, "-o", tmp_path / "x-{i}.wav")
    assert done.code == 130 and "2 of 4 takes are made" in done.err
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
    done = sample("--continue", song, "--seconds", 1, "-o", tmp_path / "a.wav", "--json")
    assert json.loads(done.out)["seconds"] == [4.0] and "1 s of audio in" in done.err
    assert "0.5 s of audio in" in sample("--infill", song, "--from", 1, "--to", 1.5, "-o", tmp_path / "b.wav").err
    original = Generator.extend

    def extend(self: Generator, audio: torch.Tensor, seconds: float, **options: Any) -> Any:
        pieces = original(self, audio, seconds, **options)
        yield next(pieces)
        yield next(pieces)
        raise KeyboardInterrupt

    monkeypatch.setattr(Generator, "extend", extend)
    done = sample("--continue", song, "--seconds", 5, "--window", 1, "-o", tmp_path / "c.wav", "--json")
    told = json.loads(done.out)
    assert done.code == 130 and told["seconds"] == [heard(tmp_path / "c.wav").shape[1] / RATE]
    assert 3 < told["seconds"][0] < 8 and f"{told['seconds'][0] - 3:.4g} s of audio in" in done.err


def test_takes_are_numbered_from_the_first(
    musicldm: Command, sample: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them later do not take the names of those that are there, and are those that more at once would be."""
    monkeypatch.chdir(tmp_path)
    assert sample("--seconds", 1, "-n", 3, "-o", "all-{i}.flac").code == 0
    done = sample("--seconds", 1, "-n", 2, "--take", 2, "--format", "flac")
    assert done.out.split() == ["out-2.flac", "out-3.flac"]
    for i in (2, 3):
        assert Path(f"out-{i}.flac").read_bytes() == Path(f"all-{i}.flac").read_bytes()
    assert musicldm("sample", "--like", "out-3.flac", "-o", "again-{i}.flac").out.split() == ["again-3.flac"]


def test_only_a_file_is_replaced(sample: Command, tmp_path: Path) -> None:
    """As root, one could replace even a device."""
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    for name, sentence in (("pipe.wav", "is no file"), ("folder.wav", "is a folder")):
        done = sample("--seconds", 1, "-o", tmp_path / name)
        assert done.code == 1 and sentence in done.err and "Hint:" in done.err
    assert (tmp_path / "pipe.wav").is_fifo() and len(list(tmp_path.iterdir())) == 2


def test_a_file_of_somebody_else_is_not_overwritten(sample: Command, tmp_path: Path) -> None:
    """The recipe goes beside the take; what is there and is none stays."""
    (tmp_path / "out.json").write_text('{"mine": 1}')
    done = sample("--seconds", 1, "-o", tmp_path / "out.wav")
    assert done.code == 2 and "in the way" in done.err
    assert (tmp_path / "out.json").read_text() == '{"mine": 1}' and not (tmp_path / "out.wav").exists()
    for _ in range(2):
        assert sample("--seconds", 1, "-o", tmp_path / "again.wav").code == 0


# ---- Bad input -------------------------------------------------------------------------------------------------------


def test_ways_and_options_that_exclude_each_other(sample: Command, song: Path, tmp_path: Path) -> None:
    for arguments, sentence in (
        (["--init", song, "--loop"], "different ways"),
        (["--init", song, "--infill", song], "different ways"),
        (["--strength", 0.5], "--strength does not go with new music"),
        (["--infill", song, "--from", 1], "needs a --to"),
        (["--seed", 3, "--interpolate-seeds", 1, 2], "--seed does not go with --interpolate-seeds"),
        (["-o", tmp_path / "new" / "out.json", "--format", "wav"], "cannot hold both"),
        (["-o", tmp_path / "new" / "take.{i}", "--format", "wav", "-n", 2], "more than one take"),
        (["--infill", song], "no spans"),
        (["--from", 1, "--to", 2], "does not go with new music"),
        (["--init", song, "--seconds", 3], "--seconds does not go with --init"),
        (["--loop", "--joint"], "--joint does not go with --loop"),
        (["--infill", song, "--from", 1, "--to", 2, "--normalize", -16], "--normalize does not go with --infill"),
        (["-o", "-", "--normalize", -16], "only at its end"),
        (["-o", "-", "--json"], "both want stdout"),
        (["-o", "-", "--interpolate-seeds", 1, 2], "cannot go to stdout"),
        (["-o", tmp_path / "a.mp3", "--bit-depth", "24"], "no bit depth"),
        (["-o", tmp_path / "a.flac", "--bit-depth", "float"], "no floats"),
        (["--normalize", 3], "no loudness"),
        (["--init", song, "-o", song], "overwrite"),
        (["--sampler", "unipc", "--eta", 1], "no eta"),
        (["--steps", 1001], "1001 sampling steps"),
        (["--guidance", 3], "told nothing"),
        (["--guidance-interval", 1, 0], "larger"),
        (["--guidance", "nan", "--artist", ARTISTS[0]], "no guidance scale"),
        (["--seconds", -1], "more than 0"),
        (["--seconds", "inf"], "cannot be sampled"),
        (["--seconds", 1e-9], "cannot be sampled"),
        (["--continue", song, "--seconds", 1e300], "cannot be sampled"),
        (["--window", "inf"], "no window"),
        (["--spacing", "karras"], "karras"),
        (["--infill", song, "--from", 2, "--to", 1], "no length"),
        (["--infill", song, "--from", 2, "--to", 9], "outside"),
        (["--infill", song, "--from", 0, "--to", 3], "whole"),
        (["--infill", song, "--from", 0, "--to", 2, "--from", 1, "--to", 2.5], "overlap"),
        (["--init", song, "--strength", 0], "strength"),
    ):
        done = sample("-o", tmp_path / "new" / "out.wav", *arguments)
        assert done.code == 2 and sentence in done.err and "Traceback" not in done.err, (arguments, done)
        assert done.out == ""
    assert list(tmp_path.iterdir()) == []


def test_inputs_that_cannot_be_used(sample: Command, tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("music")
    soundfile.write(tmp_path / "nan.wav", np.full((RATE, 1), np.nan, np.float32), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", np.zeros((HOP - 1, 1), np.float32), RATE)
    there = sorted(tmp_path.iterdir())
    for name, sentence in (
        ("empty.wav", "it is empty"),
        ("text.wav", "cannot be used"),
        ("nan.wav", "not finite"),
        ("short.wav", "shorter than a latent frame"),
        ("nowhere.wav", "cannot be opened"),
    ):
        for way in (["--init"], ["--continue"], ["--infill"]):
            spans = ["--from", 0.001, "--to", 0.002] if way == ["--infill"] else []
            done = sample(*way, tmp_path / name, *spans, "-o", tmp_path / "out.wav")
            assert done.code == 1 and sentence in done.err and "Hint:" in done.err, (name, way, done.err)
    assert sorted(tmp_path.iterdir()) == there


def test_a_terminal_is_spared(sample: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    done = sample("--seconds", 1, "-o", "-")
    assert done.code == 2 and "A terminal cannot play" in done.err and done.out == ""


def test_a_folder_is_made_for_a_take_and_for_nothing_else(sample: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, sentence in (("file/deep", "is no folder"), ("new/deep", "no artist")):
        done = sample("--artist", "Nobody", "-o", tmp_path / folder / "out.wav")
        assert done.code == 1 and sentence in done.err and "Hint:" in done.err, done.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert sample("--seconds", 1, "-o", tmp_path / "new/deep/out.wav").code == 0


def test_nothing_of_the_input_goes_out_before_all_is_known(model: Path, song: Path) -> None:
    running = process(model, "--continue", song, "--artist", "Nobody", "-o", "-", "--device", "cpu")
    out, said = running.communicate(timeout=60)
    assert running.returncode == 1 and out == b"" and b"no artist" in said


def test_silence_is_said(sample: Command, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros((RATE, 2), np.float32), RATE)
    done = sample("--init", tmp_path / "silent.wav", "-o", tmp_path / "out.wav")
    assert done.code == 0 and "is silent" in done.err


def test_artists_offered(sample: Command, tmp_path: Path) -> None:
    done = sample("--artist", "Chopin", "-o", tmp_path / "out.wav")
    assert done.code == 1 and "no artist 'Chopin'" in done.err and ARTISTS[0] in done.err
    assert list(tmp_path.iterdir()) == []


def test_models_that_cannot_be_used(musicldm: Command, model: Path, tmp_path: Path) -> None:
    whole = toy_bundle()
    bundle.write(tmp_path / "vae", bundle.Bundle("vae", {"codec": whole.components["codec"]}))
    bundle.write(tmp_path / "newer", whole)
    index = json.loads((tmp_path / "newer/bundle.json").read_text())
    (tmp_path / "newer/bundle.json").write_text(json.dumps({**index, "format": 99}))
    bundle.write(tmp_path / "bare", toy_bundle(artists=()))
    for name, arguments, code, sentence in (
        ("vae", [], 1, "no denoiser"),
        ("newer", [], 1, "format 99"),
        ("bare", ["--artist", "Chopin", "--guidance", 3], 2, "without artists"),
        ("bare", ["--guidance", 3], 2, "told nothing"),
    ):
        done = musicldm("sample", "-m", tmp_path / name, *arguments, "-o", tmp_path / "out.wav")
        assert done.code == code and sentence in done.err and "Hint:" in done.err, (name, done.err)
    assert not (tmp_path / "out.wav").exists()


def test_a_stereo_model_takes_mono(musicldm: Command, song: Path, tmp_path: Path) -> None:
    bundle.write(tmp_path / "stereo", toy_bundle(channels=2))
    soundfile.write(tmp_path / "mono.wav", heard(song)[0], RATE)
    out = tmp_path / "out.wav"
    spans = ["--from", 1, "--to", 2, "--steps", 2]
    done = musicldm("sample", "-m", tmp_path / "stereo", "--infill", tmp_path / "mono.wav", *spans, "-o", out)
    assert done.code == 0, done.err
    audio = files.read(out)
    assert audio.shape[0] == 2 and np.array_equal(audio[0, : RATE // 2], audio[1, : RATE // 2])
    assert not np.array_equal(audio[0], audio[1])
