"""Which video is the song."""

from __future__ import annotations

import pytest

from musicldm.crawl.catalog import Artist, Track
from musicldm.crawl.youtube import THRESHOLD, score, video_id, wrong_marks

ARTIST = Artist("a", "Sigur Rós", aliases=("Victory Rose",))


def track(title: str, seconds: float | None = 200.0, *marks: str, artist: Artist = ARTIST) -> Track:
    return Track("0123456789", title, artist, seconds, marks=frozenset(marks))


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
        ("Sigur Rós - Hoppípola (HD) [Lyrics]", "somebody", 200, True),  # a typing error
        ("Hoppípolla", "SigurRosVEVO", 201, True),
        ("Hoppípolla", "Victory Rose", 201, True),  # an alias
        ("Sigur Rós feat. Amiina - Hoppípolla", "somebody", 201, True),
        ("Sigur Rós - Hoppípolla og meira", "somebody", 205, False),  # another song with the same word
        ("Sigur Rós - Hoppípolla (karaoke)", "somebody", 200, False),
        ("Hoppípolla - Sigur Rós cover by Jane", "Jane", 200, False),
        ("Sigur Rós - Hoppípolla live in Paris", "Sigur Rós", 200, False),
        ("Sigur Rós - Hoppípolla (sped up)", "somebody", 200, False),
        ("Sigur Rós - Hoppípolla | slowed + reverb", "somebody", 200, False),
        ("Sigur Rós - Hoppípolla (8D audio)", "somebody", 200, False),
        ("Sigur Rós - Hoppípolla nightcore", "somebody", 200, False),
        ("Sigur Rós - Hoppípolla [instrumental]", "somebody", 200, False),
        ("Sigur Rós - Hoppípolla (X remix)", "somebody", 200, False),
        ("Sigur Rós - Hoppípolla", "Sing King Karaoke", 200, False),
        ("Sigur Rós - Hoppípolla (1 hour)", "somebody", 200, False),
    ],
)
def test_score(title: str, channel: str, seconds: float | None, fits: bool) -> None:
    assert (score(track("Hoppípolla"), title, channel, seconds) >= THRESHOLD) is fits


def test_a_nearer_length_scores_higher() -> None:
    far, near = (score(track("Heima", 100.0), "Heima", "Sigur Rós", seconds) for seconds in (103, 101))
    assert THRESHOLD <= far < near < 1


def test_an_unknown_length_is_made_up_for_by_words() -> None:
    assert score(track("Heima", None), "Heima", "Sigur Rós - Topic", 321) >= THRESHOLD


@pytest.mark.parametrize(
    ("song", "title", "channel"),
    [
        (track("Hoppípolla (live)", 200, "live"), "Sigur Rós - Hoppípolla (Live at the Alexandra Palace)", "someone"),
        (track("Hoppípolla", 200, "live"), "Sigur Rós - Hoppípolla (live)", "someone"),
        (track("Live Forever"), "Sigur Rós - Live Forever (Official Video)", "someone"),
        (track("Hoppípolla (Jónsi remix)", 200, "remix"), "Sigur Rós - Hoppípolla (Jónsi Remix)", "someone"),
        (track("Instrumental"), "Instrumental", "Sigur Rós - Topic"),
        (track("Selling", artist=Artist("b", "Live")), "Live - Selling", "LiveVEVO"),
        (track("Black Sabbath", artist=Artist("b", "Black Sabbath")), "Black Sabbath - Black Sabbath", "x"),
        (
            track("夜に駆ける", artist=Artist("b", "YOASOBI")),
            "YOASOBI「夜に駆ける」 Official Music Video",
            "Ayase / YOASOBI",
        ),
        (track("1979", artist=Artist("b", "AC/DC")), "ACDC - 1979", "somebody"),
    ],
)
def test_a_mark_that_the_song_has_is_no_fault(song: Track, title: str, channel: str) -> None:
    assert not wrong_marks(song, title, channel) and score(song, title, channel, 200) >= THRESHOLD


def test_numbers_must_be_right() -> None:
    assert score(track("1979"), "1978", "Sigur Rós - Topic", 200) < THRESHOLD


def test_the_artists_own_channel_goes_before_another() -> None:
    own, other = (score(track("Heima"), "Sigur Rós - Heima", channel, 200) for channel in ("Sigur Rós - Topic", "fan"))
    assert own > other >= THRESHOLD


def test_a_live_take_should_say_so() -> None:
    live = track("Heima", 200, "live")
    assert score(live, "Heima (Live)", "Sigur Rós - Topic", 203) > score(live, "Heima", "Sigur Rós - Topic", 203)


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("https://www.youtube.com/watch?v=dQw4w9WgXcQ&t=3", "dQw4w9WgXcQ"),
        ("https://www.youtube.com/watch?list=PL123&v=dQw4w9WgXcQ", "dQw4w9WgXcQ"),
        ("https://youtu.be/dQw4w9WgXcQ?si=abc", "dQw4w9WgXcQ"),
        ("music.youtube.com/watch?v=dQw4w9WgXcQ", "dQw4w9WgXcQ"),
        ("dQw4w9WgXcQ", "dQw4w9WgXcQ"),
        ("https://example.org/watch?v=dQw4w9WgXcQ", None),
        ("https://www.youtube.com/playlist?list=PL123", None),
        ("", None),
    ],
)
def test_addresses_of_videos(address: str, found: str | None) -> None:
    assert video_id(address) == found
