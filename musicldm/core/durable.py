"""Files that are whole or absent, and journals that survive a kill.

A file is written beside its target under a temporary name, flushed to the disk, renamed, and the folder is flushed
too: after a power cut the old file or the new one is there, never half of either.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from musicldm.core import system_locks
from musicldm.core.errors import DataError, MusicLDMError, OutputError
from musicldm.core.reading import parse_json, read_file

LOCK = ".lock"

TEMPORARY = ".tmp-"  # every unfinished file's name starts so; they can be deleted whenever nobody writes
# Only names that `unfinished` gives: somebody else may call files so, too.
_UNFINISHED = re.compile(re.escape(TEMPORARY) + r"[0-9a-f]{8}(\..*)?")

Commit = Callable[[Path, Path], None]
"""What gives a finished file, under its temporary name, the name that it is to have; `move` is one."""


def make_folder(path: Path) -> Path:
    """Create `path` and its parents.

    Raises:
        OutputError: it cannot be made or is a file.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    # `mkdir` is content with a folder that exists, writable or not. Better to fail here than after hours of work.
    if not os.access(path, os.W_OK | os.X_OK):
        raise OutputError(f"The folder {path} cannot be written.", "Check its permissions or name another one with -o.")
    return path


def check_folder(path: Path) -> None:
    """See that `make_folder` would succeed, and that nobody is writing there; whatever this makes is gone again.

    Raises:
        OutputError: as `make_folder` and `locked` do.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        make_folder(path)
        if (path / LOCK).exists():
            with locked(path):
                pass
    finally:
        for folder in made:  # the innermost first
            with suppress(OSError):
                folder.rmdir()


class Lock:
    """A lock file that many may share or one may hold exclusively.

    The kernel releases it when the process ends, however it does. Without a file, or where the file system has no
    locks, everybody gets it.

    Raises:
        OSError: the file cannot be opened.
    """

    # Of the class, for a lock without a file, and for `__del__` after an `__init__` that failed.
    _descriptor = -1

    def __init__(self, file: Path | None) -> None:
        if file is not None:
            try:
                # Writable for all whom the umask lets: another user of a shared folder must be able to lock it, too.
                self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError:  # an existing lock file can be locked without permission to write
                self._descriptor = os.open(file, os.O_RDONLY)

    def share(self) -> None:
        """Hold it together with others, as soon as nobody holds it exclusively. A lock held before is released."""
        if self._descriptor >= 0:
            system_locks.share(self._descriptor)

    def take(self) -> bool:
        """Hold it exclusively; False at once where others hold it. A lock held before is released."""
        return self._descriptor < 0 or system_locks.take(self._descriptor)

    def close(self) -> None:
        """Release it."""
        if self._descriptor >= 0:
            system_locks.forget(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    __del__ = close


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only writer of `folder`, where its file system has locks; the lock ends with the process, however it ends.

    Raises:
        OutputError: another process is writing there, or the folder cannot be written.
    """
    try:
        lock = Lock(folder / LOCK)
        alone = lock.take()
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        if not alone:
            hint = "Wait until it is done, or give this one another folder."
            raise OutputError(f"Another run is writing to {folder}.", hint)
        yield
    finally:
        # The file itself stays. Were it removed, a newcomer could lock a new one while somebody holds the old.
        lock.close()


def cannot_write(path: Path, error: OSError) -> OutputError:
    """The sentence for a failed write to `path`."""
    if full := disk_full(error, path):
        return full
    reason = os.strerror(error.errno) if error.errno else str(error)
    return OutputError(
        f"Cannot write {path}: {reason}.", "Check its permissions and the free space, or choose another path."
    )


FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
"""What a system says of a disk, or of somebody's share of it, that is full."""


def disk_full(error: OSError, path: Path | None = None) -> OutputError | None:
    """The sentence for a disk that is full; None where that is not the error."""
    if error.errno not in FULL:
        return None
    place = path or error.filename
    where = f"Cannot write {place}: " if place else ""
    return OutputError(f"{where}{os.strerror(error.errno or 0)}.", "Free some space, or choose a path on another disk.")


