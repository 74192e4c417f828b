"""Dataclasses from and to TOML and JSON, and the presets that come with the package.

A configuration is a tree of frozen dataclasses, each beside its owner. A preset or a user's file contains only what
differs from the defaults; an unknown key is an error that suggests the nearest one. The same reader checks all other
JSON that we read back: every field has a type, and where `Between` says so, a range.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import tomllib
import types
import typing
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from musicldm.core.errors import ConfigError

T = TypeVar("T")
Unknown = Literal["refuse", "pass over"]


_LARGEST_INT = 1 << 63
"""What libraries in C take."""


@dataclasses.dataclass(frozen=True)
class Between:
    """The range of a field: of a number, or of the length of a text or list, as `Annotated[int, Between(1, 64)]`."""

    low: float
    high: float

    def check(self, value: Any, where: str) -> None:
        """Refuse what lies outside.

        Raises:
            ConfigError: it does.
        """
        size = len(value) if isinstance(value, str | tuple | list | dict) else value
        if not self.low <= size <= self.high:
            what = f"{where} has {size} items" if size is not value else f"{where} is {value!r:.40}"
            raise ConfigError(f"{what}: expected {self.low:g} to {self.high:g}.")


@dataclasses.dataclass(frozen=True)
class Matching:
    """The form of a text, as a regular expression."""

    pattern: str

    def check(self, value: Any, where: str) -> None:
        """Refuse what does not match.

        Raises:
            ConfigError: it does not.
        """
        if not re.fullmatch(self.pattern, value):
            raise ConfigError(f"{where} is {value!r:.80}, which does not have the expected form.")


Hash = Annotated[str, Between(1, 128)]
"""A digest."""
Count = Annotated[int, Between(0, 1 << 48)]
"""How many there are of something."""
Size = Annotated[int, Between(1, 1 << 48)]
"""The same where there must be some."""
Positive = Annotated[float, Between(0, 1e12)]
"""A number that is not negative."""


def from_dict(cls: type[T], data: dict[str, Any], where: str = "", unknown: Unknown = "refuse") -> T:
    """Build the dataclass `cls` from plain data, defaults filling the gaps.

    Args:
        unknown: what to do with a key that the dataclass does not have, as those are that a later release has added.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of its range, or one that the dataclass refuses.
    """
    hints, known = _fields(cls)  # type: ignore[arg-type]
    values = {}
    for key, value in data.items():
        path = f"{where}.{key}" if where else key
        if key in hints:
            values[key] = _convert(hints[key], value, path, unknown)
        elif unknown == "refuse":
            raise ConfigError(f"Unknown configuration key {path!r}.", f"Known here: {_nearest(key, known)}.")
    try:
        return cls(**values)
    except TypeError as error:
        # A field without a default was left out. What `__post_init__` refuses is a ConfigError, and passes through.
        raise ConfigError(f"Incomplete configuration{f' in {where}' if where else ''}: {error}.") from error


def to_dict(config: Any) -> dict[str, Any]:
    """The plain data of a configuration, ready for JSON."""
    return dataclasses.asdict(config)


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` updated with `over`, table by table; None in `over` means not given."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        elif value is not None:
            merged[key] = value
    return merged


def read_toml(path: Path) -> dict[str, Any]:
    """Read a user's TOML file.

    Raises:
        ConfigError: it is missing or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"There is no configuration file {path}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error


def preset(owner: str, name: str) -> dict[str, Any]:
    """The preset `name` that lies in the package `owner` of a codec or a generator, as plain data.

    Raises:
        ConfigError: there is no such preset.
    """
    names = presets(owner)
    if name not in names:
        raise ConfigError(f"There is no preset {name!r}.", f"Presets: {', '.join(names)}.")
    text = resources.files(owner).joinpath("presets", f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def presets(owner: str) -> list[str]:
    """The names of the presets in the package `owner`."""
    files = (file.name for file in resources.files(owner).joinpath("presets").iterdir())
    return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))


@cache
def _fields(cls: type) -> tuple[dict[str, Any], list[str]]:
    """The types of a dataclass's fields, and their names in order."""
    names = [field.name for field in dataclasses.fields(cls)]
    # The fields themselves have only the text of their types, since annotations are not evaluated.
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: hints[name] for name in names}, names


def _convert(hint: Any, value: Any, where: str, unknown: Unknown) -> Any:
    """A value as its field's type has it; one function for each kind of type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        value = _convert(arguments[0], value, where, unknown)
        for limits in hint.__metadata__:
            if isinstance(limits, Between | Matching):
                limits.check(value, where)
        return value
    if dataclasses.is_dataclass(hint):
        _expect(isinstance(value, dict), f"{where} must be a table.")
        return from_dict(typing.cast(type, hint), value, where, unknown)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where} cannot be {value!r:.80}.", f"Choose one of {', '.join(map(str, arguments))}.")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        # Only `X | None` is meant to occur. Of several types, which one is wanted would be a guess, so this fails.
        (hint,) = [argument for argument in arguments if argument is not type(None)]
        return _convert(hint, value, where, unknown)
    if origin in (tuple, list):
        _expect(isinstance(value, list | tuple), f"{where} must be a list.")
        # The first argument is that of all items: configurations have tuple[X, ...] only.
        return origin(_convert(arguments[0], item, f"{where}[{i}]", unknown) for i, item in enumerate(value))
    if origin is dict:
        _expect(isinstance(value, dict), f"{where} must be a table.")
        return {
            _convert(arguments[0], key, f"a key of {where}", unknown): _convert(
                arguments[1], item, f"{where}.{key}", unknown
            )
            for key, item in value.items()
        }
    return _plain(hint, value, where)


def _plain(hint: Any, value: Any, where: str) -> Any:
    """A number, a text, or what may be anything."""
    # TOML tells 1 from 1.0; people do not. `type() is`, because to isinstance True is an int as well.
    if type(value) is int and hint in (int, float):
        _expect(-_LARGEST_INT <= value < _LARGEST_INT, f"{where} is too large a number.")
        return hint(value)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise ConfigError(f"{where} must be of type {hint.__name__}, not {value!r:.80}.")
    if hint is float:
        _expect(math.isfinite(value), f"{where} must be a finite number, not {value}.")
    return value


def _expect(fits: bool, sentence: str) -> None:
    if not fits:
        raise ConfigError(sentence)


def _nearest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"{close[0]!r} is near" if close else ", ".join(known)
