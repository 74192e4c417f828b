"""The codec of rolls: its form, its windows, transposition, and what its figures say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from musicldm.codecs.roll.config import RollConfig, RollLossConfig
from musicldm.codecs.roll.losses import agreement, roll_loss
from musicldm.codecs.roll.model import RollCodec, roll_of_logits, transposed
from musicldm.codecs.windows import decode_long, encode_long
from musicldm.core.errors import ConfigError, UsageError
from musicldm.media.notes.roll import Channels, roll_of, score_of
from tests.toy_notes import tune

TOY = RollConfig(latent_channels=6, step_width=8, width=16, blocks=2)


def codec() -> RollCodec:
    torch.manual_seed(0)
    made = RollCodec(TOY).eval().requires_grad_(False)
    for weight in made.parameters():
        weight.normal_(std=0.1)  # the blocks begin as the identity, which would hide how far they reach
    return made


def roll(seed: int = 0, bars: int = 12) -> Tensor:
    return torch.from_numpy(roll_of(tune(seed, bars)))


def test_a_latent_frame_stands_for_a_beat_and_an_unfinished_one_counts() -> None:
    made, music = codec(), roll()
    assert made.encode(music[None, :, :49]).mean.shape == (1, 6, 3)
    decoded = made.decode(torch.zeros(2, 6, 5))
    assert decoded.shape == (2, Channels.COUNT, 120)
    assert made.spec.medium == "notes" and (made.spec.rate, made.spec.hop) == (24, 24)


@pytest.mark.parametrize("beats", [1, 2])
def test_windows_agree_with_the_whole(beats: int) -> None:
    torch.manual_seed(0)
    made = RollCodec(RollConfig(latent_channels=6, step_width=8, width=16, blocks=2, beats=beats)).eval()
    made.requires_grad_(False)
    for weight in made.parameters():
        weight.normal_(std=0.1)
    music = roll()
    whole = made.encode(music[None]).mean[0]
    pieces = encode_long(made, lambda a, b: music[:, a:b], music.shape[1], window_frames=5)
    torch.testing.assert_close(torch.cat([mean for mean, _ in pieces], dim=-1), whole, atol=1e-5, rtol=1e-4)
    decoded = torch.cat(list(decode_long(made, whole, window_frames=5)), dim=-1)
    torch.testing.assert_close(decoded, made.decode(whole[None])[0], atol=1e-5, rtol=1e-4)


def test_what_is_decoded_is_a_roll_that_can_be_played() -> None:
    decoded = codec().decode(3 * torch.randn(1, 6, 20))[0]
    others = torch.cat([decoded[: Channels.TEMPO], decoded[Channels.TEMPO + 1 :]])
    assert 0 <= others.min() and others.max() <= 1
    assert score_of(decoded.numpy()).length == 480


def test_neither_noise_nor_steps() -> None:
    with pytest.raises(UsageError, match="one pass"):
        codec().decode(torch.zeros(1, 6, 4), steps=3)


def test_transposed_is_as_if_the_score_had_been() -> None:
    score = tune(0)
    rolls = torch.stack([roll()] * 3)
    moved = transposed(rolls, torch.tensor([0, 4, -5]))
    for found, semitones in zip(moved, (0, 4, -5), strict=True):
        assert torch.equal(found, torch.from_numpy(roll_of(score.transposed(semitones))))


def test_what_leaves_the_keys_is_lost() -> None:
    moved = transposed(roll()[None], torch.tensor([80]))[0]
    assert not moved[Channels.ONSET].any() and not moved[Channels.HOLD].any() and not moved[Channels.VELOCITY].any()
    assert moved[Channels.DOWNBEAT].sum() == 12


def test_figures_of_what_is_exact_and_of_nothing() -> None:
    music = roll()[None]
    exact = agreement(music, music)
    assert {name: value.item() for name, value in exact.items()} == {"onset_f1": 1, "hold_f1": 1, "velocity_error": 0}
    assert agreement(music, torch.zeros_like(music))["onset_f1"] == 0
    quiet = agreement(torch.zeros_like(music), torch.zeros_like(music))
    assert all(torch.isfinite(value) for value in quiet.values())


def test_the_loss_is_least_where_the_roll_is_right_and_counts_in_beats() -> None:
    music = roll()[None]
    posterior = codec().posterior(music)
    right = torch.where(music > 0, 8.0, -8.0)
    right[:, Channels.VELOCITY] = torch.logit(music[:, Channels.VELOCITY].clamp(1e-4, 1 - 1e-4))
    right[:, Channels.TEMPO] = music[:, Channels.TEMPO]
    loss = RollLossConfig(kl=0)
    best = roll_loss(music, right, posterior, loss)
    for wrong in (-right, torch.zeros_like(right), right.roll(1, dims=-1)):
        assert roll_loss(music, wrong, posterior, loss)["total"] > 2 * best["total"]
    twice = roll_loss(torch.cat([music, music]), torch.cat([right, right]), posterior, loss)
    torch.testing.assert_close(twice["total"], best["total"])


def test_logits_of_a_tempo_stay_a_tempo() -> None:
    logits = torch.zeros(1, Channels.COUNT, 24)
    logits[:, Channels.TEMPO] = 9.0
    assert (roll_of_logits(logits)[:, Channels.TEMPO] == 5).all() and (logits[:, Channels.TEMPO] == 9).all()


@pytest.mark.parametrize("wrong", [{"kl": -1.0}, {"onset": 0.0}, {"struck": 0.0}])
def test_impossible_losses(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        RollLossConfig(**wrong)


def test_a_roll_survives_a_perfect_codec() -> None:
    score = tune(3)
    back = score_of(roll_of(score))
    assert len(back.tracks) == 1 and np.array_equal(back.tracks[0].start, score.tracks[0].start)
