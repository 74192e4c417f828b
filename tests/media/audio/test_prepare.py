"""One file in, one waveform out: what happens to the sound on its way."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from av.filter import Graph
from numpy.typing import NDArray
from scipy import signal

from musicldm.core.errors import ConfigError, DataError
from musicldm.media.audio.loudness import LoudnessMeter
from musicldm.media.audio.prepare import Prepared, PrepareSettings, prepare
from tests.media.audio.sounds import Encode, Floats

RATE = 16000

Prepare = Callable[..., tuple[Prepared, NDArray[np.float64]]]


@pytest.fixture
def prepared(tmp_path: Path, encode: Encode) -> Prepare:
    def make(
        sound: Floats, rate: int = RATE, subtype: str | None = None, **settings: Any
    ) -> tuple[Prepared, NDArray[np.float64]]:
        """float32 [C, T] through `prepare`: what it says, and the samples [C, T] of the output."""
        source = encode(tmp_path / "in.wav", sound, rate=rate, subtype=subtype)
        form = PrepareSettings(**settings)
        target = tmp_path / f"out.{form.format}"
        found = prepare(source, target, form)
        samples, out_rate = soundfile.read(target, always_2d=True)
        assert (out_rate, len(samples)) == (form.sample_rate, found.samples)
        return found, samples.T

    return make


def noise(seconds: float = 2.0, volume: float = 0.1, channels: int = 1) -> Floats:
    chance = np.random.default_rng(7)
    return (volume * chance.standard_normal((channels, round(seconds * RATE)))).astype(np.float32)


def bs1770(sound: NDArray[np.floating[Any]], rate: int) -> float:
    """Integrated loudness of [C, T] written down from ITU-R BS.1770-4 with SciPy."""
    f, gain, q = 1681.974450955533, 3.999843853973347, 0.7071752369554196
    k, high = np.tan(np.pi * f / rate), 10 ** (gain / 20)
    band, norm = high**0.4996667741545416, 1 + k / q + k * k
    shelf = [(high + band * k / q + k * k), 2 * (k * k - high), (high - band * k / q + k * k)]
    shelf = [value / norm for value in shelf] + [1, 2 * (k * k - 1) / norm, (1 - k / q + k * k) / norm]
    f, q = 38.13547087602444, 0.5003270373238773
    k = np.tan(np.pi * f / rate)
    norm = 1 + k / q + k * k
    low_cut = [1, -2, 1, 1, 2 * (k * k - 1) / norm, (1 - k / q + k * k) / norm]
    weighted = signal.sosfilt([shelf, low_cut], sound.astype(np.float64), axis=1)
    step = rate // 10
    tenths = (weighted[:, : weighted.shape[1] // step * step].reshape(len(sound), -1, step) ** 2).mean(-1).sum(0)
    blocks = np.convolve(tenths, np.full(4, 0.25), "valid")
    blocks = blocks[-0.691 + 10 * np.log10(blocks + 1e-20) > -70]
    gate = -0.691 + 10 * np.log10(blocks.mean()) - 10
    return float(-0.691 + 10 * np.log10(blocks[-0.691 + 10 * np.log10(blocks) > gate].mean()))


# ---- Loudness


def loudness_of(sound: Floats, rate: int, pieces: int = 1) -> float | None:
    meter = LoudnessMeter(rate, len(sound))
    for piece in np.array_split(sound, pieces, axis=1):
        meter.add(piece)
    return meter.integrated()


def test_loudness_of_the_standards_own_sine() -> None:
    sine = np.sin(2 * np.pi * 997 * np.arange(48000 * 5) / 48000).astype(np.float32)[None]
    assert loudness_of(sine, 48000) == pytest.approx(-3.01, abs=0.01)
    assert loudness_of(np.repeat(sine, 2, axis=0), 48000) == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 192000])
@pytest.mark.parametrize("channels", [1, 2])
def test_loudness_agrees_with_the_standard_written_down_and_with_ffmpeg(rate: int, channels: int) -> None:
    chance = np.random.default_rng(0)
    swell = np.repeat([1e-5, 0.003, 0.3, 0.02, 1.0, 0.1], rate)  # some below either gate
    sound = (0.2 * swell * chance.standard_normal((channels, 6 * rate))).astype(np.float32)
    measured = loudness_of(sound, rate, pieces=7)
    assert measured == pytest.approx(bs1770(sound, rate), abs=1e-4)
    assert measured == pytest.approx(ebur128(sound, rate), abs=0.02)  # it counts in steps of a hundredth


def ebur128(sound: Floats, rate: int) -> float | None:
    """Integrated loudness of [C, T] by ffmpeg's filter."""
    layout = {1: "mono", 2: "stereo"}[len(sound)]
    graph = Graph()
    source = graph.add_abuffer(sample_rate=rate, format="fltp", layout=layout, time_base=Fraction(1, rate))
    meter, sink = graph.add("ebur128", "metadata=1:framelog=quiet"), graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout=layout)
    frame.sample_rate = rate
    graph.push(frame)
    graph.push(None)
    loudness: float | None = None
    while True:
        try:
            value = graph.pull().metadata.get("lavfi.r128.I")
            loudness = loudness if value is None else float(value)
        except (av.BlockingIOError, av.EOFError):
            return loudness


