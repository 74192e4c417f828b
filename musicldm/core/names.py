"""Names of artists, however they are typed: which spellings stand for one name, and which artists there are."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from musicldm.core.errors import AmbiguousError
from musicldm.core.text import caseless


@lru_cache(maxsize=1 << 16)
def folded(name: str) -> str:
    """What all spellings of a name share: those with composed and decomposed accents, in capitals or not.

    Two names are one where this is the same (`text.caseless`, and single spaces).
    """
    return " ".join(unicodedata.normalize("NFC", caseless(name)).split())


def composed(name: str) -> str:
    """A name as it is kept: accents composed, single spaces."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def distinct_names(names: Iterable[str]) -> list[str]:
    """Each name once, as it is spelled first."""
    first = dict[str, str]()
    for name in names:
        first.setdefault(folded(name), composed(name))
    return list(first.values())


def merged(counts: Mapping[str, int]) -> dict[str, str]:
    """Each spelling -> the one that stands for its name: the most frequent, and of those the first in the alphabet.

    Args:
        counts: how often each spelling occurs.
    """
    groups = defaultdict[str, list[str]](list)
    for name in counts:
        groups[folded(name)].append(name)
    best = {key: min(names, key=lambda name: (-counts[name], name)) for key, names in groups.items()}
    return {name: best[folded(name)] for name in counts}


def counted(artists: Iterable[str]) -> dict[str, int]:
    """Each artist once, whatever the spelling, with the number of times; the most frequent first, nobody ("") last."""
    spellings = Counter(artists)
    one = merged(spellings)
    counts = Counter[str]()
    for name, count in spellings.items():
        counts[one[name]] += count
    return dict(sorted(counts.items(), key=lambda item: (not item[0], -item[1], item[0])))


def listed(counts: Mapping[str, int], most: int = 8) -> str:
    """What `counted` found, in words: "3: Ann (12), Bob (4), Eve (1); without an artist: 2"."""
    known = [f"{name} ({count})" for name, count in counts.items() if name]
    rest = len(known) - most
    words = f"{len(known)}" + (": " + ", ".join(known[:most]) if known else "")
    words += f" and {rest} more" if rest > 0 else ""
    return words + (f"; without an artist: {counts['']}" if counts.get("") else "")


def place_of(name: str, known: Sequence[str]) -> int | None:
    """Where a name stands among the known ones: the same spelling, or else the only one that folds alike.

    Raises:
        AmbiguousError: several fold alike, and none is spelled so; the hint offers them.
    """
    if name in known:  # first: of several that fold alike, each can still be named
        return known.index(name)
    alike = [number for number, each in enumerate(known) if folded(each) == folded(name)]
    if len(alike) > 1:
        choice = "; ".join(_told_apart(known[number]) for number in alike)
        raise AmbiguousError(f"{len(alike)} artists are spelled like {name!r}.", f"Type one of them exactly: {choice}.")
    return alike[0] if alike else None


def _told_apart(name: str) -> str:
    """A name that differs from another perhaps in nothing that can be seen."""
    return repr(name) if name == unicodedata.normalize("NFC", name) else f"{name!r} with decomposed accents"
