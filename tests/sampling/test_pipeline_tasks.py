"""Every way to make music, by a toy model with random weights: what must hold holds whatever it has learned."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from musicldm.conditions.base import Conditions
from musicldm.core.errors import CapacityError, DataError, MusicLDMError, NotFoundError, UsageError
from musicldm.noise.guidance import guided, keeping, resampling, windowed
from musicldm.noise.samplers import SAMPLERS, ddim
from musicldm.noise.schedule import NoiseConfig, NoiseLevel, NoiseSchedule
from musicldm.sampling import Generator, Sampling
from musicldm.sampling.postprocess import PEAK, limited, slerp
from tests.toy_model import HOP, RATE, toy


@pytest.fixture(scope="module")
def generator() -> Generator:
    return toy()


@pytest.fixture(scope="module")
def audio() -> Tensor:
    """Four seconds of a chord with some noise."""
    time = torch.arange(4 * RATE) / RATE
    chord = sum(torch.sin(2 * math.pi * pitch * time) for pitch in (220, 277, 330))
    return (0.2 * chord + 0.01 * torch.randn(len(time), generator=torch.Generator().manual_seed(0)))[None]


QUICK: dict[str, Any] = {"steps": 4}


# ---- What one can ask of a denoiser ----------------------------------------------------------------------------------


def told(*artists: float, position: float = -1.0) -> Conditions:
    return Conditions(torch.tensor([artists]), torch.tensor([position]))


def test_guidance_goes_away_from_the_untold(generator: Generator) -> None:
    diffusion, x, level = generator.diffusion, torch.randn(2, 4, 16), generator.diffusion.schedule.at(600)
    bach = told(0.0, 1.0, 0.0)
    with torch.inference_mode():
        c = diffusion.denoise(x, level, bach.expanded(2))
        u = diffusion.denoise(x, level, Conditions.none(2, 3))
        assert (c - u).abs().max() > 1e-3
        torch.testing.assert_close(guided(diffusion, bach, 3.0)(x, level), u + 3 * (c - u))
        torch.testing.assert_close(guided(diffusion, bach, 0.0)(x, level), u)
        torch.testing.assert_close(guided(diffusion, bach)(x, level), c)
        torch.testing.assert_close(guided(diffusion, bach, 3.0, (0.0, 0.5))(x, level), c)
        torch.testing.assert_close(guided(diffusion, bach, 3.0, (0.5, 0.7))(x, level), u + 3 * (c - u))
        spread = guided(diffusion, bach, 3.0, rescale=1.0)(x, level).std(dim=(1, 2))
    torch.testing.assert_close(spread, c.std(dim=(1, 2)))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_keeps_what_is_known(name: str) -> None:
    """With any denoiser and on every step: what is known is at its noise level, and comes out as it was."""
    torch.manual_seed(0)
    schedule = NoiseSchedule(NoiseConfig())
    levels = schedule.levels(8)
    known, noise = torch.randn(1, 2, 30, dtype=torch.float64), torch.randn(1, 2, 30, dtype=torch.float64)
    mask = (torch.arange(30) < 12)[None, None]
    seen: list[tuple[NoiseLevel, Tensor]] = []

    def denoise(x: Tensor, level: NoiseLevel) -> Tensor:
        seen.append((level, x))
        return x.roll(1, dims=-1).tanh()

    x = torch.where(mask, levels[0].mix(known, noise), noise)
    out = SAMPLERS[name](keeping(denoise, known, mask), x, levels)
    torch.testing.assert_close(out[..., :12], known[..., :12], rtol=0, atol=1e-9)
    assert (out - known)[..., 12:].abs().min() > 0
    residues = torch.stack([(x - level.alpha * known)[..., :12].std() / level.sigma for level, x in seen])
    assert ((0.5 < residues) & (residues < 1.6)).all()


def test_resampling_brings_the_made_nearer_to_the_kept() -> None:
    """Data of one number throughout: the model knows it only from what it sees, so the made must follow the kept."""
    levels = NoiseSchedule(NoiseConfig()).levels(20)
    calls = 0

    def denoise(x: Tensor, level: NoiseLevel) -> Tensor:
        nonlocal calls
        calls += 1
        # The posterior mean of a common value of variance 1 in 20 frames.
        mean = x.mean(dim=-1, keepdim=True) / level.alpha
        return (mean / (1 + level.ratio**2 / x.shape[-1])).expand_as(x)

    mask = (torch.arange(20) < 10)[None, None]
    known = torch.full((1, 1, 20), 1.5)
    error = {}
    for repeats in (1, 5):
        chance = torch.Generator().manual_seed(0)
        noise = torch.randn(1, 1, 20, generator=chance)
        x = torch.where(mask, levels[0].mix(known, noise), noise)
        calls, steps = 0, []
        out = resampling(ddim, repeats)(
            keeping(denoise, known, mask),
            x,
            levels,
            lambda x: torch.randn(x.shape, generator=chance),  # noqa: B023
            lambda i, _: steps.append(i),  # noqa: B023
        )
        assert steps == list(range(20)) and calls == 20 * repeats
        error[repeats] = (out[..., 10:].mean() - 1.5).abs().item()
    assert error[5] < 0.5 * error[1]


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("frames", [10, 16, 17, 40, 101])
def test_windows_give_what_a_local_denoiser_gives_whole(frames: int, circular: bool) -> None:
    def local(x: Tensor, level: NoiseLevel) -> Tensor:
        assert x.shape[-1] <= 16 and x.shape[0] <= 3
        return 2 * x

    x = torch.randn(1, 3, frames)
    level = NoiseLevel(0.6, 0.8, 3.0)
    torch.testing.assert_close(windowed(local, 16, 4, 3, circular)(x, level), 2 * x)


def test_around_a_circle_there_is_no_beginning() -> None:
    """Estimates that depend on the neighbour: turned input gives turned output but for where windows lie."""

    def blurred(x: Tensor, level: NoiseLevel) -> Tensor:
        return torch.nn.functional.avg_pool1d(x, 3, 1, 1)

    x, level = torch.randn(1, 2, 40), NoiseLevel(0.6, 0.8, 3.0)
    around = (x.roll(1, -1) + x + x.roll(-1, -1)) / 3
    far = (windowed(blurred, 16, 4, 2, True)(x, level) - around).abs().max()
    straight = (windowed(blurred, 16, 4, 2, False)(x, level) - around)[..., [0, -1]].abs().max()
    assert far < 0.2 * straight


# ---- Ways ------------------------------------------------------------------------------------------------------------


def test_a_take_is_the_same_alone_and_in_company(generator: Generator) -> None:
    one = generator.sample(1.0, take=1, **QUICK)
    assert one.shape == (1, RATE) and one.abs().max() <= PEAK
    assert torch.equal(one, generator.sample(1.0, take=1, **QUICK))
    assert not torch.equal(one, generator.sample(1.0, take=0, **QUICK))
    assert not torch.equal(one, generator.sample(1.0, take=1, seed=1, **QUICK))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_makes_music(generator: Generator, name: str) -> None:
    assert generator.sample(0.5, sampler=name, **QUICK).isfinite().all()


def test_a_long_piece_comes_in_windows_as_soon_as_they_are_done(generator: Generator) -> None:
    widths: list[int] = []
    original = generator.diffusion.denoise

    def watched(x: Tensor, level: NoiseLevel, conditions: Conditions) -> Tensor:
        widths.append(x.shape[-1])
        return original(x, level, conditions)

    generator.diffusion.denoise = watched  # type: ignore[method-assign]
    try:
        done: list[tuple[float, float | None]] = []
        pieces = generator.stream(10.0, window=1.0, progress=lambda a, b, _="": done.append((a, b)), **QUICK)
        first = next(pieces)
        assert len(widths) == 4  # one window's steps
        whole = torch.cat([first, *pieces], dim=1)
    finally:
        del generator.diffusion.denoise  # type: ignore[attr-defined]
    assert whole.shape == (1, 10 * RATE) and max(widths) <= 125
    assert [a for a, _ in done] == list(range(1, len(done) + 1)) and done[-1][0] == done[-1][1]
    assert max(widths) - min(widths) <= 4  # the piece is divided evenly
    assert torch.equal(whole, generator.sample(10.0, window=1.0, **QUICK))


@pytest.mark.parametrize(("seconds", "count"), [(16.0, 1), (18.0, 1), (30.0, 2), (60.0, 5)])
def test_little_of_a_long_piece_is_made_twice(
    generator: Generator, monkeypatch: pytest.MonkeyPatch, seconds: float, count: int
) -> None:
    """A window of one's own choice is up to 1.15 times as long where that saves one: of 16 s and no more by name."""
    widths: list[int] = []

    def denoise(x: Tensor, level: NoiseLevel, conditions: Conditions) -> Tensor:
        widths.append(x.shape[-1])
        return x

    monkeypatch.setattr(generator.diffusion, "denoise", denoise)
    frames = generator.frames(seconds)
    assert generator.latents(frames, steps=1).shape[-1] == frames
    assert len(widths) == count and max(widths) <= 1.15 * 2000
    assert sum(widths) - frames <= (count - 1) * 0.26 * max(widths)  # but for what windows share
    widths.clear()
    assert generator.latents(frames, steps=1, window=16.0).shape[-1] == frames
    assert max(widths) <= 2000


