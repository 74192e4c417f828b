"""Scores heard and seen: the piano of our own, soundfonts, and pictures."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from musicldm.core.errors import DataError, MissingProgramError, UsageError
from musicldm.media.notes import soundfont as soundfonts
from musicldm.media.notes.picture import picture
from musicldm.media.notes.score import Score, Track
from musicldm.media.notes.soundfont import find_soundfont, in_milliseconds, is_soundfont, render_soundfont
from musicldm.media.notes.synth import render, stream

RATE = 16000
PEAK = 10 ** (-1 / 20)


def piano(*notes: tuple[int, int, int, int], length: int = 96, pedals: tuple[tuple[int, int], ...] = ()) -> Score:
    """A score of start, end, pitch and velocity; 24 steps are half a second."""
    start, end, pitch, velocity = np.array(notes).T
    pedal = np.array(pedals, np.int64).reshape(-1, 2)
    return Score(24, length, (Track(start, end, pitch, velocity, pedals=pedal),))


def energy(sound: np.ndarray, first: float, last: float) -> float:
    """The mean square between two times in seconds."""
    return float(np.square(sound[:, round(first * RATE) : round(last * RATE)]).mean())


@pytest.mark.parametrize("pitch", [33, 69, 93])
def test_a_note_has_its_pitch(pitch: int) -> None:
    sound = render(piano((0, 96, pitch, 90)), RATE, 1)[0, : 2 * RATE]
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 1 << 20))
    hertz = 440 * 2 ** ((pitch - 69) / 12)
    bins = np.fft.rfftfreq(1 << 20, 1 / RATE)
    near = np.flatnonzero(np.abs(bins / hertz - 1) < 0.2)
    found = bins[near[spectrum[near].argmax()]]
    assert abs(1200 * np.log2(found / hertz)) < 3


def test_sound_is_where_notes_are_at_one_level_and_the_same_each_time() -> None:
    score = piano((24, 36, 60, 80), (72, 76, 64, 20))
    sound = render(score, RATE, 2)
    assert sound.shape[0] == 2 and sound.dtype == np.float32 and sound.shape[1] >= 2 * RATE
    assert np.abs(sound).max() == pytest.approx(PEAK, rel=1e-5)
    assert energy(sound, 0, 0.499) == 0
    assert energy(sound, 0.5, 0.75) > 1e-3 > 1e-7 > energy(sound, 1.3, 1.499)  # damped
    np.testing.assert_array_equal(sound, render(score, RATE, 2))


def test_the_pedal_lengthens_until_it_is_lifted() -> None:
    dry, wet = render(piano((0, 12, 60, 80)), RATE, 1), render(piano((0, 12, 60, 80), pedals=((6, 72),)), RATE, 1)
    assert energy(wet, 1, 1.4) > 1000 * energy(dry, 1, 1.4)
    assert energy(wet, 1.9, 2) < energy(wet, 1, 1.4) / 1000


def test_a_harder_blow_is_louder_and_brighter() -> None:
    sound = render(piano((0, 20, 60, 30), (48, 68, 60, 120)), RATE, 1)
    soft, hard = (sound[0, first : first + 4000] for first in (0, RATE))
    assert np.abs(hard).max() > 3 * np.abs(soft).max()
    centroids = []
    for each in (soft, hard):
        power = np.abs(np.fft.rfft(each)) ** 2
        centroids.append((power * np.arange(len(power))).sum() / power.sum())
    assert centroids[1] > 1.1 * centroids[0]


def test_low_keys_are_to_the_left() -> None:
    left, right = np.square(render(piano((0, 48, 30, 80)), RATE, 2)).sum(axis=1)
    assert left > right


def test_a_stream_is_the_same_sound_in_blocks() -> None:
    score = piano((0, 90, 40, 80), (20, 25, 70, 60), (95, 96, 100, 60))
    blocks = list(stream(score, RATE, 2, seconds=0.3))
    assert {block.shape[1] for block in blocks[:-1]} == {4800}
    np.testing.assert_allclose(np.concatenate(blocks, axis=1), render(score, RATE, 2), atol=1e-6)


def test_drums_the_extremes_and_nothing_at_all_can_be_played() -> None:
    drums = replace(piano((0, 5, 36, 100), (24, 30, 38, 100), (48, 50, 42, 90)).tracks[0], is_drum=True)
    for score in (Score(24, 96, (drums,)), piano((0, 96, 0, 127), (0, 96, 127, 1), (0, 96, 108, 127))):
        sound = render(score, 8000, 1)
        assert np.isfinite(sound).all() and np.abs(sound).max() == pytest.approx(PEAK, rel=1e-5)
    assert not render(Score(24, 96), RATE, 2).any() and render(Score(24, 0), RATE, 2).shape == (2, 0)


def test_channels_and_rates_that_there_are_not() -> None:
    with pytest.raises(UsageError, match="channels"):
        render(piano((0, 5, 60, 64)), RATE, 3)
    with pytest.raises(UsageError, match="rate"):
        render(piano((0, 5, 60, 64)), 100)


# ---- Soundfonts


def test_one_tempo_sounds_at_the_same_times() -> None:
    score = replace(
        piano((0, 24, 60, 64), (24, 30, 60, 64), (80, 81, 62, 1), pedals=((0, 50),)),
        tempos=np.array([[0, 500_000], [30, 777_777], [70, 123_456]]),
    )
    flat = in_milliseconds(score)
    assert len(flat.tempos) == 1
    np.testing.assert_allclose(flat.seconds(flat.tracks[0].start), score.seconds(score.tracks[0].start), atol=5.1e-4)
    np.testing.assert_allclose(flat.seconds(flat.tracks[0].end), score.seconds(score.tracks[0].end), atol=5.1e-4)


def test_a_soundfont_is_found_by_the_variable_or_in_the_usual_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    font = tmp_path / "mine.sf2"
    font.write_bytes(b"RIFF\0\0\0\0sfbk")
    (tmp_path / "default.sf2").write_bytes(b"no soundfont")
    monkeypatch.delenv("SOUNDFONT", raising=False)
    monkeypatch.setattr(soundfonts, "_PLACES", (str(tmp_path / "none"),))
    assert find_soundfont() is None
    monkeypatch.setattr(soundfonts, "_PLACES", (str(tmp_path),))
    assert find_soundfont() == font
    monkeypatch.setattr(soundfonts, "_PLACES", ())
    monkeypatch.setenv("SOUNDFONT", str(font))
    assert find_soundfont() == font and is_soundfont(font)
    monkeypatch.setenv("SOUNDFONT", str(tmp_path / "default.sf2"))
    with pytest.raises(DataError, match="soundfont"):
        find_soundfont()


def program(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fluidsynth that does what the script says, and a soundfont."""
    (folder / "fluidsynth").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "fluidsynth").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    (folder / "a.sf2").write_bytes(b"RIFF\0\0\0\0sfbk")
    return folder / "a.sf2"


