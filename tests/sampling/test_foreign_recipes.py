"""Recipes by strangers: they say how a take is made, and order nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from musicldm.media.audio import decode, files
from musicldm.sampling import Pipeline
from tests.toys import Command

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def digest(model: Path) -> str:
    return Pipeline.load(model, "cpu").hash


@pytest.fixture
def recipe(model: Path, digest: str, tmp_path: Path) -> Write:
    """Writes one of a take of half a second, with other options."""

    def write(inputs: dict[str, str] | None = None, **options: Any) -> Path:
        usual = {"model": str(model), "seconds": 0.5, "steps": 2, "sampler": "ddim"}
        data = {"options": usual | options, "take": 1, "of": 1, "model": {"name": "toy", "hash": digest}}
        (tmp_path / "take.json").write_text(json.dumps(data | {"inputs": inputs or {}}))
        return tmp_path / "take.json"

    return write


def test_a_recipe_is_followed(musicldm: Command, recipe: Write, tmp_path: Path) -> None:
    done = musicldm("sample", "--replay", recipe(), "-o", tmp_path / "out.wav", "--device", "cpu")
    assert done.code == 0, done.err
    assert soundfile.info(tmp_path / "out.wav").frames == 4000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("output", "mine.txt"),
        ("device", "cuda:0"),
        ("as_json", True),
        ("format", "flac"),
        ("count", 9),
        ("replay", "x"),
    ],
)
@pytest.mark.parametrize("kind", ["json", "flac"])
def test_what_is_not_a_recipes_affair(
    musicldm: Command,
    recipe: Write,
    tmp_path: Path,
    name: str,
    value: object,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    source = recipe(**{name: value})
    if kind == "flac":
        comment = source.read_text()
        with files.piecewise(tmp_path / "take.flac", 8000, 1, 10, comment=comment) as append:
            append(np.zeros((1, 10), np.float32))
        source = tmp_path / "take.flac"
    done = musicldm("sample", "--replay", source)
    assert done.code == 1 and f"sets {name!r}, which no recipe may" in done.err and "Hint:" in done.err
    assert (tmp_path / "mine.txt").read_text() == "mine" and not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize(
    "address",
    ["hf://evil/model", "hf:/evil/model", "s3://bucket/model", "https://evil/x", "\\\\evil\\share", "//evil/share"],
)
def test_nothing_is_fetched_at_a_recipes_word(
    musicldm: Command, recipe: Write, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from musicldm import models

    def asked(*_: object) -> Path:
        raise AssertionError("It was looked for.")

    source = recipe(model=address)
    with monkeypatch.context() as patched:
        patched.setattr(models, "find", asked)
        done = musicldm("sample", "--replay", source, "-o", tmp_path / "out.wav")
    assert done.code == 1 and "would have to be fetched" in done.err and f"--model {address}" in done.err
    assert "would have to be fetched" not in musicldm("sample", "--replay", source, "--model", "nowhere/x").err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("seconds", 1e9), ("seconds", -1), ("steps", 10**9), ("repaint", 10**6), ("window", 1e12), ("seed", 1 << 64)),
        *(("guidance", 1e300), ("artist", "x" * 20_000), ("start", [0.0] * 20_000), ("normalize", 40), ("strength", 2)),
        *(("condition", ["a=b\0"]), ("guidance_interval", [0, 7])),
    ],
)
def test_a_recipe_keeps_to_its_ranges(
    musicldm: Command, recipe: Write, tmp_path: Path, name: str, value: object
) -> None:
    done = musicldm("sample", "--replay", recipe(**{name: value}), "-o", tmp_path / "out.wav")
    assert done.code == 1 and f"its {name} is" in done.err and not (tmp_path / "out.wav").exists()


def test_a_recipe_opens_only_files_that_it_knows(musicldm: Command, recipe: Write, song: Path, tmp_path: Path) -> None:
    known = {str(song): hashlib.sha256(song.read_bytes()).hexdigest()}
    out = ("-o", tmp_path / "out.wav", "--device", "cpu")
    done = musicldm("sample", "--replay", recipe(seconds=None, vary=str(song), inputs={}), *out)
    assert done.code == 1 and f"nothing is known of its {song}" in done.err
    done = musicldm("sample", "--replay", recipe(seconds=None, vary="/dev/zero", inputs={"/dev/zero": "0" * 64}), *out)
    assert done.code == 1 and "is missing, or has changed" in done.err
    assert musicldm("sample", "--replay", recipe(seconds=None, vary=str(song), inputs=known), *out).code == 0


def test_a_sound_bomb_is_not_held_in_memory(
    sample: Command, song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "bomb.flac", np.zeros(8000 * 60, np.int16), 8000)
    assert (tmp_path / "bomb.flac").stat().st_size < 60_000
    taken = 0

    def counted(*arguments: Any) -> Any:
        nonlocal taken
        for block in real(*arguments):
            taken += block.nbytes
            yield block

    real = decode.decode
    monkeypatch.setattr(decode, "decode", counted)
    monkeypatch.setattr(decode, "LARGEST_SOUND", 4 * 8000 * 5)
    for task in ("--vary", "--extend"):
        done = sample(task, tmp_path / "bomb.flac", "-o", tmp_path / "out.wav")
        assert done.code == 1 and "longer than 0.0833 minutes" in done.err, done.err
    assert taken < 1 << 20  # of the two megabytes that it holds, twice
    assert sample("--vary", song, "-o", tmp_path / "out.wav").code == 0


@pytest.mark.parametrize("value", ["nan", "-inf", "-1", "1e300"])
@pytest.mark.parametrize(
    "option",
    [
        *("--from", "--to", "--seconds", "--strength", "--position", "--guidance", "--guidance-rescale", "--eta"),
        *("--window", "--normalize", "--seed", "--steps", "--repaint", "--take", "--count"),
    ],
)
def test_no_number_is_a_fault(sample: Command, song: Path, tmp_path: Path, option: str, value: str) -> None:
    task: dict[str, list[str | Path]] = {
        "--from": ["--infill", song, "--to", "1"],
        "--to": ["--infill", song, "--from", "1"],
        "--strength": ["--vary", song],
        "--guidance": ["--artist", "Frédéric Chopin"],
    }
    steps = ["--sampler", "ddim"] if option == "--eta" else []
    number = (
        "9" * 30 if option in ("--seed", "--steps", "--repaint", "--take", "--count") and value == "1e300" else value
    )
    line = [*task.get(option, ["--seconds", "0.2"]), *steps, f"{option}={number}"]
    done = sample(*line, "-o", tmp_path / "out.wav")
    assert done.code in (1, 2) or (option, value) in (("--seed", "-1"), ("--guidance", "-1"), ("--normalize", "-1"))
    assert "bug in musicldm" not in done.err, done.err
