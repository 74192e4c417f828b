"""A track -> the audio of the video that fits it best. The only file that knows yt_dlp.

Search gives candidates, `score` weighs them by length and words, `look` asks what the source says of one, and
`download` takes its best audio stream as it is, without re-encoding.
"""

from __future__ import annotations

import errno
import functools
import io
import random
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn
from urllib.parse import urlsplit

import yt_dlp
from rapidfuzz import fuzz, process
from yt_dlp.networking import Request, Response
from yt_dlp.networking.exceptions import HTTPError, TransportError
from yt_dlp.utils import YoutubeDLError
from yt_dlp.version import __version__ as YT_DLP_VERSION

from musicldm.crawl.catalog import Track
from musicldm.crawl.pace import Pace, Stopped, within
from musicldm.crawl.settings import CrawlSettings, is_loopback
from musicldm.crawl.titles import brackets, marks, plain, song_title, words
from musicldm.durable import cannot_write
from musicldm.errors import BlockedError, ConfigError, MusicLDMError, NetworkError, RefusedError

TOOL = f"yt-dlp {YT_DLP_VERSION}"

THRESHOLD = 0.6  # of a score from 0 to 1; what scores less is another song

_BLOCK = 1 << 16  # bytes of a download in one read; so many must come within the time-out


@dataclass(frozen=True)
class Candidate:
    """One search result; `score` says how well it fits the track, from 0 to 1."""

    id: str
    title: str
    channel: str
    seconds: float | None
    score: float
    marks: tuple[str, ...] = ()
    """What it says of itself and the track does not: live, cover, karaoke …"""

    @property
    def url(self) -> str:
        return f"https://www.youtube.com/watch?v={self.id}"


@dataclass(frozen=True)
class Video:
    """What the source says of one video."""

    id: str
    title: str
    channel: str
    seconds: float | None
    licence: str | None
    """Word for word; None where the source names none."""
    info: dict[str, Any]
    """All of it, as yt-dlp has it."""


# Choosing


def score(track: Track, title: str, channel: str, seconds: float | None) -> float:
    """How well a video fits a track, from 0 to 1.

    The likeness of the titles, times the artist's (half of it for nobody), times the nearness of the lengths (0.7 at
    the limit), less a tenth where the channel is not the artist's own. A mark of the wrong thing, such as karaoke,
    leaves a third of it. A video of another length, or of none, is never the track.
    """
    if seconds is None:
        return 0.0
    nearness = 0.0
    if track.seconds is not None:
        nearness = 1 - abs(seconds - track.seconds) / tolerance(track.seconds)
        if nearness < 0:
            return 0.0
    fit = _title_fit(track, title) * (0.5 + 0.5 * _artist_fit(track, f"{title} {channel}")) * (0.7 + 0.3 * nearness)
    if not _is_official(track, channel):
        fit *= 0.9
    if wrong_marks(track, title, channel):
        fit *= 0.3
    if track.marks - {"compilation"} - marks(title):  # a live take should say so
        fit *= 0.7
    return round(fit, 3)


def tolerance(seconds: float) -> float:
    """By how many seconds a video's length may differ from the recording's: 3, or 3 % of a long one."""
    return max(3.0, 0.03 * seconds)


def wrong_marks(track: Track, title: str, channel: str) -> frozenset[str]:
    """What title or channel say of the video, beyond the names of the song and the artist, and the track does not."""
    text = f" {plain(title)} "
    for own in (track.title, song_title(track.title), *_names(track)):
        text = text.replace(f" {plain(own)} ", " ", 1)
    by_channel = marks(channel) - marks(track.artist.name) - {"live", "talk"}  # a channel may well be called live
    return (marks(text) | by_channel) - track.marks


# Words of a video's title that say nothing about which song it is.
_NOISE = frozenset(
    "official video audio music lyric lyrics visualizer visualiser clip videoclip hd hq 4k uhd mv m v remaster "
    "remastered topic vevo with album single ep new full explicit clean version stereo mono".split()
)


def _title_fit(track: Track, title: str) -> float:
    """The likeness of two titles by the words of each that the other has, from 0 to 1 (their F-measure)."""
    wanted = words(song_title(track.title))
    offered = words(title)
    recall = _share(wanted, offered)
    # What stands in brackets, and the part that names the artist, may add words freely.
    aside = [*brackets(title), *re.split(r"\s*[|•]\s*", title)[1:]]
    parts = re.split(r"\s+[-–—:|•]+\s+|(?<=\w):\s", song_title(title))
    own = [part for part in parts if _artist_fit(track, part) < 1] or parts
    free = _NOISE | {word for text in (*aside, *_names(track)) for word in words(text)}
    core = [word for part in own for word in words(part) if word in wanted or word not in free]
    precision = _share(core, wanted) if core else recall
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _artist_fit(track: Track, text: str) -> float:
    """The share of the artist's name that a text has, by the name or alias that fits best."""
    offered, squashed = words(text), plain(text).replace(" ", "")
    return max(
        1.0 if len(plain(name)) > 3 and plain(name).replace(" ", "") in squashed else _share(words(name), offered)
        for name in _names(track)
    )


