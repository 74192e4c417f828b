"""The whole crawl: the real musicbrainzngs and the real yt-dlp against services on loopback."""

from __future__ import annotations

import os
import time
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from musicldm.core.durable import Journal, locked
from musicldm.core.errors import ConfigError, NetworkError, NotFoundError, OutputError, UsageError
from musicldm.crawl.catalog import FAILED, FETCHED, NO_MATCH, REFUSED, UNLICENSED, Selection
from musicldm.crawl.fetch import fetch
from musicldm.crawl.plan import plan_crawl
from tests.crawl.conftest import World
from tests.crawl.crawl_services import Release, Song, Video
from tests.crawl.crawls import GLASS, catalog, crawl, files


def test_songs_are_fetched_as_they_are_with_their_provenance(world: World, tmp_path: Path, song: bytes) -> None:
    outcome = crawl(world, tmp_path)
    assert [record["title"] for record in outcome.fetched] == list(world.songs) and not outcome.left_out
    folder = tmp_path / GLASS
    assert files(tmp_path) == {
        "catalog.jsonl",
        f"{GLASS}/Grün [10000000-1].m4a",
        f"{GLASS}/Blue Monday Morning [20000000-1].m4a",
        f"{GLASS}/Seven_Eleven_ [30000000-1].m4a",
    }
    assert (folder / "Grün [10000000-1].m4a").read_bytes() == song
    assert (folder / "Seven_Eleven_ [30000000-1].m4a").read_bytes() == song + b"\0" * 9
    record = catalog(tmp_path)["Grün"]
    assert record["status"] == FETCHED and record["reason"] == ""
    assert record["path"] == f"{GLASS}/Grün [10000000-1].m4a"
    assert (record["recording"], record["artist"], record["seconds"]) == ("10000000-1", GLASS, 201)
    assert record["score"] > 0.9 and record["chosen"]["id"] == "vidgruen001"
    assert record["runner_up"]["id"] != "vidgruen001" and record["runner_up"]["score"] == 0
    provenance = record["provenance"]
    assert provenance["musicbrainz"] == {
        "recording": "10000000-1",
        "artist": "a0000000-0000-0000-0000-000000000001",
        "release": "r1",
    }
    assert (provenance["isrcs"], provenance["release"], provenance["year"]) == (["DEABC8400001"], "First Light", 1984)
    assert provenance["source_url"] == "https://www.youtube.com/watch?v=vidgruen001"
    assert provenance["channel"] == f"{GLASS} - Topic"
    assert provenance["licence"] == "Creative Commons Attribution license (reuse allowed)"
    assert provenance["fetched_at"].endswith("+00:00") and "yt-dlp" in provenance["tool"]
    assert catalog(tmp_path)["Seven/Eleven: .."]["provenance"]["licence"] is None


def test_a_plan_takes_nothing(world: World, tmp_path: Path) -> None:
    plan = plan_crawl([GLASS, "Los Ríos"], tmp_path / "out", world.settings)
    assert [track.title for track in plan.missing] == [*world.songs, "Agua Clara"]
    assert not world.youtube.requests and not (tmp_path / "out").exists()


def test_the_second_run_fetches_what_is_missing(world: World, tmp_path: Path) -> None:
    crawl(world, tmp_path, limit=2)
    asked = len(world.youtube.requests)
    assert not crawl(world, tmp_path, limit=2).fetched
    assert len(world.youtube.requests) == asked
    (tmp_path / GLASS / "Grün [10000000-1].m4a").unlink()
    assert [record["title"] for record in crawl(world, tmp_path).fetched] == ["Grün", "Seven/Eleven: .."]


def test_a_refused_song_is_kept_until_it_is_asked_for_again(world: World, tmp_path: Path) -> None:
    video = world.youtube.videos["vidmonday01"]
    video.refusal = "This video is not available"
    outcome = crawl(world, tmp_path)
    assert len(outcome.fetched) == 2
    record = catalog(tmp_path)["Blue Monday Morning"]
    assert (record["status"], record["path"]) == (REFUSED, None)
    assert record["reason"] == "This video is not available" and record["chosen"]["id"] == "vidmonday01"
    video.refusal = ""
    asked = len(world.youtube.requests)
    again = crawl(world, tmp_path)
    assert [kept["title"] for kept in again.kept] == ["Blue Monday Morning"] and not again.left_out
    assert len(world.youtube.requests) == asked
    (retried,) = crawl(world, tmp_path, retry=frozenset({REFUSED})).fetched
    assert retried["title"] == "Blue Monday Morning" and (tmp_path / retried["path"]).is_file()


