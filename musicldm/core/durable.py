"""Files that are whole or absent, and journals that survive a kill.

A file is written beside its target under a temporary name, flushed to the disk, renamed, and the folder is flushed
too: after a power cut the old file or the new one is there, never half of either.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from musicldm.core import system_locks
from musicldm.core.errors import OutputError

LOCK = ".lock"

TEMPORARY = ".tmp-"  # every unfinished file's name starts so; they can be deleted whenever nobody writes


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
    reason = os.strerror(error.errno) if error.errno else str(error)
    return OutputError(
        f"Cannot write {path}: {reason}.", "Check its permissions and the free space, or choose another path."
    )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on any failure it is deleted.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    temporary = unfinished(path)
    try:
        yield temporary
        move(temporary, path)
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


def move(temporary: Path, path: Path) -> None:
    """Give a finished file its name, on disk when this returns.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    try:
        # The content before the name, or a power cut could leave the new name on an empty file. The folder afterwards,
        # because the rename is a change of the folder and not of the file.
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file durably; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, data: Any) -> None:
    """Write JSON durably, readable by a person."""
    write_bytes(path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())


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
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.key = key
        self.records: dict[str, dict[str, Any]] = {}
        if path.exists():
            # As bytes: text would be split at U+2028 and its like too, which may stand unescaped in a title.
            for line in path.read_bytes().splitlines():
                with suppress(ValueError):  # the torn end of a killed run
                    record = json.loads(line)
                    if isinstance(record, dict) and key in record:
                        self.records[record[key]] = record

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
