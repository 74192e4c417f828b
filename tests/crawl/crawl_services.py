"""Stand-ins on loopback for MusicBrainz and YouTube, as much of each as the real clients need."""

from __future__ import annotations

import json
import random
import re
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit
from xml.sax.saxutils import escape, quoteattr

import trustme


@dataclass
class Song:
    """A recording as it stands on a release."""

    id: str
    title: str
    seconds: float | None
    isrcs: tuple[str, ...] = ()
    video: bool = False
    by: str = ""  # another artist's id
    note: str = ""  # MusicBrainz's disambiguation


@dataclass
class Release:
    id: str
    title: str
    date: str
    media: list[list[Song]]
    kinds: tuple[str, ...] = ()  # secondary types of its release group


@dataclass
class Work:
    """A composition, with its recordings, whoever made them."""

    id: str
    recordings: list[Song]
    relation: str = "composer"


@dataclass
class Person:
    id: str
    name: str
    aliases: tuple[str, ...] = ()
    releases: list[Release] = field(default_factory=list)
    works: list[Work] = field(default_factory=list)
    score: int = 100
    country: str = ""
    years: tuple[str, str] = ("", "")
    note: str = ""


@dataclass
class Video:
    id: str  # 11 characters
    title: str
    channel: str
    seconds: int
    audio: bytes
    licence: str = ""
    refusal: str = ""
    cut_at: int = 0  # the connection stays silent after so many bytes, once
    status: int = 0  # of the answer to its download, where it is no success
    upcoming: bool = False  # announced, and not out yet
    locked: bool = False  # its addresses need YouTube's JavaScript


class Faults:
    """What befalls a share of the requests: an error, a connection that is reset, or silence. One seed, one series."""

    def __init__(self, share: float, seed: int) -> None:
        self.share = share
        self.failed = 0
        self.hung = 0
        self.script: list[str] = []  # these come first
        self._chance = random.Random(seed)
        self._lock = threading.Lock()

    def next(self) -> str:
        with self._lock:
            if self.script:
                return self.script.pop(0)
            if self._chance.random() >= self.share:
                return ""
            fault = self._chance.choice(["500", "503", "reset", "hang"])
            if fault == "hang":
                self.hung += 1
            else:
                self.failed += 1
            return fault


