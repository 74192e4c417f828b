"""The loop itself, on a toy: micro-batches, rollbacks to the last good checkpoint, exact resume, several processes."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from musicldm.core.errors import (
    CapacityError,
    ConfigError,
    MismatchError,
    MissingProgramError,
    OutputError,
    TrainingError,
    UsageError,
)
from musicldm.training.config import TrainingConfig
from musicldm.training.processes import rank_of
from musicldm.training.run_folder import resolve_precision
from tests.training import toy_training
from tests.training.toy_training import Line, Points, differing, stopped_at, train


def last(run: Path) -> dict[str, Any]:
    return dict(torch.load(run / "checkpoints/last.ckpt", weights_only=True))


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


class Power(Exception):
    """Gone in the middle of things."""


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("moment", ["step", "micro-batch"])
def test_a_resumed_run_ends_where_the_undisturbed_one_does(moment: str, workers: int, tmp_path: Path) -> None:
    """With a second group of parameters, and after a rollback."""
    options: dict[str, Any] = {"accumulate": 2, "workers": workers, "precision": "bf16"}

    def points() -> Points:
        return Points({6: math.nan})

    train(tmp_path / "whole", points(), **options)
    assert last(tmp_path / "whole")["state"]["rollbacks"] == 1
    calls = []

    def after_a_step(done: float, total: float | None, text: str = "") -> None:
        if moment == "step" and done == 8:
            raise Power

    def inside_a_step(line: Line) -> None:
        calls.append(0)
        if moment == "micro-batch" and len(calls) == 2 * 9 + 2:
            raise Power

    with pytest.raises(Power):
        train(tmp_path / "cut", points(), progress=after_a_step, on_losses=inside_a_step, **options)
    assert last(tmp_path / "cut")["state"]["step"] == 5
    train(tmp_path / "cut", points(), **options | {"workers": 2 - workers})
    assert differing(tmp_path / "whole", tmp_path / "cut") == []
    assert rows(tmp_path / "whole") == rows(tmp_path / "cut")


def test_a_step_in_micro_batches_is_the_same_step(tmp_path: Path) -> None:
    """Also the noise that the loss adds to each crop is the same."""
    train(tmp_path / "whole")
    train(tmp_path / "split", accumulate=4)
    whole, split = (last(tmp_path / run)["state_dict"] for run in ("whole", "split"))
    for name, tensor in whole.items():
        torch.testing.assert_close(split[name], tensor, rtol=1e-4, atol=1e-6)
    for one, other in zip(rows(tmp_path / "whole"), rows(tmp_path / "split"), strict=True):
        assert one["name"] == other["name"] and float(one["value"]) == pytest.approx(float(other["value"]), rel=1e-3)


def test_the_learning_rate_climbs_and_falls(tmp_path: Path) -> None:
    """Over the optimizer's steps, whatever the number of micro-batches; each group from its own peak."""
    rates: list[tuple[float, ...]] = []

    class Watched(Line):
        def make_optimizer(self) -> torch.optim.Optimizer:
            self.optimizer = super().make_optimizer()
            return self.optimizer

        def update_ema(self) -> None:
            rates.append(tuple(group["lr"] for group in self.optimizer.param_groups))
            super().update_ema()

    train(tmp_path, module=Watched, accumulate=2, steps=20, warmup=4)
    peaks = [min(1, (k + 1) / 4) * (0.05 + 0.95 * (0.5 + 0.5 * math.cos(math.pi * k / 20))) for k in range(20)]
    assert rates == [pytest.approx((0.01 * peak, 0.003 * peak)) for peak in peaks]


def test_a_loss_that_is_no_number_is_met_once(tmp_path: Path) -> None:
    said: list[str] = []
    source = Points({7: math.nan})
    result = train(tmp_path, source, announce=said.append, accumulate=4)
    assert result.steps == 12 and not result.interrupted
    # Position 7 is step 7, which went back to the checkpoint of step 5: 12 steps, and 3 batches for nothing.
    state = last(tmp_path)["state"]
    assert (state["step"], state["position"], state["rollbacks"], state["lr_factor"]) == (12, 15, 1, 0.5)
    assert source.drawn[:15] == list(range(15))
    (sentence,) = said
    # Of the four micro-batches, each of one crop, only one was bad.
    assert "At step 7" in sentence and "no longer a number on Artist/Song 7.wav at 1.0 s: back to step 5" in sentence
    assert "0.005" in sentence
    (event,) = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    assert event["step"] == 7 and event["back_to"] == 5 and event["crops"] == ["Artist/Song 7.wav at 1.0 s"]
    weights = last(tmp_path)["state_dict"]
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    measured = [int(row["step"]) for row in rows(tmp_path) if row["name"] == "val/loss"]
    assert measured == [0, 5, 10, 12]
    assert all(math.isfinite(float(row["value"])) for row in rows(tmp_path))


