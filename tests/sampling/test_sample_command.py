"""`musicldm sample`, every task of it, with a toy model: what is written, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from musicldm.cli import sidecar
from musicldm.core import bundle
from musicldm.media.audio import files
from musicldm.media.audio.decode import probe
from musicldm.media.audio.loudness import LoudnessMeter
from musicldm.sampling import Extend, Infill, Loop, New, Original, Pipeline, Task, Vary
from tests.toy_model import ARTISTS, HOP, RATE, heard, toy_bundle
from tests.toys import Command

# ---- Tasks ----------------------------------------------------------------------------------------------------------


def test_every_task_leaves_a_file_and_says_how(sample: Command, song: Path, tmp_path: Path) -> None:
    for name, arguments, samples in (
        ("new", ["--seconds", 2], 2 * RATE),
        ("artist", ["--seconds", 1, "--artist", "johann sebastian bach", "--guidance", 3, "--position", 0.2], RATE),
        ("vary", ["--vary", song, "--strength", 0.4], 3 * RATE),
        ("infill", ["--infill", song, "--from", 0.5, "--to", 1, "--from", 2, "--to", 2.5], 3 * RATE),
        ("extend", ["--extend", song, "--seconds", 1.5], 4.5 * RATE),
        ("loop", ["--loop", "--seconds", 1], RATE),
        ("long", ["--seconds", 4, "--window", 1], 4 * RATE),
        ("joint", ["--seconds", 4, "--window", 1, "--joint"], 4 * RATE),
    ):
        out = tmp_path / f"{name}.wav"
        done = sample(*arguments, "-o", out, "--json")
        assert done.code == 0, (name, done.err)
        assert json.loads(done.out)["files"] == [str(out)]
        assert abs(heard(out).shape[1] - samples) <= HOP, name
        recipe = json.loads(sidecar.beside(out).read_text())
        assert recipe.pop("sha256") == hashlib.sha256(out.read_bytes()).hexdigest()
        assert json.loads(probe(out).comment) == recipe
        assert recipe["trained_on"] == {"tracks": 1, "artists": {ARTISTS[0]: 1}, "licences": {"CC0-1.0": 1}}
        assert recipe["options"]["steps"] == 3 and len(recipe["model"]["hash"]) == 64


def test_the_command_does_what_the_library_does(sample: Command, model: Path, song: Path, tmp_path: Path) -> None:
    pipeline = Pipeline.load(model, "cpu")
    audio = torch.from_numpy(heard(song))
    original = Original(torch.from_numpy(files.read(song)), 11025)
    request = pipeline.request(steps=3, seed=5, artist=ARTISTS[0], guidance=2.0, sampler="dpm++2m")
    given = ["--seed", 5, "--artist", ARTISTS[0], "--guidance", 2, "--sampler", "dpm++2m", "--bit-depth", "float"]
    tasks: list[tuple[list[object], Task]] = [
        (["--seconds", 1], New(1.0)),
        (["--vary", song, "--strength", 0.3], Vary(audio, 0.3)),
        (["--infill", song, "--from", 1, "--to", 2], Infill(audio, [(1.0, 2.0)], original)),
        (["--extend", song, "--seconds", 1], Extend(audio, 1.0, original)),
        (["--loop", "--seconds", 1], Loop(1.0)),
    ]
    for arguments, task in tasks:
        assert sample(*given, *arguments, "-o", tmp_path / "out.wav").code == 0
        wanted = pipeline.sample(task, request)
        assert np.array_equal(files.read(tmp_path / "out.wav"), wanted.numpy()), arguments


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
    for task in (["--interpolate", song, tmp_path / "b.flac", "-n", 3], ["--interpolate-seeds", 1, 2, "--seconds", 1]):
        done = sample(*task, "-o", tmp_path / "x-{i}.wav")
        assert done.code == 0, done.err
        takes = [Path(line) for line in done.out.splitlines()]
        assert len(takes) == (3 if "-n" in task else 5)
    assert sample("--seed", 1, "--seconds", 1, "-o", tmp_path / "seed1.wav").code == 0
    assert np.array_equal(files.read(takes[0]), files.read(tmp_path / "seed1.wav"))
    assert sample("--replay", sidecar.beside(takes[3]), "-o", tmp_path / "again.wav").code == 0
    assert (tmp_path / "again.wav").read_bytes() == takes[3].read_bytes()


# ---- Output ---------------------------------------------------------------------------------------------------------


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
    assert musicldm("sample", "--replay", "out-3.flac", "-o", "again-{i}.flac").out.split() == ["again-3.flac"]


def test_only_a_file_is_replaced(sample: Command, tmp_path: Path) -> None:
    """As root, one could replace even a device."""
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    for name, sentence in (("pipe.wav", "is not a file"), ("folder.wav", "is a folder")):
        done = sample("--seconds", 1, "-o", tmp_path / name, "--overwrite")
        assert done.code == 1 and sentence in done.err and "Hint:" in done.err
    assert (tmp_path / "pipe.wav").is_fifo() and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("mine", ["out.wav", "out.wav.json"])
def test_a_file_of_somebody_else_is_not_replaced(
    sample: Command, tmp_path: Path, song: Path, mine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where the take goes nor where its recipe goes; that is known before a model is loaded."""
    (tmp_path / mine).write_bytes(song.read_bytes())
    with monkeypatch.context() as unloadable:
        unloadable.setattr(Pipeline, "load", None)
        done = sample("--seconds", 1, "-o", tmp_path / "out.wav")
    assert done.code == 1 and f"{mine} is not replaced" in done.err and "--overwrite" in done.err
    assert [path.name for path in tmp_path.iterdir()] == [mine]
    assert (tmp_path / mine).read_bytes() == song.read_bytes()
    for overwrite in (["--overwrite"], []):  # the second time, it is a take
        assert sample("--seconds", 1, "-o", tmp_path / "out.wav", *overwrite).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.wav", "out.wav.json"]


