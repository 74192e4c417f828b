"""Which video is the song."""

from __future__ import annotations

from dataclasses import replace

import pytest

from musicldm.crawl.catalog import Artist, Track
from musicldm.crawl.matching import THRESHOLD, score, video_id, wrong_marks

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
    assert score(track("Heima", None), "Heima", "Sigur Rós - Topic", 1300) == 0
    assert score(track("Heima", 1300), "Heima", "Sigur Rós - Topic", 1300) >= THRESHOLD


@pytest.mark.parametrize(
    ("song", "title", "channel"),
    [
        (
            replace(track("Hoppípolla (live)", 200, "live"), release="Alexandra Palace, 2012"),
            "Sigur Rós - Hoppípolla (Live at the Alexandra Palace)",
            "someone",
        ),
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


def by(artist: str, title: str, seconds: float = 200.0, marks: str = "", release: str = "") -> Track:
    return replace(track(title, seconds, *marks.split(), artist=Artist("b", artist)), release=release)


PLAIN = by("Sigur Rós", "Hoppípolla")
WALL = by("Pink Floyd", "Another Brick in the Wall, Part 2")
ADAGIO = by("Ivo Janssen", "Violin Sonata in G minor, BWV 1001: II. Adagio")
GUITAR = by("Nirvana", "About a Girl", marks="live", release="MTV Unplugged in New York")
TAKE_FIVE = by("Bill Evans", "Autumn Leaves")
YESTERDAY = by("The Beatles", "Yesterday")
SEEKER = by("The Who", "The Seeker")


@pytest.mark.parametrize(
    ("song", "title", "channel", "fits"),
    [
        # Guests and remarks
        (by("Macklemore", "Thrift Shop"),
         "MACKLEMORE & RYAN LEWIS - THRIFT SHOP FEAT. WANZ (OFFICIAL VIDEO)", "someone", True),
        (by("Run‐D.M.C.", "Walk This Way"),
         "RUN DMC - Walk This Way (Official HD Video) ft. Aerosmith", "someone", True),
        (by("Major Lazer", "Lean On"), "Major Lazer & DJ Snake - Lean On ft. MØ (Official Video)", "someone", True),
        (by("Edward Maya", "Stereo Love"), "Edward Maya & Vika Jigulina - Stereo Love", "someone", True),
        (by("Prince", "Kiss"), "Prince and the Revolution - Kiss (2015 Remaster)", "someone", True),
        (by("U2", "One"), "U2 - One - 2011 Remaster", "U2VEVO", True),
        (by("U2", "One"), "U2 - One Tree Hill Remastered", "U2", False),
        (by("Eminem", "Love the Way You Lie"), "Eminem - Love the Way You Lie Part II ft. Rihanna", "Eminem", False),
        (by("Mark Ronson", "Uptown Funk"), "Mark Ronson - Daffodils ft. Uptown Funk", "Mark Ronson", False),
        # Numbers
        (track("1979"), "1978", "Sigur Rós - Topic", False),
        (by("Glenn Gould", "Goldberg Variations, BWV 988: Variation 17"),
         "Goldberg Variations, BWV 988: Variation 18", "Glenn Gould - Topic", False),
        (by("Glenn Gould", "Goldberg Variations, BWV 988: Variation 17"),
         "Goldberg Variations, BWV 988: Variation XVII", "Glenn Gould - Topic", True),
        (by("Glenn Gould", "Goldberg Variations: Variation XVIII"),
         "Goldberg Variations: Variation XVII", "Glenn Gould - Topic", False),
        (by("Ivo Janssen", "Sonata in G minor, BWV 1001: III. Presto"),
         "Sonata in G minor, BWV 1001: I. Adagio", "Ivo Janssen - Topic", False),
        (ADAGIO, "Violin Sonata in G minor, BWV 1001: III. Rondo", "Ivo Janssen - Topic", False),
        (ADAGIO, "Ivo Janssen: Violin Sonata in G Minor, BWV 1001 - II. Adagio", "someone", True),
        (WALL, "Another Brick in the Wall, Pt. 1", "Pink Floyd - Topic", False),
        (WALL, "Another Brick in the Wall (Part 1)", "Pink Floyd - Topic", False),
        (WALL, "Another Brick in the Wall", "Pink Floyd - Topic", False),
        (WALL, "Another Brick In The Wall, Pt. Two (2011 Remastered Version)", "Pink Floyd - Topic", True),
        (by("Jean‐Michel Jarre", "Oxygène, Part IV"), "Oxygene, Pt. 4", "Jean-Michel Jarre - Topic", True),
        (by("Maroon 5", "Sugar"), "Maroon 5 - Sugar (Official Music Video)", "someone", True),
        (by("IU", "Palette"), "IU - Palette M/V", "someone", True),
        (by("Pink Floyd", "Time"), "Pink Floyd - Time (1973)", "someone", True),
        # Artists
        (SEEKER, "The Seeker", "Rush - Topic", False),
        (SEEKER, "The Who - The Seeker", "someone", True),
        (by("The Who", "Who Are You"), "The Who - Who Are You", "someone", True),
        (by("The Who", "Who Are You"), "Who Are You", "someone", False),
        (YESTERDAY, "Yesterday", "The Toys - Topic", False),
        (YESTERDAY, "Yesterday (Remastered 2009)", "Beatles", True),
        (by("John Lennon", "Imagine"), "Imagine", "John Legend - Topic", False),
        (by("Berliner Philharmoniker", "Bolero"), "Bolero", "Wiener Philharmoniker - Topic", False),
        (by("X Japan", "Tears"), "Japan - Tears", "someone", False),
        (by("X Japan", "Tears"), "X JAPAN - Tears", "someone", True),
        (TAKE_FIVE, "Autumn Leaves", "Gil Evans - Topic", False),
        (by("London Symphony Orchestra", "Bolero"), "Bolero", "Boston Symphony Orchestra", False),
        (by("Muse", "Starlight"), "Starlight", "Museum of Pop", False),
        (by("Florence + the Machine", "Dog Days Are Over"), "Florence Foster - Dog Days Are Over", "someone", False),
        (by("Florence + the Machine", "Dog Days Are Over"), "Dog Days Are Over", "Florence And The Machine", True),
        (by("Earth, Wind & Fire", "September"), "September", "Arcade Fire - Topic", False),
        (by("Nick Cave & the Bad Seeds", "Red Right Hand"), "Red Right Hand", "Nick Drake - Topic", False),
        (by("Prince", "Kiss"), "Kiss", "Princess Chelsea - Topic", False),
        (by("Eels", "Home"), "Home (feels)", "someone", False),
        (by("Tyler, the Creator", "Earfquake"), "EARFQUAKE", "Tyler, The Creator - Topic", True),
        (by("AC/DC", "Thunderstruck"), "ACDC Thunderstruck", "someone", True),
        # What brackets and other parts add
        *((PLAIN, f"Sigur Rós - Hoppípolla ({aside})", "someone", False) for aside in (
            "drumless", "Acapella", "A Cappella", "Vocals Only", "no vocals", "Club Mix", "Radio Edit", "Rehearsal",
            "Peel Session", "piano version", "Music Box", "AI version", "432 Hz", "Tiny Desk Concert",
            "Glastonbury 2016", "dal vivo", "en concierto", "ライブ", "カバー", "Español", "Chopped & Screwed",
        )),
        *((PLAIN, f"Sigur Rós - Hoppípolla ({aside})", "someone", True) for aside in (
            "Official Video", "Album Version", "with lyrics", "HQ Audio", "2005", "feat. Amiina", "Original Version",
        )),
        (PLAIN, "Hoppípolla - Sigur Rós string quartet", "Vitamin String Quartet", False),
        (replace(PLAIN, release="Takk..."), "Sigur Rós - Hoppípolla (from the album Takk...)", "someone", True),
        (by("Taylor Swift", "22"), "22 (Taylor's Version)", "Taylor Swift", False),
        (GUITAR, "Nirvana - About A Girl (Live at Reading)", "Nirvana", False),
        (GUITAR, "Nirvana - About A Girl (Live On MTV Unplugged, 1993)", "Nirvana", True),
        # Other scripts
        (by("A", "तुम ही हो"), "हम तुम हो", "A - Topic", False),
        (by("A", "तुम ही हो"), "तुम ही हो", "A - Topic", True),
        (by("A", "かき"), "がき", "A - Topic", False),
    ],
)  # fmt: skip
def test_right_songs_and_wrong_ones(song: Track, title: str, channel: str, fits: bool) -> None:
    assert (score(song, title, channel, 200.0) >= THRESHOLD) is fits


def test_a_wrong_number_weighs_more_than_a_nearer_length() -> None:
    variations = [by("Glenn Gould", f"Goldberg Variations: Variation {n}", s) for n, s in ((17, 60.0), (18, 61.0))]
    for song, right, wrong in zip(variations, (62, 60), (60, 62), strict=True):
        other = song.title.replace("17", "XX").replace("18", "17").replace("XX", "18")
        assert score(song, song.title, "Glenn Gould - Topic", right) >= THRESHOLD
        assert score(song, other, "Glenn Gould - Topic", wrong) < THRESHOLD


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
