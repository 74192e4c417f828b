"""The whole crawl where the services refuse, fail, stall or answer nonsense."""

from __future__ import annotations

import errno
import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from musicldm.core.errors import BlockedError
from musicldm.crawl.catalog import FAILED, NO_MATCH, REFUSED, Selection
from musicldm.crawl.fetch import fetch
from musicldm.crawl.plan import plan_crawl
from tests.crawl.conftest import World
from tests.crawl.crawl_services import Video
from tests.crawl.crawls import GLASS, catalog, crawl


def test_no_manifest_is_asked_for(world: World, tmp_path: Path) -> None:
    crawl(world, tmp_path, limit=1)
    assert len(world.youtube.requests) == 4  # search, next, player and the song


@pytest.mark.parametrize("sign", ["the sentence", "429", "403"])
def test_the_crawl_stops_at_the_first_sign_of_being_blocked(world: World, tmp_path: Path, sign: str) -> None:
    crawl(world, tmp_path, limit=1)
    asked = len(world.youtube.requests)
    if sign == "the sentence":
        for video in world.youtube.videos.values():
            video.refusal = "Sign in to confirm you’re not a bot. This helps protect our community."
    else:
        world.youtube.answers = [(int(sign), b"")] * 10
    outcome = crawl(world, tmp_path, GLASS, "Los Ríos")
    assert isinstance(outcome.stopped, BlockedError) and "blocked us" in outcome.stopped.message
    assert not outcome.fetched and not outcome.left_out
    assert len(world.youtube.requests) <= asked + 3
    assert list(catalog(tmp_path)) == ["Grün"]  # the others count as not tried
    assert [row["missing"] for row in outcome.counts()] == [2, 1]
    world.youtube.answers = []
    for video in world.youtube.videos.values():
        video.refusal = ""
    assert len(crawl(world, tmp_path, GLASS, "Los Ríos").fetched) == 3


def test_a_question_of_age_is_no_sign(world: World, tmp_path: Path) -> None:
    world.youtube.videos["vidgruen001"].refusal = "Sign in to confirm your age"
    outcome = crawl(world, tmp_path)
    assert outcome.stopped is None and catalog(tmp_path)["Grün"]["status"] == REFUSED
    assert catalog(tmp_path)["Grün"]["reason"] == "Sign in to confirm your age."  # not what yt-dlp's options are


def test_a_download_that_comes_too_soon_is_a_sign(world: World, tmp_path: Path) -> None:
    for video in world.youtube.videos.values():
        video.status = 429
    outcome = crawl(world, tmp_path)
    assert isinstance(outcome.stopped, BlockedError) and not outcome.left_out and len(world.youtube.downloads) == 1


def test_one_download_that_is_forbidden_is_no_sign(world: World, tmp_path: Path) -> None:
    world.youtube.videos["vidgruen001"].status = 403
    outcome = crawl(world, tmp_path)
    assert outcome.stopped is None and len(outcome.fetched) == 2
    assert catalog(tmp_path)["Grün"]["status"] == FAILED and "403" in catalog(tmp_path)["Grün"]["reason"]


@pytest.mark.parametrize("what", ["search", "player", "next", "media"])
@pytest.mark.parametrize("fault", ["503", "400", "401", "404", "nonsense", "login page"])
def test_a_server_in_trouble_is_no_refusal(world: World, tmp_path: Path, what: str, fault: str) -> None:
    before = ["search", "next", "player", "media"].index(what)
    world.youtube.faults.script = [""] * before + [fault] * world.settings.tries
    (record,) = crawl(world, tmp_path, limit=1).left_out
    assert record["status"] == FAILED and record["reason"]
    world.youtube.faults.script = []
    assert len(crawl(world, tmp_path, limit=1).fetched) == 1


def test_a_search_that_is_refused_says_nothing_of_the_song(world: World, tmp_path: Path) -> None:
    alert = {"alertRenderer": {"type": "ERROR", "text": {"simpleText": "Something went wrong."}}}
    world.youtube.answers = [(200, json.dumps({"alerts": [alert]}).encode())]
    (record,) = crawl(world, tmp_path, limit=1).left_out
    assert record["status"] == FAILED and "Something went wrong" in record["reason"]


