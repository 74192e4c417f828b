"""A file that is filled in or extended keeps its rate, channels and samples; whatever else becomes of one is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from musicldm.core import bundle
from musicldm.media.audio import files
from musicldm.media.audio.decode import decode_whole, resample
from musicldm.sampling import Extend, Infill, Original, Pipeline
from tests.toy_model import HOP, RATE, toy_bundle
from tests.toys import Command

SECONDS = 3
FADE = 0.02


def music(rate: int, channels: int = 2) -> NDArray[np.float32]:
    """Three seconds [T, C] of another tone in each channel, with treble that the model's rate does not hold."""
    time = np.arange(SECONDS * rate) / rate
    tones = [0.3 * np.sin(2 * np.pi * (220 + 110 * c) * time) for c in range(channels)]
    noise = np.random.default_rng(0).normal(0, 0.02, (SECONDS * rate, channels))
    return (np.stack(tones, axis=1) + noise).astype(np.float32)


def song(path: Path, rate: int, channels: int = 2, subtype: str = "PCM_24") -> NDArray[np.float32]:
    """Write it, and what is in the file [C, T]."""
    soundfile.write(path, music(rate, channels), rate, subtype=subtype)
    sound: NDArray[np.float32] = soundfile.read(path, dtype="float32", always_2d=True)[0].T
    return sound


@pytest.mark.parametrize(("rate", "channels"), [(44100, 2), (48000, 1), (RATE, 2), (11025, 2), (22051, 1)])
def test_infill_keeps_all_around_the_span(sample: Command, tmp_path: Path, rate: int, channels: int) -> None:
    sound = song(tmp_path / "song.wav", rate, channels)
    done = sample("--infill", tmp_path / "song.wav", "--from", 1, "--to", 1.5, "-o", tmp_path / "out.wav")
    assert done.code == 0, done.err
    assert soundfile.info(tmp_path / "out.wav").samplerate == rate
    out, fade = files.read(tmp_path / "out.wav"), round(FADE * rate)
    assert out.shape == sound.shape
    kept = np.ones(sound.shape[1], bool)
    kept[rate - fade : round(1.5 * rate) + fade] = False
    assert np.array_equal(out[:, kept], sound[:, kept])
    span = slice(rate, round(1.5 * rate))
    assert np.abs(out[:, span] - sound[:, span]).max() > 0.01
    assert np.array_equal(out[0, span], out[-1, span])  # what is made is mono
    assert f"keeps its {rate} Hz and {channels} channel" in done.err and "converted and cross-faded in" in done.err
    change = json.loads((tmp_path / "out.wav.json").read_text())["changes"][str(tmp_path / "song.wav")]
    assert (change["sample_rate"], change["channels"], change["kept"]) == (rate, channels, True)


@pytest.mark.parametrize(("rate", "channels"), [(44100, 2), (48000, 1), (RATE, 2), (11025, 2), (22051, 1)])
def test_extend_keeps_all_but_a_fade(sample: Command, tmp_path: Path, rate: int, channels: int) -> None:
    sound = song(tmp_path / "song.wav", rate, channels)
    done = sample("--extend", tmp_path / "song.wav", "--seconds", 1.25, "--window", 1, "-o", tmp_path / "out.wav")
    assert done.code == 0, done.err
    out, fade = files.read(tmp_path / "out.wav"), round(FADE * rate)
    assert out.shape == (channels, SECONDS * rate + round(1.25 * rate))
    assert np.array_equal(out[:, : SECONDS * rate - fade], sound[:, :-fade])
    assert np.abs(out[:, SECONDS * rate :]).max() > 0.01
    assert soundfile.info(tmp_path / "out.wav").samplerate == rate


def test_what_is_made_is_the_models_own_at_another_rate(model: Path, tmp_path: Path) -> None:
    """The span of the take at the file's rate is that of the take at the model's rate, and where it should be."""
    pipeline = Pipeline.load(model, "cpu")
    rate = 3 * RATE
    audio = torch.from_numpy(song(tmp_path / "song.wav", rate, 1))
    heard = torch.from_numpy(decode_whole(tmp_path / "song.wav", RATE, 1)[0])
    for kind, seconds in (("infill", (1.1, 1.9)), ("extend", (3.1, 3.9))):
        originals = None, Original(audio, rate)
        tasks: list[Infill] | list[Extend]
        if kind == "infill":
            tasks = [Infill(heard, [(1.0, 2.0)], original) for original in originals]
        else:
            tasks = [Extend(heard, 1.0, original) for original in originals]
        low, high = (pipeline.sample(task, steps=3, seed=2) for task in tasks)
        wanted = resample(low.numpy(), RATE, rate)  # the treble of both has gone through one filter
        first, last = (round(second * rate) for second in seconds)
        error = np.square(wanted - high.numpy())[:, first:last].mean() / np.square(wanted[:, first:last]).mean()
        assert error < 1e-4, kind  # a shift of a third of a sample would be far more


