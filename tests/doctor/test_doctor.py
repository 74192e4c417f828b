"""`musicldm doctor`: what is well is said to be, and each fault that is put in is found, with what to do."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from musicldm.codecs.vae.config import VAEConfig
from musicldm.codecs.vae.model import VAE
from musicldm.conditions.base import ConditionConfig
from musicldm.core import bundle
from musicldm.core.bundle import Bundle, Role
from musicldm.doctor import machine
from musicldm.doctor.examine import examine
from musicldm.doctor.findings import Finding
from musicldm.generators.diffusion.config import DiffusionConfig
from musicldm.generators.diffusion.model import Diffusion
from musicldm.generators.diffusion.unet import UNetConfig
from musicldm.latents.encode import encode
from musicldm.latents.statistics import LatentStatistics
from musicldm.latents.store import LatentStore
from musicldm.media.audio import files
from tests.codecs.phaseless import without_phase
from tests.toys import Command

RATE = 8000
SHAPE = VAEConfig(
    sample_rate=RATE,
    latent_channels=16,
    patch=16,
    patch_kernel=32,
    widths=(32,),
    strides=(),
    blocks=1,
    attention_block=4,
    heads=2,
)

Look = Callable[..., list[Finding]]


def music(seconds: float, seed: int) -> np.ndarray:
    """Notes that begin and fade, [1, T]."""
    random, since = np.random.default_rng(seed), np.arange(RATE) / RATE
    sound = np.zeros(round(seconds * RATE) + RATE)
    for start in range(0, len(sound) - RATE, RATE // 5):
        hertz = 220 * 2 ** (random.integers(24) / 12)
        partials = [np.sin(2 * np.pi * k * hertz * since) / k for k in (1, 2, 3)]
        note = sum(partials[1:], partials[0]) * np.exp(-4 * since)
        sound[start : start + RATE] += 0.1 * note
    return sound[None, :-RATE].astype(np.float32)


def prepared(folder: Path, sounds: dict[str, np.ndarray], heldout: int = 1, rate: int = RATE) -> Path:
    """A folder as `preprocess` leaves it, the last tracks held out."""
    lines = []
    for number, (name, audio) in enumerate(sounds.items()):
        files.write(folder / f"{name}.wav", audio, rate)
        lines.append(
            {
                "source": name,
                "status": "done",
                "path": f"{name}.wav",
                "sample_rate": rate,
                "channels": len(audio),
                "samples": audio.shape[1],
                "content": hashlib.sha256(name.encode()).hexdigest(),
                "split": "heldout" if number >= len(sounds) - heldout else "train",
                "artist": "Nobody",
                "title": name,
                "provenance": {},
                "bytes": (folder / f"{name}.wav").stat().st_size,
            }
        )
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("data"), {f"song {n}": music(25, n) for n in range(3)})


def bias(layer: torch.nn.Conv1d) -> torch.Tensor:
    """Its bias, which it has."""
    assert layer.bias is not None
    return layer.bias


def learn(network: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> None:
    """Steps along the sign of the mean gradient: torch's own optimizers take seconds to import."""
    parameters = list(network.parameters())
    means = [torch.zeros_like(each) for each in parameters]
    for step in range(60):
        gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, mean, gradient in zip(parameters, means, gradients, strict=True):
                if gradient is not None:
                    mean.lerp_(gradient, 0.2)
                    parameter.sub_(3e-3 * (1 - step / 60) * mean.sign())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A VAE and a denoiser that know such music a little: seconds of training."""
    torch.manual_seed(0)
    vae = VAE(SHAPE)
    songs = torch.from_numpy(np.stack([music(8, seed) for seed in range(100, 104)]))

    def crops(length: int) -> torch.Tensor:
        starts = torch.randint(songs.shape[-1] - length, (8,)).tolist()
        return torch.stack([songs[start % 4, :, start : start + length] for start in starts])

    with torch.no_grad():  # a narrow posterior
        vae.encoder.head.weight[16:] = 0
        bias(vae.encoder.head)[16:] = -12

    def reconstruction() -> torch.Tensor:
        sound = crops(512)
        made, posterior = vae.forward(sound)
        return (made - sound).abs().mean() + 0.1 * (posterior.mode().std(dim=(0, 2)) - 1).square().mean()

    learn(vae, reconstruction)
    vae.requires_grad_(False)
    z = vae.encode(songs).mode()
    statistics = LatentStatistics(1, tuple(z.mean(dim=(0, 2)).tolist()), tuple(z.std(dim=(0, 2)).tolist()))
    z = statistics.normalise(z)
    config = DiffusionConfig(
        unet=UNetConfig(latent_channels=16, widths=(16, 24), blocks=1, heads=2), conditions=ConditionConfig()
    )
    diffusion = Diffusion(config)
    unconditional = diffusion.conditions.null(8)

    def denoising() -> torch.Tensor:
        starts = torch.randint(z.shape[-1] - 64, (8,)).tolist()
        x0 = torch.stack([z[start % 4, :, start : start + 64] for start in starts])
        return diffusion.loss(x0, torch.rand(8) * 999, torch.randn_like(x0), unconditional).mean()

    learn(diffusion, denoising)
    components: dict[Role, bundle.Component] = {
        "codec": vae.component(),
        "generator": diffusion.component(statistics, vae.component().digest),
    }
    return Bundle("toy", components)


@pytest.fixture(scope="module")
def at(model: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    bundle.write(folder, model)
    return folder


@pytest.fixture(scope="module")
def store(data: Path, at: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "latents.zarr"
    encode(data, path, VAE.load(at))
    return path


def look(*things: Path) -> list[Finding]:
    """What is found beside the machine."""
    about_machine = {"versions", "ffmpeg", "disk", "memory", "device"}
    return [each for each in examine([str(each) for each in things], "cpu") if each.about not in about_machine]


PHASE = "nearly white noise in time"
"""What is rightly said of any store of the toy's: as a small VAE of waveforms, it follows the phase."""


