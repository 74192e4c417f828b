"""Dataclasses from and to TOML and JSON, and the presets that come with the package.

A configuration is a tree of frozen dataclasses, each beside its owner. A preset or a user's file contains only what
differs from the defaults; an unknown key is an error that suggests the nearest one.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from musicldm.core.errors import ConfigError

T = TypeVar("T")


def from_dict(cls: type[T], data: dict[str, Any], where: str = "") -> T:
    """Build the dataclass `cls` from plain data, defaults filling the gaps.

    Raises:
        ConfigError: an unknown key, a value of the wrong type, or one that the dataclass refuses.
    """
    # The fields themselves have only the text of their types, since annotations are not evaluated.
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values = {}
    for key, value in data.items():
        path = f"{where}.{key}" if where else key
        if key not in known:
            raise ConfigError(f"Unknown configuration key {path!r}.", f"Known here: {_nearest(key, known)}.")
        values[key] = _convert(hints[key], value, path)
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


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where} must be a table.")
        return from_dict(typing.cast(type, hint), value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(f"{where} cannot be {value!r}.", f"Choose one of {', '.join(map(str, arguments))}.")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        # Only `X | None` is meant to occur. Of several types, which one is wanted would be a guess, so this fails.
        (hint,) = [argument for argument in arguments if argument is not type(None)]
        return _convert(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} must be a list.")
        # The first argument is that of all items: configurations have tuple[X, ...] only.
        return tuple(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    # TOML tells 1 from 1.0; people do not. `type() is`, because to isinstance True is an int as well.
    if hint is float and type(value) is int:
        return float(value)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise ConfigError(f"{where} must be of type {hint.__name__}, not {value!r}.")
    return value


def _nearest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"{close[0]!r} is near" if close else ", ".join(known)