def test_what_does_not_fit_is_not_taken(world: World, tmp_path: Path) -> None:
    world.youtube.videos["vidgruen001"].seconds = 300
    del world.youtube.videos["vidmonday01"]
    (long, absent) = crawl(world, tmp_path, limit=2).left_out
    assert long["status"] == absent["status"] == NO_MATCH
    assert "Nothing fits" in long["reason"] and long["score"] == 0 and long["chosen"] is None
    assert absent["reason"] == "YouTube finds nothing." and absent["score"] is None
    assert not world.youtube.downloads and files(tmp_path) == {"catalog.jsonl"}


def test_a_song_of_unknown_length_is_measured_by_its_video(world: World, tmp_path: Path) -> None:
    world.musicbrainz.people[0].releases = [Release("r9", "Odd", "1990", [[Song("70000000-1", "Grün", None)]])]
    (record,) = crawl(world, tmp_path, max_seconds=100).left_out
    assert record["status"] == NO_MATCH and "lasts 201 s, outside the length limits" in record["reason"]
    asked = len(world.youtube.requests)
    assert len(crawl(world, tmp_path, max_seconds=120).kept) == 1 and len(world.youtube.requests) == asked
    assert len(crawl(world, tmp_path).fetched) == 1


def test_an_unknown_artist_stops_nobody_else(world: World, tmp_path: Path) -> None:
    plan = plan_crawl(["Nobody at all", "los rios", "Los Ríos"], tmp_path, world.settings)
    assert [artist.name for artist in plan.artists] == ["Los Ríos"] and len(plan.tracks) == 1
    assert [str(error) for error in plan.unknown] == ["MusicBrainz knows no artist 'Nobody at all'."]
    with pytest.raises(NotFoundError, match=r"'Nobody'.* 'No one'"):
        plan_crawl(["Nobody", "No one"], tmp_path, world.settings)


def test_one_name_in_several_spellings_is_asked_for_once(world: World, tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "Los Ríos")
    plan = plan_crawl([decomposed, "LOS RÍOS", decomposed.upper(), "Los Ríos"], tmp_path, world.settings)
    assert [artist.name for artist in plan.artists] == ["Los Ríos"] and not plan.unknown
    searches = [path for path in world.musicbrainz.requests if path.startswith("/ws/2/artist/?")]
    assert len(searches) == 1 and quote("ríos") in searches[0]


def test_an_artist_whom_the_network_loses_is_left_out(world: World, tmp_path: Path) -> None:
    world.musicbrainz.faults.script = ["", *["503"] * world.settings.tries]
    plan = plan_crawl([GLASS, "Los Ríos"], tmp_path, world.settings)
    assert [artist.name for artist in plan.artists] == ["Los Ríos"]
    world.musicbrainz.faults.script = ["", *["503"] * world.settings.tries]
    wish = Selection(overrides={"10000000-1": "vidgruen001"})  # of a song that nobody can tell just now
    assert len(plan_crawl([GLASS, "Los Ríos"], tmp_path, world.settings, wish).tracks) == 1
    assert [str(error) for error in plan.unknown] == [
        f"{GLASS} is left out: MusicBrainz ({world.musicbrainz.address}) answered 503 Service Unavailable."
    ]
    world.musicbrainz.faults.script = ["503"] * 100
    with pytest.raises(NetworkError, match="answered 503"):
        plan_crawl([GLASS, "Los Ríos", "Somebody", "Else"], tmp_path, world.settings)
    assert len(world.musicbrainz.faults.script) == 100 - 2 * world.settings.tries


def test_an_artist_without_recordings_is_named(world: World, tmp_path: Path) -> None:
    world.musicbrainz.people[1].releases = [Release("r", "Covers", "2000", [[Song("1", "Hers", 100.0, by="other")]])]
    plan = plan_crawl([GLASS, "Los Ríos"], tmp_path, world.settings)
    assert [artist.name for artist in plan.songless] == ["Los Ríos"]


def test_a_cut_download_is_taken_up_where_it_stopped(world: World, tmp_path: Path) -> None:
    video = world.youtube.videos["vidgruen001"]
    video.audio += bytes(200_000)
    video.cut_at = 100_000
    (record,) = crawl(world, tmp_path, limit=1, settings=replace(world.settings, timeout=0.5)).fetched
    assert (tmp_path / record["path"]).read_bytes() == video.audio
    starts = [int(asked.removeprefix("bytes=").split("-")[0]) for asked in world.youtube.ranges]
    assert starts[0] == 0 and 0 < starts[1] <= 100_000


