"""Artists' names -> every recording on their official releases. The only file that imports musicbrainzngs.

That library keeps one server, one rate and one User-Agent for the whole process, so the newest `MusicBrainz` has them.
Its queries, paging and parser are used as they are, but not its reader: that has no time-out, holds a global lock for
as long as a server stays silent, and repeats a failed request for a minute without heeding Retry-After.
"""

from __future__ import annotations

import errno
import functools
import http.client
import re
import socket
import time
import unicodedata
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import musicbrainzngs

from musicldm import __version__
from musicldm.core.errors import AmbiguousError, NetworkError, NotFoundError
from musicldm.core.progress import Progress, silent
from musicldm.crawl.catalog import Artist, Role, Track
from musicldm.crawl.pace import Pace, within
from musicldm.crawl.settings import CrawlSettings
from musicldm.crawl.titles import marks, title_marks, words

_HINT = "Check the network connection and run the same command again; what was fetched is kept."
_PAGE = 100  # the most that MusicBrainz sends at once
_MBID = re.compile(
    r"(?:https?://musicbrainz\.org/artist/)?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/?", re.IGNORECASE
)
_ALIKE = 5  # points of the search's score, of 100, by which two artists may differ and still count as equally likely
_FAR = 30  # points by which an artist is so much better known that an exact name alone does not go before
_UNREACHABLE = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH)  # waiting will not help


@contextmanager
def _answers_that_make_sense() -> Iterator[None]:
    try:
        yield
    except (musicbrainzngs.MusicBrainzError, ValueError, KeyError) as error:
        raise NetworkError("MusicBrainz sent an answer that makes no sense.", _HINT) from error


class MusicBrainz:
    """The web service, at the pace that it permits.

    Every method raises NetworkError where the service does not answer or its answer makes no sense.
    """

    def __init__(self, settings: CrawlSettings) -> None:
        musicbrainzngs.set_hostname(settings.musicbrainz or "musicbrainz.org", use_https=not settings.musicbrainz)
        musicbrainzngs.set_useragent("musicldm", __version__, settings.contact or "no contact given")
        musicbrainzngs.set_rate_limit(False)  # it knows nothing of second tries; `_read` keeps the pace
        musicbrainzngs.musicbrainz._safe_read = functools.partial(_read, settings, Pace())

    @_answers_that_make_sense()
    def find_artist(self, name: str) -> Artist:
        """The artist called `name`: by exact name, else by alias, else but for accents and punctuation; or by its id.

        Among equals the service's own score decides. The score alone never does: the best of a search has a high one
        even where nothing fits.

        Raises:
            NotFoundError: nobody is called so; the hint names who comes near.
            AmbiguousError: several are, and are as well known, or one whose name fits less is far better known; the
                hint lists them with their ids.
        """
        if mbid := _MBID.fullmatch(name):
            return _artist(musicbrainzngs.get_artist_by_id(mbid[1].lower(), includes=["aliases"])["artist"])
        found = musicbrainzngs.search_artists(artist=name, alias=name, limit=25)["artist-list"]
        ranked = sorted(found, key=lambda artist: (_name_distance(name, artist), -_score(artist)))
        if not ranked or _name_distance(name, ranked[0]) == _STRANGER:
            near = "; ".join(artist["name"] for artist in ranked[:3])
            hint = f"Nearest there: {near}." if near else "Check the spelling on musicbrainz.org."
            raise NotFoundError(f"MusicBrainz knows no artist {name!r}.", hint)
        best = ranked[0]
        distance = _name_distance(name, best)
        alike = [
            _artist(artist)
            for artist in ranked
            if (_name_distance(name, artist) == distance and _score(artist) >= _score(best) - _ALIKE)
            or (distance < _name_distance(name, artist) < _STRANGER and _score(artist) >= _score(best) + _FAR)
        ]
        if len(alike) > 1:
            choices = "".join(
                f"\n  {artist.id}  {artist.name} ({artist.note or 'no more is known'})" for artist in alike
            )
            raise AmbiguousError(
                f"MusicBrainz knows {len(alike)} artists named {name!r}, equally likely; none was chosen.",
                f"Give the id of the one you mean instead of the name:{choices}",
            )
        return alike[0]

    @_answers_that_make_sense()
    def tracks(self, artist: Artist, progress: Progress = silent, role: Role = "performer") -> list[Track]:
        """Every recording of the artist in a role.

        As a performer: on official releases that are the artist's, under whatever name, all media of each, the earliest
        release first. As one who is credited: also on those of others. As a composer: of all works, whoever performs.

        One that stands on several releases comes several times. Videos and silence are left out, and so are other
        artists' songs on shared releases. `progress` counts releases, or works.
        """
        if role == "composer":
            return [track for work in self._works(artist, progress) for track in _performances(work, artist)]
        found = list(self._releases(progress, artist.name, artist=artist.id))
        if role == "credited":
            found += self._releases(progress, artist.name, track_artist=artist.id)
        # Releases without a date come last: an earlier one stands for the song's year.
        releases = sorted(found, key=lambda release: release.get("date") or "9999")
        return [track for release in releases for track in _on_release(release, artist)]

    def _releases(self, progress: Progress, name: str, **whose: str) -> Iterator[dict[str, Any]]:
        includes = ["recordings", "artist-credits", "isrcs", "release-groups"]
        browse = functools.partial(
            musicbrainzngs.browse_releases, release_status=["official"], includes=includes, **whose
        )
        return _pages(browse, "release", progress, name)

    def _works(self, artist: Artist, progress: Progress) -> Iterator[dict[str, Any]]:
        includes = ["artist-rels", "recording-rels"]
        browse = functools.partial(musicbrainzngs.browse_works, artist=artist.id, includes=includes)
        return _pages(browse, "work", progress, artist.name)


