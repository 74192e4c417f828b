"""The storm: requests that fail or hang, a crawl that is killed again and again, and no song lost or had twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from musicldm.crawl.catalog import open_catalog
from tests.crawl.crawl_services import Faults, MusicBrainzServer, Person, Release, Song, Video, YouTubeServer

COLOURS = (
    "amber azure coral cyan ebony golden indigo ivory jade lilac maroon olive pearl ruby scarlet silver teal umber"
)
THINGS = "anchor bridge candle desert engine forest garden harbour island journey kingdom lantern meadow needle orchard"
NAMES = [
    f"{colour.title()} {thing.title()}" for colour in COLOURS.split() for thing in f"{THINGS} palace river".split()
]


@dataclass
class Discography:
    """Three artists, their songs and the videos."""

    people: list[Person] = field(default_factory=list)
    videos: list[Video] = field(default_factory=list)
    audio: dict[str, bytes] = field(default_factory=dict)
    """What the file of each song that can be had must hold at the end."""
    expected: dict[str, str] = field(default_factory=dict)
    """What the catalog must say of each song at the end."""


def discography(songs_each: int, chance: random.Random) -> Discography:
    """Of ten songs, one has no good video and one is refused. Singles bring some recordings again, or their twins."""
    made = Discography()
    titles = NAMES.copy()
    chance.shuffle(titles)
    for who, name in enumerate(["The Quiet Harbours", "Nørrebro Trio", "Mirela Kovač"]):
        songs = []
        for number in range(songs_each):
            recording = f"{who:08}-0000-4000-8000-{number:012}"
            title, seconds = titles.pop(), chance.randint(90, 400)
            songs.append(Song(recording, title, float(seconds), isrcs=(f"XX{who}{number:09}",)))
            channel = chance.choice([f"{name} - Topic", name])
            video = Video(f"v{who}_{number:08}", title, channel, seconds, chance.randbytes(100_000))
            kind = number % 10
            made.expected[recording] = {3: "no-match", 7: "refused"}.get(kind, "fetched")
            if kind == 3:
                video.title, video.seconds = f"{title} (Karaoke)", seconds + number % 20
            elif kind == 7:
                video.refusal = "This video is private"
            else:
                made.audio[recording] = video.audio
            made.videos.append(video)
        albums = [
            Release(f"r{who}-{at}", f"Album {at}", f"{1980 + at}", [songs[at : at + 5], songs[at + 5 : at + 10]])
            for at in range(0, songs_each, 10)
        ]
        twin = Song(f"{who:08}-0000-4000-8000-{10**6:012}", songs[1].title, (songs[1].seconds or 0) + 1)
        single = Release(f"s{who}", "Single", "2100", [[songs[0], twin]])
        made.people.append(Person(f"{who:08}-aaaa-4000-8000-{0:012}", name, releases=[*albums, single]))
    return made


def killed_after(
    command: list[str], environment: dict[str, str], requests: Callable[[], int], ahead: int, rng: random.Random
) -> bool:
    """Run the command, and kill it once it has made so many requests. Returns whether it was killed."""
    goal = requests() + ahead
    for _ in range(20):  # one that gives up by itself before is only started again
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            while run.poll() is None and requests() < goal:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.1))
            run.kill()
        if run.returncode == -signal.SIGKILL:
            return True
    return False


def test_the_storm(full: bool, fence_folder: Path, tmp_path: Path) -> None:
    songs_each, kills = (100, 5) if full else (10, 2)
    rng = random.Random(20)
    made = discography(songs_each, rng)
    musicbrainz, youtube = MusicBrainzServer(made.people, page=3), YouTubeServer(made.videos)
    musicbrainz.faults, youtube.faults = Faults(0.1, seed=1), Faults(0.1, seed=3)
    out = tmp_path / "raw"
    command = [sys.executable, "-m", "musicldm", "crawl", *(person.name for person in made.people), "-o", str(out)]
    command += ["--json", "--jobs", "4", "--timeout", "1"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(fence_folder), os.environ.get("PYTHONPATH")))),
        "MUSICLDM_MUSICBRAINZ": musicbrainz.address,
        "MUSICLDM_YOUTUBE": youtube.address,
    }
    servers = (musicbrainz, youtube)

    def requests() -> int:
        return sum(len(server.requests) for server in servers)

    began = time.monotonic()
    codes = []
    with musicbrainz.running(), youtube.running():
        killed = sum(
            # Somewhere in its share of the songs, at whatever it is doing just then.
            killed_after(command, environment, requests, rng.randint(1, 4 * 3 * songs_each // (kills + 1)), rng)
            for _ in range(kills)
        )
        answer: dict[str, Any] = {}
        for _ in range(10):  # until the network has taken nothing
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
            assert "Traceback" not in done.stderr and "reached for" not in done.stderr
            codes.append(done.returncode)
            answer = json.loads(done.stdout) if done.stdout else {}
            if done.returncode == 0 and not answer["unknown"]:
                if not any(row["failed"] or row["missing"] for row in answer["counts"]):
                    break

    records = open_catalog(out).records
    on_disk = [path for person in made.people for path in (out / person.name).iterdir()]
    copies = Counter(path.read_bytes() for path in on_disk)
    once = [song for song, audio in made.audio.items() if copies[audio] == 1]
    twice = [song for song, audio in made.audio.items() if copies[audio] > 1]
    lost = [song for song, audio in made.audio.items() if not copies[audio]]
    explained = [song for song, state in made.expected.items() if state != "fetched" and records[song]["reason"]]
    failed, hung = (sum(getattr(server.faults, kind) for server in servers) for kind in ("failed", "hung"))
    print(
        f"storm: {requests()} requests, {failed} failed, {hung} hung, "
        f"{killed} kills, {len(codes)} runs to the end; {len(made.expected)} songs, {len(made.audio)} reachable: "
        f"{len(once)} fetched once, {len(twice)} twice, {len(lost)} lost; {len(explained)} others explained; "
        f"{time.monotonic() - began:.0f} s"
    )
    assert killed == kills and codes[-1] == 0
    assert len(once) == len(made.audio) and len(on_disk) == len(once) and not twice and not lost
    assert {song: record["status"] for song, record in records.items()} == made.expected
    assert len(explained) == len(made.expected) - len(made.audio)
    for song, audio in made.audio.items():
        assert (out / records[song]["path"]).read_bytes() == audio
    assert failed + hung > 0.05 * requests() and hung
