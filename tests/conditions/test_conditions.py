"""What a generator is conditioned on: it has an effect, it can be absent, and artists can be mixed."""

from __future__ import annotations

import pickle
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from musicldm.conditions.artist import ArtistCondition, mixture
from musicldm.conditions.base import CONDITIONS, ConditionConfig, Conditioning, ConditionSet
from musicldm.core.errors import AmbiguousError, ConfigError, NotFoundError, UsageError
from musicldm.generators.diffusion.config import DiffusionConfig
from musicldm.generators.diffusion.model import Diffusion
from musicldm.generators.diffusion.transformer import TransformerConfig
from musicldm.generators.diffusion.unet import UNetConfig
from musicldm.latents.dataset import Crops, LatentBatch
from musicldm.latents.table import TrackTable
from tests.toy_conditions import CurveCondition, WordsCondition, conditioning, registered, usual

THREE = usual("Abba", "Bach", "Zoë")
NETWORKS = {
    "unet": DiffusionConfig(unet=UNetConfig(3, (16,), 1), conditions=THREE),
    "transformer": DiffusionConfig("transformer", transformer=TransformerConfig(3, 32, 2), conditions=THREE),
}
ALL_KINDS = ("artist", "position", "words", "curve")


@pytest.fixture(autouse=True)
def other_kinds() -> Iterator[None]:
    with registered(WordsCondition, CurveCondition):
        yield


def trained(config: ConditionConfig = THREE) -> ConditionSet:
    """As if it had been trained: no vector of it is zero."""
    torch.manual_seed(0)
    conditions = ConditionSet(config, 16)
    for weight in conditions.parameters():
        torch.nn.init.normal_(weight)
    return conditions


def vector(conditions: ConditionSet, given: Conditioning) -> Tensor:
    embedded: Tensor | None = conditions(given, 1).vector
    assert embedded is not None
    return embedded


def of(*weights: list[float], position: float = 0.25) -> Conditioning:
    return conditioning(torch.tensor(weights), torch.full((len(weights),), position))


# ---- Absence ---------------------------------------------------------------------------------------------------------


def test_what_is_dropped_is_as_if_it_had_never_been_there() -> None:
    everything = of([1.0, 0, 0], [0, 0, 1.0])
    neither = everything.without({name: torch.tensor([True, True]) for name in everything.values})
    conditions = trained()
    assert neither.is_null and not everything.is_null and conditions.null(2).is_null
    assert torch.equal(vector(conditions, neither), vector(conditions, conditions.null(2)))
    one = everything.without({"artist": torch.tensor([True, False]), "position": torch.tensor([False, True])})
    same = conditioning(torch.tensor([[0.0, 0, 0], [0, 0, 1.0]]), torch.tensor([0.25, -1.0]))
    assert torch.equal(vector(conditions, one), vector(conditions, same))
    rows = torch.cat([vector(conditions, each) for each in (everything, one, neither)])[:5]
    assert torch.pdist(rows).min() > 0.1


def test_one_batch_of_several() -> None:
    """What one part lacks altogether is absent for its items."""
    conditions = trained()
    told, null = of([1.0, 0, 0]), conditions.null(2)
    both = Conditioning.cat([told, null])
    assert both.batch == 3 and both.present["artist"].tolist() == [True, False, False]
    expected = torch.cat([vector(conditions, told), vector(conditions, null)])
    torch.testing.assert_close(vector(conditions, both), expected)
    assert Conditioning.cat([null, null]) == conditions.null(4)


def test_one_item_stands_for_many() -> None:
    many = of([0.2, 0.8, 0]).expanded(3)
    assert torch.equal(many.values["artist"], torch.tensor([[0.2, 0.8, 0]] * 3))
    assert many.values["position"].tolist() == [0.25] * 3 and many.batch == 3
    assert many.present["position"].tolist() == [True] * 3


@pytest.mark.parametrize("names", [("artist", "position"), ("position",), ("artist", "position", "words")])
@pytest.mark.parametrize("fraction", [0.1, 0.0])
def test_each_condition_is_dropped_as_often_and_most_often_several_at_once(
    names: tuple[str, ...], fraction: float
) -> None:
    items = 20000
    present = {name: torch.ones(items, dtype=torch.bool) for name in names}
    chance = torch.rand(items, generator=torch.Generator().manual_seed(0))
    before = Conditioning(items, dict.fromkeys(names, torch.zeros(items)), present)
    dropped = trained(replace(THREE, names=names)).dropped(before, chance, fraction)
    absent = torch.stack([~dropped.present[name] for name in names])
    for count in absent.sum(dim=1).tolist():
        assert count / items == pytest.approx(fraction, abs=4 * (fraction / items) ** 0.5)
    wanted = fraction * 0.5 ** (len(names) - 1)
    assert absent.all(dim=0).float().mean().item() == pytest.approx(wanted, abs=4 * (wanted / items) ** 0.5)