@contextmanager
def replacing(path: Path, commit: Commit | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on any failure it is deleted.

    Args:
        commit: what gives it its name; None: `move`, which asks nobody whose file it replaces.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    temporary = unfinished(path)
    try:
        yield temporary
        (commit or move)(temporary, path)
    except OSError as error:
        # OutputError is an OSError as well; one from `move` has its sentence already.
        if isinstance(error, OutputError):
            raise
        raise cannot_write(path, error) from error
    finally:
        # After a success the name is gone already; what cannot be deleted now is found later by its prefix.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def unfinished(path: Path) -> Path:
    """A new temporary name beside `path`; the suffix stays last, for writers that choose a format by it."""
    # In the same folder, since a rename is atomic only within a file system. Random, since several processes may write
    # the same target at once, and from `secrets`, since they may have the same seed.
    return path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}{path.suffix}")


def is_unfinished(path: Path) -> bool:
    """Whether a file has a name that `unfinished` has given it."""
    return bool(_UNFINISHED.fullmatch(path.name))


def move(temporary: Path, path: Path, replace: bool = True) -> None:
    """Give a finished file its name, on disk when this returns.

    Args:
        replace: what has that name already; False: leave that.

    Raises:
        FileExistsError: something has that name, and is not to be replaced.
        OutputError: the disk is full, or the folder cannot be written.
    """
    try:
        # The content before the name, or a power cut could leave the new name on an empty file. The folder afterwards,
        # because the rename is a change of the folder and not of the file.
        flush(temporary)
        if replace:
            os.replace(temporary, path)
        else:
            _rename_to_new(temporary, path)
        flush(path.parent)
    except OSError as error:
        if isinstance(error, FileExistsError) and not replace:
            raise
        raise cannot_write(path, error) from error


def _rename_to_new(temporary: Path, path: Path) -> None:
    """Rename a file in one step with seeing that nothing has the new name: a look before could be outrun."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: an empty file takes the name first
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.replace(temporary, path)
        except OSError:
            path.unlink(missing_ok=True)
            raise
    else:
        temporary.unlink()


def write_bytes(path: Path, data: bytes, commit: Commit | None = None) -> None:
    """Write a whole file durably; see `replacing`."""
    with replacing(path, commit) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, data: Any, commit: Commit | None = None) -> None:
    """Write JSON durably, readable by a person."""
    write_bytes(path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode(), commit)


def flush(path: Path) -> None:
    """fsync one file or folder."""
    if os.name == "nt":
        if path.is_dir():  # which Windows does not open; it keeps names in a journal of its own
            return
        descriptor = os.open(path, os.O_RDWR)  # and it flushes only what may be written
    else:
        # Read-only suffices for fsync, and is the only way to open a folder.
        descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Journal:
    """An append-only JSONL file of records, each with a key; the last line of a key wins.

    A line that a kill cut short is ignored when reading, and ended when appending.

    Args:
        check: refuses the record of a key by an error of ours; whoever hands us a folder may have written anything.

    Raises:
        DataError: a record that counts is refused.
    """

    def __init__(self, path: Path, key: str, check: Callable[[dict[str, Any]], object] | None = None) -> None:
        self.path = path
        self.key = key
        self.records: dict[str, dict[str, Any]] = {}
        if path.exists():
            # As bytes: text would be split at U+2028 and its like too, which may stand unescaped in a title.
            for line in read_file(path).splitlines():
                with suppress(ValueError):  # the torn end of a killed run
                    record = parse_json(line)
                    if isinstance(record, dict) and isinstance(record.get(key), str | int):
                        self.records[record[key]] = record
        for name, record in self.records.items():
            try:
                if check is not None:
                    check(record)
            except MusicLDMError as error:
                raise DataError(
                    f"{path} is damaged: {name}: {error.message}",
                    "Remove that line, and the work that it records is done again.",
                ) from error

    def append(self, record: dict[str, Any]) -> None:
        """Add one record, on disk when this returns.

        Raises:
            OutputError: the disk is full, or the file cannot be written.
        """
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        try:
            # In append mode all writes go to the end, wherever a seek for reading has left the position.
            with self.path.open("ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        line = b"\n" + line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(self.path, error) from error
        # Only now: whoever asks `records` whether an item is done must not hear yes before the disk has it.
        self.records[record[self.key]] = record


def is_journal(path: Path, key: str, *others: str) -> bool:
    """Whether a file is a journal of records that begin with `key` and have `others` as well, or the torn begin of one.

    Raises:
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    begin = f'{{"{key}":'.encode()
    if b"\n" not in data:  # one line at most, which a kill may have cut short anywhere
        return data[: len(begin)] == begin[: len(data)]
    for line in data.splitlines():
        with suppress(ValueError):
            record = parse_json(line)
            if isinstance(record, dict) and {key, *others} <= record.keys():
                return True
    return False
