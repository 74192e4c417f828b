"""Every task, by a toy model with random weights: what must hold holds whatever it has learned."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from musicldm.conditions.base import Conditioning
from musicldm.core.errors import MusicLDMError, NotFoundError, UsageError
from musicldm.core.progress import Progress, silent
from musicldm.generators.base import LatentRequest
from musicldm.generators.diffusion.generate import DiffusionOptions
from musicldm.noise.samplers import SAMPLERS
from musicldm.noise.schedule import NoiseLevel
from musicldm.sampling import Extend, Infill, Interpolate, InterpolateSeeds, Loop, New, Pipeline, Vary
from musicldm.sampling.postprocess import PEAK
from tests.toy_model import HOP, RATE, chord, diffusion_of, generator_of, toy


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return toy()


@pytest.fixture(scope="module")
def audio() -> Tensor:
    return chord()


QUICK: dict[str, Any] = {"steps": 4}


def test_guidance_by_the_model_itself(pipeline: Pipeline) -> None:
    """Away from what the network says without any condition; both in one batch."""
    generator, x = generator_of(pipeline), torch.randn(2, 4, 16)
    diffusion, level = generator.diffusion, generator.diffusion.schedule.at(600)
    bach = diffusion.conditions.parse({"artist": "Johann Sebastian Bach"})
    batches: list[int] = []
    diffusion.network.register_forward_pre_hook(lambda _, given: batches.append(len(given[0])))

    def guided(scale: float = 1.0, interval: tuple[float, float] = (0.0, 1.0), rescale: float = 0.0) -> Tensor:
        options = DiffusionOptions(guidance=scale, guidance_interval=interval, guidance_rescale=rescale)
        return generator.denoiser(bach, options)(x, level)

    with torch.inference_mode():
        c = diffusion.denoise(x, level, bach.expanded(2))
        u = diffusion.denoise(x, level, diffusion.conditions.null(2))
        assert (c - u).abs().max() > 1e-3
        batches.clear()
        torch.testing.assert_close(guided(3.0), u + 3 * (c - u))
        torch.testing.assert_close(guided(0.0), u)
        torch.testing.assert_close(guided(), c)
        torch.testing.assert_close(guided(3.0, (0.0, 0.5)), c)
        torch.testing.assert_close(guided(3.0, (0.5, 0.7)), u + 3 * (c - u))
        assert batches == [4, 4, 2, 2, 4]
        std = guided(3.0, rescale=1.0).std(dim=(1, 2))
    torch.testing.assert_close(std, c.std(dim=(1, 2)))


def test_a_take_is_the_same_alone_and_in_company(pipeline: Pipeline) -> None:
    one = pipeline.sample(seconds=1.0, take=1, **QUICK)
    assert one.shape == (1, RATE) and one.abs().max() <= PEAK
    assert torch.equal(one, pipeline.sample(seconds=1.0, take=1, **QUICK))
    assert not torch.equal(one, pipeline.sample(seconds=1.0, take=0, **QUICK))
    assert not torch.equal(one, pipeline.sample(seconds=1.0, take=1, seed=1, **QUICK))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_makes_music(pipeline: Pipeline, name: str) -> None:
    assert pipeline.sample(seconds=0.5, sampler=name, **QUICK).isfinite().all()


def test_a_long_piece_comes_in_windows_as_soon_as_they_are_done(pipeline: Pipeline) -> None:
    widths: list[int] = []
    diffusion = diffusion_of(pipeline)
    original = diffusion.denoise

    def watched(x: Tensor, level: NoiseLevel, conditioning: Conditioning) -> Tensor:
        widths.append(x.shape[-1])
        return original(x, level, conditioning)

    diffusion.denoise = watched  # type: ignore[method-assign]
    try:
        reports: list[tuple[float, float | None]] = []

        def progress(done: float, total: float | None, text: str = "") -> None:
            reports.append((done, total))

        pieces = pipeline.stream(New(10.0), window=1.0, progress=progress, **QUICK)
        first = next(pieces)
        assert len(widths) == 4  # one window's steps
        whole = torch.cat([first, *pieces], dim=1)
    finally:
        del diffusion.denoise
    assert whole.shape == (1, 10 * RATE) and max(widths) <= 125
    assert [done for done, _ in reports] == list(range(1, len(reports) + 1)) and reports[-1][0] == reports[-1][1]
    assert max(widths) - min(widths) <= 4  # the piece is divided evenly
    assert torch.equal(whole, pipeline.sample(seconds=10.0, window=1.0, **QUICK))


@pytest.mark.parametrize(("seconds", "count"), [(16.0, 1), (18.0, 1), (30.0, 2), (60.0, 5)])
def test_little_of_a_long_piece_is_made_twice(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, seconds: float, count: int
) -> None:
    """A window of one's own choice is up to 1.15 times as long where that saves one: of 16 s and no more by name."""
    widths: list[int] = []

    def denoise(x: Tensor, level: NoiseLevel, conditioning: Conditioning) -> Tensor:
        widths.append(x.shape[-1])
        return x

    monkeypatch.setattr(diffusion_of(pipeline), "denoise", denoise)
    frames = pipeline.spec.frames(round(seconds * RATE))
    assert pipeline.latents(frames, steps=1).shape[-1] == frames
    assert len(widths) == count and max(widths) <= 1.15 * 2000
    assert sum(widths) - frames <= (count - 1) * 0.26 * max(widths)  # but for what windows share
    widths.clear()
    assert pipeline.latents(frames, steps=1, window=16.0).shape[-1] == frames
    assert max(widths) <= 2000


