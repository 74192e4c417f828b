"""Output for people: results on stdout, everything else on stderr, progress bars only on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment

from musicldm.core.errors import MusicLDMError, OutputError
from musicldm.core.progress import Progress as ProgressCallback
from musicldm.core.progress import silent
from musicldm.core.text import escaped_json, printable

if TYPE_CHECKING:
    from rich.table import Table


class _Printable(RichConsole):
    """Prints nothing that would steer the terminal but what rich itself puts there: names and titles are anybody's."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        # All passes through here, tables and progress bars as well, before it is laid out and coloured.
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text, keep="\n"))


class Console:
    """The output of one command.

    Args:
        quiet: no notes and no progress bars; results, warnings and errors only.
        as_json: the result is one JSON object on stdout.
    """

    def __init__(self, quiet: bool = False, as_json: bool = False) -> None:
        self.quiet = quiet
        self.as_json = as_json
        self.err = _Printable(stderr=True, highlight=False)

    def result(self, data: dict[str, Any], lines: list[str]) -> None:
        """Print what the command made: `data` as JSON where --json was given, else `lines`."""
        if self.as_json:
            text = escaped_json(json.dumps(data, ensure_ascii=False))
        else:
            # As it is where a program reads it, which must find the files again.
            text = "\n".join(lines)
            text = printable(text, keep="\n\t") if sys.stdout.isatty() else text
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
            self.err.print(_line(text), soft_wrap=True)

    def show(self, table: Table) -> None:
        """A table on stderr that --quiet silences."""
        if not self.quiet:
            self.err.print(table)

    def command(self, text: str) -> None:
        """A command line, as a person would type it."""
        if not self.quiet:
            self.err.print(f"[bold cyan]$ {_line(text)}[/bold cyan]", soft_wrap=True)

    def warn(self, text: str) -> None:
        """A warning, which --quiet does not silence."""
        self.err.print(f"[yellow]{_line(text)}[/yellow]", soft_wrap=True)

    def error(self, error: MusicLDMError) -> None:
        """What went wrong, and what to do about it."""
        try:
            self.err.print(f"[bold red]Error:[/bold red] {_line(error.message)}", soft_wrap=True)
            if error.hint:
                self.err.print(f"[dim]Hint:[/dim] {_line(error.hint)}", soft_wrap=True)
        except MemoryError:
            # Rich loads tables of its own for its first line, and the error may be that there is no room.
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
            task = bar.add_task(_line(title), total=None, text="")

            def move(done: float, total: float | None, text: str = "") -> None:
                bar.update(task, completed=done, total=total, text=_line(text))

            yield move


def _line(text: str) -> str:
    """One line of text for rich, in which nothing is taken for markup."""
    return escape(printable(text))
