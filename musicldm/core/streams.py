"""The standard streams as every command may rely on them: open, and able to take any name."""

from __future__ import annotations

import io
import os
import sys

from musicldm.core.errors import OutputError


def prepare_streams() -> None:
    """Put the streams in order that this process was started with.

    A closed one (`>&-`) is None to Python, and its number is given to the next file that is opened, into which whatever
    is printed would then be written. In the place of stdin and stderr stands a null device; without stdout there is
    nowhere to put results, which is said before any work.

    Where a stream has ASCII alone, as in the C locale, or Windows' own code page, names in other letters would be
    errors: it takes UTF-8. Bytes of a name that are no UTF-8 go out as they came in.

    Raises:
        OutputError: stdout is closed.
    """
    for number in (number for number in range(3) if not _is_open(number)):
        # It gets the lowest number that is free, which is this one.
        os.set_inheritable(os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY), True)
    # The streams live as long as the process, so that there is no block to close them.
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
        raise OutputError("stdout is closed, and results go there.", "Redirect it to a file, or to /dev/null.")
    for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if _takes_all(stream.encoding) else "utf-8", errors=errors)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _takes_all(encoding: str) -> bool:
    """Whether an encoding is the one of file names, and more than ASCII."""
    return encoding.lower() == sys.getfilesystemencoding().lower() and encoding.lower() not in ("ascii", "us-ascii")
