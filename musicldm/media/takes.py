"""Takes of `musicldm sample`, known by the recipe that it leaves in their metadata and in a JSON file beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from musicldm.core.errors import DataError
from musicldm.core.reading import parse_json

_RECIPE = {"musicldm", "model", "take", "options"}  # keys of every release's recipes
_LONGEST = 1 << 20  # bytes


class TakeError(DataError):
    """A file is a take of our own, and those are not asked for."""


def is_recipe(data: Any) -> bool:
    """Whether some JSON says how a take was made."""
    return isinstance(data, dict) and data.keys() >= _RECIPE and isinstance(data["model"], dict)


def is_take(path: Path, comment: str) -> bool:
    """Whether musicldm made a file, by its comment, or by the JSON file beside it where it has none."""
    if comment.strip():
        return is_recipe(_read(comment))
    for beside in (path.with_suffix(".json"), path.with_name(f"{path.name}.json")):
        try:
            if beside.is_file() and beside.stat().st_size <= _LONGEST:
                return is_recipe(_read(beside.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError):
            continue
    return False


def _read(text: str) -> Any:
    try:
        return parse_json(text) if text.lstrip().startswith("{") else None
    except ValueError:
        return None
