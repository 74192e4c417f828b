"""A small world of music on loopback, and a fence around it."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from musicldm.crawl.settings import CrawlSettings
from tests.crawl.crawl_services import MusicBrainzServer, Person, Release, Song, Video, YouTubeServer

# Run in every process of these tests: a connection or a look-up that leaves this machine is refused and remembered.
FENCE = """
import socket, sys

reached = []

def fenced(call, host_of):
    def guarded(*arguments, **options):
        host = host_of(arguments)
        if host not in ("127.0.0.1", "localhost"):
            reached.append(host)
            print("reached for", host, file=sys.stderr)
            raise socket.gaierror(-2, "the fence")
        return call(*arguments, **options)
    return guarded

socket.getaddrinfo = fenced(socket.getaddrinfo, lambda arguments: arguments[0])
socket.socket.connect = fenced(socket.socket.connect, lambda arguments: arguments[1][0])
"""


@pytest.fixture(autouse=True)
def fence(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The hosts that were reached for; a test that expects some empties the list."""
    monkeypatch.setattr(socket, "getaddrinfo", socket.getaddrinfo)  # to be put back after the test
    monkeypatch.setattr(socket.socket, "connect", socket.socket.connect)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    names: dict[str, Any] = {}
    exec(FENCE, names)
    yield names["reached"]
    assert not names["reached"]


@pytest.fixture(scope="session")
def song() -> bytes:
    """Two seconds of a sine wave as m4a."""
    file = io.BytesIO()
    with av.open(file, "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        time = np.arange(32_000, dtype=np.float32) / 16_000
        wave = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)[None]
        for start in range(0, wave.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(wave[:, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate = 16_000
            frame.pts = start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


@dataclass
class World:
    """Two artists; `songs` are the titles of the first that can be had."""

    musicbrainz: MusicBrainzServer
    youtube: YouTubeServer
    settings: CrawlSettings
    environment: dict[str, str]
    songs: tuple[str, ...] = ("Grün", "Blue Monday Morning", "Seven/Eleven: ..")


@pytest.fixture
def world(song: bytes) -> Iterator[World]:
    glass = Person(
        "a0000000-0000-0000-0000-000000000001",
        "The Glass Bells",
        aliases=("Glass Bells",),
        releases=[
            Release(
                "r2",
                "Best of",
                "1999",
                [
                    [Song("10000000-1", "Grün", 200.0), Song("1000000b-1", "Grün!", 201.5)],
                    [Song("30000000-1", "Seven/Eleven: ..", 61.4), Song("99999999-1", "A guest", 100.0, by="other")],
                ],
            ),
            Release(
                "r1",
                "First Light",
                "1984-05-01",
                [
                    [Song("10000000-1", "Grün", 200.0, isrcs=("DEABC8400001",))],
                    [
                        Song("20000000-1", "Blue Monday Morning", 245.2),
                        Song("88888888-1", "The film", 245.0, video=True),
                    ],
                ],
            ),
        ],
    )
    other = Person(
        "b0000000-0000-0000-0000-000000000002",
        "Los Ríos",
        releases=[Release("r3", "Agua", "2010-01", [[Song("40000000-1", "Agua Clara", 180.0)]])],
    )
    channel = "The Glass Bells - Topic"
    videos = [
        Video("vidgruenliv", "Grün (live, 1 hour)", "Glass Bells fans", 3600, b"never taken"),
        Video(
            "vidgruen001", "Grün", channel, 201, song, licence="Creative Commons Attribution license (reuse allowed)"
        ),
        Video("vidmonday01", "The Glass Bells - Blue Monday Morning (Official Video)", "Bells", 246, song + b"\0" * 7),
        Video("vidseven001", "Seven/Eleven: ..", channel, 61, song + b"\0" * 9),
        Video("vidagua0001", "Agua Clara", "Los Rios", 181, song + b"\0" * 11),
    ]
    musicbrainz, youtube = MusicBrainzServer([glass, other]), YouTubeServer(videos)
    environment = {"MUSICLDM_MUSICBRAINZ": musicbrainz.address, "MUSICLDM_YOUTUBE": youtube.address}
    with musicbrainz.running(), youtube.running():
        yield World(musicbrainz, youtube, CrawlSettings.from_environment(environment, "tests@example.org"), environment)


@pytest.fixture
def fence_folder(tmp_path: Path) -> Path:
    """A folder that puts the fence into every Python process that has it on its path."""
    folder = tmp_path / "fence"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(FENCE)
    return folder