def test_a_null_condition_of_each_kind() -> None:
    conditions = trained(replace(THREE, names=ALL_KINDS))
    embedded = conditions(conditions.null(2), frames=5)
    assert embedded.vector.shape == (2, 16)
    assert embedded.sequence.shape == (2, 1, 16) and embedded.mask.all()
    assert embedded.frames.shape == (2, 2, 5)
    assert torch.equal(embedded.sequence[0, 0], conditions["words"].null)
    assert torch.equal(embedded.frames[1, :, 4], conditions["curve"].null)


def test_an_absent_sequence_is_one_null_element_whatever_stood_there() -> None:
    conditions = trained(replace(THREE, names=ALL_KINDS))
    told = conditions.parse({"words": "3 4 5"})
    both = Conditioning.cat([told, conditions.null(1), told.without({"words": torch.tensor([True])})])
    embedded = conditions(both, frames=1)
    assert embedded.mask.tolist() == [[True, True, True, False], *[[True, False, False, False]] * 2]
    for item in (1, 2):
        assert torch.equal(embedded.sequence[item, 0], conditions["words"].null)
    # A sequence without any element is an absent one: attention must have something to sum.
    empty = conditions(conditions.parse({"words": " "}), frames=1)
    assert empty.mask.tolist() == [[True, False, False, False]]


def test_frames_must_be_as_many_as_the_latents_have() -> None:
    conditions = trained(replace(THREE, names=ALL_KINDS))
    told = conditions.parse({"curve": [1, 2, 3]})
    assert conditions(told, frames=3).frames[0].tolist() == [[1, 2, 3], [1, 4, 9]]
    with pytest.raises(UsageError, match="curve has 3 frames, the latents have 4"):
        conditions(told, frames=4)
    window = conditions.at_frames(told.expanded(2), torch.tensor([2, 0]))
    assert conditions(window, frames=2).frames[1, 0].tolist() == [3, 1]


# ---- Artist and position ---------------------------------------------------------------------------------------------


def test_a_mixture_of_artists_is_the_mixture_of_their_embeddings() -> None:
    abba, bach, mixed = vector(trained(), of([1.0, 0, 0], [0, 1.0, 0], [0.7, 0.3, 0]))
    torch.testing.assert_close(mixed, 0.7 * abba + 0.3 * bach)


def test_what_a_model_is_not_conditioned_on_has_no_effect() -> None:
    deaf = trained(replace(THREE, names=("position",)))
    assert torch.equal(vector(deaf, of([1.0, 0, 0])), vector(deaf, of([0, 1.0, 0])))
    deaf = trained(replace(THREE, names=("artist",)))
    near, far = (of([1.0, 0, 0], position=position) for position in (0.1, 0.9))
    assert torch.equal(vector(deaf, near), vector(deaf, far))
    nothing = ConditionSet(ConditionConfig(()), 16)
    assert nothing(nothing.null(2), 3).vector is None and nothing.names == []
    assert "artist" not in ConditionSet(ConditionConfig(), 16), "there are no artists to tell apart"


def test_what_a_person_types() -> None:
    conditions = trained()
    told = conditions.parse({"artist": "zoë:3, Abba", "position": 0.5})
    assert told.values["artist"].tolist() == [[0.25, 0, 0.75]] and told.values["position"].tolist() == [0.5]
    assert conditions.parse({"artist": "", "position": None}).is_null
    assert conditions.parse({"position": "0"}).values["position"].tolist() == [0.0]
    assert "artist" in conditions and conditions["artist"].choices == ("Abba", "Bach", "Zoë")


