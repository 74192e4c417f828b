"""A track -> the audio of the video that fits it best. The only file that imports yt_dlp.

`search` returns scored candidates, `inspect` reads what the source says of one, and `download` takes its best audio
stream as it is, without re-encoding.
"""

from __future__ import annotations

import errno
import functools
import io
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn
from urllib.parse import urlsplit

import yt_dlp
from yt_dlp.globals import plugin_dirs
from yt_dlp.networking import Request, Response
from yt_dlp.networking.exceptions import HTTPError, TransportError
from yt_dlp.utils import ExtractorError, YoutubeDLError
from yt_dlp.version import __version__ as YT_DLP_VERSION

from musicldm.core.durable import cannot_write
from musicldm.core.errors import BlockedError, ConfigError, MusicLDMError, NetworkError, NotNowError, RefusedError
from musicldm.crawl.catalog import Track
from musicldm.crawl.matching import Candidate, scored, tolerance
from musicldm.crawl.pace import Pace, Stopped, within
from musicldm.crawl.settings import CrawlSettings, is_loopback

plugin_dirs.value = []  # yt-dlp would run whatever lies in its folders of plugins, in the home folder for instance

TOOL = f"yt-dlp {YT_DLP_VERSION}"

_BLOCK = 1 << 16  # bytes of a download in one read; so many must come within the time-out


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


def check(settings: CrawlSettings) -> str:
    """A warning about these settings before the crawl; empty where there is none.

    Raises:
        ConfigError: the cookie file is not one.
    """
    if not settings.cookies:
        return ""
    warnings = []
    if skipped := _read_cookies(settings.cookies)[1]:
        warnings.append(f"{settings.cookies} has {skipped} lines that are not cookies; they are skipped.")
    with _Client(settings, Pace(), _options(Path(), settings, _Log(), Pace())) as client:
        if not client.has_javascript:
            warnings.append(_NO_JAVASCRIPT)
    return " ".join(warnings)


_NO_JAVASCRIPT = (
    "With cookies, yt-dlp needs a JavaScript runtime such as Deno, and finds none: most songs will fail. "
    "Install one, or crawl without cookies."
)


class YouTube:
    """Search and download for one thread. A context manager: the connections close at its end.

    Args:
        folder: where downloads go, under names made from the video's id; interrupted ones are resumed.
        pace: the rate limits that this thread shares with others.

    Raises:
        ConfigError: the cookie file is not one.
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
        """Search results for the track, best first.

        Raises:
            NetworkError: YouTube does not answer, or yt-dlp cannot parse its answer.
            BlockedError: it has blocked us.
        """
        query = f"ytsearch{self.settings.candidates}:{track.artist.name} {track.title}"
        try:
            with self._reasons():
                answer = self._client.extract_info(query, download=False)
        except RefusedError as error:  # this says nothing about the song
            raise NetworkError(f"YouTube refuses the search: {error.message}") from error
        found = []
        for entry in (answer or {}).get("entries") or []:
            # yt-dlp returns None for an entry that it cannot make out, or one without an id.
            if entry and entry.get("id") and entry.get("live_status") not in ("is_live", "is_upcoming"):
                title, channel = entry.get("title") or "", entry.get("channel") or entry.get("uploader") or ""
                found.append(scored(track, entry["id"], title, channel, entry.get("duration")))
        return sorted(found, key=lambda candidate: -candidate.score)  # equals stay in YouTube's order

    def inspect(self, candidate: Candidate) -> Video:
        """What the source says of a candidate.

        Raises:
            NetworkError: YouTube does not answer.
            BlockedError: it has blocked us.
            RefusedError: YouTube refuses, or what it has is not what the search promised.
            NotNowError: it is not out yet, or not ready.
        """
        with self._reasons():
            info = self._client.extract_info(candidate.url, download=False, process=False) or {}
            if self._client.broken.get("/youtubei/v1/next"):  # yt-dlp goes on without, but this names the licence
                raise NetworkError(self._client.broken["/youtubei/v1/next"])
        if info.get("live_status") == "is_live":
            raise RefusedError("It is a live stream.")
        if info.get("live_status") in ("is_upcoming", "post_live"):
            raise NotNowError("It is not out yet.")
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
            BlockedError: it has blocked us.
            RefusedError: YouTube refuses, or has no audio stream.
            NotNowError: it has none without a JavaScript runtime.
            OutputError: the disk is full, or the folder cannot be written.
        """
        pause = self.settings.youtube_pause
        self._pace.turn("download", random.uniform(pause, 2 * pause))
        with self._reasons(), self._client.downloading():
            try:
                return self._take(video)
            except YoutubeDLError as error:
                # A kill right after the last byte leaves a complete .part file, which yt-dlp cannot resume.
                if not any(isinstance(cause, HTTPError) and cause.status == 416 for cause in _causes(error)):
                    raise
            for part in self.folder.glob(f"{video.id}.*.part"):
                part.unlink()
            return self._take(video)

    def _take(self, video: Video) -> Path:
        self._log.last = ""
        info = self._client.process_ie_result(video.info, download=True) or {}
        downloads = info.get("requested_downloads") or []
        files = [Path(download["filepath"]) for download in downloads]
        if len(files) != 1 or not files[0].is_file() or not files[0].stat().st_size:
            # To yt-dlp a file that is too large is no error; only its log tells.
            kind = RefusedError if "max-filesize" in self._log.last else NetworkError
            raise kind(f"The download produced nothing. {_plain(self._log.last)}".strip())
        size, promised = files[0].stat().st_size, downloads[0].get("filesize")
        if promised and size != promised:  # another file under the song's address, such as a login page
            files[0].unlink()
            raise NetworkError(f"The download has {size} bytes, where YouTube promised {promised}.")
        return files[0]

    @contextmanager
    def _reasons(self) -> Iterator[None]:
        """Turn yt-dlp's errors into ours; an unclear one counts as the network's."""
        self._client.broken.clear()
        try:
            yield
        except YoutubeDLError as error:
            self._explain(error)
        except (MusicLDMError, OSError, Stopped):
            raise
        except Exception as error:  # one odd answer must not end every crawl at the same song
            raise NetworkError(f"yt-dlp cannot parse the answer: {type(error).__name__}: {error}.") from error

    def _explain(self, error: YoutubeDLError) -> NoReturn:
        text, causes = _plain(str(error)), list(_causes(error))
        if re.search(_BLOCKED, text, re.IGNORECASE):
            raise _blocked(text) from error
        for cause in causes:
            if isinstance(cause, BlockedError):
                raise cause
            if isinstance(cause, OSError) and cause.errno in _OUR_DISK:
                raise cannot_write(self.folder, cause) from error
        if "Incomplete data received" in text:
            raise NetworkError(f"YouTube sent an incomplete answer: {text}") from error
        # yt-dlp's last error often is not the first: "no player response" may be a server that was silent.
        for problem in self._client.broken.values():
            raise NetworkError(problem) from error
        if re.search(_NO_SOUND, text, re.IGNORECASE):
            if self._client.has_javascript:
                raise RefusedError("YouTube offers no audio stream.") from error
            raise NotNowError(
                "YouTube offers no audio stream here (some need a JavaScript runtime for yt-dlp, such as Deno)."
            ) from error
        if re.search(_NOT_YET, text, re.IGNORECASE):
            raise NotNowError(text) from error
        # A server that answers 404 is no refusal either, though yt-dlp expects that one too.
        by_network = any(isinstance(cause, (HTTPError, TransportError)) for cause in causes)
        if not by_network and any(isinstance(cause, ExtractorError) and cause.expected for cause in causes):
            raise RefusedError(text) from error
        raise NetworkError(text) from error


