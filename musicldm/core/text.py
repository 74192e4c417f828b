"""Text of unknown origin: made fit to be printed, and to be compared."""

from __future__ import annotations

import re
import unicodedata

# C0 with ESC and the line ends, DEL and C1; the marks that reorder what follows (CVE-2021-42574) or end a line; and
# halves of surrogate pairs, which cannot be printed at all.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, keep: str = "") -> str:
    """The text with a � for every character that would steer a terminal rather than be seen.

    Args:
        keep: characters that are meant, such as a line end.
    """
    return _CONTROL.sub(lambda found: found[0] if found[0] in keep else "�", text)


def escaped_json(text: str) -> str:
    """JSON that means the same, with such characters as escapes."""
    # Outside of its strings JSON has none but line ends, so nothing else changes. Half a surrogate pair is an escape
    # already, or was none of ours.
    return _CONTROL.sub(lambda found: found[0] if found[0] in "\n\r\t" else f"\\u{ord(found[0]):04x}", text)


def caseless(text: str) -> str:
    """What texts have in common that differ only in capitals, or in composed and decomposed accents.

    Unicode's canonical caseless matching (The Unicode Standard, D145).
    """
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())
