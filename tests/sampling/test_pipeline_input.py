"""Artists, and requests and inputs that cannot be used."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from musicldm.core.errors import DataError, MusicLDMError, NotFoundError, UsageError
from musicldm.noise.samplers import SAMPLERS
from musicldm.noise.schedule import NoiseConfig
from musicldm.sampling import Extend, InterpolateSeeds, Loop, New, Pipeline, Vary
from tests.toy_model import HOP, RATE, chord, toy, vae_of


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return toy()


@pytest.fixture(scope="module")
def audio() -> Tensor:
    return chord()


QUICK: dict[str, Any] = {"steps": 4}


# ---- Artists --------------------------------------------------------------------------------------------------------


def test_artists_are_found_by_name_and_mixed(pipeline: Pipeline) -> None:
    def made(artist: str, **options: Any) -> Tensor:
        return pipeline.sample(seconds=0.5, artist=artist, **options, **QUICK)

    chopin, bach = made("frédéric chopin"), made("Johann Sebastian Bach")
    assert not torch.equal(chopin, bach) and not torch.equal(chopin, pipeline.sample(seconds=0.5, **QUICK))
    assert torch.equal(
        made("Frédéric Chopin:7, Johann Sebastian Bach:3"), made("Frédéric Chopin:.7,Johann Sebastian Bach:.3")
    )
    assert not torch.equal(made("Frédéric Chopin:7,Johann Sebastian Bach:3"), chopin)
    strings = "Brandenburg: Strings, Brass"  # with a comma and a colon of its own
    assert not torch.equal(made(strings), bach)
    mixture = made(f"{strings}:0.5, Johann Sebastian Bach:0.5")
    assert torch.equal(mixture, made(f"Johann Sebastian Bach,{strings}")) and not torch.equal(mixture, made(strings))
    assert not torch.equal(made("Frédéric Chopin", guidance=3.0), chopin)
    assert not torch.equal(made("Frédéric Chopin", position=0.5), chopin)


@pytest.mark.parametrize(
    ("artist", "kind", "sentence"),
    [
        ("Chopin", NotFoundError, "Frédéric Chopin"),
        ("Frederik Chopin", NotFoundError, "Frédéric Chopin"),
        ("Xyzzy", NotFoundError, "It knows"),
        ("Frédéric Chopin:-1", UsageError, "not a valid weight"),
        ("Frédéric Chopin:nan", UsageError, "not a valid weight"),
        ("Frédéric Chopin:half", UsageError, "not a valid weight"),
        ("Frédéric Chopin:1,Bach:2", NotFoundError, "Johann Sebastian Bach"),
        (" ", NotFoundError, "It knows"),
    ],
)
def test_artists_that_are_not_there(pipeline: Pipeline, artist: str, kind: type[MusicLDMError], sentence: str) -> None:
    with pytest.raises(kind) as caught:
        pipeline.sample(seconds=0.5, artist=artist, **QUICK)
    assert sentence in caught.value.message + caught.value.hint


def test_a_model_that_knows_no_artists() -> None:
    bare = toy(artists=())
    with pytest.raises(UsageError, match="without artists"):
        bare.sample(seconds=0.5, artist="Chopin", **QUICK)
    with pytest.raises(UsageError, match="there is none"):
        bare.sample(seconds=0.5, guidance=3.0, **QUICK)
    assert bare.sample(seconds=0.5, position=0.2, guidance=2.0, **QUICK).isfinite().all()


# ---- Bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 0}, "0 sampling steps"),
        ({"steps": 1001}, "1001 sampling steps"),
        ({"sampler": "heun", "eta": 0.5}, "no eta"),
        ({"sampler": "magic"}, "not a valid sampler"),
        ({"eta": 1.5}, "between 0 and 1"),
        ({"position": 2.0}, "no position"),
        ({"guidance_interval": (0.8, 0.2)}, "ascending order"),
        ({"spacing": "karras"}, "karras"),
        ({"spacing": "odd"}, "not a valid spacing"),
        ({"window": -1.0}, "window"),
        ({"window": math.inf}, "window"),
        ({"guidance": math.inf, "artist": "Johann Sebastian Bach"}, "guidance scale"),
        ({"repaint": 0}, "0 is not a valid number of repaints"),
        ({"guidance": 3.0}, "there is none"),
        ({"stps": 3}, "not a setting"),
        ({"tempo": 120}, "not a setting"),
    ],
)
def test_options_that_make_no_sense(pipeline: Pipeline, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        pipeline.sample(seconds=0.5, **options)


@pytest.mark.parametrize("seconds", [0.0, -3.0, 1e-9, 1e300, math.nan, math.inf])
def test_lengths_that_are_none(pipeline: Pipeline, seconds: float) -> None:
    for task in (New(seconds), Loop(seconds), Extend(torch.zeros(1, RATE), seconds), InterpolateSeeds((1, 2), seconds)):
        with pytest.raises(UsageError, match="cannot be sampled"):
            pipeline.stream(task)


def test_a_process_that_ends_in_noise() -> None:
    """σ-space samplers divide by the fraction of the signal: refused, and the others work."""
    flow = toy(NoiseConfig(schedule="flow", objective="flow"))
    for name in SAMPLERS:
        if name in ("euler", "euler-a", "heun"):
            with pytest.raises(UsageError, match="cannot start from pure noise"):
                flow.sample(seconds=0.5, sampler=name, **QUICK)
        else:
            assert flow.sample(seconds=0.5, sampler=name, **QUICK).isfinite().all(), name


def test_inputs_that_cannot_be_used(pipeline: Pipeline, audio: Tensor) -> None:
    broken = audio.clone()
    broken[0, 100] = math.nan
    for bad, sentence in (
        (audio[:, : HOP - 1], "shorter than a latent frame"),
        (audio[:, :0], "shorter than a latent frame"),
        (broken, "not finite"),
        (audio.repeat(2, 1), "2 channels"),
    ):
        with pytest.raises(DataError, match=sentence):
            pipeline.sample(Vary(bad, 0.5), **QUICK)
        with pytest.raises(DataError, match=sentence):
            list(pipeline.stream(Extend(bad, 1.0), **QUICK))
    for strength in (0.0, 1.1, math.nan):
        with pytest.raises(UsageError, match="strength"):
            pipeline.sample(Vary(audio, strength), **QUICK)


def test_silence_can_be_varied(pipeline: Pipeline) -> None:
    assert pipeline.sample(Vary(torch.zeros(1, RATE), 0.5), **QUICK).isfinite().all()
    assert pipeline.sample(Vary(torch.zeros(1, HOP), 0.5), **QUICK).shape == (1, HOP)


def test_a_model_of_no_numbers(pipeline: Pipeline) -> None:
    broken = toy()
    with torch.no_grad():
        next(vae_of(broken).decoder.parameters()).fill_(math.nan)
    with pytest.raises(DataError, match="not numbers"):
        broken.sample(seconds=0.5, **QUICK)


def test_a_spacing_that_is_defined_only_from_there(audio: Tensor) -> None:
    """Karras has no first level at pure noise; a variation begins below it."""
    flow = toy(NoiseConfig(schedule="flow", objective="flow", levels="continuous"))
    assert flow.sample(Vary(audio, 0.5), spacing="karras", **QUICK).isfinite().all()
    with pytest.raises(UsageError):
        flow.sample(seconds=1.0, spacing="karras", **QUICK)
    with pytest.raises(UsageError):
        flow.sample(Vary(audio, 0.5), steps=1001)