def test_a_window_is_what_the_network_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be filled up with zeros, at every step. What is made beyond the piece is cut off."""
    small = toy()
    lengths: list[int] = []
    small.diffusion.network.register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[-1]))
    for frames in (125, 126, 301):
        assert small.latents(frames, window=1.0, **QUICK).shape == (4, frames)
        assert small.latents(frames, joint=True, **QUICK).shape == (4, frames)
    small.between_seeds((1, 2), 1.0, 0.5, **QUICK)
    list(small.extend(torch.zeros(1, 3 * HOP), 1.0, window=1.0, **QUICK))
    assert len(lengths) > 20 and all(length % 2 == 0 for length in lengths)


def test_windows_continue_each_other(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a window keeps is the end of the one before, and it comes out of it unchanged."""
    original, windows = generator._denoised, []

    def watched(*arguments: Any, **options: Any) -> Tensor:
        windows.append((arguments[1:], original(*arguments, **options)))
        return windows[-1][1]

    monkeypatch.setattr(generator, "_denoised", watched)
    frames = generator.latents(300, window=1.0, **QUICK)
    assert len(windows) == 3 and windows[0][0] == () and windows[0][1].shape[-1] == 120
    for (_, before), ((known, mask), after) in pairwise(windows):
        kept = int(mask.sum())
        assert kept == 30 and mask[..., :kept].all()  # a quarter
        torch.testing.assert_close(known[..., :kept], before[..., -kept:], rtol=0, atol=0)
        torch.testing.assert_close(after[..., :kept], before[..., -kept:])
    joined = torch.cat([windows[0][1], *(after[..., 30:] for _, after in windows[1:])], dim=-1)
    assert torch.equal(joined[0], frames)  # of this model raw is normalised
    assert not torch.allclose(generator.latents(300, window=1.0, joint=True, **QUICK), frames)


