"""Whose music it is: one of the artists of the training music, or a mixture of several."""

from __future__ import annotations

import difflib
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musicldm.conditions.base import Condition, Source, Track
from musicldm.core.errors import ConfigError, NotFoundError, UsageError
from musicldm.core.names import folded, place_of

if TYPE_CHECKING:
    from musicldm.latents.dataset import Crops


class ArtistCondition(Condition):
    """A learned vector for each artist.

    Values are either weights of all artists, [B, A], which sum to 1 (all 0: absent), or one artist's place for each
    item, int64 [B] (-1: absent), which takes less room on the way from the store.

    Its only setting is `names`: the artists in the order of their embeddings, taken from the store when training.
    """

    name = "artist"
    plural = "artists"
    kind = "vector"

    def __init__(self, settings: Mapping[str, Any], width: int) -> None:
        super().__init__(settings, width)
        self.artists = names_in(settings)
        # Zeros, as the null embedding is: in the beginning no artist differs from none.
        self.table = nn.Parameter(torch.zeros(len(self.artists), width))

    @classmethod
    def fitted(cls, settings: Mapping[str, Any], source: Source) -> dict[str, Any]:
        return {"names": tuple(source.artists)}

    @classmethod
    def is_usable(cls, settings: Mapping[str, Any]) -> bool:
        return bool(names_in(settings))

    @classmethod
    def of_crops(cls, settings: Mapping[str, Any], crops: Crops) -> Tensor:
        names = settings["names"]
        # However it is spelled; but where an old model has two spellings of a name, each counts for itself.
        places = {folded(name): place for place, name in enumerate(names)} | {name: i for i, name in enumerate(names)}
        return torch.tensor([places.get(name, places.get(folded(name), -1)) for name in crops.artists])

    def parse(self, value: Any) -> Tensor:
        return torch.tensor([mixture(str(value), self.artists)])

    def embed(self, values: Tensor) -> Tensor:
        if values.dim() == 1:
            # −1 becomes the first column, which is cut off: an absent artist has a row of zeros.
            values = F.one_hot(values + 1, len(self.artists) + 1)[:, 1:].float()
        return values @ self.table

    def present(self, values: Tensor) -> Tensor:
        return values >= 0 if values.dim() == 1 else values.sum(dim=1) > 0

    @property
    def choices(self) -> tuple[str, ...]:
        return self.artists

    def demos(self, tracks: Sequence[Track], count: int) -> list[str]:
        """The artists with the most music."""
        known = {folded(artist): artist for artist in self.artists}
        seconds: dict[str, float] = defaultdict(float)
        for track in tracks:
            if track.split == "train" and folded(track.artist) in known:
                seconds[known[folded(track.artist)]] += track.seconds
        return sorted(seconds, key=lambda artist: (-seconds[artist], artist))[:count]


def names_in(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The artists' names in the condition's table; none where it has no such key.

    Raises:
        ConfigError: they are not names.
    """
    names = settings.get("names") or ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ConfigError("conditions.settings.artist.names must be a list of names.")
    return tuple(names)


def mixture(wanted: str, known: Sequence[str]) -> list[float]:
    """What "Chopin:0.7,Bach:0.3" asks of each of the `known` artists; it sums to 1.

    Capitals and the form of accents do not matter. A name may stand in quotes, as in `crawl`; one with commas or colons
    of its own is found without them, too.

    Raises:
        UsageError: a weight is no positive number.
        NotFoundError: an artist that is not among them; AmbiguousError, where several are spelled alike.
    """
    pieces, at = wanted.split(","), 0
    if len(pieces) > 1 and not pieces[-1].strip():
        pieces.pop()  # a comma at the end
    weights = [0.0] * len(known)
    while at < len(pieces):
        # The longest first, lest one artist's name be taken for the beginning of another's.
        for stop in range(len(pieces), at, -1):
            if found := _named(",".join(pieces[at:stop]), known):
                place, text = found
                weights[place] += _weight(text, known[place])
                at = stop
                break
        else:
            name = _unknown(",".join(pieces[at:]))
            raise NotFoundError(f"This model knows no artist {name!r}.", _nearest(name, known))
    total = sum(weights)
    return [weight / total for weight in weights]


def _named(text: str, known: Sequence[str]) -> tuple[int, str] | None:
    """The place of an artist and the text of the weight, where a text is a name with or without one."""
    name, colon, weight = text.rpartition(":")
    candidates = [(text, "")]
    if colon and "," not in weight:
        candidates.append((name, weight.strip()))
    for candidate, rest in candidates:
        for spelling in (candidate.strip(), _unquoted(candidate)):
            place = place_of(spelling, known)
            if place is not None:
                return place, rest
    return None


def _weight(text: str, artist: str) -> float:
    try:
        weight = float(text or 1)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise UsageError(
            f"{f'{artist}:{text}'!r} is not a valid weight for an artist: expected a positive number.",
            'For example "Chopin:0.7,Bach:0.3".',
        )
    return weight


def _unquoted(text: str) -> str:
    """A name without the quotes around it; quotes within it are doubled, as in CSV."""
    text = text.strip()
    return text[1:-1].replace('""', '"') if len(text) > 1 and text[0] == text[-1] == '"' else text


def _unknown(text: str) -> str:
    """The first name of a text that begins with one that is not known."""
    quoted = re.match(r'\s*"[^"]*"', text)
    return _unquoted(quoted[0]) if quoted else text.split(",")[0].partition(":")[0].strip()


def _nearest(name: str, known: Sequence[str]) -> str:
    spelled = {folded(each): each for each in known}
    near = [spelled[each] for each in difflib.get_close_matches(folded(name), spelled, 5, 0.4)]
    # Surnames alone are what people type.
    near += [each for each in known if name and folded(name) in folded(each) and each not in near]
    return f"Nearest: {', '.join(near[:5])}." if near else f"It knows {', '.join(known[:5])}{' …' * (len(known) > 5)}."
