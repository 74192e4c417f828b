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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn
from urllib.parse import urlsplit

import yt_dlp
from rapidfuzz import fuzz
from yt_dlp.networking import Request, Response
from yt_dlp.networking.exceptions import HTTPError, TransportError
from yt_dlp.utils import ExtractorError, YoutubeDLError
from yt_dlp.version import __version__ as YT_DLP_VERSION

from musicldm.core.durable import cannot_write
from musicldm.core.errors import BlockedError, ConfigError, MusicLDMError, NetworkError, NotNowError, RefusedError
from musicldm.crawl.catalog import Track
from musicldm.crawl.pace import Pace, Stopped, within
from musicldm.crawl.settings import CrawlSettings, is_loopback
from musicldm.crawl.titles import brackets, marks, numbers, plain, song_title, title_words, without_marks, words

TOOL = f"yt-dlp {YT_DLP_VERSION}"

THRESHOLD = 0.6  # of a score from 0 to 1; what scores less is another song

_LONG = 20 * 60.0  # seconds; a longer video of a song whose length nobody knows is rather an album, or a loop

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

    The likeness of the titles, times the nearness of the lengths (0.7 at the limit), less a tenth where the channel is
    not the artist's own, and half of it where nobody says that it is the artist. A mark of the wrong thing, such as
    karaoke, or a wrong number leaves a third of it; words in brackets that neither song nor artist explain leave half.
    A video of another length, or of none, is never the track; nor is a very long one where the track has no length.
    """
    if seconds is None or (track.seconds is None and seconds > _LONG):
        return 0.0
    nearness = 0.0
    if track.seconds is not None:
        nearness = 1 - abs(seconds - track.seconds) / tolerance(track.seconds)
        if nearness < 0:
            return 0.0
    fit = _title_fit(track, title) * (0.7 + 0.3 * nearness)
    if not _is_by_artist(track, title, channel):
        fit *= 0.5
    if not _is_official(track, channel):
        fit *= 0.9
    if wrong_marks(track, title, channel) or _wrong_numbers(track, title):
        fit *= 0.3
    elif _strange_asides(track, title):
        fit *= 0.5
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
    # A channel may well be called live, or after a mix.
    by_channel = marks(channel) - marks(track.artist.name) - {"live", "talk", "remix", "edit"}
    return (marks(text) | by_channel) - track.marks


# Words of a video's title that say nothing about which song it is.
_NOISE = frozenset(
    "official video audio music lyric lyrics visualizer visualiser clip videoclip hd hq 4k uhd mv remaster "
    "remastered topic vevo album single ep new full explicit clean stereo mono".split()
)
# Words that join others, in some of the languages of names and titles.
_JOINTS = frozenset("the a an of from in on at by with and los las les die der das el la de du y und et".split())
# Between the artists of one song, in the part of a video's title that names them.
_CREDITS = re.compile(r"\s*[&,+/]\s*|\s+(?:x|and|y|und|et|with|vs\.?|feat\.?|ft\.?)\s+", re.IGNORECASE)


def _title_fit(track: Track, title: str) -> float:
    """The likeness of two titles, from 0 to 1: the shares of each one's words that the other has, multiplied.

    So two words of three are not enough, whichever of the two titles lacks the third.
    """
    bare = song_title(_legible(title))
    wanted = title_words(song_title(track.title))
    recall = _share(wanted, title_words(bare))
    # Words that the song does not have count against the video, unless they are noise or name the artist.
    parts = re.split(r"\s+[-–—:•]+\s+|(?<=\w):\s", _main(bare))
    core = [word for part in parts for word in _less_names(track, part) if word in wanted or word not in _NOISE]
    precision = _share(core, wanted) if core else recall
    return precision * recall


def _legible(title: str) -> str:
    return re.sub(r"\bM/V\b", "MV", title, flags=re.IGNORECASE)  # no letters M and V, let alone a five


def _main(title: str) -> str:
    """The title less its asides: what stands in brackets or after a bar."""
    for aside in brackets(title):
        title = title.replace(aside, " ", 1)
    return re.split(r"\s*[|•]\s*", title)[0] or title


def _less_names(track: Track, part: str) -> list[str]:
    """The words of a part of a title less the artist's name; none where it lists artists, this one among them."""
    if any(_squashed(credit) in map(_squashed, _names(track)) for credit in _CREDITS.split(part)):
        return []
    found = list(title_words(part)) if words(part)[0].isalnum() else []
    for name in sorted(_names(track), key=len, reverse=True):
        run = _run_of(title_words(name), found)
        found = found[: run.start] + found[run.stop :]
    return found