def _is_official(track: Track, channel: str) -> bool:
    """Whether it is the channel of the artist: "X - Topic", where labels deliver songs, or one called so."""
    name = re.sub(r"(topic|vevo|official|music|band|channel)+$", "", plain(channel).replace(" ", ""))
    return name in {re.sub(r"(music|band)+$", "", plain(own).replace(" ", "")) for own in _names(track)}


def _names(track: Track) -> tuple[str, ...]:
    return (track.artist.name, *track.artist.aliases)


def _share(wanted: Iterable[str], offered: Iterable[str]) -> float:
    """The share of the wanted words that are among the offered, give or take a typing error; numbers must be right."""
    wanted, offered = set(wanted), set(offered)
    letters = [word for word in offered if not word.isdecimal()]
    found = sum(
        word in offered
        or (not word.isdecimal() and process.extractOne(word, letters, scorer=fuzz.ratio, score_cutoff=85) is not None)
        for word in wanted
    )
    return found / len(wanted)


_VIDEO_ID = re.compile(
    r"(?:(?:https?://)?(?:www\.|m\.|music\.)?(?:youtube\.com/(?:watch\?(?:.*&)?v=|shorts/|embed/)|youtu\.be/))?"
    r"([\w-]{11})(?:[?&#].*)?"
)


def video_id(url: str) -> str | None:
    """The id of the video that an address on YouTube leads to; None where it is no such address."""
    found = _VIDEO_ID.fullmatch(url.strip())
    return found[1] if found else None


# Asking