@pytest.mark.parametrize(
    ("script", "reason"),
    [("echo broken font >&2; exit 3", "broken font"), ("exec sleep 60", "had not finished"), ("exit 0", "no sound")],
)
def test_a_program_that_fails_hangs_or_says_nothing(
    script: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    font = program(tmp_path, script, monkeypatch)
    with pytest.raises(DataError, match=reason):
        render_soundfont(piano((0, 5, 60, 64)), font, timeout=0.2 if "sleep" in script else None)


def test_without_the_program_or_a_soundfont(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="SF2"):
        render_soundfont(piano((0, 5, 60, 64)), tmp_path / "none.sf2")
    font = program(tmp_path, "", monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(MissingProgramError, match="fluidsynth"):
        render_soundfont(piano((0, 5, 60, 64)), font)


@pytest.mark.skipif(
    shutil.which("fluidsynth") is None or find_soundfont() is None, reason="needs fluidsynth and a soundfont"
)
def test_a_real_soundfont_plays_notes_when_the_score_says() -> None:
    font = find_soundfont()
    assert font is not None
    score = replace(
        piano((24, 36, 60, 100), length=96), tempos=np.array([[tick, 500_000 + 1000 * tick] for tick in range(24)])
    )
    sound = render_soundfont(score, font, RATE, 1)
    assert sound.shape == (1, round((score.duration + 2) * RATE))
    assert np.abs(sound).max() == pytest.approx(PEAK, rel=1e-5)
    onset = np.flatnonzero(np.abs(sound[0]) > 0.02)[0] / RATE
    assert onset == pytest.approx(float(score.seconds(24)), abs=0.02)


# ---- Pictures


@pytest.mark.parametrize("title", ["", "odd $x_{ 曲"])
def test_a_picture_of_any_score(tmp_path: Path, title: str) -> None:
    drums = replace(piano((0, 5, 36, 100)).tracks[0], is_drum=True)
    full = piano((0, 24, 60, 64), (24, 48, 64, 127), pedals=((0, 20),))
    for name, score in (("full", replace(full, tracks=(*full.tracks, drums))), ("empty", Score(24, 0))):
        picture(tmp_path / "new" / f"{name}.png", score, title)
        assert imread(tmp_path / "new" / f"{name}.png").shape[1] == 1100