def test_a_window_is_what_the_network_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be filled up with zeros, at every step. What is made beyond the piece is cut off."""
    small = toy()
    lengths: list[int] = []
    diffusion_of(small).network.register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[-1]))
    for frames in (125, 126, 301):
        assert small.latents(frames, window=1.0, **QUICK).shape == (4, frames)
        assert small.latents(frames, joint=True, **QUICK).shape == (4, frames)
    small.sample(InterpolateSeeds((1, 2), 1.0, 0.5), **QUICK)
    list(small.stream(Extend(torch.zeros(1, 3 * HOP), 1.0), window=1.0, **QUICK))
    assert len(lengths) > 20 and all(length % 2 == 0 for length in lengths)


def test_windows_continue_each_other(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a window keeps is the end of the one before, and it comes out of it unchanged."""
    generator, windows = pipeline.generator, list[tuple[LatentRequest, Tensor]]()
    original = generator.generate

    def watched(request: LatentRequest, progress: Progress) -> Tensor:
        windows.append((request, original(request, progress)))
        return windows[-1][1]

    monkeypatch.setattr(generator, "generate", watched)
    frames = pipeline.latents(300, window=1.0, **QUICK)
    assert len(windows) == 3 and windows[0][0].known is None and windows[0][1].shape[-1] == 120
    for (_, before), (request, after) in pairwise(windows):
        known, mask = request.known, request.mask
        assert known is not None and mask is not None
        kept = int(mask.sum())
        assert kept == 30 and mask[..., :kept].all()  # a quarter
        torch.testing.assert_close(known[..., :kept], before[..., -kept:], rtol=0, atol=0)
        torch.testing.assert_close(after[..., :kept], before[..., -kept:])
    joined = torch.cat([windows[0][1], *(after[..., 30:] for _, after in windows[1:])], dim=-1)
    assert torch.equal(joined[0], frames)  # of this model raw is normalised
    assert not torch.allclose(pipeline.latents(300, window=1.0, joint=True, **QUICK), frames)


def test_strength_is_the_distance_from_the_input(pipeline: Pipeline, audio: Tensor) -> None:
    kept = pipeline.encode(audio)
    distances = []
    for strength in (0.05, 0.3, 0.6, 1.0):
        varied = pipeline.sample(Vary(audio, strength), **QUICK)
        assert varied.shape == audio.shape
        # The latents behind it.
        z = pipeline.generate(pipeline.request(**QUICK), silent, kept.shape[-1], known=kept, strength=strength)
        distances.append((z - kept).square().mean().item())
    assert distances == sorted(distances) and distances[0] < 0.1 * distances[-1]


def test_infilling_keeps_the_rest_to_the_bit(pipeline: Pipeline, audio: Tensor) -> None:
    spans = [(2.5, 3.0), (1.0, 1.5)]
    filled = pipeline.sample(Infill(audio, spans), window=1.0, repaint=2, **QUICK)
    assert filled.shape == audio.shape and filled.isfinite().all()
    inside = torch.zeros(audio.shape[1], dtype=torch.bool)
    near = inside.clone()
    for first, last in spans:
        inside[int(first * RATE) : int(last * RATE)] = True
        near[int((first - 0.02) * RATE) : int((last + 0.02) * RATE)] = True
    assert torch.equal(filled[:, ~near], audio[:, ~near])
    assert (filled != audio)[:, inside].float().mean() > 0.95
    again = pipeline.sample(Infill(audio, spans), window=1.0, repaint=2, **QUICK)
    assert torch.equal(again, filled)
    # Nothing jumps where a fade begins.
    jumps = (filled.diff().abs()[0]).max()
    assert jumps < 1.5 * max(audio.diff().abs().max(), filled[:, inside].diff().abs().max())


@pytest.mark.parametrize("spans", [[(0.0, 1.0)], [(3.0, 4.0)], [(0.0, 0.001)], [(3.999, 4.0)]])
def test_infilling_at_the_ends(pipeline: Pipeline, audio: Tensor, spans: list[tuple[float, float]]) -> None:
    filled = pipeline.sample(Infill(audio, spans), **QUICK)
    first, last = (round(time * RATE) for time in spans[0])
    assert torch.equal(filled[:, : max(0, first - 200)], audio[:, : max(0, first - 200)])
    assert torch.equal(filled[:, last + 200 :], audio[:, last + 200 :])
    assert not torch.equal(filled, audio)


