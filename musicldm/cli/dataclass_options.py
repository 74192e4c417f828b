"""A command whose options are the fields of a dataclass: each is declared once, and stays typed on its way."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

import typer

T = TypeVar("T")
Given = frozenset[str]
"""The names of the options that the command line itself says."""


def with_options(kind: type[T]) -> Callable[[Callable[[T, Given], None]], Callable[..., None]]:
    """Make a Typer command of a function that takes such a dataclass, and which of its fields were given.

    Args:
        kind: a dataclass whose fields are `Annotated` with `typer.Option`; a field's default is the option's.
    """
    hints = get_type_hints(kind, include_extras=True)

    def parameter(name: str, default: object) -> inspect.Parameter:
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name])

    def decorate(function: Callable[[T, Given], None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(context: typer.Context, **values: Any) -> None:
            # By name: the enumeration of sources is click's.
            sources = {name: getattr(context.get_parameter_source(name), "name", "") for name in values}
            function(kind(**values), frozenset(name for name, source in sources.items() if source == "COMMANDLINE"))

        first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        options = [
            parameter(field.name, inspect.Parameter.empty if field.default is MISSING else field.default)
            for field in fields(kind)  # type: ignore[arg-type]
        ]
        # Typer looks at both: the signature for names and defaults, the annotations for types.
        command.__signature__ = inspect.Signature([first, *options])  # type: ignore[attr-defined]
        command.__annotations__ = {"context": typer.Context, **hints, "return": None}
        return command

    return decorate