def faults(*things: Path) -> list[str]:
    """Verdicts and texts of what is not ok, but for `PHASE`; each says what to do."""
    bad = [each for each in look(*things) if each.verdict != "ok" and PHASE not in each.text]
    assert all(each.advice for each in bad)
    return [f"{each.verdict}: {each.text}" for each in bad]


def rewritten(
    folder: Path, model: Bundle, codec: bundle.Component | None = None, generator: bundle.Component | None = None
) -> Path:
    changed: dict[Role, bundle.Component | None] = {"codec": codec, "generator": generator}
    components = {**model.components, **{role: each for role, each in changed.items() if each is not None}}
    bundle.write(folder, replace(model, components=components))
    return folder


# ---- What is well ----------------------------------------------------------------------------------------------------


def test_a_whole_project_is_well(musicldm: Command, data: Path, store: Path, at: Path) -> None:
    done = musicldm("doctor", at, store, data, "--device", "cpu", "--json")
    told = json.loads(done.out)
    assert [each["text"] for each in told["findings"] if each["verdict"] == "wrong"] == []
    assert done.code == 0 and told["wrong"] == 0
    mine = [each for each in told["findings"] if "/" in each["about"]]
    assert [each["text"] for each in mine if each["verdict"] != "ok" and PHASE not in each["text"]] == []
    text = " ".join(each["text"] for each in mine)
    for words in (
        "3 prepared tracks",
        "1 of 3 tracks are held out",
        "All 16 latent channels",
        "made for each other",
        "the generator's denoising error is 0.",
        "The store's latents are this codec's",
        "All tracks are in the store",
    ):
        assert words in text


def test_the_machine_alone(musicldm: Command) -> None:
    done = musicldm("doctor", "--device", "cpu")
    for about in ("versions", "ffmpeg", "disk", "memory", "device"):
        assert about in done.out
    assert f"torch {torch.__version__.partition('+')[0]}" in done.out
    nowhere = musicldm("doctor", "/nowhere/at/all")
    assert nowhere.code == 2 and "There is nothing at /nowhere/at/all" in nowhere.err


