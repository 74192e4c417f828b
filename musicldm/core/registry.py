"""What can be chosen by name, and the module that defines it: nothing is imported before it is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from musicldm.core.errors import UsageError


class Registry:
    """Names of one kind of thing, each with the module attribute `package.module:NAME` that describes it.

    Args:
        kind: what these are, for sentences: "codec", "generator", "condition".
        entries: name -> where it is defined.
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def names(self) -> list[str]:
        """All names, in the order in which they were registered."""
        return list(self._entries)

    def register(self, name: str, where: str) -> None:
        """Add or replace an entry: `where` is `package.module:NAME`."""
        self._entries[name] = where

    def load(self, name: str) -> Any:
        """What a name stands for.

        Raises:
            UsageError: there is no such name.
        """
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Choose one of {', '.join(self._entries)}."
            raise UsageError(f"{name!r} is not a known {self.kind}.", hint)
        module, _, attribute = self._entries[name].partition(":")
        return getattr(import_module(module), attribute)
