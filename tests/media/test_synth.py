from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from musicldm.core.errors import OutputError
from musicldm.media import synth
from musicldm.media.audio import files


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return synth.compose(tmp_path_factory.mktemp("album"), seed=1, songs_each=2, seconds_each=6)


def test_four_artists_each_in_a_folder_of_their_own(album: list[Path]) -> None:
    assert len(album) == 8
    assert {path.parent.name for path in album} == {artist.name for artist in synth.ARTISTS}


def test_songs_are_of_the_right_kind_and_do_not_clip(album: list[Path]) -> None:
    for path in album:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype, info.frames) == (44100, 2, "PCM_16", 6 * 44100)
        assert np.abs(files.read(path)).max() == pytest.approx(10 ** (-1 / 20), abs=1e-4)


def test_one_seed_one_album(album: list[Path], tmp_path: Path) -> None:
    again = synth.compose(tmp_path / "again", seed=1, songs_each=1, seconds_each=6)
    other = synth.compose(tmp_path / "other", seed=4, songs_each=1, seconds_each=6)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in album[::2]]
    assert all(one.read_bytes() != two.read_bytes() for one, two in zip(again, other, strict=True))


def test_a_song_of_somebody_else_is_no_song_that_was_composed(tmp_path: Path) -> None:
    first, *_ = synth.compose(tmp_path, songs_each=1, seconds_each=1)
    composed, date = first.read_bytes(), first.stat().st_mtime_ns
    synth.compose(tmp_path, songs_each=1, seconds_each=1)
    assert first.stat().st_mtime_ns == date, "it was there"
    first.write_bytes(b"mine")
    with pytest.raises(OutputError, match="not replaced"):
        synth.compose(tmp_path, songs_each=2, seconds_each=1)
    assert first.read_bytes() == b"mine" and len(list(tmp_path.rglob("*.wav"))) == 4
    synth.compose(tmp_path, songs_each=1, seconds_each=1, overwrite=True)
    assert first.read_bytes() == composed


def test_an_artist_sounds_more_like_itself_than_like_others(album: list[Path]) -> None:
    def colour(path: Path) -> NDArray[np.float64]:
        """How loud each of eight bands is on average, and how much it moves within a twentieth of a second."""
        frames = files.read(path).mean(axis=0).reshape(-1, 2205)
        power = np.abs(np.fft.rfft(frames * np.hanning(2205))) ** 2
        octaves = np.split(power[:, 2:], [6, 12, 24, 48, 96, 200, 400], axis=1)
        bands = np.stack([octave.mean(axis=1) for octave in octaves], axis=1)
        decibels = 10 * np.log10(bands / bands.max() + 1e-6)
        return np.concatenate([decibels.mean(axis=0), 2 * np.abs(np.diff(decibels, axis=0)).mean(axis=0)])

    colours = [colour(path) for path in album]
    for i, one in enumerate(colours):
        distances = [float(np.linalg.norm(one - other)) if i != j else np.inf for j, other in enumerate(colours)]
        assert int(np.argmin(distances)) // 2 == i // 2


def test_more_songs_than_titles_overwrite_none(tmp_path: Path) -> None:
    paths = synth.compose(tmp_path, songs_each=4, seconds_each=1)
    assert len(set(paths)) == 16
    assert all(path.is_file() for path in paths)
