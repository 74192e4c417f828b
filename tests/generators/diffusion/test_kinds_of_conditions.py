"""Both networks take a vector, a sequence and frames, and are built for those that a model has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from musicldm.conditions.base import ConditionConfig, Conditioning
from musicldm.generators.diffusion.config import DiffusionConfig
from musicldm.generators.diffusion.model import Diffusion
from musicldm.generators.diffusion.transformer import Transformer, TransformerConfig
from musicldm.generators.diffusion.unet import UNet, UNetConfig
from musicldm.nn.attention import CrossAttention
from tests.toy_conditions import CurveCondition, WordsCondition, registered, usual

ALL = ("artist", "position", "words", "curve")
NETWORKS = ("unet", "transformer")
FRAMES = 11  # no multiple of what the U-Net takes


@pytest.fixture(autouse=True)
def other_kinds() -> Iterator[None]:
    with registered(WordsCondition, CurveCondition):
        yield


def diffusion(network: str, names: tuple[str, ...] = ALL, trained: bool = True) -> Diffusion:
    """As if it had been trained: nothing of it is zero."""
    torch.manual_seed(0)
    conditions: ConditionConfig = replace(usual("Abba", "Zoë"), names=names)
    config = DiffusionConfig(
        network="unet" if network == "unet" else "transformer",
        unet=UNetConfig(latent_channels=3, widths=(16, 24), blocks=1, attention_stages=1, heads=4),
        transformer=TransformerConfig(latent_channels=3, width=32, depth=2, heads=4),
        conditions=conditions,
    )
    model = Diffusion(config).eval()
    if trained:
        for weight in model.parameters():
            nn.init.normal_(weight, std=0.2)
    return model


def predicted(model: Diffusion, told: Conditioning, x: Tensor | None = None) -> Tensor:
    noise = torch.randn(1, 3, FRAMES, generator=torch.Generator().manual_seed(1)) if x is None else x
    network: UNet | Transformer = model.network
    prediction: Tensor = network(noise.expand(told.batch, -1, -1), torch.full((told.batch,), 300.0), told)
    return prediction


def told(model: Diffusion, words: str = "3 4 5", curve: list[float] | None = None) -> Conditioning:
    shape = curve or torch.linspace(-1, 1, FRAMES).tolist()
    return model.conditions.parse({"artist": "Zoë", "position": 0.5, "words": words, "curve": shape})


@pytest.mark.parametrize("network", NETWORKS)
def test_every_kind_reaches_the_prediction_and_has_a_null(network: str) -> None:
    model = diffusion(network)
    whole, null = told(model), model.conditions.null(1)
    without = [whole.without({name: torch.tensor([True])}) for name in ALL]
    predictions = [predicted(model, each) for each in (whole, null, *without)]
    assert all(each.shape == (1, 3, FRAMES) for each in predictions)
    assert torch.pdist(torch.cat(predictions).flatten(1)).min() > 1e-3
    nothing = whole.without(dict.fromkeys(ALL, torch.tensor([True])))
    torch.testing.assert_close(predicted(model, nothing), predictions[1])
    # In one batch, as guidance has them, each item is what it is alone.
    both = predicted(model, Conditioning.cat([whole, null]))
    torch.testing.assert_close(both, torch.cat(predictions[:2]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_padding_of_a_sequence_has_no_influence(network: str) -> None:
    model = diffusion(network)
    (short, padded), table = (told(model), told(model)), model.conditions["words"]
    short = replace(short, values={**short.values, "words": torch.tensor([[3, 4, 5]])})
    torch.testing.assert_close(predicted(model, short), predicted(model, padded), atol=1e-5, rtol=1e-5)
    before = predicted(model, padded)
    assert isinstance(table, WordsCondition)
    with torch.no_grad():
        table.table.weight[0] = 100.0  # what padding is embedded as
    assert torch.equal(predicted(model, padded), before)
    assert not torch.equal(predicted(model, told(model, words="3 4 6")), before)


@pytest.mark.parametrize("network", NETWORKS)
def test_frames_align_with_the_latents(network: str) -> None:
    """A change of the curve at one frame changes the input at that frame, and nowhere else."""
    model = diffusion(network)
    flat = [0.5] * FRAMES
    bent = [*flat[:7], 2.0, *flat[8:]]
    seen: list[Tensor] = []

    def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    first = model.network.down[0].units[0] if isinstance(model.network, UNet) else model.network.blocks[0]
    assert isinstance(first, nn.Module)
    with first.register_forward_pre_hook(look):
        for curve in (flat, bent):
            predicted(model, told(model, curve=curve))
    change = (seen[0] - seen[1]).abs()
    along = change.sum(dim=(0, 1)) if network == "unet" else change.sum(dim=(0, 2))
    assert along.nonzero().flatten().tolist() == [7]


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_reach_every_weight(network: str) -> None:
    model = diffusion(network, trained=False).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    whole = told(model)
    parts = [whole, *(whole.without({name: torch.tensor([True])}) for name in ALL)]
    for _ in range(5):  # what starts at zero opens the way for what lies before it
        optimizer.zero_grad()
        x = torch.randn(1, 3, FRAMES)
        (predicted(model, Conditioning.cat(parts), x) - 1).square().mean().backward()
        optimizer.step()
    silent = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert silent == []


@pytest.mark.parametrize("network", NETWORKS)
def test_recomputed_activations_give_the_same_gradients(network: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = diffusion(network).train()
        model.checkpointing = checkpointing
        predicted(model, told(model)).square().mean().backward()
        gradients.append([weight.grad for weight in model.parameters() if weight.grad is not None])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("network", NETWORKS)
def test_it_begins_as_if_there_were_no_other_kind(network: str) -> None:
    """Cross-attention and per-frame inputs start at zero, and are there only where a condition needs them."""
    plain, rich = diffusion(network, ALL[:2], trained=False), diffusion(network, trained=False)
    shared = plain.state_dict()
    own = [name for name in rich.state_dict() if name not in shared]
    assert own and not any(isinstance(module, CrossAttention) for module in plain.modules())
    assert all("words" in name or "curve" in name or "cross" in name or ".frames" in name for name in own)
    for name, weight in plain.named_parameters():  # the same weights, none of them zero, beside those that are added
        nn.init.normal_(weight, std=0.2)
        rich.get_parameter(name).data.copy_(weight)
    told_plain = plain.conditions.parse({"artist": "Zoë", "position": 0.5})
    assert torch.equal(predicted(plain, told_plain), predicted(rich, told(rich)))


@pytest.mark.parametrize("network", NETWORKS)
def test_bfloat16_gives_nearly_the_same(network: str) -> None:
    model = diffusion(network)
    whole = told(model)
    with torch.autocast("cpu", torch.bfloat16):
        rough = predicted(model, whole)
    exact = predicted(model, whole)
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max() + 0.02
