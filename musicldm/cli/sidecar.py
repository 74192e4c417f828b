"""How a take was made: a JSON file beside it, and the same in its metadata, from which it can be made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import musicldm
from musicldm.core.errors import DataError, MismatchError

if TYPE_CHECKING:
    from musicldm.sampling import Generator

NOT_TOLD = {"like", "output", "count", "take", "format", "device", "as_json", "quiet", "compiled"}
"""Options that do not change what is heard, or are told for each take."""


def recipe(generator: Generator, options: dict[str, Any], take: int, of: int, inputs: list[Path]) -> dict[str, Any]:
    """Everything that take number `take` of so many is made of, as plain data."""
    return {
        "musicldm": musicldm.__version__,
        "model": {"name": generator.name, "hash": generator.hash},
        "take": take,
        "of": of,
        "options": {key: plain(value) for key, value in sorted(options.items()) if key not in NOT_TOLD},
        "inputs": {str(path): _sha256(path) for path in inputs},
        "trained_on": generator.provenance(),
    }


def read(path: Path) -> dict[str, Any]:
    """The recipe in a JSON file, or in the metadata of an audio file.

    Raises:
        DataError: there is none.
    """
    from musicldm.media.audio.decode import probe

    hint = "Name the .json beside a take, or the take itself."
    try:
        text = path.read_text(encoding="utf-8") if path.suffix == ".json" else probe(path).comment
        made = json.loads(text)
        kinds = (made["options"], dict), (made["take"], int), (made["of"], int), (made["model"]["hash"], str)
        if not all(isinstance(value, kind) for value, kind in (*kinds, (made.get("inputs", {}), dict))):
            raise TypeError
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.", hint) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} does not tell how it was made.", hint) from error
    return dict(made)


def is_one(path: Path) -> bool:
    """Whether there is a recipe in a file."""
    try:
        read(path)
    except DataError:
        return False
    return True


def check(made: dict[str, Any], generator: Generator, inputs: Collection[Path]) -> None:
    """See that all is there as it was, as far as it is among the `inputs` still.

    Raises:
        MismatchError: another model, or an input that has changed.
    """
    if made["model"]["hash"] != generator.hash:
        raise MismatchError(
            f"The take was made by another model, {made['model'].get('name', '')!r}.", "Name that one with --model."
        )
    for name, digest in made.get("inputs", {}).items():
        if Path(name) in inputs and (not Path(name).is_file() or _sha256(Path(name)) != digest):
            raise MismatchError(
                f"{name} is not there as it was when the take was made.",
                "Bring it back, or name another file; a path counts from the folder where the take was made.",
            )


def fits(value: Any, kind: Any) -> bool:
    """Whether an option's value as JSON has it is of its type."""
    origin, kinds = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(fits(value, each) for each in kinds)
    if origin is Literal:
        return value in kinds
    if origin is list:
        return isinstance(value, list) and all(fits(each, kinds[0]) for each in value)
    if origin is tuple:
        return isinstance(value, list) and len(value) == len(kinds) and all(map(fits, value, kinds))
    if isinstance(value, bool):  # which is an int, too
        return kind is bool
    if kind is float:
        return isinstance(value, (int, float))
    return isinstance(value, str if kind is Path else kind)


def plain(value: Any) -> Any:
    """An option's value as JSON has it."""
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