class YouTube:
    """Search and download for one thread. A context manager: the connections close at its end.

    Args:
        folder: where downloads land, under names made from the video's id; cut ones are taken up again from there.
        pace: the turns that this thread shares with others.

    Raises:
        ConfigError: the file of cookies is none.
    """

    def __init__(self, folder: Path, settings: CrawlSettings, pace: Pace | None = None) -> None:
        self.folder = folder
        self.settings = settings
        self._pace = pace or Pace()
        self._log = _Log()
        self._client = _Client(settings, self._pace, _options(folder, settings, self._log, self._pace))

    def __enter__(self) -> YouTube:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def search(self, track: Track) -> list[Candidate]:
        """What YouTube offers for the track, best first.

        Raises:
            NetworkError: YouTube does not answer.
            BlockedError: it has shut us out.
            RefusedError: it refuses the search, with its reason.
        """
        query = f"ytsearch{self.settings.candidates}:{track.artist.name} {track.title}"
        with self._reasons():
            answer = self._client.extract_info(query, download=False)
        found = []
        for entry in (answer or {}).get("entries") or []:
            # yt-dlp has None in the place of an entry that it cannot make out, or one without an id.
            if entry and entry.get("id") and entry.get("live_status") not in ("is_live", "is_upcoming"):
                title, channel = entry.get("title") or "", entry.get("channel") or entry.get("uploader") or ""
                found.append(candidate(track, entry["id"], title, channel, entry.get("duration")))
        return sorted(found, key=lambda candidate: -candidate.score)  # equals stay in YouTube's order

    def look(self, candidate: Candidate) -> Video:
        """What the source says of a candidate.

        Raises:
            NetworkError: YouTube does not answer.
            BlockedError: it has shut us out.
            RefusedError: YouTube refuses, or what it has is not what the search promised.
        """
        with self._reasons():
            info = self._client.extract_info(candidate.url, download=False, process=False) or {}
            if self._client.broken.get("/youtubei/v1/next"):  # yt-dlp goes on without, but this names the licence
                raise NetworkError(self._client.broken["/youtubei/v1/next"])
        if info.get("live_status") in ("is_live", "is_upcoming", "post_live"):
            raise RefusedError("It is a live stream.")
        seconds = info.get("duration")
        if seconds and candidate.seconds and abs(seconds - candidate.seconds) > tolerance(candidate.seconds):
            raise RefusedError(f"It lasts {seconds:g} s, where the search said {candidate.seconds:g}.")
        title = info.get("title") or candidate.title
        channel = info.get("channel") or info.get("uploader") or candidate.channel
        return Video(candidate.id, title, channel, seconds, info.get("license"), info)

    def download(self, video: Video) -> Path:
        """The video's best audio stream, as it is, as a file in the folder.

        Raises:
            NetworkError: YouTube does not answer, or the connection broke.
            BlockedError: it has shut us out.
            RefusedError: YouTube refuses, or has no audio stream for us.
            OutputError: the disk is full, or the folder cannot be written.
        """
        pause = self.settings.youtube_pause
        self._pace.turn("download", random.uniform(pause, 2 * pause))
        with self._reasons(otherwise=NetworkError), self._client.downloading():
            try:
                return self._take(video)
            except YoutubeDLError as error:
                # A kill right after the last byte leaves a part that is whole, which yt-dlp cannot go on with.
                if not any(isinstance(cause, HTTPError) and cause.status == 416 for cause in _causes(error)):
                    raise
            for part in self.folder.glob(f"{video.id}.*.part"):
                part.unlink()
            return self._take(video)

    def _take(self, video: Video) -> Path:
        self._log.last = ""
        info = self._client.process_ie_result(video.info, download=True) or {}
        files = [Path(download["filepath"]) for download in info.get("requested_downloads") or []]
        if len(files) != 1 or not files[0].is_file() or not files[0].stat().st_size:
            kind = RefusedError if "max-filesize" in self._log.last else NetworkError
            raise kind(f"Nothing came of the download. {_plain(self._log.last)}".strip())
        return files[0]

    @contextmanager
    def _reasons(self, otherwise: type[MusicLDMError] = RefusedError) -> Iterator[None]:
        """yt-dlp's errors become ours; one of which it is not clear what it means becomes `otherwise`."""
        self._client.broken.clear()
        try:
            yield
        except YoutubeDLError as error:
            self._explain(error, otherwise)
        except (MusicLDMError, OSError, Stopped):
            raise
        except Exception as error:  # one odd answer must not end the crawl, again and again at the same song
            raise RefusedError(f"yt-dlp stumbles over the answer: {type(error).__name__}: {error}.") from error

    def _explain(self, error: YoutubeDLError, otherwise: type[MusicLDMError]) -> NoReturn:
        text = _plain(str(error))
        if re.search(_SHUT_OUT, text, re.IGNORECASE):
            raise _blocked(text) from error
        for cause in _causes(error):
            if isinstance(cause, OSError) and cause.errno in _OUR_DISK:
                raise cannot_write(self.folder, cause) from error
        if "Incomplete data received" in text:
            raise NetworkError(f"YouTube sent half an answer: {text}") from error
        # yt-dlp's last error often is not the first: "no player response" may be a server that was silent.
        for problem in self._client.broken.values():
            raise NetworkError(problem) from error
        if re.search(_NO_SOUND, text, re.IGNORECASE):
            raise RefusedError(
                "YouTube offers no audio stream here (some need a JavaScript runtime for yt-dlp, such as Deno)."
            ) from error
        if any(isinstance(cause, HTTPError) for cause in _causes(error)):  # of the kind 404, or it would be in `broken`
            raise RefusedError(text) from error
        raise otherwise(text) from error


def candidate(track: Track, id: str, title: str, channel: str, seconds: float | None) -> Candidate:
    """A video weighed for a track."""
    fit = score(track, title, channel, seconds)
    return Candidate(id, title, channel, seconds, fit, tuple(sorted(wrong_marks(track, title, channel))))


# How yt-dlp says that a video has formats, none of which it can take.
_NO_SOUND = r"requested format is not available|only images are available|no video formats found"

# Errors of the place where downloads go, not of the network.
_OUR_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EROFS)

# How yt-dlp says that it is not this video but us whom YouTube does not want.
_SHUT_OUT = r"not a bot|rate-limited|captcha|IP is likely being blocked"


def _blocked(text: str) -> BlockedError:
    return BlockedError(
        f"YouTube has shut us out: {text.rstrip('.')}.",
        "Wait some hours and run the same command again; what was fetched is kept. Longer pauses, or --cookies FILE "
        "from a browser that is signed in, may help.",
    )


