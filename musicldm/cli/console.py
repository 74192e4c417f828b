"""Output for people: results on stdout, everything else on stderr, progress bars only on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.markup import escape

from musicldm.core.errors import MusicLDMError, OutputError
from musicldm.core.progress import Progress as ProgressCallback
from musicldm.core.progress import silent

if TYPE_CHECKING:
    from rich.table import Table


class Console:
    """The output of one command.

    Args:
        quiet: no notes and no progress bars; results, warnings and errors only.
        as_json: the result is one JSON object on stdout.
    """

    def __init__(self, quiet: bool = False, as_json: bool = False) -> None:
        self.quiet = quiet
        self.as_json = as_json
        self.err = RichConsole(stderr=True, highlight=False)

    def result(self, data: dict[str, Any], lines: list[str]) -> None:
        """Print what the command made: `data` as JSON where --json was given, else `lines`."""
        text = json.dumps(data, ensure_ascii=False) if self.as_json else "\n".join(lines)
        if text:
            # Not by rich, which would break lines where a pipe or a narrow terminal ends, and paths with them.
            try:
                sys.stdout.write(text + "\n")
                sys.stdout.flush()
            except BrokenPipeError:
                raise  # the reader has seen enough, as `head` does
            except OSError as error:
                raise OutputError(
                    f"The results cannot be written to stdout: {error.strerror}.", "Redirect it to where there is room."
                ) from error

    def note(self, text: str) -> None:
        """A note on stderr that --quiet silences."""
        if not self.quiet:
            # Titles and paths may have [brackets], which rich would take for markup.
            self.err.print(escape(text), soft_wrap=True)

    def show(self, table: Table) -> None:
        """A table on stderr that --quiet silences."""
        if not self.quiet:
            self.err.print(table)

    def command(self, text: str) -> None:
        """A command line, as a person would type it."""
        if not self.quiet:
            self.err.print(f"[bold cyan]$ {escape(text)}[/bold cyan]", soft_wrap=True)

    def warn(self, text: str) -> None:
        """A warning, which --quiet does not silence."""
        self.err.print(f"[yellow]{escape(text)}[/yellow]", soft_wrap=True)

    def error(self, error: MusicLDMError) -> None:
        """What went wrong, and what to do about it."""
        try:
            self.err.print(f"[bold red]Error:[/bold red] {escape(error.message)}", soft_wrap=True)
            if error.hint:
                self.err.print(f"[dim]Hint:[/dim] {escape(error.hint)}", soft_wrap=True)
        except (
            MemoryError
        ):  # rich loads tables of its own for its first line, and an error may be that there is no room
            sys.stderr.write(f"Error: {error.message}\nHint: {error.hint}\n")

    @contextmanager
    def results_as_notes(self) -> Iterator[None]:
        """In this block, results of other commands go to stderr."""
        with redirect_stdout(sys.stderr):
            yield

    @contextmanager
    def progress(self, title: str) -> Iterator[ProgressCallback]:
        """A progress bar on stderr for the block; yields the callback that moves it."""
        if self.quiet or not self.err.is_terminal:
            yield silent
            return
        from rich.progress import (  # imported here, so that --help is instant
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[text]}"),
        )
        with Progress(*columns, console=self.err, transient=True) as bar:
            task = bar.add_task(escape(title), total=None, text="")

            def move(done: float, total: float | None, text: str = "") -> None:
                bar.update(task, completed=done, total=total, text=escape(text))

            yield move