# ---- The machine -----------------------------------------------------------------------------------------------------


def test_a_machine_that_lacks_things(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DISK", (1e18, 1e17))
    monkeypatch.setattr(machine, "MEMORY", (1e18, 1.0))
    monkeypatch.setattr("musicldm.media.audio.files.find_ffmpeg", lambda: "/nowhere/ffmpeg")
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "2.10.0" if name == "torchaudio" else real(name))
    verdicts = {each.about: each.verdict for each in examine([], "cpu")}
    assert verdicts == {"versions": "wrong", "ffmpeg": "warning", "disk": "wrong", "memory": "warning", "device": "ok"}


def test_torch_that_cannot_be_loaded_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so: cannot open shared object file')")
    code = "import sys; sys.path.insert(0, sys.argv.pop(1))\nfrom musicldm.cli.app import main\nmain()"
    command = [sys.executable, "-c", code, str(tmp_path), "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "libcudart.so" in done.stdout and "as a pair" in done.stdout


# ---- Music -----------------------------------------------------------------------------------------------------------


def test_tracks_that_are_no_use(tmp_path: Path) -> None:
    loud = (5 * music(25, 1)).clip(-0.5, 0.5)
    low = 0.5 * np.sin(2 * np.pi * 30 * np.arange(25 * RATE) / RATE)[None].astype(np.float32)  # is not clipped
    sounds = {"silence": np.zeros((1, 25 * RATE), np.float32), "clipped": loud, "low": low, "good": music(25, 2)}
    bad = faults(prepared(tmp_path, sounds))
    assert [each.partition(" of ")[0] for each in bad] == ["warning: 1", "warning: 1"]
    assert "are silent: silence.wav." in bad[0] and "are clipped: clipped.wav." in bad[1]
    assert any(each.startswith("wrong") for each in faults(prepared(tmp_path / "all", {"a": sounds["silence"]})))


def test_tracks_that_are_short_few_or_gone(tmp_path: Path) -> None:
    folder = prepared(tmp_path, {"a": music(2, 1), "b": music(2, 2)}, heldout=0)
    (short, none) = sorted(faults(folder), key=lambda each: "held out" in each)
    assert "2 of 2 are shorter than the 16 s of train-diffusion --preset small" in short
    assert "No track is held out" in none
    (folder / "a.wav").unlink()
    assert any(each.startswith("wrong: 1 files are missing or have changed") for each in faults(folder))
    manifest = folder / "manifest.jsonl"
    first, second = map(json.loads, manifest.read_text().splitlines())
    second |= {"split": "heldout", "content": first["content"]}
    manifest.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    assert any("both held out and trained on" in each for each in faults(folder))


def test_a_folder_that_is_not_prepared(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no music")
    assert faults(tmp_path) == ["wrong: There is no audio in it."]
    files.write(tmp_path / "song.wav", music(1, 1), RATE)
    (found,) = [each for each in look(tmp_path)]
    assert found.verdict == "warning" and "1 of 2 files" in found.text and "preprocess" in found.advice


# ---- Models and latents ----------------------------------------------------------------------------------------------


def test_a_vae_that_was_never_trained(model: Bundle, tmp_path: Path) -> None:
    torch.manual_seed(3)
    bundle.write(tmp_path, Bundle("random", {"codec": VAE(SHAPE).component()}))
    (found,) = faults(tmp_path)
    assert found.startswith("wrong: The codec reconstructs a chord with")


def test_a_codec_without_phase_is_judged_by_its_spectra(
    model: Bundle, data: Path, at: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its samples are far from the original's, as they may be; what was never trained is wrong all the same."""
    torch.manual_seed(3)
    bundle.write(tmp_path / "random", Bundle("random", {"codec": VAE(SHAPE).component()}))
    without_phase(monkeypatch)
    (judged,) = (each for each in look(data, at) if "reconstructs" in each.text)
    assert judged.verdict == "ok" and "of silence's distance in mel magnitudes, mel distance" in judged.text
    assert "SI-SDR" not in judged.text
    assert faults(tmp_path / "random")[0].startswith("wrong: The codec reconstructs a chord with")


def test_a_denoiser_of_another_vae(model: Bundle, tmp_path: Path) -> None:
    part = model.component("generator")
    (found,) = faults(rewritten(tmp_path, model, generator=replace(part, config={**part.config, "codec": "0" * 64})))
    assert found.startswith("wrong: Its generator was trained on latents of another codec")


def test_latents_that_are_not_scaled(model: Bundle, data: Path, tmp_path: Path) -> None:
    part = model.component("generator")
    std = part.config["statistics"]["std"]
    for name, spreads, verdict in (("far", [100 * each for each in std], "wrong"), ("none", [1.0] * 16, "warning")):
        statistics = {**part.config["statistics"], "std": spreads}
        config = {**part.config, "statistics": statistics}
        found = faults(data, rewritten(tmp_path / name, model, generator=replace(part, config=config)))
        assert any(
            each.startswith(verdict) and ("have a standard deviation" in each or "standard deviation of 1." in each)
            for each in found
        ), name


def test_a_denoiser_that_has_learned_nothing(model: Bundle, data: Path, tmp_path: Path) -> None:
    part = model.component("generator")
    nothing = {name: torch.zeros_like(tensor) for name, tensor in part.tensors.items()}
    (found,) = faults(data, rewritten(tmp_path, model, generator=replace(part, tensors=nothing)))
    assert "times that of a guess by loudness alone" in found


def test_weights_that_are_no_numbers_and_a_file_cut_short(
    model: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = model.component("codec")
    tensors = {name: tensor.clone() for name, tensor in part.tensors.items()}
    next(iter(tensors.values()))[:] = float("nan")
    with monkeypatch.context() as patched:
        patched.setattr(bundle, "check_finite", lambda tensors: None)  # as an earlier release wrote it
        rewritten(tmp_path, model, codec=replace(part, tensors=tensors))
    (found,) = faults(tmp_path)
    assert found.startswith("wrong") and "not finite" in found
    (weights,) = tmp_path.glob("codec-*")
    weights.write_bytes(weights.read_bytes()[:-1])
    (found,) = faults(tmp_path)
    assert found.startswith("wrong") and "cut short" in found


def test_a_store_of_another_vae_and_one_whose_channels_are_dead(
    model: Bundle, data: Path, store: Path, tmp_path: Path
) -> None:
    part = model.component("codec")
    tensors = {name: tensor.clone() for name, tensor in part.tensors.items()}
    tensors["encoder.head.weight"][:2] = 0  # two channels that say nothing …
    tensors["encoder.head.bias"][16:18] = -20  # … and say it surely
    other = tmp_path / "other"
    bundle.write(other, Bundle("other", {"codec": replace(part, tensors=tensors)}))
    found = faults(store, other)
    assert any(each.startswith("wrong: The store was made with another codec") for each in found)
    encode(data, tmp_path / "dead.zarr", VAE.load(other))
    (dead,) = faults(tmp_path / "dead.zarr")
    assert dead.startswith("warning: 2 of 16 channels look wrong (channel 0: dead")


def test_a_store_that_has_not_all_or_has_what_is_held_out(data: Path, store: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (data / "manifest.jsonl").read_text().splitlines()]
    more = prepared(tmp_path, {f"song {n}": music(25, n) for n in range(4)})
    records = [json.loads(line) for line in (more / "manifest.jsonl").read_text().splitlines()]
    for record, held in zip(records, (True, False, False, False), strict=True):
        record["split"] = "heldout" if held else "train"
    records[0]["content"] = lines[0]["content"]
    (more / "manifest.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    found = faults(more, store)
    assert any(each.startswith("wrong: 1 of 4 tracks are held out in the folder and trained on") for each in found)
    assert any(each.startswith("warning: 1 of 4 tracks are not in the store") for each in found)
    empty = LatentStore.create(tmp_path / "empty.zarr", LatentStore.open(store).header)
    assert faults(empty.path) == ["wrong: There are no tracks in it."]