class _Client(yt_dlp.YoutubeDL):  # type: ignore[misc]  # yt-dlp has no types
    """yt-dlp with turns, a deadline for every answer, and an eye for the sign of being shut out.

    `broken` has a sentence for each kind of request, by path, whose latest try failed on its way.
    """

    def __init__(self, settings: CrawlSettings, pace: Pace, options: dict[str, Any]) -> None:
        self.broken: dict[str, str] = {}
        self._settings = settings
        self._pace = pace
        self._streaming = False
        super().__init__(options)
        try:
            self.cookiejar  # noqa: B018  # read at once, for a sentence before the crawl
        except YoutubeDLError as error:
            raise ConfigError(f"{settings.cookies} is no file of cookies in Netscape format.") from error

    @contextmanager
    def downloading(self) -> Iterator[None]:
        """Until the end of this, answers are songs, not small ones to be read at once."""
        self._streaming = True
        try:
            yield
        finally:
            self._streaming = False

    def urlopen(self, request: Request | str) -> Response:
        self._pace.turn("request", self._settings.youtube_request_pause)
        path = urlsplit(request if isinstance(request, str) else request.url).path
        try:
            answer = _in_time(self._settings.deadline, functools.partial(self._open, request))
        except HTTPError as error:
            if error.status == 429 or (error.status == 403 and not self._streaming):
                raise _blocked(f"it answered {error.status} {error.reason}") from error
            if error.status == 403 or error.status >= 500:
                self.broken[path] = f"YouTube answered {error.status} {error.reason}."
            raise
        except TransportError as error:
            self.broken[path] = f"YouTube does not answer: {_plain(str(error))}."
            raise
        self.broken.pop(path, None)
        if self._streaming:
            read = answer.read

            def read_in_time(amount: int | None = None) -> Any:
                try:
                    return _in_time(self._settings.timeout, functools.partial(read, amount))
                except TransportError as error:
                    self.broken[path] = f"The connection to YouTube broke: {_plain(str(error))}."
                    raise

            answer.read = read_in_time
        return answer

    def _open(self, request: Request | str) -> Response:
        try:
            answer = super().urlopen(request)
        except HTTPError as error:
            error.response.read = io.BytesIO(error.response.read()).read  # in time, like the rest
            raise
        if self._streaming:
            return answer
        with answer:
            return Response(io.BytesIO(answer.read()), answer.url, answer.headers, answer.status, answer.reason)


def _in_time(seconds: float, call: Any) -> Any:
    """`within`, with an error that yt-dlp knows and tries again after."""
    try:
        return within(seconds, call)
    except TimeoutError as error:
        raise TransportError(str(error), cause=error) from error


def _options(folder: Path, settings: CrawlSettings, log: _Log, pace: Pace) -> dict[str, Any]:
    def wait(n: int) -> float:  # yt-dlp names the argument, and would sleep through the end of the crawl
        pace.sleep(max(settings.youtube_request_pause, settings.retry_pause * (n + 1)))
        return 0.0

    def leave_off(progress: dict[str, Any]) -> None:
        if pace.stop.is_set():
            raise Stopped

    options: dict[str, Any] = {
        # What to take: sound alone, as it is.
        "format": "bestaudio",
        "postprocessors": [],
        "fixup": "never",
        "noplaylist": True,
        "extract_flat": "in_playlist",  # search results as they stand, not each video's own page
        "max_filesize": 1 << 30,
        # Where to put it: under the id, never under a name from the web; what is taken up again is the same stream.
        "paths": {"home": str(folder.absolute())},
        "outtmpl": {"default": "%(id)s.%(format_id)s.%(ext)s"},
        # How to ask.
        "socket_timeout": settings.timeout,
        "retries": settings.tries - 1,
        "extractor_retries": settings.tries - 1,
        "fragment_retries": settings.tries - 1,
        "retry_sleep_functions": {kind: wait for kind in ("http", "fragment", "extractor")},
        "ratelimit": settings.rate_limit or None,
        "buffersize": _BLOCK,
        "noresizebuffer": True,
        "progress_hooks": [leave_off],
        "extractor_args": {"youtube": {"raise_incomplete_data": ["true"]}},  # half an answer is not "finds nothing"
        "allowed_extractors": ["youtube", "youtube:search"],
        "remote_components": [],  # no code from the web
        "cachedir": False,
        # yt-dlp writes cookies back: to a copy, since the file is not ours, and several threads have it.
        "cookiefile": io.StringIO(Path(settings.cookies).read_text(errors="replace")) if settings.cookies else None,
        # How to speak: not at all.
        "logger": log,
        "quiet": True,
        "noprogress": True,
        "color": "never",
    }
    if settings.youtube:
        # One plain client, and none of the requests that go to YouTube's web pages.
        options["extractor_args"]["youtube"] |= {
            "innertube_host": [settings.youtube],
            "player_client": ["visionos"],
            "player_skip": ["webpage", "configs", "js"],
        }
        options["extractor_args"]["youtubetab"] = {"skip": ["webpage"]}
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
