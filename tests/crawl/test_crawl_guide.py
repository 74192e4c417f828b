"""What the guide shows of the crawl is what the command prints, letter for letter."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.crawl.crawl_services import MusicBrainzServer, Person, Release, Song, Video, YouTubeServer

GUIDE = (Path(__file__).parents[2] / "docs/guide/crawl.md").read_text(encoding="utf-8")


def recording(artist: int, number: int) -> str:
    return f"{artist}0000000-0000-4000-8000-{number:012}"


GLASS = Person(
    "a0000000-0000-4000-8000-000000000001",
    "The Glass Bells",
    releases=[
        Release(
            "r1",
            "First Light",
            "1984",
            [
                [
                    Song(recording(1, 1), "Green", 200.0),
                    Song(recording(1, 2), "Blue Monday Morning", 245.0),
                    Song(recording(1, 3), "Seven/Eleven", 61.0),
                ]
            ],
        ),
        Release("r2", "Alive", "1986", [[Song(recording(1, n), f"Song {n}", 100.0 + n) for n in (4, 5)]], ("Live",)),
        Release("r3", "Best of", "1990", [[Song(recording(1, 6), "Leftover", 90.0)]], ("Compilation",)),
    ],
)
RIOS = Person(
    "b0000000-0000-4000-8000-000000000002",
    "Los Ríos",
    releases=[
        Release(
            "r4", "Agua", "2010", [[Song(recording(2, 1), "Agua Clara", 180.0), Song(recording(2, 2), "Piedra", 154.0)]]
        )
    ],
)


def test_the_two_commands_print_what_stands_there(song: bytes, fence_folder: Path, tmp_path: Path) -> None:
    videos = [
        Video("green000001", "Green", "The Glass Bells - Topic", 200, song),
        Video("karaoke0001", "The Glass Bells - Blue Monday Morning (karaoke)", "Sing!", 245, song),
        Video("seven000001", "The Glass Bells - Seven/Eleven", "The Glass Bells", 61, song + b"\0"),
        Video("agua0000001", "Agua Clara", "Los Ríos - Topic", 181, song + b"\0\0"),
        Video("piedra00001", "Piedra", "Los Ríos - Topic", 154, song, refusal="This video is private"),
    ]
    musicbrainz, youtube = MusicBrainzServer([GLASS, RIOS]), YouTubeServer(videos)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(fence_folder), os.environ.get("PYTHONPATH")))),
        "MUSICLDM_MUSICBRAINZ": musicbrainz.address,
        "MUSICLDM_YOUTUBE": youtube.address,
        "COLUMNS": "100",
    }
    (block,) = re.findall(r"```console\n(.*?)```", GUIDE, re.DOTALL)
    with musicbrainz.running(), youtube.running():
        for line, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            command = [sys.executable, "-m", *shlex.split(line)]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
            assert done.stderr + done.stdout == shown
