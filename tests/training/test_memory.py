"""What fits: predicted memory held against what a step really takes, plans for small cards, and what a run keeps."""

from __future__ import annotations

import functools
import itertools
import json
import random
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd.profiler import profile

from musicldm.codecs.base import CODECS
from musicldm.codecs.vae.config import VAEConfig, VAERunConfig
from musicldm.codecs.vae.model import VAE
from musicldm.core import config
from musicldm.core.errors import CapacityError, UsageError
from musicldm.generators.base import GENERATORS
from musicldm.generators.diffusion.config import DiffusionRunConfig
from musicldm.generators.diffusion.transformer import Transformer, TransformerConfig
from musicldm.generators.diffusion.unet import UNet, UNetConfig
from musicldm.nn.blocks import Checkpointable
from musicldm.training import memory_plan as memory
from musicldm.training import memory_trace
from musicldm.training.config import TrainingConfig
from musicldm.training.cuda_allocator import MIB, Allocator
from musicldm.training.memory_plan import GIB
from musicldm.training.rehearsal import Rehearsal
from tests.toy_conditions import conditioning, usual
from tests.toys import TOY_LDM, TOY_VAE, Command, Pipeline

CPU = torch.device("cpu")
# As the study's, at the full rate; a crop of a second is four blocks of its attention.
STUDY = {"patch": 1, "patch_kernel": 7, "widths": [16, 16, 32], "strides": [2, 2], "attention_block": 1000}
HEADER: Any = SimpleNamespace(channels=8, frame_rate=62.5)