def test_strength_is_the_distance_from_the_input(generator: Generator, audio: Tensor) -> None:
    kept = generator.encode(audio)
    distances = []
    for strength in (0.05, 0.3, 0.6, 1.0):
        varied = generator.vary(audio, strength, **QUICK)
        assert varied.shape == audio.shape
        z = generator._denoised(Sampling(**QUICK), kept, start=generator._start(strength))  # the latents behind it
        distances.append((z - kept).square().mean().item())
    assert distances == sorted(distances) and distances[0] < 0.1 * distances[-1]


def test_infilling_keeps_the_rest_to_the_bit(generator: Generator, audio: Tensor) -> None:
    spans = [(2.5, 3.0), (1.0, 1.5)]
    filled = generator.infill(audio, spans, window=1.0, resample=2, **QUICK)
    assert filled.shape == audio.shape and filled.isfinite().all()
    inside = torch.zeros(audio.shape[1], dtype=torch.bool)
    near = inside.clone()
    for first, last in spans:
        inside[int(first * RATE) : int(last * RATE)] = True
        near[int((first - 0.02) * RATE) : int((last + 0.02) * RATE)] = True
    assert torch.equal(filled[:, ~near], audio[:, ~near])
    assert (filled != audio)[:, inside].float().mean() > 0.95
    again = generator.infill(audio, spans, window=1.0, resample=2, **QUICK)
    assert torch.equal(again, filled)
    # Nothing jumps where a fade begins.
    jumps = (filled.diff().abs()[0]).max()
    assert jumps < 1.5 * max(audio.diff().abs().max(), filled[:, inside].diff().abs().max())


