"""`musicldm reconstruct`: a file through a VAE and back, whatever its kind and length, and what is said of it."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from musicldm.codecs.vae.model import VAE
from musicldm.codecs.windows import decode_pieces
from musicldm.core import bundle
from musicldm.core.errors import OutputError
from musicldm.evaluate.metrics import compare
from musicldm.evaluate.reconstruct import reconstruct_file
from musicldm.media.audio import files
from musicldm.media.audio.decode import decode
from tests.codecs.toy_vaes import TOYS, awake
from tests.toys import Command

RATE = 16000


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of an untrained VAE for mono at 16 kHz."""
    folder = tmp_path_factory.mktemp("vae")
    model = awake(VAE(TOYS["patched"]))
    with torch.no_grad():
        model.decoder.get_parameter("head.weight").mul_(0.02)  # what comes out is not to clip
    bundle.write(folder, bundle.Bundle("toy", {"codec": model.component()}))
    return folder


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a glide and noise, 44.1 kHz stereo."""
    path = tmp_path_factory.mktemp("song") / "song.flac"
    soundfile.write(path, sound(2, 44100).T, 44100)
    return path


def sound(seconds: float, rate: int) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    glide = np.sin(2 * np.pi * (200 + 300 * (time % 2)) * time)
    hiss = np.random.default_rng(0).standard_normal((2, len(time)))
    return (0.2 * glide + 0.02 * hiss).astype(np.float32)


def through(vae: Path, source: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The sound as the model has it and its reconstruction at once, without windows: each [C, T]."""
    model = VAE.load(vae)
    audio = torch.from_numpy(np.concatenate(list(decode(source, RATE, 1)), axis=1))
    with torch.inference_mode():
        return audio, model.decode(model.encode(audio[None]).mode())[0, :, : audio.shape[1]]


def test_what_is_written_is_what_the_vae_makes_of_it(vae: Path, song: Path, musicldm: Command, tmp_path: Path) -> None:
    done = musicldm("reconstruct", song, tmp_path / "new" / "out.wav", "--vae", vae)
    assert done.code == 0 and done.out == f"{tmp_path / 'new' / 'out.wav'}\n", done.err
    original, wanted = through(vae, song)
    found = files.read(tmp_path / "new" / "out.wav")
    assert 0.05 < np.abs(found).max() < 0.9
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    figures = compare(original, wanted, RATE)
    for told in (
        f"{figures.si_sdr:.2f}",
        f"{figures.stft:.3f}",
        f"{figures.mel:.3f}",
        "times real time",
        "fewer numbers",
    ):
        assert told in done.err
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "out.wav"]


def test_only_a_reconstruction_is_replaced(
    vae: Path, song: Path, musicldm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copy(song, tmp_path / "mine.flac"))
    line = "reconstruct", song, out, "--vae", vae
    with monkeypatch.context() as unloadable:
        unloadable.setattr("musicldm.codecs.base.load_codec", None)
        done = musicldm(*line)
    assert done.code == 1 and f"{out} is not replaced" in done.err and out.read_bytes() == song.read_bytes()
    with pytest.raises(OutputError, match="not replaced"):
        reconstruct_file(song, out, VAE.load(vae))
    for overwrite in (["--overwrite"], []):  # the second time, it is one
        assert musicldm(*line, *overwrite).code == 0
    assert out.read_bytes() != song.read_bytes() and list(tmp_path.iterdir()) == [out]


def test_channels_that_cancel_are_no_silence(vae: Path, musicldm: Command, tmp_path: Path) -> None:
    left = sound(1, RATE)[:1]
    soundfile.write(tmp_path / "in.wav", np.concatenate([left, -left]).T, RATE)
    done = musicldm("reconstruct", tmp_path / "in.wav", tmp_path / "out.wav", "--vae", vae)
    assert done.code == 0 and "cancel each other" in done.err and "is silent" not in done.err


def test_a_long_file_goes_in_windows_and_comes_out_as_whole(vae: Path, musicldm: Command, tmp_path: Path) -> None:
    """100 s are four windows; the figures are those of all of it."""
    soundfile.write(tmp_path / "long.wav", sound(100, 8000).T, 8000)
    done = musicldm("reconstruct", tmp_path / "long.wav", tmp_path / "out.flac", "--vae", vae, "--json", "--quiet")
    told = json.loads(done.out)
    original, wanted = through(vae, tmp_path / "long.wav")
    np.testing.assert_allclose(files.read(tmp_path / "out.flac"), wanted, atol=1e-4)
    figures = compare(original, wanted, RATE)
    [warning] = done.err.splitlines()
    assert "has 8000 Hz and 2 channel(s); the reconstruction has the codec's 16000 Hz and 1." in warning
    assert told["original"] == {"sample_rate": 8000, "channels": 2, "cancelled": False}
    assert told["file"] == str(tmp_path / "out.flac") and told["speed"] > 0
    assert told["seconds"] == pytest.approx(100) and told["compression"] == pytest.approx(16 / 6)
    assert told["si_sdr"] == pytest.approx(figures.si_sdr, abs=1e-2)
    assert told["stft"] == pytest.approx(figures.stft, rel=1e-3) and told["mel"] == pytest.approx(figures.mel, rel=1e-3)
    assert told["l1_to_silence"] == pytest.approx(figures.l1_to_silence, rel=1e-2)