def test_what_is_too_short_or_too_soft_has_no_loudness() -> None:
    assert loudness_of(np.full((1, 3000), 0.5, np.float32), RATE) is None
    assert loudness_of(np.zeros((1, 32000), np.float32), RATE) is None


@pytest.mark.parametrize("volume", [0.005, 0.1])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_track_is_brought_to_the_loudness_asked_for(prepared: Prepare, volume: float, channels: int) -> None:
    found, samples = prepared(noise(volume=volume, channels=channels), loudness=-23.0, channels=channels)
    assert found.loudness == pytest.approx(-23, abs=0.1)
    assert bs1770(samples, RATE) == pytest.approx(-23, abs=0.1)
    assert found.peak == pytest.approx(np.abs(samples).max(), abs=1e-3)


def test_a_peak_keeps_a_track_from_being_made_loud(prepared: Prepare) -> None:
    sound = noise(volume=0.001)
    sound[0, 5000] = 0.5
    found, samples = prepared(sound, loudness=-14.0)
    assert np.abs(samples).max() == pytest.approx(10 ** (-1 / 20), abs=1e-3) and found.clipped == 0
    assert found.loudness is not None and found.loudness < -30
    assert found.loudness == pytest.approx(bs1770(samples, RATE), abs=0.1)
    assert found.gain == pytest.approx(20 * np.log10(10 ** (-1 / 20) / 0.5), abs=0.01)
    assert found.held_back and not prepared(noise(0.3), loudness=-14.0)[0].held_back  # too short to measure


def test_without_asking_the_level_stays(prepared: Prepare) -> None:
    sound = noise()
    found, samples = prepared(sound, bit_depth=24)
    np.testing.assert_allclose(samples, sound, atol=1e-6)
    assert found.gain == 0 and found.loudness == pytest.approx(bs1770(sound, RATE), abs=0.02)


# ---- Offset, silence, length


def test_an_offset_is_taken_off_each_channel(prepared: Prepare) -> None:
    sound = noise(channels=2)
    sound -= sound.mean(axis=1, keepdims=True)
    found, samples = prepared(sound + np.array([[0.3], [-0.1]], np.float32), channels=2, bit_depth=24)
    np.testing.assert_allclose(samples, sound, atol=1e-5)
    assert found.offset == pytest.approx(0.3, abs=1e-4)


