"""Models by name, by path and from a hub on loopback: what is found, what is fetched, and the errors for the rest."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from musicldm import models
from musicldm.core import bundle
from musicldm.core.errors import BundleError, UsageError
from musicldm.media.audio import files
from tests.toy_model import toy_bundle
from tests.toys import Command

CARD = """---
what: Bells, rung by nobody
license: CC0-1.0
---
# bells

Three <notes> of it.
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: bells, with a card, and piano, without one."""
    folder = tmp_path_factory.mktemp("shelf")
    for name in ("bells", "piano"):
        bundle.write(folder / name, toy_bundle())
    (folder / "bells" / "card.md").write_text(CARD, encoding="utf-8")
    (folder / "bells" / "notes").mkdir()
    (folder / "no-model").mkdir()
    return folder


@pytest.fixture
def named(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MUSICLDM_MODELS", f"{shelf}{os.pathsep}/nowhere")
    return shelf


# ---- Names -----------------------------------------------------------------------------------------------------------


def test_models_are_listed_with_what_their_cards_say(named: Path, musicldm: Command) -> None:
    listed = {each["name"]: each for each in json.loads(musicldm("models", "--json").out)["models"]}
    assert {"bells", "piano"} <= listed.keys() and "no-model" not in listed
    assert listed["bells"]["what"] == "Bells, rung by nobody" and listed["bells"]["license"] == "CC0-1.0"
    sizes = [each.stat().st_size for each in (named / "bells").iterdir() if each.is_file()]
    assert listed["bells"]["bytes"] == sum(sizes)
    assert listed["piano"]["license"] == "not stated"
    table = musicldm("models").out
    assert "Bells, rung by nobody" in table and "CC0-1.0" in table


def test_a_card_is_printed_as_it_stands(named: Path, musicldm: Command) -> None:
    assert musicldm("models", "bells").out == "# bells\n\nThree <notes> of it.\n"
    assert json.loads(musicldm("models", "bells", "--json").out)["card"].startswith("# bells")
    silent, unknown = musicldm("models", "piano"), musicldm("models", "cello")
    assert silent.code == 0 and "no card" in silent.err
    assert unknown.code == 1 and "bells" in unknown.err


def test_sample_takes_a_name_and_without_one_the_piano(named: Path, musicldm: Command, tmp_path: Path) -> None:
    takes = []
    options: list[list[str | Path]] = [["-m", "bells"], ["-m", named / "bells"], []]
    for number, model in enumerate(options):
        path = tmp_path / f"{number}.wav"
        done = musicldm("sample", *model, "--seconds", 0.2, "--steps", 2, "--device", "cpu", "-o", path)
        assert done.code == 0, done.err
        takes.append(files.read(path))
    assert (takes[0] == takes[1]).all() and (takes[0] == takes[2]).all()  # one toy under two names
    assert musicldm("sample", "--replay", tmp_path / "0.wav", "-o", tmp_path / "again.wav").code == 0
    assert (files.read(tmp_path / "again.wav") == takes[0]).all()


def test_paths_and_names_meet(named: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "piano").mkdir()  # somebody's recordings
    assert models.find("piano") == named / "piano" == models.find()
    assert models.find("./piano") == Path("piano")
    bundle.write(tmp_path / "piano" / "bundle", toy_bundle())  # a run's folder
    assert models.find("piano") == Path("piano")
    with pytest.raises(BundleError, match="no model 'cello'") as unknown:
        models.find("cello")
    assert "bells" in unknown.value.hint
    assert models.find("no/such/run") == Path("no/such/run")  # for its reader to say so


def test_without_any_model_one_is_required(monkeypatch: pytest.MonkeyPatch, musicldm: Command, tmp_path: Path) -> None:
    monkeypatch.setattr(models, "DEFAULT", "none-such")
    done = musicldm("sample", "-o", tmp_path / "out.wav")
    assert done.code == 2 and "There is no model." in done.err and "--model" in done.err


# ---- The Hub ---------------------------------------------------------------------------------------------------------


class Hub:
    """Repositories of files, served as the Hugging Face Hub does; `served` are the files that were downloaded."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.served: list[str] = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, body: bool) -> None:
                repository, _, rest = self.path.lstrip("/").partition("/resolve/")
                revision, _, file = rest.partition("/")
                held = hub.repositories.get(repository)
                if held is None:
                    return self.refuse("RepoNotFound")
                if revision not in ("main", "v1", COMMIT):
                    return self.refuse("RevisionNotFound")
                if file not in held:
                    return self.refuse("EntryNotFound")
                self.send_response(200)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hash(held[file]):x}"')
                self.send_header("Content-Length", str(len(held[file])))
                self.end_headers()
                if body:
                    hub.served.append(file)
                    self.wfile.write(held[file])

            def refuse(self, code: str) -> None:
                self.send_response(404)
                self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def hub(shelf: Path) -> Iterator[Hub]:
    hub = Hub()
    model = {each.name: each.read_bytes() for each in (shelf / "bells").iterdir() if each.is_file()}
    hub.repositories["ann/bells"] = {**model, "pytorch_model.bin": b"a pickle", "other.safetensors": b"large"}
    thread = threading.Thread(target=hub.server.serve_forever)
    thread.start()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
    thread.join()


