"""Which video is a track: candidates weighed by title, channel, length and what they say of themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rapidfuzz import fuzz

from musicldm.crawl.catalog import Track
from musicldm.crawl.titles import brackets, marks, numbers, plain, song_title, title_words, without_marks, words

THRESHOLD = 0.6  # of a score from 0 to 1; what scores less counts as another song

_LONG = 20 * 60.0  # seconds; where a song's length is unknown, a longer video is likely an album or a loop


@dataclass(frozen=True)
class Candidate:
    """One search result; `score`, from 0 to 1, is how well it matches the track."""

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


def scored(track: Track, id: str, title: str, channel: str, seconds: float | None) -> Candidate:
    """A video with its score for a track."""
    fit = score(track, title, channel, seconds)
    return Candidate(id, title, channel, seconds, fit, tuple(sorted(wrong_marks(track, title, channel))))


def score(track: Track, title: str, channel: str, seconds: float | None) -> float:
    """How well a video matches a track, from 0 to 1.

    The similarity of the titles times that of the lengths (0.7 at the limit), times 0.9 where the channel is not the
    artist's own, and times 0.5 where neither title nor channel name the artist. A mark of another kind of recording,
    such as karaoke, or a wrong number multiplies it by 0.3; words in brackets that neither song nor artist explain, by
    0.5. A video of another or an unknown length scores 0; so does a very long one where the track has no length.
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
    """Seconds by which a video's length may differ from the recording's: 3, or 3 % of a long one."""
    return max(3.0, 0.03 * seconds)


def wrong_marks(track: Track, title: str, channel: str) -> frozenset[str]:
    """What title or channel say of the video, beyond the names of the song and the artist, and the track does not."""
    text = f" {plain(title)} "
    for own in (track.title, song_title(track.title), *_names(track)):
        # Songs and bands may themselves be called Live or Cover, which then says nothing.
        text = text.replace(f" {plain(own)} ", " ", 1)
    # A channel may well be called live, or after a mix.
    by_channel = marks(channel) - marks(track.artist.name) - {"live", "talk", "remix", "edit"}
    return (marks(text) | by_channel) - track.marks


# Words of a video's title that say nothing about which song it is.
_NOISE = frozenset(
    "official video audio music lyric lyrics visualizer visualiser clip videoclip hd hq 4k uhd mv remaster "
    "remastered topic vevo album single ep new full explicit clean stereo mono".split()
)
# Conjunctions, articles and prepositions in some of the languages of names and titles.
_JOINTS = frozenset("the a an of from in on at by with and los las les die der das el la de du y und et".split())
# Between the artists of one song, in the part of a video's title that names them.
_CREDITS = re.compile(r"\s*[&,+/]\s*|\s+(?:x|and|y|und|et|with|vs\.?|feat\.?|ft\.?)\s+", re.IGNORECASE)


def _title_fit(track: Track, title: str) -> float:
    """The similarity of two titles, from 0 to 1: the fractions of each one's words that the other has, multiplied.

    So two words of three are not enough, whichever of the two titles lacks the third.
    """
    bare = song_title(_legible(title))
    wanted = title_words(song_title(track.title))
    recall = _fraction(wanted, title_words(bare))
    # Words that the song does not have count against the video, unless they are noise or name the artist.
    parts = re.split(r"\s+[-–—:•]+\s+|(?<=\w):\s", _main(bare))
    core = [word for part in parts for word in _less_names(track, part) if word in wanted or word not in _NOISE]
    precision = _fraction(core, wanted) if core else recall
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
    if any(_joined(credit) in map(_joined, _names(track)) for credit in _CREDITS.split(part)):
        return []
    found = list(title_words(part)) if words(part)[0].isalnum() else []
    # The longest first: a shorter one may be a part of it, and would leave the rest behind.
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
        if _run_of(said, offered) or _fraction([word for word in said if word not in _JOINTS] or said, offered) == 1:
            return True
    return any(_joined(name) == _channel_name(channel) for name in _names(track))


def _run_of(name: Sequence[str], offered: Sequence[str]) -> range:
    """Where a name occurs among words, however they are spaced ("AC/DC" as "ACDC"); empty where it does not."""
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
    return _channel_name(channel) in {re.sub(r"(music|band)+$", "", _joined(own)) for own in _names(track)}


def _channel_name(channel: str) -> str:
    return re.sub(r"(topic|vevo|official|music|band|channel)+$", "", _joined(channel))


def _joined(name: str) -> str:
    return "".join(words(name))


def _names(track: Track) -> tuple[str, ...]:
    return (track.artist.name, *track.artist.aliases)


def _fraction(wanted: Iterable[str], offered: Iterable[str]) -> float:
    """The fraction of the wanted words that are offered, allowing for typing errors; numbers must be right."""
    wanted, offered = set(wanted), set(offered)
    return sum(any(_same_word(word, other) for other in offered) for word in wanted) / len(wanted)


def _same_word(one: str, other: str) -> bool:
    """Whether two words are equal, or long and nearly so; "eels" and "feels" differ, and so do numbers."""
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
