"""Takes made again, from the recipe beside them or in their metadata."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from musicldm.cli import sidecar
from musicldm.core import bundle
from musicldm.media.audio import files
from tests.toy_model import ARTISTS, toy_bundle
from tests.toys import Command


@pytest.mark.parametrize("name", ["take.wav", "take.flac", "take.mp3"])
def test_a_take_is_made_again_from_its_recipe(
    musicldm: Command, sample: Command, song: Path, tmp_path: Path, name: str
) -> None:
    odd = ["--vary", song, "--strength", 0.3, "--seed", 4, "--sampler", "ddim", "--eta", 0.5, "-n", 2]
    odd += ["--artist", f"{ARTISTS[0]}:3,{ARTISTS[1]}:1", "--guidance-interval", 0.2, 0.8, "--guidance", 2]
    assert sample(*odd, "-o", tmp_path / name).code == 0
    second = tmp_path / name.replace("take", "take-2")
    wanted = second.read_bytes()
    for source in (second, Path(f"{second}.json")):
        again = tmp_path / f"again{second.suffix}"
        done = musicldm("sample", "--replay", source, "-o", again, "--device", "cpu")
        assert done.code == 0, done.err
        assert again.read_bytes() == wanted
    done = musicldm("sample", "--replay", second, "-o", again, "--device", "cpu", "--seed", 5)
    assert again.read_bytes() != wanted and json.loads(Path(f"{again}.json").read_text())["options"]["eta"] == 0.5


def test_a_place_with_odd_blanks_is_found_again(sample: Command, song: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two  and one\u00a0that holds"
    folder.mkdir()
    mine = shutil.copy(song, folder / "in.flac")
    for name in ("a.wav", "a.flac", "a.mp3"):
        assert sample("--vary", mine, "-o", tmp_path / name).code == 0
        done = sample("--replay", tmp_path / name, "-o", tmp_path / f"again-{name}")
        assert done.code == 0, done.err


def test_a_recipe_goes_on_from_other_music_and_with_other_takes(
    musicldm: Command, sample: Command, song: Path, tmp_path: Path
) -> None:
    mine = Path(shutil.copy(song, tmp_path / "in.flac"))
    assert sample("--vary", mine, "-o", tmp_path / "a.wav").code == 0
    mine.unlink()
    again = ("--replay", tmp_path / "a.wav.json", "-o", tmp_path / "b.wav")
    done = musicldm("sample", *again)
    assert done.code == 1 and "is missing, or has changed" in done.err and "where the take was made" in done.err
    assert musicldm("sample", *again, "--vary", song).code == 0
    assert (tmp_path / "b.wav").read_bytes()[-1000:] == (tmp_path / "a.wav").read_bytes()[-1000:]
    task = ["--interpolate-seeds", 1, 2, "--seconds", 0.5]
    assert sample(*task, "-n", 3, "-o", tmp_path / "c-{i}.wav").code == 0
    done = musicldm("sample", "--replay", tmp_path / "c-2.wav.json", "-n", 4, "-o", tmp_path / "d-{i}.wav")
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
    done = musicldm("sample", "--replay", tmp_path / "odd.json", "-o", tmp_path / "out.wav")
    assert done.code == 1 and f"its {key} is" in done.err and "Hint:" in done.err


def test_recipes_that_cannot_be_followed(
    musicldm: Command, sample: Command, song: Path, model: Path, tmp_path: Path
) -> None:
    mine = shutil.copy(song, tmp_path / "in.flac")
    assert sample("--vary", mine, "-o", tmp_path / "a.wav").code == 0
    (tmp_path / "bad.json").write_text('{"options": 3}')
    (tmp_path / "none.json").write_text("[]")
    bundle.write(tmp_path / "other", toy_bundle(artists=()))
    for arguments, sentence in (
        (["--replay", tmp_path / "a.wav.json", "-m", tmp_path / "other"], "another model"),
        (["--replay", tmp_path / "bad.json"], "does not say"),
        (["--replay", tmp_path / "none.json"], "does not say"),
        (["--replay", tmp_path / "nowhere.json"], "cannot be read"),
        (["--replay", song], "does not say"),
        (["--replay", model / "bundle" / "bundle.json"], "does not say"),
    ):
        done = musicldm("sample", *arguments, "-o", tmp_path / "out.wav")
        assert done.code == 1 and sentence in done.err and "Hint:" in done.err, (arguments, done.err)
    Path(mine).write_bytes(song.read_bytes() + b"x")
    done = musicldm("sample", "--replay", tmp_path / "a.wav.json", "-o", tmp_path / "out.wav")
    assert done.code == 1 and "is missing, or has changed" in done.err
    assert not (tmp_path / "out.wav").exists()


# ---- Of release 0.1 --------------------------------------------------------------------------------------------------


def test_a_recipe_of_0_1_has_its_options_renamed() -> None:
    old = {"options": {"init": "a.wav", "resample": 2, "extend": None, "steps": 3}, "take": 1, "of": 1}
    new = sidecar.upgraded(old)
    assert new == {**old, "options": {"vary": "a.wav", "repaint": 2, "extend": None, "steps": 3}}
    assert sidecar.upgraded(new) == new


@pytest.mark.parametrize("kind", [["--vary", "SONG"], ["--infill", "SONG", "--from", 1, "--to", 2, "--repaint", 2]])
def test_a_take_of_0_1_is_made_again(
    musicldm: Command, sample: Command, song: Path, tmp_path: Path, kind: list[object]
) -> None:
    arguments = [song if each == "SONG" else each for each in kind]
    assert sample(*arguments, "-o", tmp_path / "a.wav").code == 0
    recipe = json.loads((tmp_path / "a.wav.json").read_text())
    names = {"vary": "init", "repaint": "resample"}
    recipe["options"] = {names.get(name, name): value for name, value in recipe["options"].items()}
    (tmp_path / "old.json").write_text(json.dumps(recipe))
    done = musicldm("sample", "--replay", tmp_path / "old.json", "-o", tmp_path / "b.wav", "--device", "cpu")
    assert done.code == 0, done.err
    assert (tmp_path / "b.wav").read_bytes() == (tmp_path / "a.wav").read_bytes()


@pytest.mark.parametrize(
    ("old", "new"),
    [("--like", "--replay"), ("--init", "--vary"), ("--continue", "--extend"), ("--resample", "--repaint")],
)
def test_an_old_spelling_is_answered_with_the_new_one(sample: Command, tmp_path: Path, old: str, new: str) -> None:
    for arguments in ([old, "2"], [f"{old}=2"]):
        done = sample("-o", tmp_path / "out.wav", *arguments)
        assert done.code == 2 and f"{old} is now called {new}" in done.err and "Hint:" in done.err
    assert list(tmp_path.iterdir()) == []