def test_a_flac_keeps_24_bits_and_a_lossy_format_says_that_it_does_not(sample: Command, tmp_path: Path) -> None:
    sound = song(tmp_path / "song.wav", 44100)
    arguments = ["--infill", tmp_path / "song.wav", "--from", 1, "--to", 2, "-o"]
    done = sample(*arguments, tmp_path / "out.flac")
    assert done.code == 0 and soundfile.info(tmp_path / "out.flac").subtype == "PCM_24"
    assert np.array_equal(files.read(tmp_path / "out.flac")[:, :43000], sound[:, :43000])
    assert "lossy" not in done.err
    assert "mp3 is lossy: nothing of the file is kept" in sample(*arguments, tmp_path / "out.mp3").err
    done = sample(*arguments, tmp_path / "b.flac", "--bit-depth", 16)
    assert "more than 16 bits are rounded" in done.err


def test_what_passes_full_scale_is_kept_or_said_to_be_clipped(sample: Command, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "loud.wav", 3 * music(RATE, 1), RATE, subtype="FLOAT")
    arguments = ["--extend", tmp_path / "loud.wav", "--seconds", 0.5, "-o"]
    done = sample(*arguments, tmp_path / "out.wav")
    assert done.code == 0 and "clipped" not in done.err and files.read(tmp_path / "out.wav").max() > 1.05
    assert "out.flac is clipped" in sample(*arguments, tmp_path / "out.flac").err


def test_what_cannot_be_kept_is_said(sample: Command, tmp_path: Path) -> None:
    song(tmp_path / "surround.wav", 44100, 6)
    song(tmp_path / "stereo.wav", 44100)
    for arguments, name in (
        (["--infill", tmp_path / "surround.wav", "--from", 1, "--to", 2], "surround.wav"),
        (["--vary", tmp_path / "stereo.wav"], "stereo.wav"),
    ):
        done = sample(*arguments, "-o", tmp_path / "out.wav")
        assert done.code == 0, done.err
        assert f"{name} has 44100 Hz" in done.err and f"all of the take has the model's {RATE} Hz" in done.err
        [change] = json.loads((tmp_path / "out.wav.json").read_text())["changes"].values()
        assert (change["sample_rate"], change["kept"]) == (44100, False)
        assert files.read(tmp_path / "out.wav").shape == (1, SECONDS * RATE)


def test_nothing_is_said_where_nothing_is_changed(sample: Command, tmp_path: Path) -> None:
    song(tmp_path / "same.wav", RATE, 1)
    done = sample("--vary", tmp_path / "same.wav", "-o", tmp_path / "out.wav")
    assert "same.wav" not in done.err
    assert json.loads((tmp_path / "out.wav.json").read_text())["changes"] == {}


def test_channels_that_cancel_are_heard_and_kept(sample: Command, tmp_path: Path) -> None:
    left = music(RATE, 1)
    soundfile.write(tmp_path / "a.wav", np.concatenate([left, -left], axis=1), RATE, subtype="FLOAT")
    done = sample("--infill", tmp_path / "a.wav", "--from", 1, "--to", 2, "-o", tmp_path / "out.wav")
    assert done.code == 0 and "cancel each other" in done.err and "is silent" not in done.err
    out = files.read(tmp_path / "out.wav")
    assert np.array_equal(out[0, : RATE - HOP * 3], -out[1, : RATE - HOP * 3])


def test_a_stereo_model_and_a_mono_file(sample: Command, musicldm: Command, tmp_path: Path) -> None:
    bundle.write(tmp_path / "stereo", toy_bundle(channels=2))
    sound = song(tmp_path / "mono.wav", 16000, 1)
    done = musicldm(
        *("sample", "-m", tmp_path / "stereo", "--steps", 2, "--device", "cpu"),
        *("--infill", tmp_path / "mono.wav", "--from", 1, "--to", 2, "-o", tmp_path / "out.wav"),
    )
    assert done.code == 0, done.err
    assert np.array_equal(files.read(tmp_path / "out.wav")[:, :15000], sound[:, :15000])
    assert f"What is made has {RATE} Hz and 2 channels" in done.err


def test_a_take_of_another_form_is_made_again(sample: Command, musicldm: Command, tmp_path: Path) -> None:
    song(tmp_path / "song.wav", 44100)
    arguments = ["--extend", tmp_path / "song.wav", "--seconds", 1, "--window", 1]
    assert sample(*arguments, "-o", tmp_path / "a.wav").code == 0
    assert musicldm("sample", "--replay", tmp_path / "a.wav", "-o", tmp_path / "b.wav", "--device", "cpu").code == 0
    assert (tmp_path / "b.wav").read_bytes() == (tmp_path / "a.wav").read_bytes()
