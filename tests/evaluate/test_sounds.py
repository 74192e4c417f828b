"""Which sounds are measured, and where pieces are taken from them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile

from musicldm.core.errors import DataError
from musicldm.evaluate.sounds import evenly, files_in, music_in, pieces_of, rate_of


@pytest.mark.parametrize("count", [1, 3, 7, 100])
def test_pieces_lie_within_their_tracks_and_not_over_each_other(count: int) -> None:
    lengths = [3.0, 0.9, 10.5, 2.0]
    places = evenly(lengths, 1.0, count)
    assert len(places) == min(count, 15) and places == sorted(places)
    for number, start in places:
        assert 0 <= start <= lengths[number] - 1 + 1e-9
    for (one, first), (other, second) in itertools.pairwise(places):
        assert one != other or second - first >= 1 - 1e-9
    assert evenly([0.5], 1.0, 4) == [] and evenly([], 1.0, 4) == []


def test_a_file_whose_channels_cancel_is_no_silence(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", np.stack([sound, -sound], axis=1), 8000, subtype="FLOAT")
    [file] = files_in([tmp_path], 8000, 1)
    assert np.array_equal(file.whole().numpy()[0], sound)


def test_a_folder_of_any_files(tmp_path: Path) -> None:
    """Files of two rates and a text; all that is read comes at the rate asked for."""
    (tmp_path / "deep").mkdir()
    ramp = np.linspace(0, 0.5, 3 * 8000)
    soundfile.write(tmp_path / "a.wav", ramp, 8000)
    soundfile.write(tmp_path / "deep" / "b.flac", np.stack([ramp, -ramp], axis=1), 16000)
    (tmp_path / "c.wav").write_text("no music")
    (tmp_path / "notes.txt").write_text("no music")
    sounds = music_in(tmp_path, 8000, 1, "heldout")
    assert [sound.name for sound in sounds] == ["a.wav", "c.wav", "deep/b.flac"]
    lengths = [sound.seconds for sound in sounds]
    assert lengths == pytest.approx([3, 0, 1.5])
    left_out: dict[str, str] = {}
    pieces = list(pieces_of(sounds, [3, 1, 1.5], 1.0, 9, left_out))
    assert [piece.name for piece in pieces] == ["a.wav 0", "a.wav 8000", "a.wav 16000", "deep/b.flac 2000"]
    np.testing.assert_allclose(pieces[1].audio[0], ramp[8000:16000], atol=1e-4)
    assert float(pieces[3].audio.abs().max()) > 0.4, "of two sides that cancel out one is taken"
    assert list(left_out) == ["c.wav"] and rate_of([tmp_path / "notes.txt", tmp_path / "deep"]) == 16000
    assert [sound.name for sound in files_in([tmp_path / "a.wav", tmp_path / "deep"], 8000, 1)] == [
        str(tmp_path / "a.wav"),
        str(tmp_path / "deep" / "b.flac"),
    ]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is nothing at"):
        files_in([tmp_path / "nowhere"], 8000, 1)
    with pytest.raises(DataError, match="no audio files"):
        music_in(tmp_path, 8000, 1, "all")
