"""Whose music a file is: by the crawl's catalog, by its tags, or by its folders, or by whatever a person says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from musicldm.core.errors import UsageError
from musicldm.core.names import composed, folded

Origin = Literal["catalog", "tag", "folder", "option", "nobody"]


class Whose(NamedTuple):
    """An artist, and where the name comes from; the artist is empty where nobody is known."""

    artist: str
    origin: Origin


NOBODY = Whose("", "nobody")

_NO_NAMES = frozenset(
    "unknown artist|<unknown>|[unknown]|unknown|various artists|various|v.a.|va|compilations".split("|")
)
_DISC = re.compile(
    r"(?:cd|dis[ck]|dvd|lp|vinyl|side|vol(?:ume)?\.?|part|pt\.?)[\s_.-]*"
    r"(?:\d{1,3}|[a-d]|[ivx]+|one|two|three|four|five|six)(?:\s*(?:of|/)\s*\d+)?(?:[\s_.]*[-–:(\[].*)?",
    re.IGNORECASE,
)
_YEAR = re.compile(
    r"[(\[]?(?:19|20)\d\d(?:[-–.]\d\d(?:[-–.]\d\d)?)?[)\]]?(?:[\s_]*[-–_.:][\s_]*.*|\s+[(\[].*)?|.*[(\[](?:19|20)\d\d[)\]].*"
)


@dataclass(frozen=True)
class ArtistRule:
    """Where the artists of a run's files come from."""

    kind: Literal["auto", "tag", "folder", "name"] = "auto"
    folder: int = 0
    """Of `folder`: 1 the first below the input folder, -1 the one in which the file lies."""
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> ArtistRule:
        """`tag`, `folder:N` or a name; empty: the usual rule.

        Raises:
            UsageError: no such folder.
        """
        text = composed(text)
        if not text:
            return cls()
        if text == "tag":
            return cls("tag")
        if text == "folder" or text.startswith("folder:"):
            number = re.fullmatch(r"folder:(-?[1-9]\d{0,2})", text)
            if number is None:
                raise UsageError(
                    f"{text!r} is not a valid artist folder: expected folder:N.",
                    "folder:1 is the first below the input folder, folder:-1 the one in which the file lies.",
                )
            return cls("folder", int(number[1]))
        return cls("name", name=text)

    def whose(self, place: PurePosixPath, tagged: str, crawled: str) -> Whose:
        """Whose a file is.

        Args:
            place: its path below the input folder, whose own name never counts.
            tagged: the artist of its tags.
            crawled: the artist of the crawl's catalog.
        """
        if self.kind == "name":
            return Whose(self.name, "option")
        if self.kind == "folder":
            folders = place.parts[:-1]
            index = self.folder - 1 if self.folder > 0 else self.folder
            there = -len(folders) <= index < len(folders)
            return Whose(composed(folders[index]), "folder") if there else NOBODY
        by_tag = Whose(composed(tagged), "tag") if _is_name(tagged) else NOBODY
        if self.kind == "tag":
            return by_tag
        if crawled:
            return Whose(composed(crawled), "catalog")
        return by_tag if by_tag.artist else by_folders(place.parts[:-1])


def by_folders(folders: Sequence[str]) -> Whose:
    """The nearest folder that may be an artist's name: no disc ("CD1") and its album, no year ("2004 - Album")."""
    after_disc = False
    for number in range(len(folders) - 1, -1, -1):
        name = folders[number]
        is_disc = _DISC.fullmatch(name.strip()) is not None
        # The folder around discs is their album, as long as there is another one around it.
        is_album = _YEAR.fullmatch(name.strip()) is not None or (after_disc and number > 0)
        if not is_disc and not is_album and _is_name(name):
            return Whose(composed(name), "folder")
        after_disc = is_disc
    return NOBODY


def _is_name(text: str) -> bool:
    return any(letter.isalpha() for letter in text) and folded(text) not in _NO_NAMES


USUAL = ArtistRule()
"""The rule of somebody who says nothing: catalog, tags, folders."""