@pytest.mark.parametrize(
    ("spans", "sentence"),
    [
        ([], "no spans"),
        ([(2.0, 1.0)], "no length"),
        ([(1.0, 1.0)], "no length"),
        ([(3.0, 5.0)], "outside"),
        ([(-1.0, 1.0)], "outside"),
        ([(0.0, 2.0), (1.0, 3.0)], "overlap"),
        ([(0.0, 4.0)], "whole"),
        ([(0.0, 2.0), (2.0, 4.0)], "whole"),
        ([(math.nan, 2.0)], "no length"),
    ],
)
def test_spans_that_make_no_sense(pipeline: Pipeline, audio: Tensor, spans: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        pipeline.sample(Infill(audio, spans), **QUICK)


def test_a_continuation_begins_with_the_input(pipeline: Pipeline, audio: Tensor) -> None:
    odd = audio[:, :-13]  # which is no whole number of frames
    longer = torch.cat(list(pipeline.stream(Extend(odd, 3.0), window=1.0, **QUICK)), dim=1)
    assert longer.shape == (1, odd.shape[1] + 3 * RATE)
    kept = odd.shape[1] - round(0.02 * RATE)
    assert torch.equal(longer[:, :kept], odd[:, :kept])
    assert not torch.equal(longer[:, kept : odd.shape[1]], odd[:, kept:])
    other = torch.cat(list(pipeline.stream(Extend(odd.flip(1), 3.0), window=1.0, **QUICK)), dim=1)
    assert not torch.allclose(other[:, odd.shape[1] :], longer[:, odd.shape[1] :])  # it hears what it goes on from


def test_a_continuation_waits_for_what_is_new(pipeline: Pipeline, audio: Tensor) -> None:
    """What fails has handed out nothing, and what cannot be done is refused before anything is asked for."""
    reports: list[int] = []

    def progress(done: float, total: float | None, text: str = "") -> None:
        reports.append(int(done))

    pieces = pipeline.stream(Extend(audio, 2.0), window=1.0, progress=progress, **QUICK)
    assert not reports
    first = next(pieces)
    assert len(reports) == 4 and torch.equal(first, audio[:, : first.shape[1]]) and first.shape[1] > 3 * RATE
    assert min(piece.shape[1] for piece in pipeline.stream(Extend(audio[:, :HOP], 0.5), **QUICK)) > 0
    refused: list[tuple[dict[str, Any], type[MusicLDMError]]] = [
        ({"artist": "Xyzzy"}, NotFoundError),
        ({"steps": 1001}, UsageError),
        ({"spacing": "karras"}, UsageError),
        ({"guidance": 3.0}, UsageError),
    ]
    for task in (New(1.0), Extend(audio, 1.0)):
        for bad, kind in refused:
            with pytest.raises(kind):
                pipeline.stream(task, **bad)


def test_a_loop_has_no_seam(pipeline: Pipeline) -> None:
    loop = pipeline.sample(Loop(1.5), **QUICK)
    assert loop.shape[1] % HOP == 0 and abs(loop.shape[1] - 1.5 * RATE) < HOP
    jumps = loop.diff().abs()[0]
    assert (loop[0, 0] - loop[0, -1]).abs() <= torch.quantile(jumps, 0.95)
    assert not torch.equal(pipeline.sample(seconds=1.5, **QUICK)[:, : loop.shape[1]], loop)


def test_between_two_sounds_and_two_seeds(pipeline: Pipeline, audio: Tensor) -> None:
    a, b = audio, audio.flip(1)[:, : 2 * RATE]
    mixed = [pipeline.sample(Interpolate(a, b, weight, 0.3), **QUICK) for weight in (0.0, 0.5, 1.0)]
    assert all(each.shape == b.shape for each in mixed)
    assert torch.equal(mixed[0], pipeline.sample(Vary(a[:, : 2 * RATE], 0.3), **QUICK))
    assert torch.equal(mixed[2], pipeline.sample(Vary(b, 0.3), **QUICK))
    ends = [pipeline.sample(InterpolateSeeds((1, 2), 1.0, weight), **QUICK) for weight in (0.0, 0.5, 1.0)]
    for sampler in ("ddim", "ddpm"):  # the noise of its steps, too, lies between
        for seed, weight in ((1, 0.0), (2, 1.0)):
            end = pipeline.sample(InterpolateSeeds((1, 2), 1.0, weight), sampler=sampler, **QUICK)
            wanted = pipeline.sample(seconds=1.0, seed=seed, sampler=sampler, **QUICK)
            torch.testing.assert_close(end, wanted, rtol=0, atol=1e-4)
    assert not torch.allclose(ends[0], ends[1], atol=1e-3) and not torch.allclose(ends[2], ends[1], atol=1e-3)
