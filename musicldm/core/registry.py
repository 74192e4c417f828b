"""What can be chosen by name, and where it lives: nothing is imported before it is needed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from musicldm.core.errors import UsageError


def resolve(place: str) -> Any:
    """What stands at a place `package.module:ATTRIBUTE`; its module is imported now."""
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


class Registry:
    """Names of one kind of thing, each with the place `package.module:ATTRIBUTE` that describes it.

    Another package adds its own by an entry point of the group `musicldm.<kind>s`, such as
    `[project.entry-points."musicldm.codecs"]`; a name of ours is never replaced by one of those.

    Args:
        kind: what these are, for sentences: "codec", "generator", "condition".
        entries: name -> place.
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def names(self) -> list[str]:
        """All names: ours first, then those of other installed packages."""
        return list(self._places())

    def load(self, name: str) -> Any:
        """What a name stands for.

        Raises:
            UsageError: there is no such name.
        """
        # Looking for other packages takes milliseconds that our own names need not cost.
        place = self._entries.get(name) or self._places().get(name)
        if place is None:
            names = self.names()
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(names)}."
            raise UsageError(f"There is no {self.kind} {name!r}.", hint)
        return resolve(place)

    def _places(self) -> dict[str, str]:
        others = {point.name: point.value for point in entry_points(group=f"musicldm.{self.kind}s")}
        return {**self._entries, **{name: place for name, place in others.items() if name not in self._entries}}