def _wrong_numbers(track: Track, title: str) -> bool:
    """Whether the video's title lacks a number of the track's or has one more; a year may be added."""
    title = _legible(title)
    wanted = title_words(track.title)
    core = {word for part in re.split(r"\s[-–—|]\s", title) for word in _less_names(track, part)}
    extra = {number for number in numbers(title) & core if number not in wanted and not _YEAR.fullmatch(number)}
    return bool(extra or numbers(song_title(track.title)) - set(title_words(title)))


_YEAR = re.compile(r"(?:19|20)\d\d")


def _strange_asides(track: Track, title: str) -> bool:
    """Whether brackets, or what follows a bar, have words that neither song, artist nor release explain."""
    known = {*title_words(track.title), *title_words(track.release), *_NOISE, *_JOINTS}
    known |= {word for name in _names(track) for word in title_words(name)}
    if track.marks:
        known |= {"version", "mix", "edit", "take"}
    title = song_title(_legible(title))
    asides = [*brackets(title), *re.split(r"\s*[|•]\s*", title)[1:]]
    strange = {word for aside in asides for word in title_words(without_marks(aside, track.marks)) if word.isalnum()}
    return any(not _YEAR.fullmatch(word) for word in strange - known)


def _is_by_artist(track: Track, title: str, channel: str) -> bool:
    """Whether title or channel name the artist, by one of the names, beside the words of the song itself."""
    rest = list(title_words(title))
    for word in title_words(song_title(track.title)):
        if word in rest:
            rest.remove(word)  # "The Seeker" is not a sign of The Who
    offered = [*rest, "|", *title_words(channel)]
    for name in _names(track):
        said = title_words(name)
        if _run_of(said, offered) or _share([word for word in said if word not in _JOINTS] or said, offered) == 1:
            return True
    return any(_squashed(name) == _channel_name(channel) for name in _names(track))


def _run_of(name: Sequence[str], offered: Sequence[str]) -> range:
    """Where a name stands among words, however either is written apart: "AC/DC" as "ACDC"; empty where nowhere."""
    wanted = "".join(name)
    for start in range(len(offered)):
        run = ""
        for stop in range(start, len(offered)):
            run += offered[stop]
            if run == wanted:
                return range(start, stop + 1)
            if not wanted.startswith(run):
                break
    return range(0)


def _is_official(track: Track, channel: str) -> bool:
    """Whether it is the channel of the artist: "X - Topic", where labels deliver songs, or one called so."""
    return _channel_name(channel) in {re.sub(r"(music|band)+$", "", _squashed(own)) for own in _names(track)}


def _channel_name(channel: str) -> str:
    return re.sub(r"(topic|vevo|official|music|band|channel)+$", "", _squashed(channel))


def _squashed(name: str) -> str:
    return "".join(words(name))


def _names(track: Track) -> tuple[str, ...]:
    return (track.artist.name, *track.artist.aliases)


def _share(wanted: Iterable[str], offered: Iterable[str]) -> float:
    """The share of the wanted words that are among the offered, give or take a typing error; numbers must be right."""
    wanted, offered = set(wanted), set(offered)
    return sum(any(_same_word(word, other) for other in offered) for word in wanted) / len(wanted)


def _same_word(one: str, other: str) -> bool:
    """Equal, or long and but for a letter or so the same; "eels" and "feels" are two words, and so are numbers."""
    if one == other:
        return True
    return (
        min(len(one), len(other)) >= 5
        and abs(len(one) - len(other)) <= 1
        and not (one.isdecimal() or other.isdecimal())
        and fuzz.ratio(one, other) >= 85
    )


_VIDEO_ID = re.compile(
    r"(?:(?:https?://)?(?:www\.|m\.|music\.)?(?:youtube\.com/(?:watch\?(?:.*&)?v=|shorts/|embed/)|youtu\.be/))?"
    r"([\w-]{11})(?:[?&#].*)?"
)


def video_id(url: str) -> str | None:
    """The id of the video that an address on YouTube leads to; None where it is no such address."""
    found = _VIDEO_ID.fullmatch(url.strip())
    return found[1] if found else None


# Asking


