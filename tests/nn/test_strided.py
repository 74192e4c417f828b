"""Strided convolutions in bfloat16: on CPUs with AMX, the kernels that torch would take give other sums altogether."""

from __future__ import annotations

import pytest
import torch

from musicldm.nn.blocks import StridedConv1d


@pytest.mark.parametrize("channels", [1, 2, 8, 12, 16])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 1), (4, 2), (8, 4), (32, 8), (128, 32)])
def test_bfloat16_only_rounds(channels: int, kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    layer, x = StridedConv1d(channels, 16, kernel, stride), torch.randn(2, channels, 40 * stride)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer(x)
    assert exact.shape == rough.shape == (2, 16, 40) and rough.dtype == torch.bfloat16
    assert (rough - exact).norm() < 0.02 * exact.norm()
