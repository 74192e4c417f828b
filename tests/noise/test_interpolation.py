"""Between two noises."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from musicldm.noise.interpolation import slerp


def test_slerp_keeps_the_spread_of_noise() -> None:
    a, b = torch.randn(2, 1, 4, 2000)
    assert abs(slerp(a, b, 0.5).std() - 1) < 0.05
    torch.testing.assert_close(slerp(a, a, 0.3), a)
    assert torch.equal(slerp(a, b, 0.0), a) and torch.equal(slerp(a, b, 1.0), b)

    class Narrow(Tensor):
        """On a device without 64 bits."""

        def double(self) -> Tensor:
            raise TypeError("no float64")

        def cpu(self, *_: Any) -> Tensor:  # type: ignore[override]
            return self.as_subclass(Tensor)

    torch.testing.assert_close(slerp(a.as_subclass(Narrow), b.as_subclass(Narrow), 0.3).cpu(), slerp(a, b, 0.3))
