"""How predictable latents are in time, held against processes of which it is known, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from musicldm.doctor.examine import examine
from musicldm.latents.predictability import change, halves, measure, octaves, predictability, r2_of_next, spectrum
from musicldm.latents.store import LatentStore
from tests.latents.latent_toys import HEADER, track
from tests.toys import Command

Floats = npt.NDArray[np.float64]

RATE = 32.0  # frames a second; the bands divide at 2, 4, 8 and 16 Hz
TRACKS = np.repeat(np.arange(8), 8)  # of 64 crops


def noise(shape: tuple[int, ...], seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape)


def autoregressive(a: float, frames: int = 256, channels: int = 3) -> Floats:
    """64 crops of z[t] = a·z[t − 1] + noise, of variance 1."""
    random = noise((64, frames, channels))
    z = np.empty_like(random)
    z[:, 0] = random[:, 0]
    for frame in range(1, frames):
        z[:, frame] = a * z[:, frame - 1] + (1 - a * a) ** 0.5 * random[:, frame]
    return z


def store_of(path: Path, *tracks: tuple[Floats, Floats]) -> Path:
    """A store of these posteriors (mean and log-variance, each [L, D])."""
    header = replace(HEADER, channels=tracks[0][0].shape[1])
    with LatentStore.create(path, header).writer() as writer:
        for number, pair in enumerate(tracks):
            writer.append(track(number, len(pair[0])), [pair])
    return path


def sure(mean: Floats) -> tuple[Floats, Floats]:
    """A posterior of next to no width."""
    return mean, np.full_like(mean, -14)


@pytest.mark.parametrize("a", [0.0, 0.5, 0.9, -0.5])
def test_an_autoregressive_process(a: float) -> None:
    found = measure(autoregressive(a), TRACKS, RATE)
    assert found is not None and found.mean.r2 is not None
    assert found.mean.change == pytest.approx(1 - a, abs=0.02)
    assert found.mean.r2 == pytest.approx(a * a, abs=0.02)


def test_white_noise_has_the_spectrum_of_white_noise() -> None:
    found = measure(autoregressive(0.0), TRACKS, RATE)
    assert found is not None
    assert list(found.bands) == [0, 2, 4, 8, 16]
    assert list(found.white_noise.spectrum) == [1 / 8, 1 / 8, 1 / 4, 1 / 2]
    assert found.mean.spectrum == pytest.approx(found.white_noise.spectrum, abs=0.01)
    assert found.mean.nearly_white and found.warning


def test_r2_is_scored_on_other_tracks() -> None:
    # Noise of which there are hardly more numbers than weights: it would fit itself.
    r2 = r2_of_next(noise((2, 10, 200)), np.array([False, True]))
    assert r2.mean() < -0.1


@pytest.mark.parametrize(("hertz", "band"), [(0.5, 0), (3.0, 1), (6.0, 2), (14.0, 3)])
def test_a_sine_is_in_its_band_and_entirely_predictable(hertz: float, band: int) -> None:
    phase = np.random.default_rng(0).uniform(0, 2 * np.pi, (64, 1, 1))
    z = np.sin(2 * np.pi * hertz * np.arange(256)[:, None] / RATE + phase)
    assert spectrum(z, RATE, octaves(RATE))[0, band] > 0.99
    assert change(z)[0] == pytest.approx(1 - np.cos(2 * np.pi * hertz / RATE), abs=0.02)
    assert r2_of_next(z, halves(TRACKS))[0] > 0.99


def test_what_is_slower_than_a_crop_is_predictable() -> None:
    # Every crop stands still, each elsewhere.
    z = np.repeat(noise((64, 1, 2)), 256, axis=1) + 0.1 * noise((64, 256, 2), 1)
    found = measure(z, TRACKS, RATE)
    assert found is not None and found.mean.r2 is not None
    assert found.mean.change < 0.02 and found.mean.r2 > 0.95 and found.mean.spectrum[0] > 0.95


def test_scale_and_mean_of_a_channel_do_not_matter() -> None:
    z = autoregressive(0.7)
    one, other = (measure(each, TRACKS, RATE) for each in (z, z * [0.01, 1, 300] + [5, -2, 1000]))
    assert one is not None and other is not None
    for mine, theirs in zip((one.mean, *one.channels), (other.mean, *other.channels), strict=True):
        assert mine is not None and theirs is not None
        assert theirs.change == pytest.approx(mine.change)
        assert theirs.r2 == pytest.approx(mine.r2)
        assert theirs.spectrum == pytest.approx(mine.spectrum)


def test_dead_channels_are_left_out() -> None:
    z = autoregressive(0.9)
    alive = measure(z, TRACKS, RATE)
    with_dead = np.concatenate([np.full((64, 256, 1), 0.3), z, 1e-4 * noise((64, 256, 1))], axis=2)
    found = measure(with_dead, TRACKS, RATE)
    assert found is not None and alive is not None
    assert found.mean == alive.mean
    assert found.channels == (None, *alive.channels, None)
    assert measure(with_dead[..., :1], TRACKS, RATE) is None


def test_no_track_is_in_both_halves() -> None:
    tracks = np.array([0, 0, 3, 3, 3, 7, 9])
    assert halves(tracks).tolist() == [False, False, True, True, True, False, True]
    assert halves(np.array([4, 4, 4])).tolist() == [False, False, True]
    single = measure(autoregressive(0.5)[:1], np.array([0]), RATE)
    assert single is not None and single.mean.r2 is None and not single.mean.nearly_white


def test_a_store_is_measured_as_a_generator_sees_it(tmp_path: Path) -> None:
    smooth = autoregressive(0.9, 400)
    still = [(z, np.full_like(z, np.log(variance))) for z, variance in zip(smooth, [1.0] * 8, strict=False)]
    found = predictability(LatentStore.open(store_of(tmp_path / "wide", *still)))
    # A posterior as wide as its means vary: half of the variance is white.
    assert found is not None
    assert found.mean.change == pytest.approx((0.1 + 1) / 2, abs=0.05)
    narrow = predictability(LatentStore.open(store_of(tmp_path / "narrow", *map(sure, smooth[:8]))))
    assert narrow is not None
    assert narrow.mean.change == pytest.approx(0.1, abs=0.02)


def test_the_sample_is_seeded_bounded_and_of_training_tracks(tmp_path: Path) -> None:
    long, heldout = autoregressive(0.9, 1000), noise((1000, 3), 5)
    path = store_of(tmp_path / "store", *map(sure, long))
    with LatentStore.open(path).writer() as writer:
        for number in range(100, 200):
            writer.append(track(number, 1000, "heldout"), [sure(heldout)])
    store = LatentStore.open(path)
    found = predictability(store)
    assert found is not None
    assert found == predictability(store) != predictability(store, seed=1)
    assert found.frames == 128 * 256 < 64 * 1000
    assert found.mean.change == pytest.approx(0.1, abs=0.02)


def test_tracks_too_short_to_tell(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", *[sure(noise((9, 3), seed)) for seed in range(4)])
    assert predictability(LatentStore.open(store)) is None


def test_stats_shows_it(tmp_path: Path, musicldm: Command) -> None:
    white = noise((8, 400, 3))
    white[..., 1] = 0.5
    store = store_of(tmp_path / "white", *map(sure, white))
    told = musicldm("latents", "stats", store)
    heading, first, dead, _, mean, reference = (line.split() for line in told.out.splitlines())
    assert heading[5:] == ["change", "R²", "0–1.6", "1.6–3.1", "3.1–6.2", "6.2–12", "Hz"]
    assert [len(first), float(first[5]), float(mean[1])] == pytest.approx([11, 1, 1], abs=0.1)
    assert dead[5:11] == ["–"] * 6
    assert reference == ["white", "noise", "1.00", "0.00", "12%", "12%", "25%", "50%"]
    assert "nearly white noise in time" in told.err and "smooth in time" in told.err
    data = json.loads(musicldm("latents", "stats", store, "--json").out)
    assert data["predictability"]["nearly_white"] and data["channels"][1]["predictability"] is None
    assert data["channels"][0]["predictability"]["change"] == pytest.approx(1, abs=0.1)
    smooth = store_of(tmp_path / "smooth", *map(sure, autoregressive(0.9, 400)[:8]))
    assert "white noise in time" not in musicldm("latents", "stats", smooth).err


def test_doctor_and_training_tell_beforehand(tmp_path: Path, configs: dict[str, Path], musicldm: Command) -> None:
    white = store_of(tmp_path / "white", *map(sure, noise((8, 400, 3))))
    smooth = store_of(tmp_path / "smooth", *map(sure, autoregressive(0.9, 400)[:8]))
    for store, verdict, expected in ((white, "warning", 1.0), (smooth, "ok", 0.1)):
        (found,) = [each for each in examine([str(store)], "cpu") if "in time" in each.text]
        assert (found.verdict, bool(found.advice)) == (verdict, verdict == "warning")
        dry = "--config", configs["ldm"], "--dry-run", "-o", tmp_path / "run"
        told = musicldm("train-diffusion", store, *dry)
        assert told.code == 1 and "bundle" in told.err  # it meets what a training would: there is no codec
        assert ("smooth in time" in told.err) == (verdict == "warning")
        change = float(found.text.split(" of white noise's")[0].split()[-1])
        assert change == pytest.approx(expected, abs=0.05)
