"""The two-sample test: when sets are alike, when they are not, and what must not tell them apart."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import soundfile
import torch
from scipy import optimize

from musicldm.evaluate.distances import FeatureSet
from musicldm.evaluate.estimates import Estimate
from musicldm.evaluate.excerpts import excerpt_features
from musicldm.evaluate.features import Floats
from musicldm.evaluate.two_sample import logistic_regression, two_sample_test
from tests.toys import Command

RATE = 8000


def sounds(seed: int, count: int, move: float = 0.0, features: int = 30) -> FeatureSet:
    """Sounds of three vectors, each a track of its own, which vary less within a sound than from one to the next."""
    rng = np.random.default_rng(seed)
    made = [rng.normal(size=features) + 0.5 * rng.normal(size=(3, features)) for _ in range(count)]
    for each in made:
        each[:, 0] += move
    return FeatureSet(made, [f"{seed} {number:03}" for number in range(count)])


def value(estimate: Estimate) -> float:
    assert estimate.value is not None
    return estimate.value


def contains(estimate: Estimate, wanted: float) -> bool:
    assert estimate.low is not None and estimate.high is not None
    return estimate.low <= wanted <= estimate.high


# ---- The classifier ------------------------------------------------------------------------------------------------


def test_logistic_regression_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    x = np.hstack([3 * rng.normal(size=(80, 6)), np.ones((80, 1))])
    real = x[:, 0] + 0.3 * rng.normal(size=80) > 0.5
    weights = rng.uniform(size=80)
    weights /= weights.sum()

    def loss(b: Floats) -> float:
        likely = 1 / (1 + np.exp(-x @ b))
        return float(-weights @ np.log(np.where(real, likely, 1 - likely)) + 0.1 / 2 * (b[:-1] ** 2).sum())

    wanted = optimize.minimize(loss, np.zeros(7), tol=1e-10).x
    np.testing.assert_allclose(logistic_regression(x, real, weights), wanted, atol=1e-4)


# ---- The test ------------------------------------------------------------------------------------------------------


def test_sets_that_are_alike_are_not_told_apart() -> None:
    """On average 0.5, and within the interval as often as it promises."""
    found = [two_sample_test(sounds(2 * seed, 30), sounds(2 * seed + 1, 20)) for seed in range(40)]
    assert np.mean([value(each) for each in found]) == pytest.approx(0.5, abs=0.03)
    assert sum(contains(each, 0.5) for each in found) >= 36


def test_sets_that_differ_are_told_apart_as_often_as_they_can_be() -> None:
    """Of normal distributions the best classifier is right as often as half their distance is not exceeded."""
    wanted = NormalDist().cdf(1.5 / np.sqrt(1 + 0.5**2))
    found = two_sample_test(sounds(0, 300, features=2), sounds(1, 200, move=3.0, features=2))
    assert value(found) == pytest.approx(wanted, abs=0.03) and contains(found, wanted)
    assert value(two_sample_test(sounds(0, 60), sounds(1, 60, move=100.0))) > 0.99


def test_no_track_is_on_both_sides() -> None:
    """Vectors that name their track, and nothing else: who has met the track knows its set, and nobody has."""

    def named(tracks: range) -> FeatureSet:
        thrice = np.repeat(tracks, 3)
        return FeatureSet([np.eye(40)[[track]] for track in thrice], [f"{track:02}" for track in thrice])

    assert value(two_sample_test(named(range(20)), named(range(20, 40)))) == 0.5


def test_what_is_in_both_sets_is_on_one_side() -> None:
    """A set against itself: had a sound's own double been learnt from, it would be told to be of the other set."""
    these = sounds(0, 24)
    assert value(two_sample_test(these, these)) == 0.5
    some = FeatureSet(these.sounds[::3], these.groups[::3])
    assert value(two_sample_test(some, these)) > 0.3


def test_neighbours_are_not_mistaken_for_one_another() -> None:
    """Tracks that change little by little, in turns into either set."""
    found = []
    for seed in range(20):
        walk = np.random.default_rng(seed).normal(size=(48, 10)).cumsum(axis=0)
        halves = [FeatureSet([*walk[side::2, None]], [f"{n:02}" for n in range(side, 48, 2)]) for side in (0, 1)]
        found.append(value(two_sample_test(*halves)))
    assert np.mean(found) == pytest.approx(0.5, abs=0.06)