# yt-dlp's messages where a video has formats, none of which it can take.
_NO_SOUND = r"requested format is not available|only images are available|no video formats found"

# YouTube's messages where a video will be available later.
_NOT_YET = r"premieres? (?:in|on|at)\b|will begin|starts? in\b|processing this video|being processed|try again later"

# Errors of the disk that downloads go to, not of the network.
_OUR_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EROFS)

# yt-dlp's messages where YouTube refuses not this video but our address.
_BLOCKED = r"not a bot|rate-limited|captcha|IP is likely being blocked"


def _blocked(text: str) -> BlockedError:
    return BlockedError(
        f"YouTube has blocked us: {text.rstrip('.')}.",
        "Wait a few hours and run the same command again; what was fetched is kept. Longer pauses, or --cookies FILE "
        "from a browser that is signed in, may help.",
    )


class _Client(yt_dlp.YoutubeDL):  # type: ignore[misc]  # yt-dlp has no types
    """yt-dlp with a rate limit, a deadline for every answer, and a watch for signs of being blocked.

    `broken` has a sentence for each kind of request, by path, whose latest try failed.
    """

    def __init__(self, settings: CrawlSettings, pace: Pace, options: dict[str, Any]) -> None:
        self.broken: dict[str, str] = {}
        self._settings = settings
        self._pace = pace
        self._streaming = False
        super().__init__(options)
        try:
            self.cookiejar  # noqa: B018  # read now, so that a bad file is an error before the crawl
        except YoutubeDLError:
            # Without its cause, which quotes the file's secrets.
            raise ConfigError(
                f"{settings.cookies} is not a cookie file in Netscape format.", "Export it from the browser again."
            ) from None

    @functools.cached_property
    def has_javascript(self) -> bool:
        """Whether yt-dlp finds a JavaScript runtime that it can use."""
        infos = [runtime.info for runtime in self._js_runtimes.values() if runtime]
        return any(info is not None and info.supported for info in infos)

    @contextmanager
    def downloading(self) -> Iterator[None]:
        """In this block answers are songs, to be streamed, not small ones to be read at once."""
        self._streaming = True
        try:
            yield
        finally:
            self._streaming = False

    def urlopen(self, request: Request | str) -> Response:
        # Here pass all requests, those included that yt-dlp makes by itself: none can escape the pause.
        self._pace.turn("request", self._settings.youtube_request_pause)
        path = urlsplit(request if isinstance(request, str) else request.url).path
        try:
            answer = _in_time(self._settings.deadline, functools.partial(self._open, request))
        except HTTPError as error:
            # A single song's address may be forbidden, or a manifest's: that does not mean that we are blocked.
            if error.status == 429 or (error.status == 403 and path.startswith(("/youtubei/", "/watch"))):
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
    """`within`, with an error after which yt-dlp tries again."""
    try:
        return within(seconds, call)
    except TimeoutError as error:
        raise TransportError(str(error), cause=error) from error


