"""Checkpoints on a bad day: kills while saving, damage of every kind, full disks, and files that are a trap."""

from __future__ import annotations

import math
import os
import pickle
import random
import resource
import shutil
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from musicldm.core.errors import DataError, OutputError
from musicldm.training import checkpoints
from musicldm.training.checkpoints import Checkpoints, read
from musicldm.training.state import TrainState
from tests.training.toy_training import train


def state(step: int, numbers: int = 200) -> dict[str, Any]:
    return {"state": {"step": step}, "state_dict": {"a": torch.full((numbers,), float(step)), "b": torch.arange(20)}}


def saved(folder: Path, steps: int = 1, numbers: int = 200) -> Checkpoints:
    folder.mkdir(exist_ok=True)
    kept = Checkpoints(folder, lambda sentence: None)
    for step in range(1, steps + 1):
        kept.write(state(step, numbers))
    return kept


def step(checkpoint: dict[str, Any]) -> int:
    """Of a checkpoint that is right in all its numbers."""
    number = int(checkpoint["state"]["step"])
    assert (checkpoint["state_dict"]["a"] == number).all() and (checkpoint["state_dict"]["b"] == torch.arange(20)).all()
    return number


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path, full: bool) -> None:
    """`pytest --full` kills 50 times."""
    chance, rounds = random.Random(0), 50 if full else 10
    newest, last = 0, tmp_path / "last.ckpt"
    for _ in range(rounds):
        before = last.stat().st_ino if last.exists() else 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads, of which the child needs none
            child = os.fork()
        if not child:
            try:
                kept = Checkpoints(tmp_path, lambda sentence: None)
                number = newest
                while True:
                    number += 1
                    kept.write(state(number, 100_000), best=number % 2 == 0)
            finally:
                os._exit(1)
        deadline = time.monotonic() + 60
        # However slow the machine is, it has saved in between.
        while not (last.exists() and last.stat().st_ino != before) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        got = step(read(last))
        assert got > newest
        for name in ("previous", "best"):
            if (tmp_path / f"{name}.ckpt").exists():
                assert step(read(tmp_path / f"{name}.ckpt")) <= got + 1
        newest = got
    assert newest >= rounds
    assert len([path for path in tmp_path.iterdir() if not path.name.startswith(".tmp-")]) == 3


def test_any_wrong_byte_is_found_or_harmless(tmp_path: Path) -> None:
    good = saved(tmp_path / "good").last.read_bytes()
    payload = good.index(torch.full((200,), 1.0).numpy().tobytes())
    damaged = tmp_path / "damaged.ckpt"
    chance = random.Random(1)
    offsets = [payload, payload + 799, *(chance.randrange(len(good)) for _ in range(300))]
    found = 0
    for offset in offsets:
        flipped = bytearray(good)
        flipped[offset] ^= 1 << chance.randrange(8)
        damaged.write_bytes(flipped)
        try:
            assert step(read(damaged)) == 1
        except DataError:
            found += 1
            continue
        assert not payload <= offset < payload + 800
    assert found > 100
    for length in [0, 1, 100, len(good) - 1, *(chance.randrange(len(good)) for _ in range(30))]:
        damaged.write_bytes(good[:length])
        with pytest.raises(DataError, match="cannot be read: it is damaged"):
            read(damaged)


def test_the_one_before_is_there_for_a_damaged_one(tmp_path: Path) -> None:
    kept = saved(tmp_path, steps=3)
    said: list[str] = []
    kept.announce = said.append
    kept.last.write_bytes(kept.last.read_bytes()[:-100])
    assert step(kept.read()) == 2
    assert said == [f"The checkpoint {kept.last} cannot be read: it is damaged. Continuing from the one before it."]
    kept.mend()
    kept.write(state(4))
    assert (step(read(kept.last)), step(read(kept.previous))) == (4, 2)
    kept.last.unlink()
    assert kept.exist() and step(kept.read()) == 2
    kept.previous.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"There is no checkpoint .*last\.ckpt"):
        kept.read()


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (witness,)

    pickle.loads(pickle.dumps(Trap()))
    assert witness.exists(), "it does work"
    witness.unlink()
    trap = {**state(1), "format": checkpoints.FORMAT, "trap": Trap()}
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(trap))
    torch.save(trap, tmp_path / "archive.ckpt")
    torch.save(trap, tmp_path / "legacy.ckpt", _use_new_zipfile_serialization=False)
    for name in ("pickle", "archive", "legacy"):
        with pytest.raises(DataError, match="cannot be read"):
            read(tmp_path / f"{name}.ckpt")
        assert not witness.exists(), name
    # Lightning builds what a checkpoint's hyperparameters name; here these are words.
    parameters = {"_instantiator": "pathlib.Path.touch", "self": str(witness), "_class_path": "pathlib.Path"}
    torch.save({**state(1), "format": checkpoints.FORMAT, "hyper_parameters": parameters}, tmp_path / "words.ckpt")
    assert step(read(tmp_path / "words.ckpt")) == 1 and not witness.exists()
    torch.save({"state_dict": {}, "global_step": 3}, tmp_path / "old.ckpt")
    with pytest.raises(DataError, match="another version"):
        read(tmp_path / "old.ckpt")