@pytest.mark.parametrize(
    ("wanted", "kind", "sentence"),
    [
        ({"artist": "Abba:0"}, UsageError, "'Abba:0' is not a valid weight"),
        ({"artist": "Abba:much"}, UsageError, "'Abba:much' is not a valid weight"),
        ({"artist": "Abbo"}, NotFoundError, "knows no artist 'Abbo'"),
        ({"position": 1.5}, UsageError, "no position 1.5"),
        ({"position": "middle"}, UsageError, "no position middle"),
        ({"words": "3"}, UsageError, "without words"),
        ({"colour": "red"}, UsageError, "no condition 'colour'"),
    ],
)
def test_what_makes_no_sense_is_refused(wanted: dict[str, object], kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        trained().parse(wanted)


@dataclass(frozen=True)
class Music:
    artists: tuple[str, ...] = ("Abba", "Bach")


def test_crops_tell_what_the_conditions_need() -> None:
    fitted = ConditionConfig(dropout=0.2).fitted(Music())
    assert fitted == replace(usual("Abba", "Bach"), dropout=0.2)
    nothing = np.zeros(3, np.int64)
    seconds = torch.tensor([10.0, 20.0, 0.0])
    crops = Crops(
        ["Bach", "Zoë", "Abba"], torch.tensor([5.0, 5.0, 0.0]), seconds, 8, TrackTable.of([]), nothing, nothing
    )
    values = {name: read(crops) for name, read in pickle.loads(pickle.dumps(fitted.readers())).items()}
    conditions = trained(fitted)
    told = conditions.of_batch(LatentBatch(torch.zeros(3, 1, 8), values))
    assert told.present["artist"].tolist() == [True, False, True], "of Zoë there is nothing to train on"
    same = conditioning(torch.tensor([[0, 1.0], [0, 0], [1, 0]]), torch.tensor([0.5, 0.25, 0.0]))
    assert torch.equal(vector(conditions, told), vector(conditions, same))
    assert fitted.readers().keys() == {"artist", "position"}


# ---- Networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_a_trained_network_follows_its_conditions(name: str) -> None:
    """Each artist has a level of their own, which rises over the track; without a condition, it is what they share."""
    torch.manual_seed(0)
    diffusion = Diffusion(NETWORKS[name])
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=3e-3)
    levels = torch.tensor([-1.0, 0.0, 1.0])
    for _ in range(400):
        artist, position = torch.randint(3, (32,)), torch.rand(32)
        x0 = (levels[artist] + 2 * (position - 0.5)).view(-1, 1, 1).expand(32, 3, 8)
        dropped = torch.rand(32) < 0.2
        told = conditioning(torch.eye(3)[artist], position).without({"artist": dropped, "position": dropped})
        loss = diffusion.loss(x0, torch.randint(1000, (32,)), torch.randn_like(x0), told).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    noise = torch.randn(7, 3, 8)
    requests = Conditioning.cat(
        [
            of([1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], position=0.5),
            of([0, 1.0, 0], position=0.1),
            of([0, 1.0, 0], position=0.9),
            diffusion.conditions.null(2),
        ]
    )
    with torch.inference_mode():  # where hardly any signal is left, there is nothing else to go by
        found = diffusion.denoise(noise, diffusion.schedule.at(980), requests).mean(dim=(1, 2)).tolist()
    assert found == pytest.approx([-1.0, 0.0, 1.0, -0.8, 0.8, 0.0, 0.0], abs=0.35)


# ---- Configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_impossible_fractions_are_refused(dropout: float) -> None:
    with pytest.raises(ConfigError, match="dropout"):
        ConditionConfig(dropout=dropout)


@pytest.mark.parametrize("names", [("colour",), ("artist", "artist")])
def test_impossible_conditions_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="condition"):
        ConditionConfig(names)


def test_every_condition_in_the_registry_is_one() -> None:
    for name in CONDITIONS.names():
        assert CONDITIONS.load(name).name == name


# ---- One name, however it is typed -----------------------------------------------------------------------------------

WIND = "Earth, Wind & Fire"
AL = '"Weird Al" Yankovic'


@pytest.mark.parametrize(
    ("typed", "weights"),
    [
        (unicodedata.normalize("NFD", "Zoë"), [0, 0, 1, 0]),
        ("ZOË", [0, 0, 1, 0]),
        (unicodedata.normalize("NFD", "ZOË:3, bach"), [0, 0.25, 0.75, 0]),
        (f'"{WIND}"', [1, 0, 0, 0]),
        (f'"{WIND.upper()}":0.75, Bach:0.25', [0.75, 0.25, 0, 0]),
        (f'Bach,"{WIND}"', [0.5, 0.5, 0, 0]),
        (f"{WIND}:1,Bach:1", [0.5, 0.5, 0, 0]),
        (AL, [0, 0, 0, 1]),
        ('"""Weird Al"" Yankovic"', [0, 0, 0, 1]),
        ("Bach,", [0, 1, 0, 0]),
    ],
)
def test_an_artist_is_found_however_the_name_is_typed(typed: str, weights: list[float]) -> None:
    assert mixture(typed, [WIND, "Bach", "Zoë", AL]) == pytest.approx(weights)


def test_a_quoted_name_that_nobody_has_is_named_whole() -> None:
    with pytest.raises(NotFoundError, match=r"no artist 'Bach, J\. S\.'"):
        mixture('"Bach, J. S.":2', ["Bach"])


def test_of_two_artists_spelled_alike_the_choice_is_offered() -> None:
    """An earlier release may have trained on both."""
    known = ["ABBA", "Abba", "Bach"]
    assert mixture("Abba", known) == [0, 1, 0]
    with pytest.raises(AmbiguousError, match="2 artists are spelled like 'abba'") as caught:
        mixture("abba:2,Bach", known)
    assert "'ABBA'" in caught.value.hint and "'Abba'" in caught.value.hint


def test_crops_find_their_artist_in_any_spelling() -> None:
    artists = ["ZOË", unicodedata.normalize("NFD", "Zoë"), "Bach", "", "Nobody"]
    zeros, nothing = torch.zeros(5), np.zeros(5, np.int64)
    crops = Crops(artists, zeros, zeros, 8, TrackTable.of([]), nothing, nothing)
    assert ArtistCondition.of_crops({"names": ["Bach", "Zoë"]}, crops).tolist() == [1, 1, 0, -1, -1]
