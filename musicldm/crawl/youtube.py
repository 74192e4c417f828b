"""A track -> the audio of the video that fits it best. The only file that knows yt_dlp.

Three steps: search gives candidates, `choose` weighs them by length and words, fetch takes the best audio stream as it
is, without re-encoding.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import yt_dlp
from yt_dlp.networking.exceptions import TransportError
from yt_dlp.utils import YoutubeDLError
from yt_dlp.version import __version__ as YT_DLP_VERSION

from musicldm.crawl.catalog import Track, words
from musicldm.crawl.settings import CrawlSettings, is_loopback
from musicldm.durable import cannot_write
from musicldm.errors import NetworkError, NotFoundError

TOOL = f"yt-dlp {YT_DLP_VERSION}"

THRESHOLD = 0.6  # of a score from 0 to 1; what scores less is another song


@dataclass(frozen=True)
class Candidate:
    """One search result; `score` says how well it fits the track, from 0 to 1."""

    id: str
    title: str
    channel: str
    seconds: float | None
    score: float

    @property
    def url(self) -> str:
        return f"https://www.youtube.com/watch?v={self.id}"


@dataclass(frozen=True)
class Download:
    """A fetched audio file in the temporary folder, and what the source says of it."""

    file: Path
    seconds: float | None
    title: str
    channel: str
    licence: str | None
    """Word for word; None where the source names none."""


def score(track: Track, title: str, channel: str, seconds: float | None) -> float:
    """How well a video fits a track, from 0 to 1.

    The share of the title's words, times the artist's (half of it for nobody), times the nearness of the lengths
    (0.7 at the limit). A video of another length, or of none, is never the track.
    """
    if seconds is None:
        return 0.0
    nearness = 0.0
    if track.seconds is not None:
        nearness = 1 - abs(seconds - track.seconds) / tolerance(track.seconds)
        if nearness < 0:
            return 0.0
    by_title = _share(track.title, title)
    by_artist = _share(track.artist.name, f"{title} {channel}")
    return round(by_title * (0.5 + 0.5 * by_artist) * (0.7 + 0.3 * nearness), 3)


def tolerance(seconds: float) -> float:
    """By how many seconds a video's length may differ from the recording's: 3, or 3 % of a long one."""
    return max(3.0, 0.03 * seconds)


def _share(wanted: str, offered: str) -> float:
    return len(set(words(wanted)) & set(words(offered))) / len(set(words(wanted)))


class YouTube:
    """Search and download, at a polite pace. A context manager: the connections close at its end.

    Args:
        folder: where downloads land, under names made from the video's id; cut ones are taken up again from there.
    """

    def __init__(self, folder: Path, settings: CrawlSettings) -> None:
        self.folder = folder
        self.settings = settings
        self._log = _Log()
        self._client = yt_dlp.YoutubeDL(_options(folder, settings, self._log))

    def __enter__(self) -> YouTube:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def search(self, track: Track) -> list[Candidate]:
        """What YouTube offers for the track, best first.

        Raises:
            NetworkError: YouTube does not answer.
            NotFoundError: it refuses the search, with its reason.
        """
        query = f"ytsearch{self.settings.candidates}:{track.artist.name} {track.title}"
        with self._reasons():
            answer = self._client.extract_info(query, download=False)
        found = []
        for entry in (answer or {}).get("entries") or []:
            if entry and entry.get("live_status") not in ("is_live", "is_upcoming"):  # yt-dlp has None for some
                title, channel = entry.get("title") or "", entry.get("channel") or ""
                fit = score(track, title, channel, entry.get("duration"))
                found.append(Candidate(entry["id"], title, channel, entry.get("duration"), fit))
        return sorted(found, key=lambda candidate: -candidate.score)  # equals stay in YouTube's order

    def fetch(self, candidate: Candidate) -> Download:
        """Download the candidate's best audio stream as it is.

        Raises:
            NetworkError: YouTube does not answer, or the connection broke.
            NotFoundError: YouTube refuses, or what it has is not what the search promised.
            OutputError: the disk is full, or the folder cannot be written.
        """
        self._log.last = ""
        with self._reasons():
            info = self._client.extract_info(candidate.url, download=False, process=False) or {}
            if info.get("live_status") in ("is_live", "is_upcoming", "post_live"):
                raise NotFoundError("It is a live stream.")
            seconds = info.get("duration")
            if seconds and candidate.seconds and abs(seconds - candidate.seconds) > tolerance(candidate.seconds):
                raise NotFoundError(f"It lasts {seconds:g} s, where the search said {candidate.seconds:g}.")
            info = self._client.process_ie_result(info, download=True) or {}
        files = [Path(download["filepath"]) for download in info.get("requested_downloads") or []]
        if len(files) != 1 or not files[0].is_file() or not files[0].stat().st_size:
            raise NotFoundError(f"Nothing came of the download. {_plain(self._log.last)}".strip())
        return Download(
            file=files[0],
            seconds=seconds,
            title=info.get("title") or candidate.title,
            channel=info.get("channel") or candidate.channel,
            licence=info.get("license"),
        )

    @contextmanager
    def _reasons(self) -> Iterator[None]:
        """yt-dlp's errors become ours."""
        try:
            yield
        except YoutubeDLError as error:
            self._explain(error)

    def _explain(self, error: YoutubeDLError) -> NoReturn:
        for cause in _causes(error):
            if isinstance(cause, TransportError):
                raise NetworkError(f"YouTube does not answer: {_plain(str(cause))}") from error
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                raise cannot_write(self.folder, cause) from error
        raise NotFoundError(_plain(str(error))) from error


