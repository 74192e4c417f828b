"""What we did not make, we do not replace: the guard before every file that a command writes.

Whoever writes knows its own work (by a tag in the file, a digest in a manifest, an index) and tells the guard how. The
guard is asked before any work begins, and again when the finished file gets its name: what has come there meanwhile
stays, too.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from musicldm.core import durable
from musicldm.core.errors import OutputError, UsageError

Ours = Callable[[Path], bool]
"""Whether musicldm wrote the file at a path, and nobody has changed it since, as far as one can know."""

INSIST = "Choose another path, or replace it anyway with --overwrite."


@dataclass(frozen=True)
class Guard:
    """What may be replaced."""

    ours: Ours
    overwrite: bool = False
    """Replace what is not ours as well."""

    def check(self, *paths: Path) -> None:
        """See that files can be written there without replacing what is not ours.

        Raises:
            OutputError: one cannot; all that would be replaced are counted.
        """
        for path in paths:
            check_folder(path.parent)
        if foreign := [path for path in paths if self.is_foreign(path)]:
            raise refusal(foreign)

    def is_foreign(self, path: Path) -> bool:
        """Whether there is something that must not be replaced.

        Raises:
            OutputError: it is a folder, a pipe or a device, which nobody can insist on.
        """
        if not os.path.lexists(path):
            return False
        if path.is_dir():
            raise OutputError(f"{path} is a folder.", "Give a file in it.")
        if path.exists() and not path.is_file():  # root may replace even a device
            raise OutputError(f"{path} is not a file.", "Choose another path.")
        return not self.overwrite and not self._is_ours(path)

    def _is_ours(self, path: Path) -> bool:
        try:
            return self.ours(path)
        except OSError:  # a link to nothing, or what may not be read: nobody knows whose that is
            return False

    def clear(self, path: Path) -> None:
        """See that a file there is ours, or make way for one; for files that are added to, not replaced.

        Raises:
            OutputError: it is not ours, or cannot be removed.
        """
        self.check(path)
        if os.path.lexists(path) and not self._is_ours(path):  # so somebody insists
            try:
                path.unlink()
            except OSError as error:
                raise durable.cannot_write(path, error) from error

    def commit(self, temporary: Path, path: Path) -> None:
        """Give a finished file its name, on disk when this returns; a `durable.Commit`.

        Raises:
            OutputError: something has it that is not ours, or the folder cannot be written.
        """
        try:
            durable.move(temporary, path, replace=self.overwrite)
        except FileExistsError:
            self.check(path)
            durable.move(temporary, path)


def refusal(foreign: Sequence[Path], why: str = "musicldm did not write it, or it was changed since") -> OutputError:
    """The error that these files are in the way.

    Args:
        why: what is wrong with the one, where it is one.
    """
    if len(foreign) == 1:
        return OutputError(f"{foreign[0]} is not replaced: {why}.", INSIST)
    some = ", ".join(map(str, foreign[:3])) + (", …" if len(foreign) > 3 else "")
    return OutputError(
        f"{len(foreign)} files are not replaced: musicldm did not write them, or they were changed since: {some}.",
        INSIST,
    )


def keep_originals(targets: Iterable[Path], originals: Iterable[Path], made: str = "new one") -> None:
    """See that no output is one of the files that it is made of, under whatever name.

    Args:
        made: what a person calls the output.

    Raises:
        UsageError: one is.
    """
    for target, original in itertools.product(targets, list(originals)):
        if target.exists() and original.exists() and target.samefile(original):
            raise UsageError(f"{target} would overwrite the original.", f"Give the {made} another name.")


def check_folder(folder: Path) -> None:
    """See that files can be written in a folder, and make nothing yet.

    Raises:
        OutputError: they cannot.
    """
    # The folder itself is made only when there is something to put into it.
    there = next(each for each in (folder, *folder.absolute().parents) if os.path.lexists(each))
    hint = "Check it, or choose another one."
    if not there.is_dir():
        raise OutputError(f"{there} is not a folder.", hint)
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"The folder {there} cannot be written.", hint)