Find = Callable[..., tuple[list[str], str]]

FIND = """
import sys
from musicldm import models
from musicldm.core.errors import MusicLDMError
for address in sys.argv[1:]:
    try:
        print(models.find(address, lambda *moved: print(*moved, file=sys.stderr)))
    except MusicLDMError as error:
        print(f"{type(error).__name__}: {error} {error.hint}")
"""


@pytest.fixture
def find(hub: Hub, tmp_path: Path) -> Find:
    """`models.find` in a process of its own, since huggingface_hub reads its environment once.

    Gives what was found for each address, and the progress.
    """
    pytest.importorskip("huggingface_hub")

    def run(*addresses: str, endpoint: str = hub.address, **more: str) -> tuple[list[str], str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-c", FIND, *addresses]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment | more)
        return done.stdout.splitlines(), done.stderr

    return run


def test_a_model_of_the_hub_is_fetched_once(hub: Hub, find: Find, shelf: Path) -> None:
    (path,), progress = find("hf://ann/bells")
    fetched, ours = bundle.read(Path(path)), bundle.read(shelf / "bells")
    assert {role: each.digest for role, each in fetched.components.items()} == {
        role: each.digest for role, each in ours.components.items()
    }
    weights = sorted(file.name for file in (shelf / "bells").glob("*.safetensors"))
    assert sorted(hub.served) == ["bundle.json", *weights]  # no pickle, and nothing that is not in the bundle
    total = sum((shelf / "bells" / file).stat().st_size for file in weights)
    assert f"{total} {total} fetching hf://ann/bells" in progress.splitlines()
    hub.served.clear()
    assert find("hf://ann/bells", "hf:/ann/bells", "hf://ann/bells@v1")[0] == [path] * 3
    assert hub.served == []
    # Without a network, and where it is known that there is none.
    assert find("hf://ann/bells", endpoint="http://127.0.0.1:1")[0] == [path]
    assert find("hf://ann/bells", HF_HUB_OFFLINE="1")[0] == [path]


def test_a_model_of_the_hub_may_have_format_1(hub: Hub, find: Find) -> None:
    old = Path(__file__).parents[1] / "fixtures/release-0.1/finished/diffusion/bundle"
    assert json.loads((old / "bundle.json").read_bytes())["format"] == 1
    hub.repositories["ann/old"] = {each.name: each.read_bytes() for each in old.iterdir() if each.is_file()}
    (path,), _ = find("hf://ann/old")
    assert bundle.read(Path(path)).components.keys() == {"codec", "generator"}
    assert sorted(hub.served) == ["bundle.json", "denoiser-04ed4ae7.safetensors", "vae-a5bee601.safetensors"]


def test_what_the_hub_does_not_have_is_said(hub: Hub, find: Find) -> None:
    index = json.loads(hub.repositories["ann/bells"]["bundle.json"])
    evil = {**index, "components": {"codec": {**index["components"]["codec"], "file": "pytorch_model.bin"}}}
    hub.repositories["ann/evil"] = {"bundle.json": json.dumps(evil).encode(), "pytorch_model.bin": b"a pickle"}
    hub.repositories["ann/words"] = {"config.json": b"{}", "model.safetensors": b""}
    hub.repositories["ann/half"] = {"bundle.json": json.dumps(index).encode()}
    hub.repositories["ann/odd"] = {"bundle.json": b"[]"}
    cases = {
        "hf://ann/cello": "BundleError: There is no hf://ann/cello.",
        "hf://ann/bells@v9": "BundleError: hf://ann/bells has no revision 'v9'.",
        "hf://ann/words": "BundleError: There is no bundle in hf://ann/words",
        "hf://ann/odd": "BundleError: There is no bundle in hf://ann/odd",
        "hf://ann/evil": "BundleError: hf://ann/evil names 'pytorch_model.bin', which is not a safetensors file.",
        "hf://ann/half": "BundleError: hf://ann/half lacks a file",
        "hf://ann/a..b": "UsageError: hf://ann/a..b is not a valid name of a model on the Hub.",
    }
    said, _ = find(*cases)
    for line, expected in zip(said, cases.values(), strict=True):
        assert line.startswith(expected)
    assert "pytorch_model.bin" not in hub.served


def test_no_network_and_no_library_are_said_at_once(find: Find, tmp_path: Path) -> None:
    (down,), _ = find("hf://ann/bells", endpoint="http://127.0.0.1:1")
    assert down.startswith("NetworkError: The Hub does not answer, and hf://ann/bells has not been fetched before.")
    (tmp_path / "huggingface_hub.py").write_text("raise ImportError")
    (lacking,), _ = find("hf://ann/bells", PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))
    assert lacking.startswith("MissingProgramError") and "musicldm[hf]" in lacking


def test_an_address_that_is_none() -> None:
    for address in ("hf://bells", "hf://", "hf:ann/bells", "hf://a/b/c"):
        with pytest.raises(UsageError, match="not a valid address"):
            models.find(address)