@pytest.mark.parametrize("spans", [[(0.0, 1.0)], [(3.0, 4.0)], [(0.0, 0.001)], [(3.999, 4.0)]])
def test_infilling_at_the_ends(generator: Generator, audio: Tensor, spans: list[tuple[float, float]]) -> None:
    filled = generator.infill(audio, spans, **QUICK)
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
def test_spans_that_make_no_sense(generator: Generator, audio: Tensor, spans: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        generator.infill(audio, spans, **QUICK)


def test_a_continuation_begins_with_the_input(generator: Generator, audio: Tensor) -> None:
    odd = audio[:, :-13]  # which is no whole number of frames
    longer = torch.cat(list(generator.extend(odd, 3.0, window=1.0, **QUICK)), dim=1)
    assert longer.shape == (1, odd.shape[1] + 3 * RATE)
    kept = odd.shape[1] - round(0.02 * RATE)
    assert torch.equal(longer[:, :kept], odd[:, :kept])
    assert not torch.equal(longer[:, kept : odd.shape[1]], odd[:, kept:])
    other = torch.cat(list(generator.extend(odd.flip(1), 3.0, window=1.0, **QUICK)), dim=1)
    assert not torch.allclose(other[:, odd.shape[1] :], longer[:, odd.shape[1] :])  # it hears what it goes on from


def test_a_continuation_waits_for_what_is_new(generator: Generator, audio: Tensor) -> None:
    """What fails has handed out nothing, and what cannot be done is refused before anything is asked for."""
    heard: list[int] = []
    pieces = generator.extend(audio, 2.0, window=1.0, progress=lambda done, *_: heard.append(int(done)), **QUICK)
    assert not heard
    first = next(pieces)
    assert len(heard) == 4 and torch.equal(first, audio[:, : first.shape[1]]) and first.shape[1] > 3 * RATE
    assert min(piece.shape[1] for piece in generator.extend(audio[:, :HOP], 0.5, **QUICK)) > 0
    for way in (lambda **bad: generator.stream(1.0, **bad), lambda **bad: generator.extend(audio, 1.0, **bad)):
        for bad, kind in (
            ({"artist": "Xyzzy"}, NotFoundError),
            ({"steps": 1001}, UsageError),
            ({"spacing": "karras"}, UsageError),
            ({"guidance": 3.0}, UsageError),
        ):
            with pytest.raises(kind):
                way(**bad)


def test_a_loop_has_no_seam(generator: Generator) -> None:
    loop = generator.loop(1.5, **QUICK)
    assert loop.shape[1] % HOP == 0 and abs(loop.shape[1] - 1.5 * RATE) < HOP
    jumps = loop.diff().abs()[0]
    assert (loop[0, 0] - loop[0, -1]).abs() <= torch.quantile(jumps, 0.95)
    assert not torch.equal(generator.sample(1.5, **QUICK)[:, : loop.shape[1]], loop)


def test_between_two_sounds_and_two_seeds(generator: Generator, audio: Tensor) -> None:
    a, b = audio, audio.flip(1)[:, : 2 * RATE]
    mixed = [generator.between(a, b, share, 0.3, **QUICK) for share in (0.0, 0.5, 1.0)]
    assert all(each.shape == b.shape for each in mixed)
    assert torch.equal(mixed[0], generator.vary(a[:, : 2 * RATE], 0.3, **QUICK))
    assert torch.equal(mixed[2], generator.vary(b, 0.3, **QUICK))
    ends = [generator.between_seeds((1, 2), 1.0, share, **QUICK) for share in (0.0, 0.5, 1.0)]
    for sampler in ("ddim", "ddpm"):  # the noise of its steps, too, lies between
        for seed, share in ((1, 0.0), (2, 1.0)):
            end = generator.between_seeds((1, 2), 1.0, share, sampler=sampler, **QUICK)
            wanted = generator.sample(1.0, seed=seed, sampler=sampler, **QUICK)
            torch.testing.assert_close(end, wanted, rtol=0, atol=1e-4)
    assert not torch.allclose(ends[0], ends[1], atol=1e-3) and not torch.allclose(ends[2], ends[1], atol=1e-3)


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


# ---- Artists ---------------------------------------------------------------------------------------------------------


def test_artists_are_found_by_name_and_mixed(generator: Generator) -> None:
    def made(artist: str, **options: Any) -> Tensor:
        return generator.sample(0.5, artist=artist, **options, **QUICK)

    chopin, bach = made("frédéric chopin"), made("Johann Sebastian Bach")
    assert not torch.equal(chopin, bach) and not torch.equal(chopin, generator.sample(0.5, **QUICK))
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
        ("Frédéric Chopin:-1", UsageError, "no share"),
        ("Frédéric Chopin:nan", UsageError, "no share"),
        ("Frédéric Chopin:half", UsageError, "no share"),
        ("Frédéric Chopin:1,Bach:2", NotFoundError, "Johann Sebastian Bach"),
        (" ", NotFoundError, "It knows"),
    ],
)
def test_artists_that_are_not_there(
    generator: Generator, artist: str, kind: type[MusicLDMError], sentence: str
) -> None:
    with pytest.raises(kind) as caught:
        generator.sample(0.5, artist=artist, **QUICK)
    assert sentence in caught.value.message + caught.value.hint