def test_too_few_are_not_judged() -> None:
    for ours, theirs in ((5, 30), (30, 5), (0, 30)):
        found = two_sample_test(sounds(0, ours), sounds(1, theirs))
        assert found == Estimate(None, note="needs 6 tracks of each")
    one_track = FeatureSet(sounds(0, 30).sounds, ["the same"] * 30)
    assert two_sample_test(sounds(1, 30), one_track).value is None
    assert two_sample_test(sounds(0, 6), sounds(1, 6)).value is not None


# ---- What it hears -------------------------------------------------------------------------------------------------


@functools.cache
def string(pitch: float, rate: int) -> Floats:
    """A second of a string that is plucked."""
    time = np.arange(rate) / rate
    partials = [np.exp(-3 * n * time) * np.sin(2 * np.pi * n * pitch * time) / n for n in (1, 2, 3, 4)]
    return np.asarray(np.sum(partials, axis=0))


def tune(seed: int, seconds: int = 9, rate: int = RATE) -> Floats:
    """Two strings at once, twice a second."""
    rng = np.random.default_rng(seed)
    audio: Floats = 0.0003 * rng.normal(size=seconds * rate)
    for start in range(0, len(audio) - rate + 1, rate // 2):
        for pitch in 220 * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 11, 12], size=2) / 12):
            audio[start : start + rate] += 0.1 * string(float(pitch), rate)
    return audio


def features(audio: Floats, rate: int = RATE) -> Floats:
    return excerpt_features(torch.from_numpy(audio).float()[None], rate)


def judged(ours: list[Floats], theirs: list[Floats]) -> Estimate:
    return two_sample_test(
        *(
            FeatureSet([features(each) for each in some], [f"{name}{number:02}" for number in range(len(some))])
            for name, some in (("ours", ours), ("theirs", theirs))
        )
    )


def test_a_constant_gain_is_not_heard() -> None:
    audio = tune(0)
    np.testing.assert_allclose(features(audio), features(audio / 50), atol=1e-3)


def test_faults_are_heard_and_other_tunes_are_not() -> None:
    music, others = ([tune(seed) for seed in seeds] for seeds in (range(12), range(12, 24)))
    rng = np.random.default_rng(0)
    assert contains(judged(others, music), 0.5)
    assert value(judged([each[::-1].copy() for each in others], music)) > 0.9
    assert value(judged([each + 0.02 * rng.normal(size=len(each)) for each in others], music)) > 0.9
    assert value(judged([np.convolve(each, [0.25, 0.5, 0.25]) for each in others], music)) > 0.9


def test_features_of_sounds_of_any_kind_are_finite() -> None:
    assert len(features(tune(0, 3))) == 0 and len(features(tune(0, 9))) == 2
    for audio, rate in ((np.zeros(5 * RATE), RATE), (tune(1, 5, 44100), 44100), (np.ones(5 * RATE), RATE)):
        found = features(audio, rate)
        assert len(found) == 1 and np.isfinite(found).all()
    stereo = torch.from_numpy(np.stack([tune(1), tune(2)])).float()
    np.testing.assert_allclose(excerpt_features(stereo, RATE), features((tune(1) + tune(2)) / 2), atol=1e-3)


# ---- The command ---------------------------------------------------------------------------------------------------


def test_the_figure_stands_among_the_others(musicldm: Command, tmp_path: Path) -> None:
    for folder in ("music", "takes"):
        (tmp_path / folder).mkdir()
    for number in range(12):
        soundfile.write(tmp_path / "music" / f"{number:02}.wav", tune(number), RATE)
        backwards = tune(12 + number)[::-1] if number else tune(12)[: 2 * RATE]
        soundfile.write(tmp_path / "takes" / f"{number:02}.wav", backwards, RATE)
    page = tmp_path / "page.html"
    done = musicldm(
        "evaluate", "samples", tmp_path / "takes", "--reference", tmp_path / "music", "--json", "--html", page
    )
    assert done.code == 0, done.err
    sets = {each["name"]: each["figures"] for each in json.loads(done.out)["sets"]}
    ours, theirs, noise = (
        next(each for each in figures if each["metric"] == "two_sample") for figures in sets.values()
    )
    assert ours["estimate"]["value"] > 0.9 and (ours["sounds"], ours["against"]) == (11, 12)
    assert ours["estimate"]["note"] == "1 shorter than 4 s do not count"
    assert noise["estimate"]["value"] > 0.9
    assert theirs["estimate"]["low"] <= 0.5 <= theirs["estimate"]["high"]
    assert "two-sample test" in page.read_text() and "statistics of the spectra of 4 s" in page.read_text()