def test_silence_at_both_ends_is_trimmed_and_none_in_between(prepared: Prepare) -> None:
    quiet = np.zeros((1, RATE), np.float32)
    sound = np.concatenate([quiet, noise(1.0), quiet, noise(0.5), quiet, quiet], axis=1)
    _, samples = prepared(sound, trim_silence=True, bit_depth=24)
    np.testing.assert_allclose(samples, sound[:, RATE : round(3.5 * RATE)], atol=1e-6)
    assert prepared(sound)[0].samples == 6 * RATE - RATE // 2


def test_trimming_sees_through_an_offset_and_to_the_last_sample(prepared: Prepare) -> None:
    sound = np.full((1, 3 * RATE + 7), 0.2, np.float32)
    sound[:, 2 * RATE :] += noise(2)[:, : RATE + 7]
    found, _ = prepared(sound, trim_silence=True, bit_depth=24)
    assert found.samples == RATE + 7


def test_trimming_sees_through_an_offset_of_the_music_alone(prepared: Prepare) -> None:
    quiet = np.zeros((1, 2 * RATE), np.float32)
    sound = np.concatenate([quiet, noise(2) + np.float32(0.003), quiet], axis=1)
    found, samples = prepared(sound, trim_silence=True, bit_depth=24)
    assert found.samples == 2 * RATE and abs(samples.mean()) < 1e-5


def test_what_is_soft_throughout_is_not_trimmed_away(prepared: Prepare) -> None:
    assert prepared(noise(volume=1e-4), trim_silence=True)[0].samples == 2 * RATE


def test_short_long_and_silent_files_are_refused_unless_asked_for(prepared: Prepare) -> None:
    with pytest.raises(DataError, match=r"too short: 0\.050 s"):
        prepared(noise(0.05))
    assert prepared(noise(0.05), min_seconds=0.05)[0].samples == 800
    assert prepared(np.full((1, 1), 0.5, np.float32), min_seconds=0)[0].samples == 1
    with pytest.raises(DataError, match="too long: 2 s"):
        prepared(noise(2), max_seconds=1.5)
    with pytest.raises(DataError, match="silent from end to end"):
        prepared(0 * noise())
    found, samples = prepared(0 * noise(), keep_silent=True, trim_silence=True, loudness=-23.0)
    assert found.silent and found.loudness is None and np.abs(samples).max() < 1e-4


def test_clipped_samples_are_counted(prepared: Prepare) -> None:
    sound = noise(volume=0.1)
    sound[0, :320] = 1.5
    found, samples = prepared(sound, subtype="FLOAT", clip=True)
    assert found.clipped == pytest.approx(320 / sound.size) and found.peak == 1.0
    assert samples.max() == pytest.approx(1, abs=1e-4)


# ---- Formats


@pytest.mark.parametrize("bit_depth", [8, 16, 24])
@pytest.mark.parametrize("channels", [1, 2])
def test_flac_holds_the_same_samples_as_wav(prepared: Prepare, bit_depth: int, channels: int) -> None:
    sound = noise(channels=2)
    (wav, ours), (flac, theirs) = (
        prepared(sound, bit_depth=bit_depth, channels=channels, format=format) for format in ("wav", "flac")
    )
    np.testing.assert_array_equal(ours, theirs)
    assert wav == flac


def test_a_wav_that_would_pass_four_gigabytes_is_refused_in_time(
    prepared: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("musicldm.media.audio.wav_stream.LARGEST", 1000)
    with pytest.raises(DataError, match="--format flac"):
        prepared(noise())
    assert prepared(noise(), format="flac")[0].samples == 2 * RATE


@pytest.mark.parametrize(
    "wrong",
    [
        {"bit_depth": 12},
        {"channels": 3},
        {"sample_rate": 0},
        {"format": "mp3"},
        {"loudness": 3.0},
        {"format": "flac", "sample_rate": 65537},
        {"min_seconds": 2.0, "max_seconds": 1.0},
    ],
)
def test_impossible_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PrepareSettings(**wrong)