@pytest.mark.parametrize("name", ["vidgruen001.140.m4a", "vidgruen001.140.m4a.part"])
def test_a_kill_after_the_last_byte_loses_nothing(world: World, tmp_path: Path, song: bytes, name: str) -> None:
    folder = tmp_path / ".tmp-youtube"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(song)
    (folder / "whatwasbegun.140.m4a.part").write_bytes(b"once")
    (record,) = crawl(world, tmp_path, limit=1).fetched
    assert (tmp_path / record["path"]).read_bytes() == song and not folder.exists()


def test_a_network_that_went_away_ends_the_crawl(world: World, tmp_path: Path) -> None:
    gone = replace(world.settings, youtube="127.0.0.1:9")
    outcome = crawl(world, tmp_path, GLASS, "Los Ríos", settings=gone)
    assert outcome.stopped is not None and "3 songs in a row" in outcome.stopped.message
    assert {record["status"] for record in catalog(tmp_path).values()} == {FAILED}
    assert len(crawl(world, tmp_path, GLASS, "Los Ríos").fetched) == 4  # at once: the network may be back


def test_several_at_a_time_have_as_much_patience_each(world: World, tmp_path: Path) -> None:
    gone = replace(world.settings, youtube="127.0.0.1:9", jobs=2)
    outcome = crawl(world, tmp_path, GLASS, "Los Ríos", settings=gone)
    assert outcome.stopped is None and len(outcome.left_out) == 4


