"""What a denoiser is told: it is heard, it can be left out, and artists can be mixed."""

from __future__ import annotations

import pytest
import torch

from musicldm.conditions.base import ConditionConfig, ConditionEmbedding, Conditions
from musicldm.core.errors import ConfigError
from musicldm.generators.diffusion.model import Diffusion, DiffusionConfig
from musicldm.generators.diffusion.transformer import TransformerConfig
from musicldm.generators.diffusion.unet import UNetConfig

THREE = ConditionConfig(artists=("Abba", "Bach", "Zoë"))
NETWORKS = {
    "unet": DiffusionConfig(unet=UNetConfig(3, (16,), 1), conditions=THREE),
    "transformer": DiffusionConfig("transformer", transformer=TransformerConfig(3, 32, 2), conditions=THREE),
}


def embedding(config: ConditionConfig = THREE) -> ConditionEmbedding:
    """As if it had been trained: no vector of it is zero."""
    torch.manual_seed(0)
    embedding = ConditionEmbedding(config, 16)
    for weight in embedding.parameters():
        torch.nn.init.normal_(weight)
    return embedding


def told(*shares: list[float], position: float = 0.25) -> Conditions:
    return Conditions(torch.tensor(shares), torch.full((len(shares),), position))


def test_what_is_dropped_is_as_if_it_had_not_been_told() -> None:
    everything = told([1.0, 0, 0], [0, 0, 1.0])
    neither = everything.dropped(torch.tensor([True, True]), torch.tensor([True, True]))
    embed = embedding()
    assert torch.equal(embed(neither), embed(Conditions.none(2, 3)))
    one = everything.dropped(torch.tensor([True, False]), torch.tensor([False, True]))
    same = Conditions(torch.tensor([[0.0, 0, 0], [0, 0, 1.0]]), torch.tensor([0.25, -1.0]))
    assert torch.equal(embed(one), embed(same))
    rows = torch.cat([embed(everything), embed(one), embed(neither)[:1]])
    assert torch.pdist(rows).min() > 0.1


def test_a_mixture_of_artists_is_the_mixture_of_their_embeddings() -> None:
    embed = embedding()
    abba, bach, mixed = embed(told([1.0, 0, 0], [0, 1.0, 0], [0.7, 0.3, 0]))
    torch.testing.assert_close(mixed, 0.7 * abba + 0.3 * bach)


def test_what_is_not_to_be_told_is_not_heard() -> None:
    deaf = embedding(ConditionConfig(artists=THREE.artists, by_artist=False))
    assert torch.equal(deaf(told([1.0, 0, 0])), deaf(told([0, 1.0, 0])))
    deaf = embedding(ConditionConfig(artists=THREE.artists, by_position=False))
    assert torch.equal(deaf(told([1.0, 0, 0], position=0.1)), deaf(told([1.0, 0, 0], position=0.9)))
    assert embedding(ConditionConfig(by_artist=False, by_position=False))(Conditions.none(2, 0)) == 0.0


def test_one_item_stands_for_many() -> None:
    many = told([0.2, 0.8, 0]).expanded(3)
    assert torch.equal(many.artists, torch.tensor([[0.2, 0.8, 0]] * 3)) and many.position.tolist() == [0.25] * 3


@pytest.mark.parametrize("name", NETWORKS)
def test_a_trained_network_does_as_it_is_told(name: str) -> None:
    """Each artist has a level of their own, which rises over the track; untold, it is what they have in common."""
    torch.manual_seed(0)
    diffusion = Diffusion(NETWORKS[name])
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=3e-3)
    levels = torch.tensor([-1.0, 0.0, 1.0])
    for _ in range(400):
        artist, position = torch.randint(3, (32,)), torch.rand(32)
        x0 = (levels[artist] + 2 * (position - 0.5)).view(-1, 1, 1).expand(32, 3, 8)
        untold = torch.rand(32) < 0.2
        conditions = Conditions(torch.eye(3)[artist], position).dropped(untold, untold)
        loss = diffusion.loss(x0, torch.randint(1000, (32,)), torch.randn_like(x0), conditions).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    noise = torch.randn(7, 3, 8)
    asked = Conditions.cat(
        [
            told([1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], position=0.5),
            told([0, 1.0, 0], position=0.1),
            told([0, 1.0, 0], position=0.9),
            Conditions.none(2, 3),
        ]
    )
    with torch.inference_mode():  # where hardly any signal is left, there is nothing else to go by
        found = diffusion.denoise(noise, diffusion.schedule.at(980), asked).mean(dim=(1, 2)).tolist()
    assert found == pytest.approx([-1.0, 0.0, 1.0, -0.8, 0.8, 0.0, 0.0], abs=0.35)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_impossible_shares_are_refused(dropout: float) -> None:
    with pytest.raises(ConfigError, match="dropout"):
        ConditionConfig(dropout=dropout)