def test_without_links_there_are_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", none)
    kept = saved(tmp_path, steps=2)
    kept.write(state(3), best=True)
    assert [step(read(path)) for path in (kept.last, kept.previous, kept.best)] == [3, 2, 3]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_full_disk_and_one_that_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = saved(tmp_path, steps=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(OutputError, match=r"Cannot write .*last\.ckpt"):
            kept.write(state(3, 10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    save = torch.save

    def forgetful(value: Any, path: Path) -> None:
        save(value, path)
        data = bytearray(path.read_bytes())
        data[data.index(torch.full((50,), 3.0).numpy().tobytes())] ^= 1
        path.write_bytes(data)

    monkeypatch.setattr(torch, "save", forgetful)
    with pytest.raises(OutputError, match="does not keep what is written"):
        kept.write(state(3))
    assert [step(read(path)) for path in (kept.last, kept.previous)] == [2, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]
    shutil.rmtree(tmp_path)
    with pytest.raises(OutputError, match="Cannot write"):
        kept.write(state(3))


def test_a_checkpoint_of_release_0_1(tmp_path: Path) -> None:
    """Format 2 had other names for the state and for the averaged weights."""
    course = {"step": 7, "position": 9, "rate_scale": 0.5, "returns": 1, "returned": 5, "overflows": 0}
    course |= {"loss_mean": 0.1, "loss_variance": 0.2, "best": 1.5}
    weights = {"model.a": torch.ones(2), "averaged.a": torch.zeros(2), "discriminator.averaged.a": torch.ones(1)}
    old = {"format": 2, "course": course, "origin": {}, "state_dict": weights, "optimizer": {}, "scaler": {}}
    torch.save(old, tmp_path / "last.ckpt")
    new = read(tmp_path / "last.ckpt")
    state = TrainState(**new["state"])
    assert (state.step, state.position, state.lr_factor, state.rollbacks, state.rolled_back_to) == (7, 9, 0.5, 1, 5)
    assert (state.loss_mean, state.loss_variance, state.best_loss) == (0.1, 0.2, 1.5)
    assert list(new["state_dict"]) == ["model.a", "ema.a", "discriminator.averaged.a"]
    assert "course" not in new and new["format"] == checkpoints.FORMAT


@pytest.mark.parametrize(
    "damage",
    [
        {"state": {"step": "many"}},
        {"state": {"step": -1.5}},
        {"state": {"step": 3, "best_loss": math.nan}},
        {"state": {"step": 3, "unknown": 1}},
        {"state": None},
        {"state_dict": {"a": "weights"}},
        {"state_dict": []},
        {"origin": {"name": 3}},
    ],
)
def test_wrong_contents_give_way_to_the_one_before(tmp_path: Path, damage: dict[str, Any]) -> None:
    kept = saved(tmp_path, steps=3)
    torch.save({**state(3), "format": checkpoints.FORMAT, **damage}, kept.last)
    said: list[str] = []
    again = Checkpoints(tmp_path, said.append)
    assert step(again.read()) == 2 and len(said) == 1 and "Continuing from the one before it" in said[0]
    again.mend()
    again.write(state(4))
    assert (step(read(again.last)), step(read(again.previous))) == (4, 2)


def test_another_trainings_checkpoint_gives_way_too(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, steps=5)
    last = run / checkpoints.FOLDER / "last.ckpt"
    train(run, steps=10)
    good = read(run / checkpoints.FOLDER / "previous.ckpt")
    for name, wrong in (
        ("state_dict", {"other": torch.zeros(3)}),
        ("optimizer", {}),
        ("optimizer", {**good["optimizer"], "state": {0: {"exp_avg": torch.zeros(7)}}}),
        ("scaler", {"scale": math.inf}),
    ):
        torch.save({**read(last), name: wrong}, last)
        said: list[str] = []
        result = train(run, steps=10, announce=said.append)
        assert result.steps == 10 and "does not fit this training" in said[0], name