class Server(ThreadingHTTPServer):
    """A server on a free port of loopback that remembers what it was asked."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.requests: list[str] = []
        self.agents: set[str] = set()
        self.faults = Faults(0, 0)
        self.answers: list[tuple[int, bytes]] = []  # sent first, instead of the truth
        self.trickle = self.trickle_media = 0.0  # seconds between the bytes of an answer
        self.closing = threading.Event()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            self.closing.set()
            self.shutdown()
            thread.join()
            self.server_close()


_ODD = {
    "half": b"{}",
    "login page": b"<html>Please log in to this WLAN",
    "nonsense": b'{"playabilityStatus": {"status": "OK"}, "videoDetails": {"videoId": [1]}}',
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    server: Server

    def misfortune(self) -> bool:
        """Let this request come to grief, if it is its turn."""
        fault = self.server.faults.next()
        if self.server.answers:
            status, body = self.server.answers.pop(0)
            self.send(status, "text/plain", body)
        elif fault == "hang":
            self.server.closing.wait(60)
        elif fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            socket.socket.close(self.connection)
        elif fault in _ODD:
            self.send(200, "application/json", _ODD[fault])
        elif fault:
            self.send(int(fault), "text/plain", b"out of order")
        else:
            return False
        return True

    def write(self, body: bytes) -> None:
        pause = self.server.trickle_media if self.path.startswith("/media/") else self.server.trickle
        if not pause:
            self.wfile.write(body)
            return
        for byte in body:
            self.wfile.write(bytes([byte]))
            if self.server.closing.wait(pause):
                return

    def send(self, status: int, kind: str, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.write(body)


class MusicBrainzServer(Server):
    """`page` releases at most in one answer, whatever was asked for."""

    def __init__(self, people: list[Person], page: int = 100) -> None:
        super().__init__(_MusicBrainzHandler)
        self.people = people
        self.page = page
        self.stalled = False


class _MusicBrainzHandler(Handler):
    server: MusicBrainzServer

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        self.server.agents.add(self.headers["User-Agent"])
        if self.server.stalled:
            self.server.closing.wait(30)
            return
        if self.misfortune():
            return
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        entity, _, identifier = url.path.removeprefix("/ws/2/").partition("/")
        known = [person for person in self.server.people if person.id == identifier]
        if entity == "artist" and not identifier:
            body = self._artists(query["query"])
        elif entity == "artist" and known:
            body = self._artist(known[0])
        elif entity == "release":
            body = self._releases(query)
        elif entity == "work":
            body = self._works(query)
        else:
            self.send(404, "text/plain", b"")
            return
        text = (
            '<?xml version="1.0" encoding="UTF-8"?><metadata xmlns="http://musicbrainz.org/ns/mmd-2.0#" '
            f'xmlns:ns2="http://musicbrainz.org/ns/ext#-2.0">{body}</metadata>'
        )
        self.send(200, "application/xml", text.encode())

    def _artists(self, query: str) -> str:
        asked = set(re.findall(r"\w+", query.lower()))
        found = [
            person
            for person in self.server.people
            if asked & set(re.findall(r"\w+", " ".join((person.name, *person.aliases)).lower()))
        ]
        found.sort(key=lambda person: -person.score)
        items = "".join(map(self._artist, found))
        return f'<artist-list count="{len(found)}" offset="0">{items}</artist-list>'

    def _artist(self, person: Person) -> str:
        aliases = "".join(f"<alias>{escape(alias)}</alias>" for alias in person.aliases)
        begin, end = person.years
        return (
            f'<artist id="{person.id}" ns2:score="{person.score}"><name>{escape(person.name)}</name>'
            + (f"<country>{person.country}</country>" if person.country else "")
            + (f"<disambiguation>{escape(person.note)}</disambiguation>" if person.note else "")
            + "<life-span>"
            + (f"<begin>{begin}</begin>" if begin else "")
            + (f"<end>{end}</end>" if end else "")
            + "<ended>false</ended></life-span>"
            + f"<alias-list>{aliases}</alias-list></artist>"
        )

    def _releases(self, query: dict[str, str]) -> str:
        if "track_artist" in query:
            return self._guest_releases(query["track_artist"])
        (person,) = [person for person in self.server.people if person.id == query["artist"]]
        if query["status"] != "official" or not {"recordings", "artist-credits"} <= set(query["inc"].split()):
            return ""
        offset = int(query.get("offset", 0))
        page = person.releases[offset : offset + min(int(query.get("limit", 25)), self.server.page)]
        items = "".join(self._release(release, person) for release in page)
        return f'<release-list count="{len(person.releases)}" offset="{offset}">{items}</release-list>'

    def _guest_releases(self, guest: str) -> str:
        """Of others, with a song by this artist."""
        found = [
            self._release(release, person)
            for person in self.server.people
            for release in person.releases
            if any(song.by == guest for songs in release.media for song in songs)
        ]
        return f'<release-list count="{len(found)}" offset="0">{"".join(found)}</release-list>'

    def _works(self, query: dict[str, str]) -> str:
        (person,) = [person for person in self.server.people if person.id == query["artist"]]
        if not {"artist-rels", "recording-rels"} <= set(query["inc"].split()):
            return ""
        offset = int(query.get("offset", 0))
        page = person.works[offset : offset + self.server.page]
        items = "".join(
            f'<work id="{work.id}"><title>A work</title><relation-list target-type="artist"><relation '
            f'type="{work.relation}"><target>{person.id}</target><artist id="{person.id}"><name>A name</name></artist>'
            '</relation></relation-list><relation-list target-type="recording">'
            + "".join(
                f'<relation type="performance"><target>{song.id}</target>{self._song(song, person)}</relation>'
                for song in work.recordings
            )
            + "</relation-list></work>"
            for work in page
        )
        return f'<work-list count="{len(person.works)}" offset="{offset}">{items}</work-list>'

    def _release(self, release: Release, person: Person) -> str:
        media = "".join(
            f"<medium><position>{i}</position><track-list count='{len(songs)}'>"
            + "".join(f"<track id='t'><position>1</position>{self._song(song, person)}</track>" for song in songs)
            + "</track-list></medium>"
            for i, songs in enumerate(release.media, 1)
        )
        kinds = "".join(f"<secondary-type>{kind}</secondary-type>" for kind in release.kinds)
        return (
            f'<release id="{release.id}"><title>{escape(release.title)}</title><date>{release.date}</date>'
            f"<release-group id='g'><secondary-type-list>{kinds}</secondary-type-list></release-group>"
            f'<medium-list count="{len(release.media)}">{media}</medium-list></release>'
        )

    def _song(self, song: Song, person: Person) -> str:
        length = f"<length>{round(song.seconds * 1000)}</length>" if song.seconds is not None else ""
        isrcs = "".join(f"<isrc id={quoteattr(isrc)}/>" for isrc in song.isrcs)
        return (
            f'<recording id="{song.id}"><title>{escape(song.title)}</title>{length}'
            + (f"<disambiguation>{escape(song.note)}</disambiguation>" if song.note else "")
            + ("<video>true</video>" if song.video else "")
            + f'<artist-credit><name-credit><artist id="{song.by or person.id}"><name>x</name></artist></name-credit>'
            f'</artist-credit><isrc-list count="{len(song.isrcs)}">{isrcs}</isrc-list></recording>'
        )


class YouTubeServer(Server):
    """Search, player, the page's data and the media, over TLS."""

    def __init__(self, videos: list[Video]) -> None:
        super().__init__(_YouTubeHandler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
        # The handshake belongs to the thread of each request: a client that dawdles must not hold up the others.
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.videos = {video.id: video for video in videos}
        self.ranges: list[str] = []
        self.seen: list[Any] = []  # the headers of each small request
        self.cut = threading.Event()
        self.redesigned = False  # its search has a layout that nobody knows

    @property
    def downloads(self) -> list[str]:
        return [path for path in self.requests if path.startswith("/media/")]


class _YouTubeHandler(Handler):
    server: YouTubeServer

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        self.server.requests.append(path)
        self.server.seen.append(self.headers)
        if self.misfortune():
            return
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = {
            "/youtubei/v1/search": self._search,
            "/youtubei/v1/player": self._player,
            "/youtubei/v1/next": self._next,
        }[path](asked)
        self.send(200, "application/json", json.dumps(answer).encode())

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if self.misfortune():
            return
        if not self.path.startswith("/media/"):
            self.send(403, "text/plain", b"")
            return
        video = self.server.videos[self.path.removeprefix("/media/")]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "bytes=0-"))
        assert asked
        self.server.ranges.append(asked[0])
        if video.status:
            self.send(video.status, "text/plain", b"")
            return
        start, end = int(asked[1]), min(int(asked[2] or len(video.audio)), len(video.audio) - 1)
        if start >= len(video.audio):
            self.send(416, "text/plain", b"", Content_Range=f"bytes */{len(video.audio)}")
            return
        body, cut = video.audio[start : end + 1], video.cut_at
        if cut:
            video.cut_at = 0
            self.send_response(206)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(video.audio)}")
            self.end_headers()
            self.wfile.write(body[:cut])
            self.server.cut.set()
            self.server.closing.wait(30)
            return
        self.send(206, "audio/mp4", body, Content_Range=f"bytes {start}-{end}/{len(video.audio)}")

    def _search(self, asked: dict[str, Any]) -> dict[str, Any]:
        if self.server.redesigned:
            return {"contents": {"brandNewRenderer": {}}}
        words = set(asked["query"].lower().split())
        hits = {video.id: len(words & set(video.title.lower().split())) for video in self.server.videos.values()}
        found = sorted((v for v in self.server.videos.values() if hits[v.id]), key=lambda video: -hits[video.id])
        renderers = [
            {
                "videoRenderer": {
                    "videoId": video.id,
                    "title": {"runs": [{"text": video.title}]},
                    "lengthText": {"simpleText": f"{video.seconds // 60}:{video.seconds % 60:02}"},
                    "ownerText": {"runs": [{"text": video.channel}]},
                }
            }
            for video in found
        ]
        contents = [{"itemSectionRenderer": {"contents": renderers}}]
        primary = {"sectionListRenderer": {"contents": contents}}
        return {"contents": {"twoColumnSearchResultsRenderer": {"primaryContents": primary}}}

    def _player(self, asked: dict[str, Any]) -> dict[str, Any]:
        video = self.server.videos[asked["videoId"]]
        if video.refusal:
            return {"playabilityStatus": {"status": "ERROR", "reason": video.refusal}}
        address = f"https://{self.server.address}/media/{video.id}"
        sound = {
            "itag": 140,
            **({"signatureCipher": urlencode({"s": "0", "url": address})} if video.locked else {"url": address}),
            "mimeType": 'audio/mp4; codecs="mp4a.40.2"',
            "bitrate": 128_000,
            "contentLength": str(len(video.audio)),
            "audioQuality": "AUDIO_QUALITY_MEDIUM",
            "approxDurationMs": str(video.seconds * 1000),
        }
        return {
            "playabilityStatus": {"status": "OK"},
            "videoDetails": {
                "videoId": video.id,
                "title": video.title,
                "author": video.channel,
                "channelId": "UC" + "x" * 22,
                "lengthSeconds": str(video.seconds),
                "isLiveContent": False,
                "isUpcoming": video.upcoming,
            },
            "streamingData": {
                "adaptiveFormats": [sound],
                "hlsManifestUrl": f"https://{self.server.address}/manifest/{video.id}.m3u8",
                "dashManifestUrl": f"https://{self.server.address}/manifest/{video.id}.mpd",
            },
        }

    def _next(self, asked: dict[str, Any]) -> dict[str, Any]:
        video = self.server.videos[asked["videoId"]]
        row = {"metadataRowRenderer": {"title": {"simpleText": "License"}, "contents": [{"simpleText": video.licence}]}}
        rows = {"metadataRowContainerRenderer": {"rows": [row] if video.licence else []}}
        secondary = {"videoSecondaryInfoRenderer": {"metadataRowContainer": rows}}
        results = {"results": {"results": {"contents": [secondary]}}}
        return {"contents": {"twoColumnWatchNextResults": results}}