def test_a_take_that_was_edited_since_is_not_replaced(sample: Command, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    assert sample("--seconds", 1, "-o", out).code == 0
    edited = bytearray(out.read_bytes())
    edited[-100] ^= 1  # by a program that keeps the metadata
    out.write_bytes(edited)
    assert sample("--seconds", 1, "-o", out).code == 1 and out.read_bytes() == edited
    sidecar.beside(out).unlink()  # without it, the metadata tell that musicldm made it
    assert sample("--seconds", 1, "-o", out).code == 0 and out.read_bytes() != edited


def test_what_comes_while_a_take_is_made_stays(
    sample: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Pipeline.stream

    def slowly(*arguments: Any, **options: Any) -> Iterator[torch.Tensor]:
        (tmp_path / "out.wav").write_bytes(b"mine")
        return stream(*arguments, **options)

    monkeypatch.setattr(Pipeline, "stream", slowly)
    done = sample("--seconds", 1, "-o", tmp_path / "out.wav")
    assert done.code == 1 and "is not replaced" in done.err
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out.wav", b"mine")]


def test_takes_of_two_formats_have_a_recipe_each(musicldm: Command, sample: Command, tmp_path: Path) -> None:
    for seed, name in ((1, "dup.wav"), (2, "dup.flac")):
        assert sample("--seconds", 1, "--seed", seed, "-o", tmp_path / name).code == 0
    assert {path.name for path in tmp_path.glob("*.json")} == {"dup.wav.json", "dup.flac.json"}
    assert musicldm("sample", "--replay", tmp_path / "dup.wav.json", "-o", tmp_path / "again.wav").code == 0
    assert (tmp_path / "again.wav").read_bytes() == (tmp_path / "dup.wav").read_bytes()


def test_a_take_of_0_1_is_replaced_with_its_own_recipe(sample: Command, tmp_path: Path) -> None:
    """Then the recipe had the name of the take without its suffix, and no hash."""
    for seed, name in ((1, "take.wav"), (2, "take.flac")):
        assert sample("--seconds", 1, "--seed", seed, "-o", tmp_path / name).code == 0
        recipe = json.loads(sidecar.beside(tmp_path / name).read_text())
        sidecar.beside(tmp_path / name).unlink()
        del recipe["sha256"]
    shared = tmp_path / "take.json"  # with the recipe of the last
    shared.write_text(json.dumps(recipe))
    assert sample("--seconds", 1, "--seed", 3, "-o", tmp_path / "take.wav").code == 0
    assert json.loads(shared.read_text()) == recipe, "it is that of take.flac"
    assert sample("--seconds", 1, "--seed", 3, "-o", tmp_path / "take.flac").code == 0
    assert {path.name for path in tmp_path.glob("*.json")} == {"take.wav.json", "take.flac.json"}


def test_no_recipe_insists(musicldm: Command, sample: Command, tmp_path: Path, song: Path) -> None:
    assert sample("--seconds", 1, "-o", tmp_path / "a.wav").code == 0
    recipe = json.loads((tmp_path / "a.wav.json").read_text())
    recipe["options"] |= {"overwrite": True, "output": str(tmp_path / "mine.wav")}
    (tmp_path / "evil.json").write_text(json.dumps(recipe))
    (tmp_path / "mine.wav").write_bytes(song.read_bytes())
    done = musicldm("sample", "--replay", tmp_path / "evil.json", "-o", tmp_path / "mine.wav")
    assert done.code == 1 and (tmp_path / "mine.wav").read_bytes() == song.read_bytes()


# ---- Bad input ------------------------------------------------------------------------------------------------------


def test_tasks_and_options_that_exclude_each_other(sample: Command, song: Path, tmp_path: Path) -> None:
    for arguments, sentence in (
        (["--vary", song, "--loop"], "different tasks"),
        (["--vary", song, "--infill", song], "different tasks"),
        (["--strength", 0.5], "--strength does not go with new music"),
        (["--infill", song, "--from", 1], "needs a --to"),
        (["--seed", 3, "--interpolate-seeds", 1, 2], "--seed does not go with --interpolate-seeds"),
        (["--infill", song], "no spans"),
        (["--from", 1, "--to", 2], "does not go with new music"),
        (["--vary", song, "--seconds", 3], "--seconds does not go with --vary"),
        (["--loop", "--joint"], "--joint does not go with --loop"),
        (["--infill", song, "--from", 1, "--to", 2, "--normalize", -16], "--normalize does not go with --infill"),
        (["-o", "-", "--normalize", -16], "only at its end"),
        (["-o", "-", "--json"], "both want stdout"),
        (["-o", "-", "--interpolate-seeds", 1, 2], "cannot go to stdout"),
        (["-o", tmp_path / "a.mp3", "--bit-depth", "24"], "no bit depth"),
        (["-o", tmp_path / "a.flac", "--bit-depth", "float"], "cannot hold floats"),
        (["--normalize", 3], "not a valid loudness"),
        (["--vary", song, "-o", song], "overwrite"),
        (["--sampler", "unipc", "--eta", 1], "no eta"),
        (["--steps", 1001], "1001 sampling steps"),
        (["--guidance", 3], "there is none"),
        (["--guidance-interval", 1, 0], "ascending order"),
        (["--guidance", "nan", "--artist", ARTISTS[0]], "not a valid number"),
        (["--seconds", -1], "more than 0"),
        (["--seconds", "inf"], "not a valid number"),
        (["--seconds", 1e-9], "cannot be sampled"),
        (["--extend", song, "--seconds", 1e300], "not a valid number"),
        (["--window", "inf"], "not a valid number"),
        (["--spacing", "karras"], "karras"),
        (["--infill", song, "--from", 2, "--to", 1], "no length"),
        (["--infill", song, "--from", 2, "--to", 9], "outside"),
        (["--infill", song, "--from", 0, "--to", 3], "whole"),
        (["--infill", song, "--from", 0, "--to", 2, "--from", 1, "--to", 2.5], "overlap"),
        (["--vary", song, "--strength", 0], "strength"),
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
        for task in (["--vary"], ["--extend"], ["--infill"]):
            spans = ["--from", 0.001, "--to", 0.002] if task == ["--infill"] else []
            done = sample(*task, tmp_path / name, *spans, "-o", tmp_path / "out.wav")
            assert done.code == 1 and sentence in done.err and "Hint:" in done.err, (name, task, done.err)
    assert sorted(tmp_path.iterdir()) == there


def test_a_terminal_is_spared(sample: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    done = sample("--seconds", 1, "-o", "-")
    assert done.code == 2 and "A terminal cannot play" in done.err and done.out == ""


def test_a_folder_is_made_for_a_take_and_for_nothing_else(sample: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, sentence in (("file/deep", "is not a folder"), ("new/deep", "no artist")):
        done = sample("--artist", "Nobody", "-o", tmp_path / folder / "out.wav")
        assert done.code == 1 and sentence in done.err and "Hint:" in done.err, done.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert sample("--seconds", 1, "-o", tmp_path / "new/deep/out.wav").code == 0


def test_silence_is_said(sample: Command, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros((RATE, 2), np.float32), RATE)
    done = sample("--vary", tmp_path / "silent.wav", "-o", tmp_path / "out.wav")
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
        ("vae", [], 1, "no generator"),
        ("newer", [], 1, "format 99"),
        ("bare", ["--artist", "Chopin", "--guidance", 3], 2, "without artists"),
        ("bare", ["--guidance", 3], 2, "there is none"),
    ):
        done = musicldm("sample", "-m", tmp_path / name, *arguments, "-o", tmp_path / "out.wav")
        assert done.code == code and sentence in done.err and "Hint:" in done.err, (name, done.err)
    assert not (tmp_path / "out.wav").exists()