def _options(folder: Path, settings: CrawlSettings, log: _Log) -> dict[str, Any]:
    def wait(n: int) -> float:  # yt-dlp names the argument
        return max(settings.youtube_request_pause, settings.retry_pause * (n + 1))

    options: dict[str, Any] = {
        # What to take: sound alone, as it is.
        "format": "bestaudio[ext=m4a]/bestaudio/best[acodec!=none]",
        "postprocessors": [],
        "fixup": "never",
        "noplaylist": True,
        "extract_flat": "in_playlist",  # search results as they stand, not each video's own page
        "max_filesize": 1 << 30,
        # Where to put it: under the id, never under a name from the web.
        "paths": {"home": str(folder.absolute())},
        "outtmpl": {"default": "%(id)s.%(ext)s"},
        # How to ask.
        "socket_timeout": settings.timeout,
        "retries": settings.tries - 1,
        "extractor_retries": settings.tries - 1,
        "fragment_retries": settings.tries - 1,
        "retry_sleep_functions": {kind: wait for kind in ("http", "fragment", "extractor")},
        "sleep_interval_requests": settings.youtube_request_pause,
        "sleep_interval": settings.youtube_pause,
        "max_sleep_interval": 2 * settings.youtube_pause,
        "allowed_extractors": ["youtube", "youtube:search"],
        "remote_components": [],  # no code from the web
        "cachedir": False,
        # How to speak: not at all.
        "logger": log,
        "quiet": True,
        "noprogress": True,
        "color": "never",
    }
    if settings.youtube:
        options["extractor_args"] = {
            # One plain client, and none of the requests that go to YouTube's web pages.
            "youtube": {
                "innertube_host": [settings.youtube],
                "player_client": ["visionos"],
                "player_skip": ["webpage", "configs", "js"],
            },
            "youtubetab": {"skip": ["webpage"]},
        }
    if is_loopback(settings.youtube):
        options |= {"nocheckcertificate": True, "proxy": ""}
    return options


class _Log:
    """Where yt-dlp speaks instead of the terminal; the last words are kept, for a failure that has no others."""

    def __init__(self) -> None:
        self.last = ""

    def debug(self, message: str) -> None:
        self.last = message

    info = warning = error = debug


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what lies behind it, as yt-dlp and Python record it."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        error = waiting.pop(0)
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        waiting += [getattr(error, "cause", None), (getattr(error, "exc_info", None) or (None, None))[1]]
        waiting += [error.__cause__, error.__context__]


def _plain(message: str) -> str:
    """yt-dlp's message without its labels and its advice on reporting bugs."""
    message = re.sub(r"\x1b\[[0-9;]*m", "", message).strip()
    message = re.sub(r"^(ERROR:\s*)?(\[[\w:+-]+\]\s*)?([\w-]{11}:\s*)?", "", message)
    return re.split(r"\s*(?:\(caused by|; please report this issue|; Confirm you are on the latest)", message)[0]