def test_a_model_that_knows_no_artists() -> None:
    bare = toy(artists=())
    with pytest.raises(UsageError, match="without artists"):
        bare.sample(0.5, artist="Chopin", **QUICK)
    with pytest.raises(UsageError, match="told nothing"):
        bare.sample(0.5, guidance=3.0, **QUICK)
    assert bare.sample(0.5, position=0.2, guidance=2.0, **QUICK).isfinite().all()


# ---- Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 0}, "0 sampling steps"),
        ({"steps": 1001}, "1001 sampling steps"),
        ({"sampler": "heun", "eta": 0.5}, "no eta"),
        ({"sampler": "magic"}, "no sampler"),
        ({"eta": 1.5}, "between 0 and 1"),
        ({"position": 2.0}, "no position"),
        ({"guidance_interval": (0.8, 0.2)}, "larger"),
        ({"spacing": "karras"}, "karras"),
        ({"spacing": "odd"}, "no spacing"),
        ({"window": -1.0}, "window"),
        ({"window": math.inf}, "window"),
        ({"guidance": math.inf, "artist": "Johann Sebastian Bach"}, "guidance scale"),
        ({"resample": 0}, "0 times"),
        ({"guidance": 3.0}, "told nothing"),
    ],
)
def test_options_that_make_no_sense(generator: Generator, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        generator.sample(0.5, **options)


@pytest.mark.parametrize("seconds", [0.0, -3.0, 1e-9, 1e300, math.nan, math.inf])
def test_lengths_that_are_none(generator: Generator, seconds: float) -> None:
    for way in (generator.sample, generator.loop, lambda s: generator.extend(torch.zeros(1, RATE), s)):
        with pytest.raises(UsageError, match="cannot be sampled"):
            way(seconds)


def test_a_process_that_ends_in_noise() -> None:
    """σ-space samplers divide by the signal's share: refused, and the others work."""
    flow = toy(NoiseConfig(schedule="flow", objective="flow"))
    for name in SAMPLERS:
        if name in ("euler", "euler-a", "heun"):
            with pytest.raises(UsageError, match="cannot begin"):
                flow.sample(0.5, sampler=name, **QUICK)
        else:
            assert flow.sample(0.5, sampler=name, **QUICK).isfinite().all(), name


def test_inputs_that_cannot_be_used(generator: Generator, audio: Tensor) -> None:
    broken = audio.clone()
    broken[0, 100] = math.nan
    for bad, sentence in (
        (audio[:, : HOP - 1], "shorter than a latent frame"),
        (audio[:, :0], "shorter than a latent frame"),
        (broken, "not finite"),
        (audio.repeat(2, 1), "2 channels"),
    ):
        with pytest.raises(DataError, match=sentence):
            generator.vary(bad, 0.5, **QUICK)
        with pytest.raises(DataError, match=sentence):
            list(generator.extend(bad, 1.0, **QUICK))
    for strength in (0.0, 1.1, math.nan):
        with pytest.raises(UsageError, match="strength"):
            generator.vary(audio, strength, **QUICK)


def test_silence_can_be_varied(generator: Generator) -> None:
    assert generator.vary(torch.zeros(1, RATE), 0.5, **QUICK).isfinite().all()
    assert generator.vary(torch.zeros(1, HOP), 0.5, **QUICK).shape == (1, HOP)


def test_a_model_of_no_numbers(generator: Generator) -> None:
    broken = toy()
    with torch.no_grad():
        next(broken.vae.decoder.parameters()).fill_(math.nan)
    with pytest.raises(DataError, match="no numbers"):
        broken.sample(0.5, **QUICK)


MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("can't allocate memory: 9"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
]


@pytest.mark.parametrize("error", MEMORY)
def test_too_little_memory_halves_the_window(error: RuntimeError) -> None:
    """As often as it takes, and a sentence says so; the piece is whole."""
    said: list[str] = []
    small = toy()
    small.announce = said.append
    original, limit = small.diffusion.denoise, 70

    def denoise(x: Tensor, level: NoiseLevel, conditions: Conditions) -> Tensor:
        if x.shape[-1] > limit:
            raise error
        return original(x, level, conditions)

    small.diffusion.denoise = denoise  # type: ignore[method-assign]
    assert small.sample(2.0, **QUICK).shape == (1, 2 * RATE)
    assert len(said) == 2 and "windows of 0.496 s" in said[1]
    assert torch.cat(list(small.stream(5.0, window=2.0, **QUICK)), dim=1).shape == (1, 5 * RATE)
    assert len(said) == 2  # it remembers
    limit = 1
    with pytest.raises(CapacityError, match="even a short window"):
        small.sample(2.0, **QUICK)


def test_too_little_memory_for_several_windows() -> None:
    """First fewer at once, then shorter ones."""
    said: list[str] = []
    small, sizes = toy(), []
    small.announce, small._together = said.append, 8
    original = small.diffusion.denoise

    def denoise(x: Tensor, level: NoiseLevel, conditions: Conditions) -> Tensor:
        if x.shape[0] > 1:
            raise MEMORY[0]
        sizes.append(x.shape[-1])
        return original(x, level, conditions)

    small.diffusion.denoise = denoise  # type: ignore[method-assign]
    small.latents(500, window=1.0, joint=True, **QUICK)
    assert set(sizes) == {124} and not said


@pytest.mark.parametrize("error", MEMORY)
def test_too_little_memory_for_the_vae(generator: Generator, audio: Tensor, error: RuntimeError) -> None:
    """Pieces that go through it are halved, said once; what comes out is the same."""
    said: list[str] = []
    small = toy()
    small.announce = said.append
    encode, decode, limit = small.vae.encode, small.vae.decode, 200

    def fitting(original: Any, frames: int, x: Tensor) -> Any:
        if frames > limit:
            raise error
        return original(x)

    small.vae.encode = lambda x: fitting(encode, x.shape[-1] // HOP, x)  # type: ignore[method-assign]
    small.vae.decode = lambda z: fitting(decode, z.shape[-1], z)  # type: ignore[method-assign]
    z = small.encode(audio)
    torch.testing.assert_close(z, generator.encode(audio), rtol=0, atol=1e-4)
    torch.testing.assert_close(small.decode(z[0]), generator.decode(z[0]), rtol=0, atol=1e-4)
    assert len(said) == 1 and "shorter pieces" in said[0]
    limit = 1
    for way in (lambda: small.encode(audio), lambda: small.decode(z[0])):
        with pytest.raises(CapacityError, match="even a short window of audio"):
            way()


def test_a_spacing_that_is_defined_only_from_there(audio: Tensor) -> None:
    """Karras has no first level at pure noise; a variation begins below it."""
    flow = toy(NoiseConfig(schedule="flow", objective="flow", levels="continuous"))
    assert flow.vary(audio, 0.5, spacing="karras", **QUICK).isfinite().all()
    for way in (lambda: flow.sample(1.0, spacing="karras", **QUICK), lambda: flow.vary(audio, 0.5, steps=1001)):
        with pytest.raises(UsageError):
            way()


# ---- The last touches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [7, 100, 1000, 5000])
def test_the_limiter(size: int) -> None:
    """No sample beyond full scale, nothing changed where it would not clip, whatever the pieces."""
    chance = np.random.default_rng(0)
    audio = torch.from_numpy(chance.normal(0, 0.1, (2, 5000)).astype(np.float32))
    audio[:, 2000:2050] *= 30
    audio[0, 4999] = 2.0
    pieces = list(limited(torch.split(audio, size, dim=1), 40))
    out = torch.cat(pieces, dim=1)
    assert out.shape == audio.shape and out.abs().max() <= PEAK + 1e-6
    far = torch.ones(5000, dtype=torch.bool)
    far[1960:2090] = far[4959:] = False
    assert torch.equal(out[:, far], audio[:, far])
    gain = (out / audio)[0]
    assert gain.diff().abs().max() < 0.05  # it does not jump
    torch.testing.assert_close(out, torch.cat(list(limited([audio], 40)), dim=1))