def test_a_folder_that_cannot_be_written(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        crawl(world, tmp_path / "file" / "out")


def test_nothing_is_printed(world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    world.youtube.videos["vidmonday01"].refusal = "gone"
    crawl(world, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert os.listdir(tmp_path / GLASS)


def test_an_override_is_fetched_whatever_its_score(world: World, tmp_path: Path) -> None:
    crawl(world, tmp_path)
    old = tmp_path / catalog(tmp_path)["Grün"]["path"]
    wish = {"10000000-1": "vidagua0001"}
    (record,) = crawl(world, tmp_path, overrides=wish).fetched
    assert record["override"] and record["score"] == 0 and record["provenance"]["source_id"] == "vidagua0001"
    assert (tmp_path / record["path"]) == old
    assert old.read_bytes() == world.youtube.videos["vidagua0001"].audio
    asked = len(world.youtube.requests)
    assert not crawl(world, tmp_path, overrides=wish).fetched  # it is there
    assert len(world.youtube.requests) == asked
    world.youtube.videos["vidmonday01"].refusal = "This video is private"
    (refused,) = crawl(world, tmp_path, overrides={"10000000-1": "vidmonday01"}).left_out
    assert refused["status"] == REFUSED and catalog(tmp_path)["Grün"] == record  # what was there stays
    with pytest.raises(UsageError, match="not a recording by The Glass Bells"):
        crawl(world, tmp_path, overrides={"40000000-1": "vidagua0001"})


def test_an_override_of_a_songs_twin_names_the_song(world: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the same song as .0000000-1, The Glass Bells – Grün"):
        crawl(world, tmp_path, overrides={"10000000-1": "vidgruen001", "1000000b-1": "vidagua0001"})
    crawl(world, tmp_path, limit=1)
    with pytest.raises(UsageError, match=r"1000000b-1 is the same song as 10000000-1, The Glass Bells – Grün"):
        crawl(world, tmp_path, overrides={"1000000b-1": "vidagua0001"})


def test_an_override_reaches_what_was_not_asked_for_and_has_no_match(world: World, tmp_path: Path) -> None:
    world.youtube.videos["vidseven001"].title = "Something else"
    outcome = crawl(world, tmp_path, limit=1, overrides={"30000000-1": "vidseven001"})
    assert {record["title"] for record in outcome.fetched} == {"Grün", "Seven/Eleven: .."}


def test_only_creative_commons(world: World, tmp_path: Path) -> None:
    outcome = crawl(world, tmp_path, only_cc=True)
    assert [record["title"] for record in outcome.fetched] == ["Grün"]
    record = catalog(tmp_path)["Blue Monday Morning"]
    assert record["status"] == UNLICENSED and "not marked as Creative Commons" in record["reason"]
    assert world.youtube.downloads == ["/media/vidgruen001"]  # the others were not so much as begun
    assert len(crawl(world, tmp_path, only_cc=True).kept) == 2
    assert len(crawl(world, tmp_path).fetched) == 2  # a crawl that does not mind takes them
    assert crawl(world, tmp_path, only_cc=True).plan.unlicensed == 2


def test_another_video_is_tried_where_the_first_is_refused(world: World, tmp_path: Path) -> None:
    world.youtube.videos["vidgruen001"].refusal = "This video is private"
    second = Video("vidgruen002", "Grün", "The Glass Bells", 202, b"sound")
    world.youtube.videos[second.id] = second
    (record,) = crawl(world, tmp_path, limit=1).fetched
    assert record["chosen"]["id"] == "vidgruen002" and record["runner_up"]["id"] == "vidgruen001"
    assert (tmp_path / record["path"]).read_bytes() == b"sound"


def test_no_two_songs_are_the_same_video(world: World, tmp_path: Path) -> None:
    person = world.musicbrainz.people[0]
    person.releases = [
        Release("r9", "Twins", "1990", [[Song("70000000-1", "Grün", 198.5), Song("70000000-2", "Grün", 202.5)]])
    ]
    outcome = crawl(world, tmp_path, settings=replace(world.settings, jobs=2))
    (one,), (other,) = outcome.fetched, outcome.left_out
    assert one["chosen"]["id"] == "vidgruen001" and other["status"] == NO_MATCH
    assert f"already the recording {one['recording']}" in other["reason"]


def test_a_video_that_one_song_could_not_have_is_not_taken_from_another(world: World, tmp_path: Path) -> None:
    twins = [Song("70000000-1", "Grün", 198.5), Song("70000000-2", "Grün", 202.5)]
    world.musicbrainz.people[0].releases = [Release("r9", "Twins", "1990", [twins])]
    world.youtube.videos["vidgruen001"].refusal = "This video is private"
    outcome = crawl(world, tmp_path, settings=replace(world.settings, jobs=2))
    assert [record["status"] for record in outcome.left_out] == [REFUSED, REFUSED]


def test_a_recording_that_was_fetched_stands_for_its_song(world: World, tmp_path: Path) -> None:
    crawl(world, tmp_path)
    world.musicbrainz.people[0].releases.append(
        Release("r0", "Demo tape", "1980", [[Song("00000000-9", "Grün", 200.5)]])  # an earlier twin turns up
    )
    outcome = crawl(world, tmp_path)
    assert not outcome.fetched and len(outcome.plan.present) == 3


def test_several_at_a_time_lose_and_mix_up_nothing(world: World, tmp_path: Path) -> None:
    outcome = crawl(world, tmp_path, GLASS, "Los Ríos", settings=replace(world.settings, jobs=4))
    assert len(outcome.fetched) == 4
    for record in outcome.fetched:
        video = world.youtube.videos[record["chosen"]["id"]]
        assert (tmp_path / record["path"]).read_bytes() == video.audio and record["seconds"] == video.seconds


def test_pauses_count_over_all_threads(world: World, tmp_path: Path) -> None:
    unhurried = replace(world.settings, jobs=4, youtube_pause=0.3)
    start = time.monotonic()
    assert len(crawl(world, tmp_path, GLASS, "Los Ríos", settings=unhurried).fetched) == 4
    assert time.monotonic() - start >= 3 * 0.3


def test_a_download_keeps_to_its_rate(world: World, tmp_path: Path) -> None:
    world.youtube.videos["vidgruen001"].audio += bytes(300_000)
    start = time.monotonic()
    crawl(world, tmp_path, limit=1, settings=replace(world.settings, rate_limit=200_000.0))
    assert time.monotonic() - start >= 1


def test_one_crawl_at_a_time(world: World, tmp_path: Path) -> None:
    plan = plan_crawl([GLASS], tmp_path, world.settings)
    with locked(tmp_path), pytest.raises(OutputError, match="Another run"):
        fetch(plan, world.settings)
    assert not world.youtube.requests


def test_cookies_are_sent_and_their_file_stays_as_it_is(world: World, tmp_path: Path) -> None:
    file = tmp_path / "cookies.txt"
    text = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tTRUE\t0\tSID\tsesame\n"
    file.write_text(text)
    crawl(world, tmp_path / "out", limit=1, settings=replace(world.settings, cookies=str(file), jobs=2))
    assert any("SID=sesame" in (headers["Cookie"] or "") for headers in world.youtube.seen)
    assert file.read_text() == text
    file.write_text("no cookies at all\n")
    with pytest.raises(ConfigError, match="not a cookie file"):
        crawl(world, tmp_path / "out", settings=replace(world.settings, cookies=str(file)))


def test_two_recordings_never_share_a_file(world: World, tmp_path: Path) -> None:
    person = world.musicbrainz.people[0]
    one, two = "12345678-0000-4000-8000-000000000001", "12345678-0000-4000-8000-000000000002"
    person.releases = [Release("r9", "Twins", "1990", [[Song(one, "GRÜN", 200.0), Song(two, "Grün", 300.0)]])]
    world.youtube.videos["vidgruen002"] = Video("vidgruen002", "Grün", GLASS, 300, b"another")
    outcome = crawl(world, tmp_path)
    assert (
        len({record["path"].casefold() for record in outcome.fetched}) == 2 == len(files(tmp_path) - {"catalog.jsonl"})
    )


def test_titles_from_hell_stay_in_their_folder(world: World, tmp_path: Path) -> None:
    titles = [
        "../../../escape",
        "/etc/passwd",
        "x" * 300,
        "two\nlines",
        "🎵🎶 " * 60,
        "CON",
        "..",
        ".hidden",
        "a\\b:c*?",
    ]
    world.musicbrainz.people[0].name = "../Bells"
    songs = [Song(f"5000000{k}-1", title, 100.0 + 10 * k) for k, title in enumerate(titles)]
    world.musicbrainz.people[0].releases = [Release("r9", "Hell", "1990", [songs])]
    videos = [Video(f"vidhell000{k}", song.title, "Bells", 100 + 10 * k, b"%d" % k) for k, song in enumerate(songs)]
    world.youtube.videos = {video.id: video for video in videos}
    overrides = {song.id: video.id for song, video in zip(songs, videos, strict=True)}
    outcome = crawl(world, tmp_path / "a" / "out", "../Bells", overrides=overrides)
    assert len(outcome.fetched) == len(titles)
    out = (tmp_path / "a" / "out").resolve()
    paths = [(out / record["path"]).resolve() for record in outcome.fetched]
    assert all(path.is_file() and path.parent.parent == out for path in paths) and len(set(paths)) == len(titles)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# ---- What no crawl has fetched


def test_a_persons_own_song_is_not_replaced(world: World, tmp_path: Path, song: bytes) -> None:
    mine = tmp_path / GLASS / "Grün [10000000-1].webm"  # what kind it will be is not known yet
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    mine.with_suffix(".lrc").write_bytes(b"words")
    with pytest.raises(OutputError, match=r"Grün \[10000000-1\]\.webm is not replaced"):
        crawl(world, tmp_path)
    mine.with_suffix(".lrc").unlink()
    assert files(tmp_path) == {f"{GLASS}/{mine.name}"} and mine.read_bytes() == b"mine"
    mine = mine.rename(mine.with_suffix(".m4a"))
    plan = plan_crawl([GLASS], tmp_path, world.settings)
    assert len(fetch(plan, world.settings, overwrite=True).fetched) == 3 and mine.read_bytes() == song


def test_another_catalog_is_not_added_to(world: World, tmp_path: Path) -> None:
    (tmp_path / "catalog.jsonl").write_text('{"book": 1}\n{"book": 2}\n')
    with pytest.raises(OutputError, match=r"catalog\.jsonl is not replaced"):
        crawl(world, tmp_path)
    assert files(tmp_path) == {"catalog.jsonl"} and '"book": 2' in (tmp_path / "catalog.jsonl").read_text()


def test_an_override_leaves_a_better_file_of_ones_own(world: World, tmp_path: Path, song: bytes) -> None:
    crawl(world, tmp_path)
    mine = tmp_path / GLASS / "Grün [10000000-1].m4a"
    mine.write_bytes(b"a better one")
    wish = {"10000000-1": "vidagua0001"}
    with pytest.raises(OutputError, match="not replaced"):
        crawl(world, tmp_path, overrides=wish)
    assert mine.read_bytes() == b"a better one" and catalog(tmp_path)["Grün"]["chosen"]["id"] == "vidgruen001"
    mine.write_bytes(song)
    (record,) = crawl(world, tmp_path, overrides=wish).fetched
    assert record["chosen"]["id"] == "vidagua0001" and mine.read_bytes() == song + b"\0" * 11


def test_a_song_that_comes_meanwhile_stays(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, append = tmp_path / GLASS / "Grün [10000000-1].m4a", Journal.append

    def late(self: Journal, record: dict[str, Any]) -> None:
        append(self, record)
        if record["title"] == "Grün" and record["status"] == FETCHED:
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(b"mine")

    monkeypatch.setattr(Journal, "append", late)
    with pytest.raises(OutputError, match="not replaced"):
        crawl(world, tmp_path)
    assert target.read_bytes() == b"mine" and catalog(tmp_path)["Grün"]["status"] == FAILED