@functools.cache
def toy(kind: str) -> tuple[Rehearsal, TrainingConfig]:
    """A toy training that is large enough for activations to count."""
    if kind in ("unet", "transformer"):
        model = {"network": "transformer", "transformer": {"width": 64, "depth": 3}} if kind == "transformer" else {}
        ldm = config.from_dict(DiffusionRunConfig, config.merge(tomllib.loads(TOY_LDM), {"model": model}))
        return GENERATORS.load("diffusion").rehearsal(ldm, HEADER), replace(ldm.training, batch_size=24, seconds=8.0)
    over: dict[str, Any] = {"training": {"batch_size": 8, "seconds": 1.0}}
    if kind == "study":
        over["model"] = STUDY
    elif kind == "adversarial":
        over["loss"] = {"adversarial": 1.0, "features": 1.0, "adversarial_start": 10}
        over["discriminator"] = {"width": 16}
    vae = config.from_dict(VAERunConfig, config.merge(tomllib.loads(TOY_VAE), over))
    return CODECS.load("vae").rehearsal(vae), vae.training


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans for the same training look at the same traces."""
    monkeypatch.setattr(memory, "trace", TRACED)


TRACED = functools.cache(memory_trace.trace)


def taken(rehearsal: Rehearsal, training: TrainingConfig) -> int:
    """The bytes that PyTorch's allocator for the CPU really handed out at the fullest moment of a training step."""
    with profile(profile_memory=True) as profiled:
        module, part = rehearsal.make(training, training.micro_batch_size)
        module.train()
        module.state.step = training.steps - 1
        optimizer = module.make_optimizer()
        for weight in module.parameters():  # AdamW makes its state at the first step
            weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
        optimizer.step()
        optimizer.zero_grad()
        module.forward_backward(part)
        for group in optimizer.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], training.gradient_clip)
        optimizer.step()
        module.update_ema()
    events = [event for event in profiled.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize(
    ("kind", "precision", "crops", "checkpointing"),
    [
        ("patched", "32", 8, False),
        ("study", "32", 1, True),
        ("study", "bf16", 4, False),
        ("unet", "32", 24, True),
        ("unet", "bf16", 8, False),
        ("transformer", "32", 24, True),
        ("transformer", "bf16", 8, False),
        ("adversarial", "32", 1, False),
    ],
)
def test_a_step_takes_what_was_predicted(kind: str, precision: str, crops: int, checkpointing: bool) -> None:
    rehearsal, training = toy(kind)
    training = replace(training, precision=precision, batch_size=crops, checkpointing=checkpointing)
    predicted = memory.as_is(rehearsal, training, CPU).memory.total
    # Kernels for the CPU take none or all of the scratch space that they are granted.
    assert 0.98 < predicted / taken(rehearsal, training) < 1.13


def test_nothing_is_allocated_to_predict() -> None:
    rehearsal, training = toy("study")
    with profile(profile_memory=True) as profiled:
        predicted = memory.as_is(rehearsal, replace(training, batch_size=512), CPU).memory.total
    events = [event.nbytes() for event in profiled.kineto_results.events() if event.name() == "[memory]"]
    assert predicted > 2 * GIB and max(events, default=0) < MIB


class TestAllocator:
    """The rules of CUDACachingAllocator.cpp, and what must hold of any allocator."""

    @pytest.mark.parametrize(
        ("size", "reserved"),
        [(1, 2), (MIB, 2), (MIB + 1, 20), (10 * MIB - 512, 20), (10 * MIB, 10), (10 * MIB + 1, 12), (33 * MIB, 34)],
    )
    def test_segments(self, size: int, reserved: int) -> None:
        allocator = Allocator()
        allocator.allocate(size)
        assert allocator.reserved == reserved * MIB

    def test_small_blocks_share_a_segment_and_large_ones_do_not_mix_with_them(self) -> None:
        allocator = Allocator()
        for _ in range(4096):
            allocator.allocate(1)
        assert allocator.reserved == 2 * MIB
        allocator.allocate(2 * MIB)
        assert allocator.reserved == 22 * MIB

    def test_the_best_fit_is_taken(self) -> None:
        allocator = Allocator()
        blocks = [allocator.allocate(size * MIB) for size in (50, 30)]
        for block in blocks:
            allocator.release(*block)
        allocator.allocate(30 * MIB)
        allocator.allocate(50 * MIB)
        assert allocator.reserved == 80 * MIB

    def test_a_long_life_of_chance(self) -> None:
        """No two blocks overlap, what is reserved holds them all, and what has come back is whole again."""
        allocator, chance = Allocator(), random.Random(0)
        blocks = [allocator.allocate(100 * MIB)]
        for number in range(2000):
            size = int(2 ** chance.uniform(0, 26))
            blocks.append(allocator.allocate(size))
            assert blocks[-1][1] >= size
            if chance.random() < 0.6:
                allocator.release(*blocks.pop(number % len(blocks)))
        spans = sorted((start, start + length) for start, length, _ in blocks)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
        reserved = allocator.reserved
        assert sum(end - start for start, end in spans) <= reserved
        for block in blocks:
            allocator.release(*block)
        allocator.allocate(100 * MIB)
        assert allocator.reserved == reserved


def test_cuda_is_granted_more_than_the_tensors() -> None:
    rehearsal, training = toy("study")
    traced = memory_trace.trace(rehearsal, training)
    for crops in (1, 8, 64):
        assert traced.alive(crops) < traced.reserved(crops, False) <= traced.reserved(crops, True)
    # At a size where segments are small change, the room for scratch space and rounding stays in bounds.
    assert traced.reserved(512, False) < 1.25 * traced.alive(512)


@pytest.mark.usefixtures("traced_once")
def test_less_and_less_memory() -> None:
    """Micro-batches get smaller, activations are recomputed, they get smaller still, and crops shorter at last."""
    rehearsal, training = toy("study")
    plans, limit = [], 16 * GIB
    while True:
        try:
            plan = memory.plan(rehearsal, training, "16", limit)
        except CapacityError:
            break
        assert plan.memory.total <= limit and not plan.verified
        assert plan.training.batch_size == 8
        assert plan.largest is not None and plan.largest >= plan.training.micro_batch_size
        plans.append((plan.training.checkpointing, plan.training.seconds, plan.training.micro_batch_size))
        limit = plan.memory.total - 1
    assert plans[:2] == [(False, 1.0, 8), (False, 1.0, 4)]
    order = [(True, seconds, size) for seconds in (1.0, 0.5, 0.25) for size in (8, 4, 2, 1)]
    assert plans[2:] == [choice for choice in order if choice in plans]
    assert (True, 1.0, 1) in plans and (True, 0.25, 1) in plans


def test_what_was_asked_for_is_the_least_that_is_done() -> None:
    rehearsal, training = toy("patched")
    asked = replace(training, accumulate=2, checkpointing=True)
    assert memory.plan(rehearsal, asked, "16", 80 * GIB).training == asked


@pytest.mark.usefixtures("traced_once")
def test_the_card_that_an_error_names_is_large_enough() -> None:
    rehearsal, training = toy("study")
    with pytest.raises(CapacityError, match="even for one crop") as caught:
        memory.plan(rehearsal, training, "16", 10 * MIB)
    gigabytes = int(caught.value.hint.split("--vram ")[1].removesuffix("."))
    assert memory.plan(rehearsal, training, "16", int(gigabytes * memory.USABLE * GIB))


@pytest.mark.parametrize("network", ["vae", "unet", "transformer"])
def test_checkpointing_changes_no_gradient(network: str) -> None:
    torch.manual_seed(0)
    model: Checkpointable
    if network == "vae":
        model = VAE(VAEConfig(latent_channels=4, widths=(8, 16), strides=(4,), attention_block=8))
        inputs: list[Any] = [torch.randn(2, 1, 256)]
    else:
        told = usual("Abba", "Zoë")
        # A position that is absent would leave the network for positions without a gradient.
        inputs = [
            torch.randn(2, 3, 20),
            torch.tensor([3, 700]),
            conditioning(torch.eye(2) / 2, torch.tensor([0.1, -1])),
        ]
        model = (
            UNet(UNetConfig(latent_channels=3, widths=(16, 32), blocks=1), told)
            if network == "unet"
            else Transformer(TransformerConfig(latent_channels=3, width=32, depth=3), told)
        )
    for weight in model.parameters():  # untrained, blocks are the identity
        torch.nn.init.normal_(weight, std=0.1)

    def gradients(checkpointing: bool) -> tuple[list[torch.Tensor | None], int]:
        model.checkpointing = checkpointing
        assert model.checkpointing == checkpointing
        model.zero_grad()
        torch.manual_seed(1)
        output = model(*inputs)
        saved = 0

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal saved
            saved += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            torch.manual_seed(1)
            output = model(*inputs)
        loss = output[0] if isinstance(output, tuple) else output
        loss.square().mean().backward()
        return [weight.grad for weight in model.parameters()], saved

    (plain, kept), (again, less) = gradients(False), gradients(True)
    for one, other in zip(plain, again, strict=True):
        assert one is not None and other is not None and torch.equal(one, other)
    assert less < kept / 2


def test_a_run_keeps_its_plan(musicldm: Command, pipeline: Pipeline, configs: dict[str, Path], tmp_path: Path) -> None:
    train = ["train-vae", pipeline.wav, "-o", tmp_path, "--config", configs["vae"], "--device", "cpu", "--seconds", 4]
    for steps, options in ((1, ["--vram", 0.2]), (2, ["--vram", 0.2]), (3, [])):
        done = musicldm(*train, "--steps", steps, *options, "--json")
        assert done.code == 0 and json.loads(done.out)["steps"] == steps
        assert ("unverified" in done.err) == (steps == 1)  # planned once
        kept = json.loads((tmp_path / "config.json").read_text())
        asked = {"vram": 0.2, "batch_size": 8, "seconds": 4.0, "accumulate": 1, "checkpointing": False}
        assert kept["plan"] == asked
        assert kept["training"]["accumulate"] == 2
    for option, key in (("--vram", "plan.vram"), ("--batch-size", "training.batch_size")):
        other = musicldm(*train, "--steps", 4, option, 6)
        assert other.code == 1 and key in other.err


def test_plans_are_shown(musicldm: Command, pipeline: Pipeline, configs: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train = ["train-diffusion", pipeline.store, "-o", run, "--config", configs["ldm"], "--device", "cpu"]
    done = musicldm(*train, "--vram", 0.01, "--dry-run")
    assert done.code == 1 and "may take" in done.err and "--vram 1" in done.err
    seen = musicldm(*train, "--vram", 16, "--dry-run", "--json")
    planned = json.loads(seen.out)
    assert seen.code == 0 and "unverified" in seen.err and not planned["memory"]["verified"]
    assert planned["memory"]["total"] <= planned["memory"]["limit"] == 14 * GIB
    parts = ("weights", "gradients", "optimizer", "ema", "activations")
    assert planned["memory"]["total"] == sum(planned["memory"][part] for part in parts)
    assert planned["memory"]["largest"] > planned["training"]["batch_size"] == planned["memory"]["micro_batch_size"]
    seen = musicldm(*train, "--dry-run")  # without a GPU, and without a card to plan for
    assert seen.code == 0 and "predicted" in seen.err and "training.accumulate = 1" in seen.out
    lines = seen.out.splitlines()
    assert "model.network = unet" in lines and "model.unet.blocks = 1" in lines and "{" not in seen.out
    assert not run.exists()


def test_what_was_begun_without_a_plan_goes_on_without(tmp_path: Path) -> None:
    rehearsal, training = toy("patched")
    (tmp_path / "config.json").write_text(json.dumps({"training": config.to_dict(training), "plan": None}))
    assert memory.decide(rehearsal, training, tmp_path, torch.device("cuda")) == (training, None, None)


class TestCard:
    """A GPU of which there is only the size: what is measured on it is said by the test."""

    T4 = torch.device("cuda")

    @pytest.fixture(autouse=True)
    def card(self, monkeypatch: pytest.MonkeyPatch) -> None:
        facts = SimpleNamespace(total_memory=15095 * MIB)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
        monkeypatch.setattr(memory, "trace", TRACED)

    def decided(self, tmp_path: Path, vram: float | None) -> memory.Plan:
        rehearsal, training = toy("study")
        training = replace(training, precision="16")
        decided, asked, plan = memory.decide(rehearsal, training, tmp_path, self.T4, vram)
        assert plan and asked and plan.training == decided and asked.vram == (vram or 0)
        return plan

    def test_its_size_is_the_limit(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(memory, "measure", lambda *_: 3 * GIB)
        for vram, limit in ((None, 15095 * MIB - 512 * MIB), (16, 14 * GIB), (8, 7 * GIB)):
            plan = self.decided(tmp_path, vram)
            assert (plan.limit, plan.verified, plan.memory.total) == (limit, True, 3 * GIB)

    def test_what_turns_out_larger_gives_way(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        tried = []

        def measure(rehearsal: Rehearsal, training: TrainingConfig, device: torch.device) -> int:
            tried.append(training.micro_batch_size)
            return 20 * GIB if training.micro_batch_size > 4 else 5 * GIB

        monkeypatch.setattr(memory, "measure", measure)
        assert self.decided(tmp_path, 16).training.accumulate == 2 and tried == [8, 4]

    def test_more_than_it_has(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(memory, "measure", lambda *_: 3 * GIB)
        with pytest.raises(UsageError, match=r"has 14\.7 GiB, too little for --vram 80") as caught:
            self.decided(tmp_path, 80)
        assert "8 crops of 1 s at once fit" in caught.value.hint
