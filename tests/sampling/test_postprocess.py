"""Levels, joins and cuts of waveforms that come in pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from musicldm.sampling.postprocess import PEAK, limiter


@pytest.mark.parametrize("size", [7, 100, 1000, 5000])
def test_the_limiter(size: int) -> None:
    """No sample beyond full scale, nothing changed where it would not clip, whatever the pieces."""
    rng = np.random.default_rng(0)
    audio = torch.from_numpy(rng.normal(0, 0.1, (2, 5000)).astype(np.float32))
    audio[:, 2000:2050] *= 30
    audio[0, 4999] = 2.0
    pieces = list(limiter(torch.split(audio, size, dim=1), 40))
    out = torch.cat(pieces, dim=1)
    assert out.shape == audio.shape and out.abs().max() <= PEAK + 1e-6
    far = torch.ones(5000, dtype=torch.bool)
    far[1960:2090] = far[4959:] = False
    assert torch.equal(out[:, far], audio[:, far])
    gain = (out / audio)[0]
    assert gain.diff().abs().max() < 0.05  # it does not jump
    torch.testing.assert_close(out, torch.cat(list(limiter([audio], 40)), dim=1))
