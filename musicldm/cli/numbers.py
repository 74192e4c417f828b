"""Numbers of a command line: finite ones of 64 bits, whichever option they are of."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import typer

from musicldm.core.errors import UsageError

LARGEST = 1 << 63


def finite(app: typer.Typer) -> None:
    """Let every command of `app`, and of those within it, refuse other numbers: NaN passes any range."""
    for command in app.registered_commands:
        if command.callback is not None:
            command.callback = _checked(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            finite(group.typer_instance)


def _checked(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        for name, value in options.items():
            for number in value if isinstance(value, list | tuple) else [value]:
                if isinstance(number, int | float) and not -LARGEST < number < LARGEST:
                    option = f"--{name.replace('_', '-')}"
                    raise UsageError(f"{number} is not a valid number for {option}: expected a finite 64-bit number.")
        return command(*arguments, **options)

    return run
