"""Tracks resampled as they are read, against the whole of them resampled at once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soxr

from musicldm.core.errors import DataError
from musicldm.media.audio import files
from musicldm.media.audio.resampled import ResampledTrack, fit
from musicldm.media.dataset import CropDataset, check_format
from musicldm.media.manifest import MANIFEST, PreparedTrack, read_tracks
from tests.toys import full


def prepared(folder: Path, rate: int, channels: int, seconds: float = 3.0, name: str = "a.wav") -> PreparedTrack:
    """A track of noise, all of whose frequencies have something to lose, as preprocess leaves one."""
    audio = 0.2 * np.random.default_rng(0).standard_normal((channels, round(rate * seconds))).astype(np.float32)
    files.write(folder / name, audio, rate, bit_depth=24)
    record = {"source": name, "status": "done", "path": name, "sample_rate": rate, "channels": channels}
    record |= {"samples": audio.shape[1], "content": "c0ffee", "split": "heldout", "artist": "A", "title": "T"}
    record |= {"provenance": {"license": "cc"}, "bytes": (folder / name).stat().st_size}
    (folder / MANIFEST).write_text(json.dumps(record) + "\n")
    (track,) = read_tracks(folder)
    return track


@pytest.mark.parametrize(
    ("theirs", "ours"), [(44100, 16000), (16000, 44100), (48000, 44100), (48000, 16000), (22050, 16000), (8000, 8001)]
)
def test_a_crop_is_the_same_span_of_the_whole(tmp_path: Path, theirs: int, ours: int) -> None:
    original = prepared(tmp_path, theirs, 1)
    track = ResampledTrack.of(original, ours, 1)
    whole = soxr.resample(original.read(0, original.length)[0], theirs, ours, quality="HQ")
    assert abs(track.length - len(whole)) <= 1 and track.seconds == pytest.approx(original.seconds, abs=1 / ours)
    chance = np.random.default_rng(1)
    starts = chance.integers(0, track.length - 400, 8).tolist()
    spans = [(0, 1), (0, track.length), (track.length - 1, track.length), *((a, a + 400) for a in starts)]
    for start, stop in spans:
        crop = track.read(start, stop)
        assert crop.shape == (1, stop - start) and crop.dtype == np.float32
        assert np.abs(crop[0] - whole[start:stop]).max() < 1e-4 * np.abs(whole).max(), "above -80 dB"


def test_channels_are_mixed(tmp_path: Path) -> None:
    stereo = prepared(tmp_path, 16000, 2)
    left, right = stereo.read(0, 1000)
    np.testing.assert_allclose(ResampledTrack.of(stereo, 16000, 1).read(0, 1000)[0], (left + right) / 2, atol=1e-7)
    mono = ResampledTrack.of(prepared(tmp_path, 16000, 1), 44100, 2).read(500, 900)
    assert mono.shape == (2, 400) and np.array_equal(mono[0], mono[1]) and mono.any()


def test_of_channels_that_cancel_the_one_that_preprocess_names_is_taken(tmp_path: Path) -> None:
    plain = prepared(tmp_path, 16000, 2)
    stereo = replace(plain, mono_from=1)
    track = ResampledTrack.of(stereo, 16000, 1)
    assert np.array_equal(track.read(0, 1000)[0], stereo.read(0, 1000)[1])
    assert track.content != ResampledTrack.of(plain, 16000, 1).content


def test_a_resampled_track_is_the_original_under_another_content(tmp_path: Path) -> None:
    original = prepared(tmp_path, 44100, 2)
    forms = [(16000, 1), (16000, 2), (44100, 1)]
    tracks = [ResampledTrack.of(original, *form) for form in forms]
    for track, form in zip(tracks, forms, strict=True):
        assert (track.rate, track.channels) == form
        for name in ("path", "split", "artist", "title", "provenance", "bytes"):
            assert getattr(track, name) == getattr(original, name)
        track.check()
    contents = {track.content for track in tracks}
    assert len(contents | {original.content}) == 4 and {len(content) for content in contents} == {64}
    assert tracks[0].content == ResampledTrack.of(original, 16000, 1).content


def test_only_what_does_not_fit_is_resampled(tmp_path: Path) -> None:
    tracks = [prepared(tmp_path / str(i), *form) for i, form in enumerate([(16000, 1), (44100, 2), (16000, 2)])]
    fitting = fit(tracks, 16000, 1)
    assert fitting[0] is tracks[0]
    check_format(fitting, 16000, 1)
    crops = CropDataset(fitting, length=16000, grid=64, seed=3)
    assert crops.short == 0 and full(crops.batch(0, 6)).shape == (6, 1, 16000)


def test_a_file_that_changed_is_still_refused(tmp_path: Path) -> None:
    original = prepared(tmp_path, 44100, 1)
    track = ResampledTrack.of(original, 16000, 1)
    original.path.write_bytes(original.path.read_bytes()[:9000])
    for use in (track.check, lambda: track.read(track.length - 100, track.length)):
        with pytest.raises(DataError, match="changed since"):
            use()