def _options(folder: Path, settings: CrawlSettings, log: _Log, pace: Pace) -> dict[str, Any]:
    def wait(n: int) -> float:  # yt-dlp passes n by name; its own sleep would not notice the end of the crawl
        pace.sleep(max(settings.youtube_request_pause, settings.retry_pause * (n + 1)))
        return 0.0

    def stop_download(progress: dict[str, Any]) -> None:
        if pace.stop.is_set():
            raise Stopped

    options: dict[str, Any] = {
        # Audio only, as it is.
        "format": "bestaudio",
        "postprocessors": [],
        "fixup": "never",
        "noplaylist": True,
        "extract_flat": "in_playlist",  # search results as they stand, not each video's own page
        # No song is that large: what is must be a wrong match, and should not fill the disk.
        "max_filesize": 1 << 30,
        # Files are called after the id, never after a name from the web; only the same stream is resumed.
        "paths": {"home": str(folder.absolute())},
        "outtmpl": {"default": "%(id)s.%(format_id)s.%(ext)s"},
        # Requests.
        "socket_timeout": settings.timeout,
        "retries": settings.tries - 1,
        "extractor_retries": settings.tries - 1,
        "fragment_retries": settings.tries - 1,
        "retry_sleep_functions": {kind: wait for kind in ("http", "fragment", "extractor")},
        "ratelimit": settings.rate_limit or None,
        "buffersize": _BLOCK,
        "noresizebuffer": True,
        "progress_hooks": [stop_download],
        "extractor_args": {
            "youtube": {
                "raise_incomplete_data": ["true"],  # else half an answer would look like no results
                "skip": ["hls", "dash", "translated_subs"],  # audio has its own address, without a manifest
            }
        },
        # Whatever an answer refers to, yt-dlp stays at YouTube; its generic extractor would fetch any address.
        "allowed_extractors": ["youtube", "youtube:search"],
        "remote_components": [],  # no code from the web
        "cachedir": False,
        # A copy: yt-dlp writes cookies back, and the file is the user's and shared by several threads.
        "cookiefile": io.StringIO(_read_cookies(settings.cookies)[0]) if settings.cookies else None,
        # Print nothing.
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
        # A stand-in signs its own certificate, and a proxy of the environment could not reach it.
        options |= {"nocheckcertificate": True, "proxy": ""}
    return options


def _read_cookies(file: str) -> tuple[str, int]:
    """The lines of a cookie file that yt-dlp can use, and how many others there are; yt-dlp would print those."""
    try:
        lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise ConfigError(f"The cookies in {file} cannot be read: {error.strerror}.") from error
    usable = [line for line in lines if not line.strip() or _COOKIE.fullmatch(line)]
    return "".join(f"{line}\n" for line in usable), len(lines) - len(usable)


# A comment, or seven fields between tabs; the fifth is the second since 1970 at which the cookie expires, if it does.
_COOKIE = re.compile(r"(?!#HttpOnly_)#.*|(?:[^\t]*\t){4}(?:\d+(?:\.\d+)?)?(?:\t[^\t]*){2}")


class _Log:
    """yt-dlp's messages, kept from the terminal; the last one is for a failure that says nothing else."""

    def __init__(self) -> None:
        self.last = ""

    def debug(self, message: str) -> None:
        self.last = message

    info = warning = error = debug


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes, as yt-dlp and Python record them."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        error = waiting.pop(0)
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        if isinstance(error, TransportError):  # its causes are the network's, not our disk's
            continue
        waiting += [getattr(error, "cause", None), (getattr(error, "exc_info", None) or (None, None))[1]]
        waiting += [error.__cause__, error.__context__]


def _plain(message: str) -> str:
    """yt-dlp's message without its labels and its advice on its own options and on reporting bugs."""
    message = re.sub(r"\x1b\[[0-9;]*m", "", message).strip()
    message = re.sub(r"^(ERROR:\s*)?(\[[\w:+-]+\]\s*)?([\w-]{11}:\s*)?", "", message)
    return re.split(_ADVICE, message)[0]


_ADVICE = (
    r"\s*(?:\(caused by|; please report this issue|; Confirm you are on the latest|(?:(?<=\.)\s|\n)"
    r"(?:Use --|It is recommended to use|You might want to use|See\s+https?:|For more information, refer to))"
)