def check(settings: CrawlSettings) -> str:
    """What a person should know of these settings before the crawl; nothing where all is well.

    Raises:
        ConfigError: the file of cookies is none.
    """
    if not settings.cookies:
        return ""
    with _Client(settings, Pace(), _options(Path(), settings, _Log(), Pace())) as client:
        if client.has_javascript:
            return ""
    return (
        "With cookies, yt-dlp needs a JavaScript runtime such as Deno, and finds none: most songs will fail for now. "
        "Install one, or crawl without cookies."
    )


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
            NetworkError: YouTube does not answer, or yt-dlp makes nothing of the answer.
            BlockedError: it has shut us out.
        """
        query = f"ytsearch{self.settings.candidates}:{track.artist.name} {track.title}"
        try:
            with self._reasons():
                answer = self._client.extract_info(query, download=False)
        except RefusedError as error:  # that says nothing about the song
            raise NetworkError(f"YouTube refuses the search: {error.message}") from error
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
            BlockedError: it has shut us out.
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
                # A kill right after the last byte leaves a part that is whole, which yt-dlp cannot go on with.
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
            kind = RefusedError if "max-filesize" in self._log.last else NetworkError
            raise kind(f"Nothing came of the download. {_plain(self._log.last)}".strip())
        size, promised = files[0].stat().st_size, downloads[0].get("filesize")
        if promised and size != promised:  # another file under the song's address, such as a login page
            files[0].unlink()
            raise NetworkError(f"The download has {size} bytes, where YouTube promised {promised}.")
        return files[0]

    @contextmanager
    def _reasons(self) -> Iterator[None]:
        """yt-dlp's errors become ours; one of which it is not clear what it means counts as the network's."""
        self._client.broken.clear()
        try:
            yield
        except YoutubeDLError as error:
            self._explain(error)
        except (MusicLDMError, OSError, Stopped):
            raise
        except Exception as error:  # one odd answer must not end the crawl, again and again at the same song
            raise NetworkError(f"yt-dlp stumbles over the answer: {type(error).__name__}: {error}.") from error

    def _explain(self, error: YoutubeDLError) -> NoReturn:
        text, causes = _plain(str(error)), list(_causes(error))
        if re.search(_SHUT_OUT, text, re.IGNORECASE):
            raise _blocked(text) from error
        for cause in causes:
            if isinstance(cause, BlockedError):
                raise cause
            if isinstance(cause, OSError) and cause.errno in _OUR_DISK:
                raise cannot_write(self.folder, cause) from error
        if "Incomplete data received" in text:
            raise NetworkError(f"YouTube sent half an answer: {text}") from error
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


def candidate(track: Track, id: str, title: str, channel: str, seconds: float | None) -> Candidate:
    """A video weighed for a track."""
    fit = score(track, title, channel, seconds)
    return Candidate(id, title, channel, seconds, fit, tuple(sorted(wrong_marks(track, title, channel))))


# How yt-dlp says that a video has formats, none of which it can take.
_NO_SOUND = r"requested format is not available|only images are available|no video formats found"

# How YouTube says that there will be something to hear later.
_NOT_YET = r"premieres? (?:in|on|at)\b|will begin|starts? in\b|processing this video|being processed|try again later"

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
            raise ConfigError(
                f"{settings.cookies} is no file of cookies in Netscape format.", "Export it from the browser again."
            ) from error

    @functools.cached_property
    def has_javascript(self) -> bool:
        """Whether yt-dlp finds a JavaScript runtime that it can use."""
        infos = [runtime.info for runtime in self._js_runtimes.values() if runtime]
        return any(info is not None and info.supported for info in infos)

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
            # A song's own address may be forbidden, or a manifest's: that is no judgement on us.
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
        "extractor_args": {
            "youtube": {
                "raise_incomplete_data": ["true"],  # half an answer is not "finds nothing"
                "skip": ["hls", "dash", "translated_subs"],  # sound has an address of its own, without a manifest
            }
        },
        "allowed_extractors": ["youtube", "youtube:search"],
        "remote_components": [],  # no code from the web
        "cachedir": False,
        # yt-dlp writes cookies back: to a copy, since the file is not ours, and several threads have it.
        "cookiefile": _read_cookies(settings.cookies) if settings.cookies else None,
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


def _read_cookies(file: str) -> io.StringIO:
    try:
        return io.StringIO(Path(file).read_text(errors="replace"))
    except OSError as error:
        raise ConfigError(f"The cookies in {file} cannot be read: {error.strerror}.") from error


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
        if isinstance(error, TransportError):  # what lies behind it is the network's, not our disk's
            continue
        waiting += [getattr(error, "cause", None), (getattr(error, "exc_info", None) or (None, None))[1]]
        waiting += [error.__cause__, error.__context__]


def _plain(message: str) -> str:
    """yt-dlp's message without its labels and its advice, which is on its own options and on reporting bugs."""
    message = re.sub(r"\x1b\[[0-9;]*m", "", message).strip()
    message = re.sub(r"^(ERROR:\s*)?(\[[\w:+-]+\]\s*)?([\w-]{11}:\s*)?", "", message)
    return re.split(_ADVICE, message)[0]


_ADVICE = (
    r"\s*(?:\(caused by|; please report this issue|; Confirm you are on the latest|(?:(?<=\.)\s|\n)"
    r"(?:Use --|It is recommended to use|You might want to use|See\s+https?:|For more information, refer to))"
)