def test_pages_that_have_changed_are_suspicious(world: World, tmp_path: Path) -> None:
    world.youtube.redesigned = True
    outcome = crawl(world, tmp_path, GLASS, "Los Ríos")
    assert outcome.fruitless == 4 == len(outcome.left_out)
    world.youtube.redesigned = False
    assert crawl(world, tmp_path, GLASS, "Los Ríos", retry=frozenset({NO_MATCH})).fruitless == 0


@pytest.mark.parametrize(
    "said",
    [
        "Premieres in 3 hours",
        "This live event will begin in a few moments.",
        "We're processing this video. Check back later.",
        "",  # it has sound already, of the announcement
    ],
)
def test_what_is_not_out_yet_is_tried_again(world: World, tmp_path: Path, said: str) -> None:
    for video in world.youtube.videos.values():
        video.refusal, video.upcoming = said, not said
    outcome = crawl(world, tmp_path, GLASS, "Los Ríos")
    assert outcome.stopped is None  # four in a row, and yet the network is there
    assert {record["status"] for record in outcome.left_out} == {FAILED} and said[:9] in outcome.left_out[0]["reason"]
    for video in world.youtube.videos.values():
        video.refusal, video.upcoming = "", False
    assert len(crawl(world, tmp_path, GLASS, "Los Ríos").fetched) == 4


def test_a_connection_that_is_forbidden_is_not_our_disk(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_crawl([GLASS], tmp_path, world.settings, Selection(limit=1))

    def forbidden(*address: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    (record,) = fetch(plan, world.settings).left_out
    assert record["status"] == FAILED and "Permission denied" in record["reason"]


def test_a_server_that_drips_is_given_up(world: World, tmp_path: Path) -> None:
    plan = plan_crawl([GLASS], tmp_path, world.settings, Selection(limit=1))
    world.youtube.trickle = 0.1  # a whole answer would come, in a minute or so
    (record,) = fetch(plan, replace(world.settings, timeout=0.3, tries=1)).left_out
    assert record["status"] == FAILED and "within" in record["reason"] and not world.youtube.downloads
    world.youtube.trickle, world.youtube.trickle_media = 0.0, 0.1
    (record,) = fetch(plan, replace(world.settings, timeout=1.0, tries=1)).left_out
    assert record["status"] == FAILED and "within" in record["reason"] and world.youtube.downloads
    world.youtube.trickle_media = 0.0
    assert len(crawl(world, tmp_path, limit=1).fetched) == 1


@pytest.mark.parametrize("runtime", ["", "deno 2.9.9"])
def test_what_youtube_locks_behind_javascript_waits_for_a_runtime(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    if runtime:
        (tmp_path / "deno").write_text(f"#!/bin/sh\necho {runtime}\n")
        (tmp_path / "deno").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    world.youtube.videos["vidgruen001"].locked = True
    (record,) = crawl(world, tmp_path / "out", limit=1).left_out
    assert record["status"] == (REFUSED if runtime else FAILED)
    assert ("JavaScript runtime" in record["reason"]) is not bool(runtime)


@pytest.mark.parametrize("before", [0, 1])  # the search, and what names the licence
def test_half_an_answer_is_not_nothing(world: World, tmp_path: Path, before: int) -> None:
    world.youtube.faults.script = [""] * before + ["half"] * world.settings.tries
    (record,) = crawl(world, tmp_path, limit=1).left_out
    assert record["status"] == FAILED and "an incomplete answer" in record["reason"]
    assert len(crawl(world, tmp_path, limit=1).fetched) == 1


def test_an_answer_that_makes_no_sense_costs_one_song(world: World, tmp_path: Path) -> None:
    world.youtube.faults.script = ["", "", "nonsense"]
    outcome = crawl(world, tmp_path)
    assert len(outcome.fetched) == 2 and outcome.stopped is None
    (record,) = outcome.left_out
    assert record["status"] == FAILED and "cannot parse" in record["reason"]


def test_entries_that_are_no_videos_are_passed_over(world: World, tmp_path: Path) -> None:
    world.youtube.videos = {"": Video("", "Grün", GLASS, 200, b""), **world.youtube.videos}
    assert len(crawl(world, tmp_path, limit=1).fetched) == 1