def test_nothing_of_a_bad_batch_remains(tmp_path: Path) -> None:
    """A run whose fifth batch is bad ends as one that never drew it, at the same learning rate."""

    class Skipping(Line):
        def update_ema(self) -> None:
            super().update_ema()
            if self.state.position == 5:  # the fifth batch is trained on
                self.state.position = 6
                self.state.lr_factor = 0.5

    class Others(Points):
        def batch(self, position: int, batch_size: int, part: slice) -> torch.Tensor:
            return super().batch(position + (position >= 5), batch_size, part)

    train(tmp_path / "bad", Points({5: math.inf}), steps=8)
    train(tmp_path / "skipped", Others(), module=Skipping, steps=8)
    bad, skipped = (last(tmp_path / run)["state_dict"] for run in ("bad", "skipped"))
    for name, tensor in bad.items():
        assert torch.equal(tensor, skipped[name]), name


def test_a_jump_of_the_loss(tmp_path: Path) -> None:
    """Only once the loss is known; an early one is a beginning like many."""
    said: list[str] = []
    train(tmp_path, Points({3: 30.0, 61: 1e4}), steps=70, ema=0.9, announce=said.append)
    (sentence,) = said
    assert "At step 61 the loss jumped from about" in sentence and "back to step 60" in sentence
    assert "Song 61.wav at 0.0 s, Artist/Song 61.wav at 1.0 s" in sentence and "and 1 more" in sentence


def test_a_checkpoint_that_was_bad_itself(tmp_path: Path) -> None:
    """Nothing can be learned from the weights of step 10; those of step 5 are still there, also after a cut."""

    class Poisoned(Line):
        def update_ema(self) -> None:
            super().update_ema()
            if self.state.position == 10:
                torch.nn.init.constant_(self.model.weight, math.nan)

    def cut(sentence: str) -> None:
        said.append(sentence)
        if len(said) == 2:
            raise Power

    said: list[str] = []
    assert train(tmp_path / "whole", module=Poisoned, announce=said.append).steps == 12
    assert ["At step 10" in sentence for sentence in said] == [True, True]
    assert "back to step 10" in said[0] and "back to step 5" in said[1]
    assert last(tmp_path / "whole")["state"]["lr_factor"] == 0.25
    said.clear()
    with pytest.raises(Power):
        train(tmp_path / "cut", module=Poisoned, announce=cut)
    train(tmp_path / "cut", module=Poisoned)
    assert differing(tmp_path / "whole", tmp_path / "cut") == []


def test_a_validation_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    looks = iter([3.0, math.nan, 1.0, 2.0])

    class Judged(Line):
        def validate(self) -> dict[str, float]:
            return {"loss": next(looks)}

    train(tmp_path, module=Judged, steps=15)
    best = torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)["state"]
    assert (best["step"], best["best_loss"]) == (10, 1.0)


def test_a_full_device_is_one_sentence(tmp_path: Path) -> None:
    def overflow(line: Line) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    with pytest.raises(CapacityError, match="does not have enough memory for a step") as caught:
        train(tmp_path, on_losses=overflow)
    assert "--vram" in caught.value.hint


def test_patience_ends(tmp_path: Path) -> None:
    bad = dict.fromkeys((3, 6, 9), math.nan)
    with pytest.raises(TrainingError, match=r"At step 2 .* has gone back 2 times already") as caught:
        train(tmp_path, Points(bad), patience=2)
    assert "--learning-rate" in caught.value.hint
    assert last(tmp_path)["state"]["rollbacks"] == 2, "what was on disk stays good"
    # Patience may change; the same run goes on.
    assert train(tmp_path, Points(bad), patience=3).steps == 12


def test_scaled_gradients_that_overflow_are_passed_over(tmp_path: Path) -> None:
    """In 16 bits an infinite gradient is the scale's fault, until it happens twenty times in a row."""
    said: list[str] = []
    train(tmp_path / "few", announce=said.append, precision="16")
    few = last(tmp_path / "few")
    passed_over = few["state"]["position"] - 12
    assert said == [] and (few["state"]["step"], few["state"]["overflows"]) == (12, 0)
    assert passed_over > 0 and few["scaler"]["scale"] == 65536 / 2**passed_over
    assert len([row for row in rows(tmp_path / "few") if row["name"] == "val/loss"]) == 4

    class Overflowing(Line):
        def forward_backward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
            terms = super().forward_backward(batch)
            if 6 <= self.state.position <= 26:
                self.model.weight.grad.fill_(math.inf)  # type: ignore[union-attr]
            return terms

    train(tmp_path / "many", module=Overflowing, announce=said.append, precision="16", steps=30)
    (sentence,) = said
    assert "had a gradient that is not a number" in sentence and "Song 25.wav" in sentence


