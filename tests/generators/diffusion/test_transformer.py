"""The transformer: any length, positions that are distances, and a beginning that predicts nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from musicldm.conditions.base import Conditioning, Embedding
from musicldm.core.errors import ConfigError
from musicldm.generators.diffusion.transformer import Transformer, TransformerBlock, TransformerConfig
from tests.toy_conditions import conditioning, usual

TOY = TransformerConfig(latent_channels=3, width=32, depth=2, heads=4)
CONDITIONS = usual("Abba", "Zoë")
TIMES = torch.tensor([10, 500])
CONDITIONING = conditioning(torch.eye(2), torch.tensor([0.1, -1.0]))


def transformer(std: float = 0.3) -> Transformer:
    """As if it had been trained: no gate of it is zero."""
    torch.manual_seed(0)
    model = Transformer(TOY, CONDITIONS)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=std)
    return model.eval()


@pytest.mark.parametrize("frames", [1, 2, 5, 63, 300])
def test_any_length_keeps_its_shape(frames: int) -> None:
    x = torch.randn(2, 3, frames)
    out = transformer()(x, TIMES, CONDITIONING)
    assert out.shape == x.shape and out.isfinite().all()


def test_untrained_it_predicts_zero_and_its_blocks_change_nothing() -> None:
    model = Transformer(TOY, CONDITIONS)
    assert not model(torch.randn(2, 3, 9), TIMES, CONDITIONING).any()
    h, embedding = torch.randn(2, 9, 32), torch.randn(2, 64)
    for block in model.blocks:
        assert torch.equal(block(h, embedding, torch.ones(9, 4, dtype=torch.complex64), Embedding()), h)


def test_positions_are_distances() -> None:
    """Attention in a block knows how far apart two frames are, and not where they lie."""
    model, seen = transformer(), []
    block = model.blocks[0]
    assert isinstance(block, TransformerBlock)

    def look(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append(q @ k.transpose(-1, -2))
        return v

    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(F, "scaled_dot_product_attention", look)
        model(torch.randn(2, 3, 1).expand(2, 3, 200), TIMES, CONDITIONING)  # all frames are alike
    scores = seen[0]
    for distance in (-7, 0, 1, 60):
        diagonal = scores.diagonal(distance, -2, -1)
        torch.testing.assert_close(diagonal, diagonal[..., :1].expand_as(diagonal), rtol=1e-4, atol=1e-4)
    assert (scores[..., 0, 0] - scores[..., 0, 60]).abs().min() > 1e-3


def test_a_shifted_input_gives_a_shifted_output() -> None:
    """Within the length that is looked at nothing marks the place: silence on both sides of a phrase may be moved."""
    model = transformer()
    phrase = torch.randn(2, 3, 20)
    first, second = (F.pad(phrase, (before, 40 - before)) for before in (8, 25))
    whole = 40 + phrase.shape[-1]
    with torch.inference_mode():
        a, b = (model(x, TIMES, CONDITIONING) for x in (first, second))
    assert a.shape[-1] == whole
    moved = a[..., 8:28] - b[..., 25:45]
    still = a[..., 8:28] - b[..., 8:28]
    assert moved.norm() < 0.25 * still.norm()


def test_every_weight_takes_part() -> None:
    model = Transformer(TOY, CONDITIONS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    both = Conditioning.cat([CONDITIONING, CONDITIONING.without({"artist": torch.tensor([True, True])})])
    for _ in range(4):  # what starts at zero opens the way for what lies before it
        optimizer.zero_grad()
        (model(torch.randn(4, 3, 16), TIMES.repeat(2), both) - 1).square().mean().backward()
        optimizer.step()
    silent = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert silent == []


def test_bfloat16_gives_nearly_the_same() -> None:
    model, x = transformer(0.1), torch.randn(2, 3, 16)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(x, TIMES, CONDITIONING)
    exact = model(x, TIMES, CONDITIONING)
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max() + 0.02


@pytest.mark.parametrize("wrong", [{"depth": 0}, {"heads": 0}, {"expansion": 0}, {"width": 36, "heads": 8}])
def test_impossible_shapes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        TransformerConfig(**wrong)