def _pages(browse: Callable[..., Any], kind: str, progress: Progress, name: str) -> Iterator[dict[str, Any]]:
    """All that there is to browse, page by page."""
    offset, total = 0, 1
    while offset < total:
        page = browse(limit=_PAGE, offset=offset)
        found = page[f"{kind}-list"]
        yield from found
        # A page of releases with many songs is cut short: the next begins after what came, not after the limit.
        offset, total = offset + len(found), page[f"{kind}-count"]
        progress(offset, total, name)
        if not found:
            return


def _artist(found: dict[str, Any]) -> Artist:
    years = found.get("life-span", {})
    begin, end = years.get("begin", "")[:4], years.get("end", "")[:4]
    span = f"{begin or '?'}–{end}" if begin or end else ""
    country = found.get("country") or found.get("area", {}).get("name")
    note = ", ".join(filter(None, (found.get("disambiguation"), country, span)))
    aliases = tuple(alias["alias"] for alias in found.get("alias-list", []) if alias["alias"])
    return Artist(found["id"], found["name"], note, aliases)


def _score(found: dict[str, Any]) -> int:
    return int(found.get("ext:score", 0))


_STRANGER = 3


def _name_distance(name: str, artist: dict[str, Any]) -> int:
    """0 for the same name, 1 for an alias, 2 for the same words, 3 (_STRANGER) for none of these."""
    name = _typed(name)
    aliases = [artist.get("sort-name", ""), *(alias["alias"] or "" for alias in artist.get("alias-list", []))]
    if name == _typed(artist["name"]):
        return 0
    if name in map(_typed, aliases):
        return 1
    if words(name) in (words(other) for other in (artist["name"], *aliases)):
        return 2
    return _STRANGER


def _typed(name: str) -> str:
    """A name as a keyboard has it: MusicBrainz writes Guns N’ Roses and Run‐D.M.C., hardly anyone else does."""
    return unicodedata.normalize("NFC", name).translate(_KEYBOARD).casefold()


_KEYBOARD = str.maketrans("‘’“”‐‑–", "''\"\"---")


# MusicBrainz's secondary types of release groups -> our marks.
_TYPES = {
    "Live": "live",
    "Remix": "remix",
    "DJ-mix": "remix",
    "Compilation": "compilation",
    "Demo": "demo",
    "Interview": "talk",
    "Spokenword": "talk",
    "Audiobook": "talk",
    "Audio drama": "talk",
}
_NOTHING = ("[silence]", "[data track]")  # MusicBrainz's titles for what is no music


