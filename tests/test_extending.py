"""docs/extending.md: its codec, condition and generator go through every command, and the page shows what they are."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import soundfile

from musicldm.core import bundle
from musicldm.latents.store import LatentStore
from tests.toys import Command, Pipeline

ROOT = Path(__file__).parents[1]
TOYS = ROOT / "examples" / "extending"
FILES = ("linear_codec/__init__.py", "length_condition.py", "drift_generator/__init__.py")


def test_the_page_shows_the_files_and_they_are_short() -> None:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```(?:python|toml)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    for name in (*FILES, "pyproject.toml"):
        assert (TOYS / name).read_text(encoding="utf-8") in shown
    assert all(len((TOYS / name).read_text(encoding="utf-8").splitlines()) < 80 for name in FILES)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toys lie on the search path as if pip had installed them."""
    project = tomllib.loads((TOYS / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [
        "\n".join([f"[{group}]", *(f"{name} = {place}" for name, place in names.items())])
        for group, names in project["entry-points"].items()
    ]
    about = tmp_path / "site" / f"musicldm_toys-{project['version']}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    (about / "entry_points.txt").write_text("\n\n".join(groups))
    monkeypatch.syspath_prepend(str(about.parent))
    monkeypatch.syspath_prepend(str(TOYS))


@pytest.mark.usefixtures("installed")
def test_from_waveforms_to_new_music(pipeline: Pipeline, musicldm: Command, tmp_path: Path) -> None:
    codec, store, model, out = (tmp_path / name for name in ("linear", "linear.zarr", "drift", "out.wav"))
    for line in (
        ["train-vae", pipeline.wav, "-o", codec, "--codec", "linear", "--preset", "tiny", "--json"],
        ["encode", pipeline.wav, store, "--codec", codec],
        ["latents", "verify", store],
        ["train-diffusion", store, "-o", model, "--generator", "drift", "--preset", "tiny", "--json"],
        ["sample", "-m", model, "--seconds", 40, "--condition", "length=0.2", "-o", out],
        ["sample", "--replay", out, "-o", tmp_path / "again.wav"],
        ["reconstruct", out, tmp_path / "back.wav", "--vae", codec],
        ["doctor", store],
    ):
        done = musicldm(*line)
        assert done.code == 0, (line, done.err)
        if "--preset" in line:
            result = json.loads(done.out)
            assert result["last"]["loss"] < result["first"]["loss"]
    assert soundfile.info(out).frames == 40 * 16000
    assert (tmp_path / "again.wav").read_bytes() == out.read_bytes()
    assert LatentStore.open(store).header.codec == "linear"
    kinds = {role: component.kind for role, component in bundle.read(model).components.items()}
    assert kinds == {"codec": "linear", "generator": "drift"}


@pytest.mark.usefixtures("installed")
def test_what_they_refuse(pipeline: Pipeline, musicldm: Command, tmp_path: Path) -> None:
    for line, sentence in (
        (["train-vae", pipeline.wav, "--codec", "linera"], "There is no codec 'linera'."),
        (["train-vae", pipeline.wav, "--codec", "linera"], "Did you mean 'linear'?"),
        (["sample", "-m", pipeline.ldm, "--condition", "length=3"], "This model was trained without lengths."),
        (["sample", "-m", pipeline.ldm, "--condition", "length"], "'length' is not a valid condition"),
        (["sample", "-m", pipeline.ldm, "--condition", "colour=red"], "There is no condition 'colour'."),
    ):
        done = musicldm(*line, "-o", tmp_path / "out.wav")
        assert done.code == 2 and sentence in done.err, (line, done.err)
