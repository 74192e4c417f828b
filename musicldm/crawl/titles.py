"""What titles and names say, compared without case, accents and punctuation."""

from __future__ import annotations

import re
import unicodedata

# What makes a recording another thing than the plain song, as it reads once `plain` has been over it.
_MARKS = {
    "live": r"live|unplugged|in concert|en vivo|ao vivo|en directo",
    "cover": r"covers?|covered by|tribute|parody",
    "karaoke": r"karaoke|backing track|sing along|playback|minus one",
    "instrumental": r"instrumentals?",
    "remix": r"remix|remixe[sd]|mashup|mash up|bootleg|bass boosted",
    "acoustic": r"acoustic",
    "demo": r"demo",
    "sped up": r"sped up|speed up|nightcore",
    "slowed": r"slowed|slowed down|reverb|daycore",
    "8d": r"8d|16d",
    "loop": r"loop|looped|extended|\d+ ?(?:hours?|hrs?|h)",
    "talk": r"reaction|reacts|review|tutorial|lesson|how to play|interview|trailer|teaser|preview|making of",
    "album": r"full album|full ep",
}
_PATTERNS = {name: re.compile(rf"\b(?:{pattern})\b") for name, pattern in _MARKS.items()}

_ASIDE = re.compile(r"[(\[]([^)\]]*)[)\]]")
# Remarks that leave the song the same: its guests, its mastering, the record it was on.
_SAME = re.compile(
    r"\b(?:feat|ft|featuring|remaster|remastered|(?:album|single|original) version|mono|stereo|explicit)\b"
)
_GUESTS = re.compile(r"\s(?:feat|ft|featuring)\b\.?.*?(?=\s[-–—|]\s|[(\[]|$)", re.IGNORECASE)


def words(text: str) -> tuple[str, ...]:
    """The words of a name or title for comparing: no case, accents, apostrophes or punctuation.

    A text of signs alone, as some bands have for a name, is one word.
    """
    bare = unicodedata.normalize("NFKD", text.casefold())
    bare = "".join(c for c in bare if not "\u0300" <= c <= "\u036f" and c not in "'’‘`´")
    return tuple(re.findall(r"[^\W_]+", bare)) or (text.casefold().strip(),)


def plain(text: str) -> str:
    """The words of a text with a space between each."""
    return " ".join(words(text))


def brackets(title: str) -> list[str]:
    """What stands in brackets."""
    return _ASIDE.findall(title)


def marks(text: str) -> frozenset[str]:
    """What a text says of a recording wherever it says so: live, cover, karaoke, remix …"""
    bare = plain(text)
    return frozenset(name for name, pattern in _PATTERNS.items() if pattern.search(bare))


def title_marks(title: str) -> frozenset[str]:
    """The same of a recording's own title, where only an aside counts: "Live Forever" is not live."""
    after_dash = re.split(r"\s[-–—]\s", _ASIDE.sub(" ", title))[1:]
    return frozenset(mark for aside in (*brackets(title), *after_dash) for mark in marks(aside))


def song_title(title: str) -> str:
    """The title less its remarks on guests and mastering."""
    kept = _ASIDE.sub(lambda aside: " " if _SAME.search(plain(aside[1])) else aside[0], title)
    first, *rest = re.split(r"\s[-–—]\s", kept)
    kept = " - ".join([first, *(part for part in rest if not _SAME.search(plain(part)))])
    return _GUESTS.sub("", kept).strip() or title