def test_latents_are_decoded_as_they_arrive() -> None:
    """Of a long track, little has been asked for when the first sound is there, and no more than a window since."""
    config = TOYS["patched"]
    taken = 0

    def pieces() -> Iterator[torch.Tensor]:
        nonlocal taken
        for _ in range(300):
            taken += 7
            yield torch.zeros(config.latent_channels, 7)

    given = 0
    for audio in decode_pieces(awake(VAE(config)), pieces(), 2100, window_frames=40):
        given += audio.shape[-1] // config.hop
        assert taken <= given + config.context + 7
    assert given == taken == 2100


@pytest.mark.parametrize("suffix", ["flac", "mp3", "ogg", "m4a"])
def test_the_name_says_the_format(vae: Path, song: Path, musicldm: Command, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out.{suffix}"
    assert musicldm("reconstruct", song, out, "--vae", vae).code == 0
    found = np.concatenate(list(decode(out, RATE, 1)), axis=1)
    wanted = through(vae, song)[1].numpy()
    assert abs(found.shape[1] - wanted.shape[1]) < (1 if suffix == "flac" else 2500)
    assert found.std() == pytest.approx(wanted.std(), rel=0.2)


def test_a_pipe_gets_a_whole_wav(vae: Path, song: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "musicldm", "reconstruct", str(song), "-", "--vae", str(vae)]
    done = subprocess.run(command, capture_output=True, check=True)
    with wave.open(io.BytesIO(done.stdout)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth(), file.getnframes()) == (RATE, 1, 2, 32000)
        samples = np.frombuffer(file.readframes(40000), "<i2") / 32768
    assert len(done.stdout) == 44 + 2 * 32000 and b"SI-SDR" in done.stderr
    np.testing.assert_allclose(samples[None], through(vae, song)[1], atol=1e-4)


def test_a_part_of_it(vae: Path, song: Path, musicldm: Command, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "song.wav", np.concatenate(list(decode(song, RATE, 1)), axis=1).T, RATE, subtype="FLOAT")
    cut = soundfile.read(tmp_path / "song.wav", dtype="float32")[0][8000:20000]
    soundfile.write(tmp_path / "cut.wav", cut, RATE, subtype="FLOAT")
    wanted = through(vae, tmp_path / "cut.wav")[1]
    options = ["--vae", vae, "--start", 0.5, "--seconds", 0.75]
    assert musicldm("reconstruct", tmp_path / "song.wav", tmp_path / "out.wav", *options).code == 0
    np.testing.assert_allclose(files.read(tmp_path / "out.wav"), wanted, atol=1e-4)
    assert musicldm("reconstruct", song, tmp_path / "rest.wav", "--vae", vae, "--start", 1.5, "--seconds", 9).code == 0
    assert files.read(tmp_path / "rest.wav").shape == (1, 8000), "as much as there is"


def test_stereo_comes_out_in_stereo(song: Path, musicldm: Command, tmp_path: Path) -> None:
    model = awake(VAE(TOYS["deep stereo"]))
    bundle.write(tmp_path / "vae", bundle.Bundle("stereo", {"codec": model.component()}))
    for name in ("out.wav", "out.ogg"):
        assert musicldm("reconstruct", song, tmp_path / name, "--vae", tmp_path / "vae", "--seconds", 0.5).code == 0
        assert soundfile.info(tmp_path / name).channels == 2


# ---- What is asked for and cannot be had -----------------------------------------------------------------------------


def test_silence_has_no_figures_and_says_so(vae: Path, musicldm: Command, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(9000), RATE)
    done = musicldm("reconstruct", tmp_path / "silence.wav", tmp_path / "out.wav", "--vae", vae, "--json")
    assert (
        done.code == 0
        and "is silent: there is nothing to measure against" in done.err
        and "nan" not in done.err.lower()
    )
    told = json.loads(done.out, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert told["si_sdr"] is told["l1_to_silence"] is None


@pytest.mark.parametrize("samples", [1, 2, 15])
def test_shorter_than_a_frame(vae: Path, musicldm: Command, tmp_path: Path, samples: int) -> None:
    soundfile.write(tmp_path / "short.wav", np.linspace(-0.5, 0.5, samples), RATE)
    done = musicldm("reconstruct", tmp_path / "short.wav", tmp_path / "out.wav", "--vae", vae)
    assert done.code == 0 and files.read(tmp_path / "out.wav").shape == (1, samples), done.err


def test_bad_requests(vae: Path, song: Path, musicldm: Command, tmp_path: Path) -> None:
    out, bad = tmp_path / "out", tmp_path / "bad"
    bad.mkdir()
    (bad / "text.mp3").write_text("No music, only words. " * 99)
    (bad / "empty.wav").touch()
    soundfile.write(bad / "truncated.flac", sound(3, RATE).T, RATE)
    (bad / "truncated.flac").write_bytes((bad / "truncated.flac").read_bytes()[:30000])
    soundfile.write(bad / "nothing.wav", np.zeros((0, 1)), RATE)
    shutil.copytree(vae, bad / "vae")
    next((bad / "vae").glob("*.safetensors")).write_bytes(b"cut short")
    bundle.write(bad / "denoiser", bundle.Bundle("denoiser", {}))
    (out / "folder.wav").mkdir(parents=True)
    for source, target, options, code, sentence in (
        (bad / "gone.wav", out / "a.wav", [], 1, "gone.wav cannot be used: it cannot be opened: No such file"),
        (bad / "text.mp3", out / "a.wav", [], 1, "text.mp3 cannot be used: it cannot be read as audio"),
        (bad / "empty.wav", out / "a.wav", [], 1, "empty.wav cannot be used: it is empty"),
        (bad / "truncated.flac", out / "a.wav", [], 1, "truncated.flac cannot be used: it is"),
        (bad / "nothing.wav", out / "a.wav", [], 1, "nothing.wav"),
        (bad, out / "a.wav", [], 1, f"{bad} is a folder"),
        (song, out / "a.wav", ["--vae", bad / "nowhere"], 1, "There is nothing at"),
        (song, out / "a.wav", ["--vae", bad], 1, "no bundle in"),
        (song, out / "a.wav", ["--vae", bad / "vae"], 1, "cut short"),
        (song, out / "a.wav", ["--vae", bad / "denoiser"], 1, "has no codec"),
        (song, out / "a.xyz", [], 2, "Cannot write audio as 'xyz'"),
        (song, out / "a", [], 2, "without a suffix"),
        (song, out / "folder.wav", [], 1, "folder.wav is a folder"),
        (song, "/proc/nowhere/a.wav", [], 1, "/proc/nowhere"),
        (song, song, [], 2, "would overwrite the original"),
        (song, "-", ["--json"], 2, "both want stdout"),
        (song, out / "a.wav", ["--start", 2.5], 2, "ends before 2.5 s"),
        (song, out / "a.wav", ["--device", "cuda:7"], 2, "no device 'cuda:7'"),
    ):
        done = musicldm("reconstruct", source, target, "--vae", vae, *options)
        assert done.code == code, (source, target, options, done.err)
        assert sentence in done.err and "Hint:" in done.err and "Traceback" not in done.err, done.err
        assert done.out == "" and done.err.count("\n") == 2, done.err
    assert list(out.iterdir()) == [out / "folder.wav"], "nothing is left behind"
    assert musicldm("reconstruct", song, out / "a.wav").code == 2, "no --vae"
    assert musicldm("reconstruct", song, out / "a.wav", "--vae", vae, "--seconds", 0).code == 2


def test_a_vae_that_gives_no_numbers(vae: Path, song: Path, musicldm: Command, tmp_path: Path) -> None:
    model = VAE.load(vae)
    with torch.no_grad():
        # Each is a number; what they come to is none.
        model.decoder.get_parameter("head.weight").fill_(3e38)
    bundle.write(tmp_path / "vae", bundle.Bundle("broken", {"codec": model.component()}))
    done = musicldm("reconstruct", song, tmp_path / "out.wav", "--vae", tmp_path / "vae")
    assert done.code == 1 and "is not finite" in done.err and not (tmp_path / "out.wav").exists()


def test_what_fails_midway_leaves_the_old_file(tmp_path: Path) -> None:
    for name in ("a.wav", "a.flac", "a.mp3"):
        (tmp_path / name).write_bytes(b"the old one")
        with pytest.raises(ZeroDivisionError), files.piecewise(tmp_path / name, RATE, 1, 4000) as append:
            append(np.zeros((1, 2000), np.float32))
            raise ZeroDivisionError
        assert (tmp_path / name).read_bytes() == b"the old one"
    assert len(list(tmp_path.iterdir())) == 3


def test_an_ffmpeg_that_gives_up_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    with pytest.raises(OutputError, match="could not write mp3") as caught:
        with files.piecewise(tmp_path / "a.mp3", RATE, 1, 10**6) as append:
            for _ in range(100):
                append(np.zeros((1, 10**4), np.float32))
    assert "wav or flac" in caught.value.hint and list(tmp_path.iterdir()) == [program.parent]


def test_what_no_wav_can_hold_becomes_rf64(tmp_path: Path) -> None:
    """Its header tells the truth where less came after all."""
    with files.piecewise(tmp_path / "a.wav", RATE, 2, 2**30) as append:
        append(np.full((2, 1000), 0.25, np.float32))
    assert (tmp_path / "a.wav").read_bytes()[:4] == b"RF64"
    audio = files.read(tmp_path / "a.wav")
    assert audio.shape == (2, 1000) and (audio == 0.25).all()
    assert np.array_equal(np.concatenate(list(decode(tmp_path / "a.wav", RATE, 2)), axis=1), audio)
