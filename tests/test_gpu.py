"""What only a GPU can show; passed over where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from musicldm.codecs.base import CODECS
from musicldm.codecs.vae.config import VAERunConfig
from musicldm.codecs.windows import encode_long
from musicldm.core.config import from_dict, preset
from musicldm.core.errors import UsageError
from musicldm.media.audio import files
from musicldm.sampling import Pipeline as SamplingPipeline
from musicldm.training import memory_plan as memory
from tests.toys import TOY_SPECTRAL, Command, Pipeline

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_windows_agree_with_the_whole_track(pipeline: Pipeline) -> None:
    vae = SamplingPipeline.load(pipeline.ldm, "cuda").codec
    waveform = torch.from_numpy(files.read(next(pipeline.wav.glob("*/*.wav"))))
    pieces = [
        list(encode_long(vae, lambda a, b: waveform[:, a:b], waveform.shape[1], frames)) for frames in (64, 10**6)
    ]
    windowed, whole = (torch.cat([mean for mean, _ in piece], dim=-1) for piece in pieces)
    assert (windowed - whole).norm() <= 1e-4 * whole.norm()


@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
def test_samples_are_those_of_the_cpu(precision: str, pipeline: Pipeline) -> None:
    wanted = SamplingPipeline.load(pipeline.ldm, "cpu").latents(128, steps=5)
    got = SamplingPipeline.load(pipeline.ldm, "cuda", precision).latents(128, steps=5).cpu()
    assert (got - wanted).norm() <= (1e-3 if precision == "32" else 0.1) * wanted.norm()


@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
def test_both_trainings_go_on_a_gpu(
    precision: str, pipeline: Pipeline, configs: dict[str, Path], musicldm: Command, tmp_path: Path
) -> None:
    (tmp_path / "spectral.toml").write_text(f'codec = "vae"\n{TOY_SPECTRAL}')
    trainings = [
        ("train-vae", pipeline.wav, configs["vae"]),
        ("train-vae", pipeline.wav, tmp_path / "spectral.toml"),  # with mel, a discriminator and their gradients
        ("train-diffusion", pipeline.store, configs["ldm"]),
    ]
    for number, (verb, data, config) in enumerate(trainings):
        options = ["--config", config, "--steps", 6, "--device", "cuda", "--precision", precision]
        done = musicldm(verb, data, "-o", tmp_path / str(number), *options)
        assert done.code == 0, done.err


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["32", "16"])
@pytest.mark.parametrize("name", ["base", "paper"])
def test_memory_is_what_was_predicted(name: str, precision: str, checkpointing: bool) -> None:
    run = from_dict(VAERunConfig, preset("musicldm.codecs.vae", name))
    rehearsal, cuda = CODECS.load("vae").rehearsal(run), torch.device("cuda")
    training = replace(run.training, precision=precision, batch_size=8, seconds=4.0, checkpointing=checkpointing)
    measured = memory.measure(rehearsal, training, cuda)
    predicted = memory.as_is(rehearsal, training, cuda).memory.total
    assert measured <= predicted <= 1.25 * measured


def test_a_plan_is_measured(tmp_path: Path) -> None:
    run = from_dict(VAERunConfig, preset("musicldm.codecs.vae", "paper"))
    rehearsal, training = CODECS.load("vae").rehearsal(run), replace(run.training, batch_size=16)
    _, asked, plan = memory.decide(rehearsal, training, tmp_path, torch.device("cuda"), 4)
    assert asked and plan and plan.verified and plan.limit and plan.memory.total <= plan.limit
    assert torch.cuda.memory_allocated() == 0
    with pytest.raises(UsageError, match="too little"):
        memory.decide(rehearsal, training, tmp_path, torch.device("cuda"), 10**6)