def _on_release(release: dict[str, Any], artist: Artist) -> Iterator[Track]:
    types = release.get("release-group", {}).get("secondary-type-list", [])
    on_all = frozenset(_TYPES[kind] for kind in types if kind in _TYPES)
    year = re.match(r"\d{4}", release.get("date", ""))
    for medium in release.get("medium-list", []):
        hidden = [medium["pregap"]] if "pregap" in medium else []  # a song before the first
        for entry in hidden + medium.get("track-list", []):
            recording = entry["recording"]
            if recording.get("video") == "true" or recording["title"] in _NOTHING:
                continue
            if artist.id not in _credited(recording):
                continue
            milliseconds = recording.get("length") or entry.get("length")
            yield Track(
                recording=recording["id"],
                title=recording["title"],
                artist=artist,
                seconds=int(milliseconds) / 1000 if milliseconds else None,
                isrcs=tuple(recording.get("isrc-list", ())),
                release=release["title"],
                release_id=release["id"],
                year=int(year[0]) if year else None,
                marks=on_all | title_marks(recording["title"]) | marks(recording.get("disambiguation", "")),
            )


def _performances(work: dict[str, Any], artist: Artist) -> Iterator[Track]:
    """The recordings of a work, if this artist composed it and did not only write its words."""
    relations = work.get("artist-relation-list", [])
    if not any(each["type"] in _COMPOSED and each["artist"]["id"] == artist.id for each in relations):
        return
    for performance in work.get("recording-relation-list", []):
        recording, how = performance["recording"], performance.get("attribute-list", [])
        if recording.get("video") == "true" or recording["title"] in _NOTHING:
            continue
        yield Track(
            recording=recording["id"],
            title=recording["title"],
            artist=artist,
            seconds=int(recording["length"]) / 1000 if recording.get("length") else None,
            marks=frozenset({"live"} & set(how))
            | title_marks(recording["title"])
            | marks(recording.get("disambiguation", "")),
        )


_COMPOSED = ("composer", "writer")  # MusicBrainz's relations of an artist and a work; a writer made words and music


def _credited(recording: dict[str, Any]) -> set[str]:
    credits = recording.get("artist-credit", [])  # artists, and between them the words that join their names
    return {credit["artist"]["id"] for credit in credits if isinstance(credit, dict)}


def _read(
    settings: CrawlSettings, pace: Pace, opener: urllib.request.OpenerDirector, request: Any, body: Any = None
) -> bytes:
    """One request, repeated a few times where that may help: the replacement of musicbrainzngs' own reader."""
    where = f"MusicBrainz ({settings.musicbrainz or 'musicbrainz.org'})"
    problem = ""

    def request_once() -> bytes:
        with opener.open(request, body, settings.timeout) as answer:
            return bytes(answer.read())

    for attempt in range(settings.tries):
        pause = settings.retry_pause * (attempt + 1)
        pace.turn("request", settings.musicbrainz_interval)
        try:
            return within(settings.deadline, request_once)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                raise NotFoundError(f"{where} has nothing under {request.full_url.partition('?')[0]}.") from error
            problem = f"{where} answered {error.code} {error.reason}."
            # Only these may pass; any other answer would be the same again.
            if error.code not in (429, 500, 502, 503, 504):
                break
            pause = max(pause, _retry_after(error))
        except (OSError, http.client.HTTPException) as error:
            # A body that is cut short raises IncompleteRead, an HTTPException, which is no OSError.
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(cause, socket.gaierror) or getattr(cause, "errno", None) in _UNREACHABLE:
                problem = f"{where} cannot be reached."
                break
            if isinstance(cause, TimeoutError):
                problem = (
                    f"{where} did not answer within {settings.timeout:g} s, "
                    f"or not completely within {settings.deadline:g} s."
                )
            else:
                problem = f"The connection to {where} broke: {cause}."
        if attempt + 1 < settings.tries:
            time.sleep(pause)
    raise NetworkError(problem, _HINT)


def _retry_after(error: urllib.error.HTTPError) -> float:
    """Seconds to wait as the service requests, a minute at most."""
    text = error.headers.get("Retry-After", "")
    # The header may also be a date, for which our own pause stands in. A server cannot make us wait for hours.
    return min(float(text), 60.0) if text.isdecimal() else 0.0
