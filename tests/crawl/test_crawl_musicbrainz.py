"""The real musicbrainzngs against a web service on loopback."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from musicldm.core.errors import AmbiguousError, NetworkError, NotFoundError
from musicldm.crawl.musicbrainz import MusicBrainz
from musicldm.crawl.settings import CrawlSettings
from tests.crawl.conftest import World
from tests.crawl.crawl_services import MusicBrainzServer, Person, Release, Song, Work


def album(number: int) -> Release:
    media = [[Song(f"{number}-{j}-{k}", f"Song {number} {j} {k}", 100.0) for k in range(2)] for j in range(2)]
    return Release(f"r{number}", f"Album {number}", f"{2000 + number}", media)


PEOPLE = [
    Person("1", "Nirvana UK", score=100),
    Person("2", "The Nirvana", aliases=("Nirvána",), score=99),
    Person("3", "Nirvana", score=60),
    Person("4", "Nirvana", score=80),
    Person("5", "AC/DC", score=50),
    Person(
        "11111111-aaaa-4000-8000-000000000001", "Doves", country="GB", years=("1998", ""), note="the band", score=98
    ),
    Person("11111111-aaaa-4000-8000-000000000002", "Doves", country="US", years=("1965-02", "1971"), score=100),
    Person("11111111-aaaa-4000-8000-000000000003", "Doves", score=60),
    Person("6", "Prolific", releases=[album(number) for number in range(23)]),
]


@pytest.fixture
def server() -> Iterator[MusicBrainzServer]:
    server = MusicBrainzServer(PEOPLE, page=10)
    with server.running():
        yield server


@pytest.fixture
def settings(server: MusicBrainzServer) -> CrawlSettings:
    return CrawlSettings.from_environment({"MUSICLDM_MUSICBRAINZ": server.address}, "me@example.org")


def test_name_before_alias_before_words_before_score(settings: CrawlSettings) -> None:
    service = MusicBrainz(settings)
    found = [service.find_artist(name).id for name in ("nirvana", "nirvána", "The Nirvána", "ac dc")]
    assert found == ["4", "2", "2", "5"]


def test_typographic_signs_are_the_keyboards(server: MusicBrainzServer, settings: CrawlSettings) -> None:
    server.people = [
        Person("1", "Guns N Roses", score=100),
        Person("2", "Guns N’ Roses", score=95),
        Person("3", "Run DMC", score=100),
        Person("4", "Run‐D.M.C.", score=95),
    ]
    service = MusicBrainz(settings)
    found = [service.find_artist(name).id for name in ("Guns N' Roses", "guns n’ roses", "Run-D.M.C.", "Run‑D.M.C.")]
    assert found == ["2", "2", "4", "4"]


def test_an_exact_name_does_not_go_before_far_better_known_ones(
    server: MusicBrainzServer, settings: CrawlSettings
) -> None:
    server.people = [
        Person("1", "Nena", score=60),
        Person("2", "Gabriele Kerner", aliases=("Nena",), score=100),
        Person("3", "Nena Tribute", score=100),
    ]
    with pytest.raises(AmbiguousError, match="2 artists named 'Nena'") as caught:
        MusicBrainz(settings).find_artist("Nena")
    assert "Gabriele Kerner" in caught.value.hint and "Tribute" not in caught.value.hint
    server.people[0].score = 75
    assert MusicBrainz(settings).find_artist("Nena").id == "1"


def test_a_stranger_is_not_found_and_the_hint_names_the_nearest(settings: CrawlSettings) -> None:
    with pytest.raises(NotFoundError, match="no artist 'Nirvana Tribute'") as caught:
        MusicBrainz(settings).find_artist("Nirvana Tribute")
    assert "Nirvana UK" in caught.value.hint
    with pytest.raises(NotFoundError, match="no artist"):
        MusicBrainz(settings).find_artist('Zzz +-&|!(){}[]^"~*?:\\/ AND')


def test_where_two_are_as_likely_none_is_taken(settings: CrawlSettings) -> None:
    with pytest.raises(AmbiguousError, match=r"2 artists named 'Doves'.*none was chosen") as caught:
        MusicBrainz(settings).find_artist("Doves")
    assert caught.value.hint.splitlines()[1:] == [
        "  11111111-aaaa-4000-8000-000000000002  Doves (US, 1965–1971)",
        "  11111111-aaaa-4000-8000-000000000001  Doves (the band, GB, 1998–)",
    ]


@pytest.mark.parametrize("form", ["{}", "https://musicbrainz.org/artist/{}"])
def test_an_id_instead_of_a_name(settings: CrawlSettings, form: str) -> None:
    artist = MusicBrainz(settings).find_artist(form.format("11111111-AAAA-4000-8000-000000000002"))
    assert (artist.id, artist.note) == ("11111111-aaaa-4000-8000-000000000002", "US, 1965–1971")
    with pytest.raises(NotFoundError, match="has nothing under"):
        MusicBrainz(settings).find_artist(form.format("11111111-aaaa-4000-8000-000000000009"))


def test_marks_come_from_release_groups_titles_and_notes(server: MusicBrainzServer, settings: CrawlSettings) -> None:
    server.people = [
        Person("9", "Marked", releases=[
            Release("r1", "On stage", "2001", [[Song("1", "A", 100.0)]], kinds=("Live", "Compilation")),
            Release("r2", "In the club", "2002", [[Song("2", "B", 100.0)]], kinds=("DJ-mix",)),
            Release("r3", "Plain", "2003", [[Song("3", "C (live)", 100.0), Song("4", "D", 100.0, note="live, 1999")]]),
            Release("r4", "Plain", "2004", [[Song("5", "Live Wire", 100.0)]], kinds=("Soundtrack",)),
            Release("r5", "Talk", "2005", [[Song("6", "E", 100.0)]], kinds=("Interview",)),
            Release("r6", "Tape", "2006", [[Song("7", "F", 100.0), Song("8", "[silence]", 9.0)]], kinds=("Demo",)),
        ])
    ]  # fmt: skip
    service = MusicBrainz(settings)
    marks = [set(track.marks) for track in service.tracks(service.find_artist("Marked"))]
    assert marks == [{"live", "compilation"}, {"remix"}, {"live"}, {"live"}, set(), {"talk"}, {"demo"}]


def test_all_pages_and_all_media(server: MusicBrainzServer, settings: CrawlSettings) -> None:
    service = MusicBrainz(settings)
    seen: list[tuple[float, float | None]] = []
    tracks = service.tracks(service.find_artist("Prolific"), lambda done, total, text="": seen.append((done, total)))
    assert len({track.recording for track in tracks}) == len(tracks) == 23 * 4
    assert seen == [(10, 23), (20, 23), (23, 23)]
    (agent,) = server.agents
    assert agent.startswith("musicldm/") and "me@example.org" in agent


def test_one_request_a_second(server: MusicBrainzServer, settings: CrawlSettings) -> None:
    service = MusicBrainz(replace(settings, musicbrainz_interval=1.0))
    service.find_artist("Prolific")
    start = time.monotonic()
    service.find_artist("Prolific")
    assert time.monotonic() - start >= 0.9


def test_second_tries_take_their_turns_too(server: MusicBrainzServer, settings: CrawlSettings) -> None:
    service = MusicBrainz(replace(settings, musicbrainz_interval=0.5))
    server.answers = [(503, b"slow down")]
    start = time.monotonic()
    service.tracks(service.find_artist("Nirvana UK"))
    assert len(server.requests) == 3 and time.monotonic() - start >= 0.95


def test_a_busy_service_is_asked_again(server: MusicBrainzServer, settings: CrawlSettings) -> None:
    server.answers = [(503, b"slow down"), (502, b"")]
    assert MusicBrainz(settings).find_artist("Prolific").id == "6"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("answer", "sentence", "requests"),
    [
        ((503, b"slow down"), "answered 503", 3),
        ((403, b"blocked"), "answered 403", 1),
        ((200, b"<html><p>Please log in to this WLAN"), "makes no sense", 1),
        ((200, b"<html><p>Please log in</p></html>"), "makes no sense", 1),
    ],
)
def test_a_service_that_makes_no_sense(
    server: MusicBrainzServer, settings: CrawlSettings, answer: tuple[int, bytes], sentence: str, requests: int
) -> None:
    server.answers = [answer] * 3
    with pytest.raises(NetworkError, match=sentence) as caught:
        MusicBrainz(settings).find_artist("Prolific")
    assert "again" in caught.value.hint
    assert len(server.requests) == requests


def test_a_stalled_service_is_given_up(server: MusicBrainzServer, settings: CrawlSettings) -> None:
    server.stalled = True
    with pytest.raises(NetworkError, match=r"did not answer within 0\.2 s"):
        MusicBrainz(replace(settings, timeout=0.2, tries=2)).find_artist("Prolific")
    server.stalled = False
    assert MusicBrainz(settings).find_artist("Prolific").id == "6"  # the lock inside the library is free again


def test_a_service_that_drips_is_given_up(server: MusicBrainzServer, settings: CrawlSettings) -> None:
    server.trickle = 0.05
    with pytest.raises(NetworkError, match=r"not completely within 0\.6 s"):
        MusicBrainz(replace(settings, timeout=0.1, tries=1)).find_artist("Prolific")
    server.trickle = 0.0
    assert MusicBrainz(settings).find_artist("Prolific").id == "6"


def test_no_network(settings: CrawlSettings, fence: list[str]) -> None:
    with pytest.raises(NetworkError, match="cannot be reached"):
        MusicBrainz(replace(settings, musicbrainz="127.0.0.1:9")).find_artist("Prolific")
    with pytest.raises(NetworkError, match=r"\(musicbrainz\.org\) cannot be reached"):
        MusicBrainz(CrawlSettings()).find_artist("Prolific")
    assert fence.pop() == "musicbrainz.org"  # the fence played the missing network


def test_songs_in_another_role(world: World) -> None:
    """As a guest on releases of others; as the composer of what others play; not as the one who wrote the words."""
    glass, rios = world.musicbrainz.people
    glass.releases[0].media[0].append(Song("70000000-1", "With the Rivers", 190.0, by=rios.id))
    rios.works = [
        Work("w1", [Song("71000000-1", "Waltz", 90.0), Song("72000000-1", "Waltz, filmed", 90.0, video=True)]),
        Work("w2", [Song("73000000-1", "Words", 90.0)], "lyricist"),
        Work("w3", [Song("74000000-1", "March", None)]),
    ]
    world.musicbrainz.page = 2
    service = MusicBrainz(world.settings)
    artist = service.find_artist("Los Ríos")
    assert [track.title for track in service.tracks(artist)] == ["Agua Clara"]
    credited = service.tracks(artist, role="credited")
    assert {(track.title, track.artist.name) for track in credited} == {
        ("Agua Clara", "Los Ríos"), ("With the Rivers", "Los Ríos")
    }  # fmt: skip
    composed = service.tracks(artist, role="composer")
    assert [(track.title, track.seconds) for track in composed] == [("Waltz", 90.0), ("March", None)]
