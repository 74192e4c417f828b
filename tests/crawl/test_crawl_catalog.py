from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from musicldm.core.errors import ConfigError
from musicldm.core.filenames import portable
from musicldm.crawl.catalog import INCLUDABLE, Artist, Selection, Track, distinct, songs
from musicldm.crawl.settings import CrawlSettings, is_loopback
from musicldm.crawl.titles import song_title, title_marks, words

ARTIST = Artist("a", "Sigur Rós")


def track(title: str, seconds: float | None = 200.0, recording: str = "0123456789", *marks: str) -> Track:
    return Track(recording, title, ARTIST, seconds, marks=frozenset(marks))


@pytest.mark.parametrize(
    "text",
    ["../../etc/passwd", "/etc/passwd", "..", ".", "", "   ", "a/b\\c", "x" * 300, "é" * 300, "🎵" * 100, "two\nlines",
     "nul", "CON.txt", ".hidden", "dot.", "\ud800", "C:\\x", "-rf"],
)  # fmt: skip
def test_a_name_stays_one_visible_file_in_its_folder(tmp_path: Path, text: str) -> None:
    name = portable(text, longest=180)
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


def test_an_unknown_length_swallows_nothing() -> None:
    tracks = [track("Hello", None, "1"), track("Hello", 200.0, "2"), track("Hello", 90.0, "3"), track("Ho", None, "4")]
    assert [song.recording for song in songs(tracks, Selection())[0]] == ["2", "3", "4"]
    assert [song.recording for song in songs(tracks, Selection(), fetched={"1"})[0]] == ["1", "2", "3", "4"]


def test_one_isrc_is_one_song_and_a_live_take_is_another() -> None:
    tracks = [
        replace(track("Hello", 200.0, "1"), isrcs=("A", "B")),
        replace(track("Hullo", 300.0, "2"), isrcs=("B",)),
        track("Hello", 200.0, "3", "live"),
        track("Hello (2011 remaster)", 201.0, "4"),
        track("Hello (feat. Somebody)", 201.0, "5"),
    ]
    assert [song.recording for song in distinct(tracks)] == ["1", "3"]


def test_what_is_not_asked_for_is_counted() -> None:
    tracks = [
        track("Studio", 200.0, "1"),
        track("Studio", 200.0, "1", "compilation"),  # on a best-of as well
        track("Stage", 200.0, "2", "live"),
        track("Stage", 200.0, "2", "live", "compilation"),
        track("Club", 200.0, "3", "remix"),
        track("Only on the best-of", 200.0, "4", "compilation"),
        track("Jingle", 9.0, "5"),
        track("Suite", 3000.0, "6"),
        track("Last", None, "7"),
        track("Quiet", 200.0, "8", "acoustic"),
        track("Sketch", 200.0, "a", "demo"),
        track("Chat", 200.0, "b", "talk"),
    ]

    def taken(**selection: Any) -> tuple[str, dict[str, int]]:
        found, others = songs(tracks, Selection(**selection))
        return "".join(song.recording for song in found), dict(others)

    assert taken() == ("15678", {"live": 1, "remix": 1, "compilation": 1, "demo": 1, "talk": 1})
    assert taken(include=INCLUDABLE) == ("12345678ab", {})
    assert taken(include=frozenset({"live"})) == ("125678", {"remix": 1, "compilation": 1, "demo": 1, "talk": 1})
    assert taken(min_seconds=60, max_seconds=600)[0] == "178"
    assert taken(limit=2)[0] == "15"
    assert taken(limit=1, overrides={"4": "x"})[0] == "14"
    assert taken(include=frozenset({"demo", "talk"})) == ("15678ab", {"live": 1, "remix": 1, "compilation": 1})
    found, _ = songs(tracks, Selection(limit=2, min_seconds=60), fetched={"2", "5"})
    assert "".join(song.recording for song in found) == "1256"  # what is there and not asked for takes no one's place


@pytest.mark.parametrize(
    ("title", "song", "marks"),
    [
        ("Live Forever", "Live Forever", set()),
        ("Hello (live at the Forum)", "Hello (live at the Forum)", {"live"}),
        ("Hello - Live", "Hello - Live", {"live"}),
        ("Hello (Somebody remix)", "Hello (Somebody remix)", {"remix"}),
        ("Hello (2011 Remaster)", "Hello", set()),
        ("Hello - 2009 Remaster", "Hello", set()),
        ("Hello feat. A & B", "Hello", set()),
        ("Hello (feat. A) (live)", "Hello   (live)", {"live"}),
        ("(Remastered)", "(Remastered)", set()),
        ("Cover Me", "Cover Me", set()),
    ],
)
def test_titles_and_their_remarks(title: str, song: str, marks: set[str]) -> None:
    assert song_title(title) == song and title_marks(title) == marks


def test_settings_come_from_the_environment_and_options_go_before() -> None:
    environment = {"MUSICLDM_TIMEOUT": "5", "MUSICLDM_TRIES": "7", "MUSICLDM_YOUTUBE_PAUSE": "30"}
    settings = CrawlSettings.from_environment(environment, tries=2, jobs=None)
    assert (settings.timeout, settings.tries, settings.youtube_pause, settings.jobs) == (5.0, 2, 30.0, 1)
    assert settings.rate_limit == 1 << 20
    for variable, value in [("TIMEOUT", "soon"), ("TIMEOUT", "0"), ("TIMEOUT", "nan"), ("YOUTUBE_PAUSE", "1")]:
        with pytest.raises(ConfigError):
            CrawlSettings.from_environment({f"MUSICLDM_{variable}": value})


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
