"""Codecs by name, and windows over one that is not the VAE."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from musicldm.codecs.base import CODECS, Codec, CodecFamily, LatentSpec, codec_of, load_codec
from musicldm.codecs.posterior import LOGVAR_RANGE, Deterministic
from musicldm.codecs.vae.model import VAE
from musicldm.codecs.windows import decode_pieces, encode_long, encode_many, reconstruct
from musicldm.core import bundle, config
from musicldm.core.errors import CapacityError, UsageError
from tests.codecs.toy_codec import HOP, REACH, ToyCodec
from tests.codecs.toy_vaes import TOYS, awake
from tests.toys import Command

# ---- By name


def test_a_codec_that_nobody_knows_is_one_sentence(musicldm: Command, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no codec 'vea'") as caught:
        CODECS.load("vea")
    assert caught.value.hint == "Did you mean 'vae'?"
    done = musicldm("train-vae", tmp_path, "--codec", "midi2000", "--dry-run")
    assert done.code == 2 and "There is no codec 'midi2000'." in done.err and "Known: spectrum, vae" in done.err, (
        done.err
    )


def test_a_bundle_of_an_unknown_codec_says_so() -> None:
    component = replace(VAE(TOYS["patched"]).component(), kind="rave")
    with pytest.raises(UsageError, match="There is no codec 'rave'"):
        codec_of(bundle.Bundle("x", {"codec": component}))


@pytest.mark.parametrize("name", CODECS.names())
def test_every_family_is_whole(name: str) -> None:
    family: CodecFamily = CODECS.load(name)
    assert family.name == name
    assert {"model", "training", "plan"} <= {field.name for field in fields(family.run_config)}
    for preset in ("tiny", *config.presets(family.package)):
        run = config.from_dict(family.run_config, config.preset(family.package, preset))
        assert "parameters" in dict(family.describe(run.model))
        assert family.rehearsal(run).shortest > 0


def test_names_and_presets_load_no_torch() -> None:
    script = (
        "import sys, musicldm\n"
        "from musicldm.core.config import presets\n"
        "assert musicldm.Codec and musicldm.load_codec\n"
        "from musicldm.codecs.base import CODECS\n"
        "assert 'tiny' in presets('musicldm.codecs.vae') and CODECS.names() == ['spectrum', 'vae', 'roll']\n"
        "sys.exit('loaded torch' if 'torch' in sys.modules else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_who_only_decodes_loads_no_training_engine(tmp_path: Path) -> None:
    bundle.write(tmp_path, bundle.Bundle("toy", {"codec": VAE(TOYS["patched"]).component()}))
    script = (
        "import sys, musicldm\n"
        f"musicldm.load_codec({str(tmp_path)!r})\n"
        "sys.exit('loaded lightning' if 'lightning' in sys.modules else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_loaded_codec_tells_its_form(tmp_path: Path) -> None:
    model = awake(VAE(TOYS["deep stereo"]))
    bundle.write(tmp_path, bundle.Bundle("deep", {"codec": model.component()}))
    codec = load_codec(tmp_path)
    spec = codec.spec
    assert spec == LatentSpec("audio", 4, 2, 16000, 8, "vae", model.component().digest)
    assert (spec.frame_rate, spec.compression, spec.frames(1), spec.frames(16), spec.frames(17)) == (2000, 4, 1, 2, 3)
    assert (codec.name, codec.grid, codec.device.type) == ("deep", 4, "cpu")
    assert codec.context >= codec.receptive_field > 0 and codec.context % codec.grid == 0
    x = torch.randn(1, 2, 100)
    assert torch.equal(codec.encode(x).mode(), model.encode(x).mode())


def test_a_vae_takes_neither_noise_nor_steps() -> None:
    vae: Codec = VAE(TOYS["patched"])
    z = torch.zeros(1, 6, 3)
    with pytest.raises(UsageError, match="neither noise nor steps"):
        vae.decode(z, steps=4)
    with pytest.raises(UsageError, match="neither noise nor steps"):
        vae.decode(z, torch.zeros(1, 1, 48))


def test_a_posterior_without_width_has_next_to_none() -> None:
    posterior = Deterministic(torch.tensor([[[0.5, -2.0]]]))
    assert torch.unique(posterior.logvar).item() == LOGVAR_RANGE[0] and posterior.kl().item() == 0
    assert (posterior.sample() - posterior.mode()).abs().max() < 0.01


# ---- In windows


def ticks(length: int, seed: int = 0) -> Tensor:
    return torch.randn(2, length, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("length", [1, HOP, 100, 1003])
@pytest.mark.parametrize("window", [1, 8, 1000])
def test_windows_agree_with_the_whole(length: int, window: int) -> None:
    codec, x = ToyCodec(), ticks(length)
    z = codec.encode(x[None]).mean
    pieces = list(encode_long(codec, lambda a, b: x[:, a:b], length, window))
    torch.testing.assert_close(torch.cat([mean for mean, _ in pieces], dim=1), z[0])
    assert {torch.unique(logvar).item() for _, logvar in pieces} == {LOGVAR_RANGE[0]}
    media = torch.cat(list(decode_pieces(codec, torch.split(z[0], 5, dim=1), z.shape[-1], window)), dim=1)
    torch.testing.assert_close(media, codec.decode(z)[0])
    torch.testing.assert_close(reconstruct(codec, x, window), codec.decode(z)[0, :, :length])
    ((number, found),) = (
        (number, list(found)) for number, found in encode_many(codec, [(length, lambda a, b: x[:, a:b])])
    )
    assert number == 0
    torch.testing.assert_close(torch.cat([mean for mean, _ in found], dim=1), z[0])


def test_where_the_memory_is_short_windows_are_halved() -> None:
    x, said = ticks(1000), list[int]()
    whole = ToyCodec().encode(x[None]).mean
    codec = ToyCodec(holds=30)
    means = [mean for mean, _ in encode_long(codec, lambda a, b: x[:, a:b], 1000, 100, said.append)]
    torch.testing.assert_close(torch.cat(means, dim=1), whole[0])
    assert said == [50, 25, 12]  # with its context, a window of 25 would be too long
    assert codec.tried[:3] == [106, 56, 31] and max(codec.tried[3:]) <= 30
    said.clear()
    media = torch.cat(list(decode_pieces(codec, [whole[0]], whole.shape[-1], 100, said.append)), dim=1)
    torch.testing.assert_close(media, ToyCodec().decode(whole)[0])
    assert said == [50, 25, 12]


def test_a_memory_that_holds_no_window_ends_it() -> None:
    x = ticks(500)
    with pytest.raises(CapacityError, match="even a short window"):
        list(encode_long(ToyCodec(holds=2 * REACH), lambda a, b: x[:, a:b], 500, 8))
    with pytest.raises(CapacityError, match="a single window"):
        for _, pieces in encode_many(ToyCodec(holds=2 * REACH), [(500, lambda a, b: x[:, a:b])], 8):
            list(pieces)


def test_another_error_is_not_taken_for_memory() -> None:
    class Broken(ToyCodec):
        def _remember(self, frames: int) -> None:
            raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        list(encode_long(Broken(), lambda a, b: ticks(b - a), 100))


def test_every_window_of_a_diffusion_decoder_has_its_piece_of_the_noise() -> None:
    codec, z, noise = ToyCodec(), torch.randn(12, 90), ticks(90 * HOP, seed=1)
    wanted = codec.decode(z[None], noise[None], 3)[0]
    pieces = decode_pieces(codec, [z], 90, 10, noise=lambda a, b: noise[:, a:b], steps=3)
    torch.testing.assert_close(torch.cat(list(pieces), dim=1), wanted)
