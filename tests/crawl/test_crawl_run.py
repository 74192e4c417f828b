"""The whole crawl: the real musicbrainzngs and the real yt-dlp against services on loopback."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import World

from musicldm.crawl import run
from musicldm.crawl.catalog import FAILED, FETCHED, NO_MATCH
from musicldm.errors import NetworkError, NotFoundError, OutputError

GLASS = "The Glass Bells"


def crawl(world: World, out: Path, *names: str, limit: int | None = None) -> run.Outcome:
    return run.fetch(run.plan(names or (GLASS,), out, world.settings, limit), world.settings)


def catalog(out: Path) -> dict[str, dict[str, Any]]:
    """The last record of each title."""
    lines = (out / "catalog.jsonl").read_text().splitlines()
    return {record["title"]: record for record in map(json.loads, lines)}


def files(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def test_songs_are_fetched_as_they_are_with_their_provenance(world: World, tmp_path: Path, song: bytes) -> None:
    outcome = crawl(world, tmp_path)
    assert [record["title"] for record in outcome.fetched] == list(world.songs) and not outcome.left_out
    folder = tmp_path / GLASS
    assert files(tmp_path) == {
        "catalog.jsonl",
        f"{GLASS}/Grün [10000000].m4a",
        f"{GLASS}/Blue Monday Morning [20000000].m4a",
        f"{GLASS}/Seven_Eleven_ [30000000].m4a",
    }
    assert (folder / "Grün [10000000].m4a").read_bytes() == song
    assert (folder / "Seven_Eleven_ [30000000].m4a").read_bytes() == song + b"\0" * 9
    record = catalog(tmp_path)["Grün"]
    assert record["status"] == FETCHED and record["reason"] == ""
    assert record["path"] == f"{GLASS}/Grün [10000000].m4a"
    assert (record["recording"], record["artist"], record["seconds"]) == ("10000000-1", GLASS, 201)
    assert record["score"] > 0.9 and record["chosen"]["id"] == "vidgruen001"
    assert record["runner_up"]["id"] == "vidgruenliv" and record["runner_up"]["score"] == 0
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
    plan = run.plan([GLASS, "Los Ríos"], tmp_path / "out", world.settings)
    assert [track.title for track in plan.missing] == [*world.songs, "Agua Clara"]
    assert not world.youtube.requests and not (tmp_path / "out").exists()


def test_the_second_run_fetches_what_is_missing(world: World, tmp_path: Path) -> None:
    crawl(world, tmp_path, limit=2)
    asked = len(world.youtube.requests)
    assert not crawl(world, tmp_path, limit=2).fetched
    assert len(world.youtube.requests) == asked
    (tmp_path / GLASS / "Grün [10000000].m4a").unlink()
    assert [record["title"] for record in crawl(world, tmp_path).fetched] == ["Grün", "Seven/Eleven: .."]


def test_a_refused_song_is_recorded_and_tried_again(world: World, tmp_path: Path) -> None:
    video = world.youtube.videos["vidmonday01"]
    video.refusal = "This video is not available"
    outcome = crawl(world, tmp_path)
    assert len(outcome.fetched) == 2
    record = catalog(tmp_path)["Blue Monday Morning"]
    assert (record["status"], record["path"]) == (FAILED, None)
    assert record["reason"] == "This video is not available" and record["chosen"]["id"] == "vidmonday01"
    video.refusal = ""
    assert [record["title"] for record in crawl(world, tmp_path).fetched] == ["Blue Monday Morning"]
    assert catalog(tmp_path)["Blue Monday Morning"]["status"] == FETCHED


def test_what_does_not_fit_is_not_taken(world: World, tmp_path: Path) -> None:
    world.youtube.videos["vidgruen001"].seconds = 300
    del world.youtube.videos["vidmonday01"]
    (long, absent) = crawl(world, tmp_path, limit=2).left_out
    assert long["status"] == absent["status"] == NO_MATCH
    assert "Nothing fits" in long["reason"] and long["score"] == 0 and long["chosen"] is None
    assert absent["reason"] == "YouTube finds nothing." and absent["score"] is None
    assert not world.youtube.downloads and files(tmp_path) == {"catalog.jsonl"}


def test_an_unknown_artist_stops_nobody_else(world: World, tmp_path: Path) -> None:
    plan = run.plan(["Nobody at all", "los rios", "Los Ríos"], tmp_path, world.settings)
    assert [artist.name for artist in plan.artists] == ["Los Ríos"] and len(plan.tracks) == 1
    assert [str(error) for error in plan.unknown] == ["MusicBrainz knows no artist 'Nobody at all'."]
    with pytest.raises(NotFoundError, match=r"'Nobody'.* 'No one'"):
        run.plan(["Nobody", "No one"], tmp_path, world.settings)


def test_a_cut_download_is_taken_up_where_it_stopped(world: World, tmp_path: Path, song: bytes) -> None:
    world.youtube.videos["vidgruen001"].cut_at = 4096
    patience = replace(world.settings, timeout=0.5)
    plan = run.plan([GLASS], tmp_path, patience, limit=1)
    (record,) = run.fetch(plan, patience).fetched
    assert (tmp_path / record["path"]).read_bytes() == song
    starts = [int(asked.removeprefix("bytes=").split("-")[0]) for asked in world.youtube.ranges]
    assert starts[0] == 0 and 0 < starts[1] <= 4096


def test_a_network_that_went_away_ends_the_crawl(world: World, tmp_path: Path) -> None:
    gone = replace(world.settings, youtube="127.0.0.1:9")
    with pytest.raises(NetworkError, match="3 songs in a row"):
        run.fetch(run.plan([GLASS, "Los Ríos"], tmp_path, gone), gone)
    assert {record["status"] for record in catalog(tmp_path).values()} == {FAILED}
    assert len(crawl(world, tmp_path, GLASS, "Los Ríos").fetched) == 4


def test_a_folder_that_cannot_be_written(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        crawl(world, tmp_path / "file" / "out")


def test_nothing_is_printed(world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    world.youtube.videos["vidmonday01"].refusal = "gone"
    crawl(world, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert os.listdir(tmp_path / GLASS)
