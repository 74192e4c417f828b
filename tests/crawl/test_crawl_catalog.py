from __future__ import annotations

from pathlib import Path

import pytest

from musicldm.crawl.catalog import Artist, Track, distinct, safe_name, words
from musicldm.crawl.settings import CrawlSettings, is_loopback
from musicldm.crawl.youtube import THRESHOLD, score
from musicldm.errors import ConfigError

ARTIST = Artist("a", "Sigur Rós")


def track(title: str, seconds: float | None = 200.0, recording: str = "0123456789") -> Track:
    return Track(recording, title, ARTIST, seconds)


@pytest.mark.parametrize(
    "text",
    ["../../etc/passwd", "/etc/passwd", "..", ".", "", "   ", "a/b\\c", "x" * 300, "é" * 300, "🎵" * 100, "two\nlines",
     "nul", "CON.txt", ".hidden", "dot.", "\ud800", "C:\\x", "-rf"],
)  # fmt: skip
def test_a_name_stays_one_visible_file_in_its_folder(tmp_path: Path, text: str) -> None:
    name = safe_name(text)
    file = tmp_path / f"{name} [01234567].m4a.part"
    file.write_bytes(b"")
    assert list(tmp_path.iterdir()) == [file]
    assert file.resolve().parent == tmp_path.resolve()
    assert not name.startswith(".") and name.lower().split(".")[0] not in ("con", "nul")


def test_words_are_compared_without_case_accents_and_signs() -> None:
    assert words("Don’t  Stop—Beyoncé!") == words("dont stop beyonce")
    assert words("!!!") == ("!!!",)
    assert words("さくら") != words("すみれ")


def test_distinct_keeps_the_first_of_each_song() -> None:
    songs = [
        track("Hello", 200.0, "1"),
        track("Hello", 200.0, "1"),
        track("HELLO!", 202.9, "2"),
        track("Hello", 203.1, "3"),
        track("Hello", None, "4"),
        track("Other", 200.0, "5"),
    ]
    assert [song.recording for song in distinct(songs)] == ["1", "3", "5"]


@pytest.mark.parametrize(
    ("title", "channel", "seconds", "fits"),
    [
        ("Hoppípolla", "Sigur Ros - Topic", 201, True),
        ("Sigur Rós - Hoppípolla [Official Video]", "somebody", 205, True),
        ("Hoppípolla", "somebody", 200, False),  # nobody says who plays
        ("Sigur Rós - Hoppípolla", "sigurros", 207, False),  # 3 % of 200 s are 6
        ("Sigur Rós - Hoppípolla (1 hour)", "sigurros", 3600, False),
        ("Sigur Rós - Sæglópur", "Sigur Rós", 200, False),
        ("Sigur Rós - Hoppípolla", "Sigur Rós", None, False),
    ],
)
def test_score(title: str, channel: str, seconds: float | None, fits: bool) -> None:
    assert (score(track("Hoppípolla"), title, channel, seconds) >= THRESHOLD) is fits


def test_a_nearer_length_scores_higher() -> None:
    far, near = (score(track("Heima", 100.0), "Heima", "Sigur Rós", seconds) for seconds in (103, 101))
    assert THRESHOLD <= far < near < 1


def test_an_unknown_length_is_made_up_for_by_words() -> None:
    assert score(track("Heima", None), "Heima", "Sigur Rós - Topic", 321) >= THRESHOLD


def test_only_loopback_may_be_asked_without_pauses() -> None:
    assert all(map(is_loopback, ("127.0.0.1:80", "localhost:1", "[::1]:8080")))
    assert not any(map(is_loopback, ("", "musicbrainz.org", "10.0.0.1:80", "127.0.0.1.example.org:80")))
    mirror = CrawlSettings.from_environment({"MUSICLDM_MUSICBRAINZ": "mirror.example.org:5000"})
    assert mirror.musicbrainz_interval == 1.0
    here = CrawlSettings.from_environment({"MUSICLDM_YOUTUBE": "localhost:5000"})
    assert here.youtube_pause == 0.0 and here.musicbrainz_interval == 1.0
    for impolite in ({"musicbrainz_interval": 0.5}, {"youtube_pause": 1.0}, {"youtube_request_pause": 0.0}):
        with pytest.raises(ConfigError, match="at least"):
            CrawlSettings(**impolite)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="address"):
        CrawlSettings(musicbrainz="http://127.0.0.1:80/")
