"""What titles and names say, compared without case, accents and punctuation."""

from __future__ import annotations

import re
import unicodedata

# What makes a recording another thing than the plain song, as it reads once `plain` has been over it.
_MARKS = {
    "live": r"live|unplugged|concert|en concierto|[ae][no] vivo|dal vivo|en directo|sessions?|rehearsals?|\w*ライブ\w*",
    "cover": r"covers?|covered by|tribute|parody|in the style of|made famous by|\w*カバー\w*",
    "karaoke": r"karaoke|backing tracks?|sing along|playback|minus one|(?:drum|bass|guitar)less"
    r"|no (?:drums|bass|guitar)",
    "instrumental": r"instrumentals?|no vocals|without vocals",
    "remix": r"remix|remixe[sd]|mashup|mash up|bootleg|bass boosted|dub|megamix"
    r"|(?<!original )(?<!mono )(?<!stereo )(?<!single )(?<!album )(?<!\d{4} )mix"
    r"|(?!radio|single|album|video)\b\w+ edit",
    "edit": r"edit",
    "acoustic": r"acoustic",
    "arrangement": r"a cap+el+as?|acap+el+as?|music box|8 ?bit|chiptune"
    r"|(?:vocals?|drums?|bass|guitars?|piano|strings?) only"
    r"|(?:piano|strings?|guitar|orchestral|orchestra|choir) version",
    "demo": r"demos?",
    "sped up": r"sped up|speed up|nightcore",
    "slowed": r"slowed|slowed down|reverb|daycore|chopped",
    "8d": r"8d|16d",
    "loop": r"loop|looped|extended|\d+ ?(?:hours?|hrs?|h)",
    "talk": r"reaction|reacts|review|tutorial|lesson|how to play|interview|trailer|teaser|preview|making of"
    r"|documentary|audiobook|spoken word",
    "album": r"full album|full ep",
}
_PATTERNS = {name: re.compile(rf"\b(?:{pattern})\b") for name, pattern in _MARKS.items()}

_ASIDE = re.compile(r"[(\[]([^)\]]*)[)\]]")
_DASH = re.compile(r"\s[-–—]\s")
# Remarks that leave the song the same: its mastering, the record it was on.
_REMARK = re.compile(
    r"(?:(?:\d{4}|digital|digitally) )*"
    r"(?:remaster|remastered|mono|stereo|explicit|clean|(?:album|single|original|lp) version)"
    r"(?: (?:version|\d{4}))*"
)
# "ft" may be feet: "6 ft Under".
_FEATURING = r"(?:feat|featuring|ft(?=\.)|(?<!\d\s)ft)\b\.?"
_GUESTS = re.compile(rf"\s{_FEATURING}.*?(?=\s[-–—|]\s|[(\[]|$)", re.IGNORECASE)
_GUESTS_ASIDE = re.compile(rf"\s*(?:{_FEATURING}|with\b)", re.IGNORECASE)

_NUMBERS = "one two three four five six seven eight nine ten"
_NUMBER_WORDS = {word: str(number) for number, word in enumerate(_NUMBERS.split(), start=1)}
# Up to 39, which suffices for parts; the lookahead refuses the empty word.
_ROMAN = re.compile(r"(?=.)(x{0,3})(ix|iv|v?i{0,3})")
_PART = ("pt", "pts", "parts")


def words(text: str) -> tuple[str, ...]:
    """The words of a name or title for comparing: no case, accents, apostrophes or punctuation.

    Only the accents of Latin, Greek and Cyrillic letters go: what is a sign above or below a letter in other scripts is
    a vowel, or another letter. A text of signs alone, as some bands have for a name, is one word.
    """
    bare = unicodedata.normalize("NFKD", text.casefold())
    bare = "".join(c for c in bare if not "\u0300" <= c <= "\u036f" and c not in "'’‘`´\u200c\u200d")
    bare = unicodedata.normalize("NFC", bare)
    parts = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in bare).split()
    return tuple(part for part in parts if part[0].isalnum()) or (text.casefold().strip(),)


def title_words(title: str) -> tuple[str, ...]:
    """The words of a song's title, where "Pt. IV" and "Part Four" are "part 4"."""
    return tuple(_number(word) or ("part" if word in _PART else word) for word in words(title))


def _number(word: str) -> str:
    if roman := _ROMAN.fullmatch(word):
        ones = {"ix": 9, "iv": 4}.get(roman[2], 5 * roman[2].count("v") + roman[2].count("i"))
        return str(10 * len(roman[1]) + ones)
    return _NUMBER_WORDS.get(word, "")


def numbers(title: str) -> frozenset[str]:
    """The numbers in a title that say which song it is: those in brackets only where they count parts.

    A number that begins with 0 is a track's, not the song's.
    """
    texts = [_ASIDE.sub(" ", title), *(aside for aside in brackets(title) if "part" in title_words(aside))]
    return frozenset(word for text in texts for word in title_words(text) if word.isdecimal() and word[0] != "0")


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


def without_marks(text: str, those: frozenset[str]) -> str:
    """The words of a text less what says any of those marks."""
    bare = plain(text)
    for name in those & _PATTERNS.keys():
        bare = _PATTERNS[name].sub(" ", bare)
    return bare


def title_marks(title: str) -> frozenset[str]:
    """The same of a recording's own title, where only an aside counts: "Live Forever" is not live."""
    after_dash = _DASH.split(_ASIDE.sub(" ", title))[1:]
    return frozenset(mark for aside in (*brackets(title), *after_dash) for mark in marks(aside))


def song_title(title: str) -> str:
    """The title less its remarks on guests and mastering."""

    def is_remark(text: str) -> bool:
        return bool(_GUESTS_ASIDE.match(text) or _REMARK.fullmatch(plain(text)))

    kept = _ASIDE.sub(lambda aside: " " if is_remark(aside[1]) else aside[0], title)
    first, *rest = _DASH.split(_GUESTS.sub("", kept))
    return " - ".join([first, *(part for part in rest if not is_remark(part))]).strip() or title
