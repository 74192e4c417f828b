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
        places = {name: place for place, name in enumerate(settings["names"])}
        return torch.tensor([places.get(name, -1) for name in crops.artists])

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
        seconds: dict[str, float] = defaultdict(float)
        for track in tracks:
            if track.split == "train" and track.artist in self.artists:
                seconds[track.artist] += track.seconds
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

    Raises:
        UsageError: a weight is no positive number.
        NotFoundError: an artist that is not among them.
    """
    places = {name.casefold(): i for i, name in enumerate(known)}
    # The longest first, lest one artist's name be taken for the beginning of another's.
    names = "|".join(re.escape(name) for name in sorted(known, key=len, reverse=True))  # which may have commas
    item = re.compile(rf"\s*({names})\s*(?::([^,]*))?(?:,|$)", re.IGNORECASE)
    weights, at = [0.0] * len(known), 0
    while at < len(wanted):
        found = item.match(wanted, at)
        # Regular expressions and `casefold` disagree on a few letters, such as the dotless i: a match may have no
        # place.
        place = places.get(found[1].casefold()) if found else None
        if found is None or place is None:
            name = wanted[at:].split(",")[0].partition(":")[0].strip()
            raise NotFoundError(f"This model knows no artist {name!r}.", _nearest(name, known))
        try:
            weight = float(found[2] or 1)
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise UsageError(
                f"{found[0].strip(' ,')!r} is not a valid weight of an artist: expected a positive number.",
                'Such as "Chopin:0.7,Bach:0.3".',
            )
        weights[place] += weight
        at = found.end()
    total = sum(weights)
    return [weight / total for weight in weights]


def _nearest(name: str, known: Sequence[str]) -> str:
    lowered = {each.casefold(): each for each in known}
    near = [lowered[each] for each in difflib.get_close_matches(name.casefold(), lowered, 5, 0.4)]
    # Surnames alone are what people type.
    near += [each for each in known if name and name.casefold() in each.casefold() and each not in near]
    return f"Nearest: {', '.join(near[:5])}." if near else f"It knows {', '.join(known[:5])}{' …' * (len(known) > 5)}."