def test_three_checkpoints_and_the_best_of_them(tmp_path: Path) -> None:
    """The toy gets worse after step 5: the best stays where it was."""

    class Worse(Line):
        def validate(self) -> dict[str, float]:
            return {"loss": abs(self.step - 5.0)}

    train(tmp_path, module=Worse)
    steps = {path.stem: torch.load(path, weights_only=True)["state"]["step"] for path in tmp_path.glob("*/*.ckpt")}
    assert steps == {"last": 12, "previous": 10, "best": 5}
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
        "previous.ckpt",
    ]


def test_a_batch_divides_into_micro_batches() -> None:
    with pytest.raises(ConfigError, match="10 crops does not divide into 4 equal micro-batches"):
        TrainingConfig(batch_size=10, accumulate=2, devices=2)


def test_precision_is_settled_once(tmp_path: Path) -> None:
    auto = TrainingConfig(precision="auto")
    assert resolve_precision(auto, tmp_path, toy_training.CPU).precision == "32"
    (tmp_path / "config.json").write_text('{"training": {"precision": "bf16"}}')
    assert resolve_precision(auto, tmp_path, toy_training.CPU).precision == "bf16"
    assert resolve_precision(TrainingConfig(precision="32"), tmp_path, toy_training.CPU).precision == "32"
    with pytest.raises(UsageError, match="Unknown precision"):
        resolve_precision(TrainingConfig(precision="8"), tmp_path, toy_training.CPU)


def test_another_precision_does_not_resume(tmp_path: Path) -> None:
    train(tmp_path, steps=2)
    with pytest.raises(MismatchError, match=r"training\.precision differ"):
        train(tmp_path, steps=4, precision="bf16")


def test_two_trainings_cannot_share_a_folder(tmp_path: Path) -> None:
    def another(line: Line) -> None:
        with pytest.raises(OutputError, match="Another run is writing to"):
            train(tmp_path)
        raise Power

    with pytest.raises(Power):
        train(tmp_path, on_losses=another)
    assert train(tmp_path).steps == 12


def test_a_logger_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingProgramError, match="Weights & Biases") as caught:
        train(tmp_path, wandb="music")
    assert "pip install wandb" in caught.value.hint


def test_launchers_say_who_is_who(monkeypatch: pytest.MonkeyPatch) -> None:
    four = TrainingConfig(devices=2, nodes=2, batch_size=8)
    for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert rank_of(four) == 0
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert rank_of(four) == 1
    monkeypatch.setenv("NODE_RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert rank_of(four) == 3
    monkeypatch.setenv("RANK", "2")
    assert rank_of(four) == 2
    assert rank_of(TrainingConfig()) == 0, "tasks of a job that each train alone are each their own main process"


def alone(run: Path, **options: object) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, toy_training.__file__, str(run), json.dumps(options)]
    return subprocess.run(script, capture_output=True, text=True, check=False, timeout=300)


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Past a batch that is bad for one of them, until the other one hears a signal."""
    two, one = tmp_path / "two/run", tmp_path / "one"
    done = alone(two, devices=2, bad={"7": math.inf}, stop=12)
    assert done.returncode == 0, done.stderr
    said: list[str] = []
    results: list[str] = []
    for line in done.stdout.splitlines():
        (results if line.startswith("{") else said).append(line)
    assert sorted(map(json.loads, results), key=str) == [
        {"main": main, "steps": 10, "interrupted": True} for main in (False, True)
    ]
    (sentence,) = said
    assert "Song 7.wav at 0.0 s, Artist/Song 7.wav at 1.0 s: back to step 5" in sentence, "the crops of one process"
    first, second = (torch.load(two.with_name(f"rank-{rank}.pt"), weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)

    train(one, Points({7: math.inf}), on_losses=stopped_at(12, rank=0), accumulate=2)
    assert last(two)["state"]["position"] == last(one)["state"]["position"] == 13
    for name, tensor in last(one)["state_dict"].items():
        torch.testing.assert_close(first[name], tensor, rtol=1e-4, atol=1e-6)
    assert [(row["step"], row["name"]) for row in rows(two)] == [(row["step"], row["name"]) for row in rows(one)]


def test_a_signal_in_the_middle_of_a_step_waits_for_its_end(tmp_path: Path) -> None:
    said: list[str] = []
    train(tmp_path / "whole", accumulate=2)
    stop = stopped_at(7, rank=0)
    stopped = train(tmp_path / "stopped", on_losses=stop, announce=said.append, accumulate=2)
    assert stopped.interrupted and stopped.steps == 8 and last(tmp_path / "stopped")["state"]["position"] == 8
    assert said == ["Saving after this step; Ctrl-C again stops at once."]
    assert train(tmp_path / "stopped", accumulate=2).steps == 12
    assert differing(tmp_path / "whole", tmp_path / "stopped") == []
    assert rows(tmp_path / "whole") == rows(tmp_path / "stopped")
