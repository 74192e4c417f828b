"""Where a store lies: a folder of this machine, or object storage behind fsspec.

Both write alike: a segment's files first, its metadata last, all at once. A rename does that in a folder, and an object
store does it by itself.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from math import inf
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from musicldm.core import durable
from musicldm.core.errors import MissingProgramError, NetworkError, OutputError, UsageError
from musicldm.core.reading import inside
from musicldm.latents.schema import METADATA

T = TypeVar("T")
Bytes = npt.NDArray[np.uint8]
Span = tuple[str, int, int]
"""A piece of a file: its name, and its first byte and the one after its last."""


class Storage(Protocol):
    """Files under names such as `parts/x/zarr.json`. It may be pickled."""

    is_remote: bool

    def __str__(self) -> str: ...

    def read(self, name: str) -> bytes:
        """A whole file; FileNotFoundError where there is none."""

    def read_all(self, names: Sequence[str]) -> list[bytes | None]:
        """Several files, None where there is none."""

    def folders(self, name: str) -> list[str]:
        """The names of the folders in a folder, sorted; none where it is missing."""

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """The size of each file; None where it is missing."""

    def has(self, name: str) -> bool:
        """Whether there is such a file."""

    def fetch(self, spans: Sequence[Span]) -> list[Bytes]:
        """Pieces of files, all of them at once."""

    def write(self, name: str, data: bytes) -> None:
        """A whole file, durably and all at once."""

    def reading(self, name: str) -> AbstractContextManager[Path]:
        """A block with a local folder that has what is in the folder `name`."""

    def writing(self, name: str, last: str = "") -> AbstractContextManager[Path]:
        """A block with a local folder; at its end all that is in it is in the folder `name`, durably.

        Args:
            last: the file that is there only when all others are.
        """

    def remove(self, name: str) -> None:
        """Take a folder away, its metadata first, as far as that can be done."""

    def bytes(self) -> int:
        """The size of all files."""


class Folder:
    """A folder of this machine."""

    is_remote = False

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def read_all(self, names: Sequence[str]) -> list[bytes | None]:
        return [_read(self.path / name) for name in names]

    def folders(self, name: str) -> list[str]:
        try:
            with os.scandir(self.path / name) as found:
                return sorted(entry.name for entry in found if entry.is_dir())
        except FileNotFoundError:
            return []

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        # Plain strings: every opening asks for thousands of sizes, and joining as many Paths would be slow.
        root = f"{self.path}/"
        return [_size(root + name) for name in names]

    def has(self, name: str) -> bool:
        return self.sizes([name]) != [None]

    def map(self, name: str) -> Bytes:
        """A file as memory."""
        return np.memmap(self.path / name, np.uint8, mode="r")

    def fetch(self, spans: Sequence[Span]) -> list[Bytes]:
        return [np.fromfile(self.path / name, np.uint8, stop - start, offset=start) for name, start, stop in spans]

    def write(self, name: str, data: bytes) -> None:
        path = self.path / name
        durable.make_folder(path.parent)
        durable.flush(path.parent.parent)  # of a new folder the name, before what is in it
        durable.write_bytes(path, data)

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        yield self.path / name

    @contextmanager
    def writing(self, name: str, last: str = "") -> Iterator[Path]:
        # In place, without a rename: no reader looks into a segment's folder before its metadata is there.
        folder = self.path / name
        durable.make_folder(folder)
        yield folder
        # All of it must be on the disk before the caller writes the metadata, or a power cut could leave a commit of
        # nothing.
        for here, _, files in os.walk(folder, topdown=False):  # zarr-python writes without fsync
            for file in files:
                durable.flush(Path(here, file))
            durable.flush(Path(here))
        durable.flush(folder.parent)

    def remove(self, name: str) -> None:
        # The metadata first: a kill halfway then leaves garbage, which nobody sees, and not a committed segment with
        # holes.
        folder = inside(self.path, name)
        with suppress(OSError):
            (folder / METADATA).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def bytes(self) -> int:
        # Others may write and delete meanwhile: what is gone counts nothing.
        return sum(_size(f"{here}/{file}") or 0 for here, _, files in os.walk(self.path) for file in files)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


class ObjectStorage:
    """Object storage behind fsspec, such as s3://bucket/folder."""

    is_remote = True

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._connected: tuple[int, Any, str] | None = None

    def __str__(self) -> str:
        return self.url

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the connection, whose event loop runs in a thread of this process.
        return ObjectStorage, (self.url,)

    def read(self, name: str) -> bytes:
        return bytes(self._call(lambda files, root: files.cat_file(f"{root}/{name}")))

    def read_all(self, names: Sequence[str]) -> list[bytes | None]:
        def read(files: Any, root: str) -> list[bytes | None]:
            # Errors come back in place of data, so that one missing file does not lose all others. Any other error is
            # still one.
            found = files.cat([f"{root}/{name}" for name in names], on_error="return")
            for data in found.values():
                if isinstance(data, Exception) and not isinstance(data, FileNotFoundError):
                    raise data
            pieces = (found[f"{root}/{name}"] for name in names)
            return [None if isinstance(data, Exception) else bytes(data) for data in pieces]

        return self._call(read) if names else []

    def folders(self, name: str) -> list[str]:
        def listed(files: Any, root: str) -> list[str]:
            # fsspec may remember listings, which would hide what others have written since.
            found = files.ls(f"{root}/{name}", detail=True, refresh=True)
            return sorted(entry["name"].rsplit("/", 1)[-1] for entry in found if entry["type"] == "directory")

        try:
            return self._call(listed)
        except FileNotFoundError:
            return []

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        if not names:
            return []

        def found(files: Any, root: str) -> list[int | None]:
            if len(names) == 1:
                entry = files.info(f"{root}/{names[0]}")
                return [int(entry["size"]) if entry["type"] == "file" else None]
            # One listing of all instead of a request for each.
            listed = files.find(f"{root}/{os.path.commonpath(names)}", detail=True)
            sizes = {path: int(entry["size"]) for path, entry in listed.items()}
            return [sizes.get(f"{root}/{name}") for name in names]

        try:
            return self._call(found)
        except FileNotFoundError:
            return [None] * len(names)

    def has(self, name: str) -> bool:
        return self.sizes([name]) != [None]

    def fetch(self, spans: Sequence[Span]) -> list[Bytes]:
        runs = _runs(spans)

        def fetched(files: Any, root: str) -> list[bytes]:
            paths, starts, stops = zip(*((f"{root}/{name}", start, stop) for name, start, stop in runs), strict=True)
            return list(files.cat_ranges(list(paths), list(starts), list(stops), on_error="raise"))

        found = [np.frombuffer(data, np.uint8) for data in self._call(fetched)] if runs else []
        # inf as the end sorts behind every run that begins at the same byte, so the run before it is the one that holds
        # the piece.
        at = [bisect_right(runs, (name, start, inf)) - 1 for name, start, _ in spans]
        return [
            found[run][start - runs[run][1] : stop - runs[run][1]]
            for run, (_, start, stop) in zip(at, spans, strict=True)
        ]

    def write(self, name: str, data: bytes) -> None:
        self._call(lambda files, root: files.pipe_file(f"{root}/{name}", data), writes=True)

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            self._call(lambda files, root: files.get(f"{root}/{name}/", folder, recursive=True))
            yield Path(folder)

    @contextmanager
    def writing(self, name: str, last: str = "") -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            paths = [file.relative_to(folder).as_posix() for file in Path(folder).rglob("*") if file.is_file()]
            # One put sends its files side by side, in no order: what must come last needs a second one.
            for some in ([path for path in paths if path != last], [path for path in paths if path == last]):
                here, there = [f"{folder}/{path}" for path in some], [f"{name}/{path}" for path in some]
                self._put(here, there)

    def _put(self, here: list[str], there: list[str]) -> None:
        if here:
            self._call(lambda files, root: files.put(here, [f"{root}/{name}" for name in there]), writes=True)

    def remove(self, name: str) -> None:
        with suppress(OSError):  # not allowed, not there, or no answer
            self._call(lambda files, root: files.rm(f"{root}/{name}", recursive=True))

    def bytes(self) -> int:
        return int(self._call(lambda files, root: files.du(root)))

    def _call(self, request: Callable[[Any, str], T], writes: bool = False) -> T:
        """What `request` returns, given the file system and our path in it; its errors as ours."""
        files, root = self._connect()
        try:
            return request(files, root)
        except FileNotFoundError:
            if writes:
                raise OutputError(f"Cannot write {self}: there is no such bucket.", "Create it first.") from None
            raise
        except Exception as error:  # every service has its own tree of errors
            # By name: botocore's NoCredentialsError is no PermissionError, and botocore may not be installed.
            if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
                raise OutputError(f"No access to {self}: {_reason(error)}.", "Check the credentials.") from error
            hint = "The same command continues from here."
            raise NetworkError(f"{self} does not answer: {_reason(error)}.", hint) from error

    def _connect(self) -> tuple[Any, str]:
        # A connection must not be taken along into another process: its event loop runs in a thread of ours.
        if self._connected is None or self._connected[0] != os.getpid():
            try:
                import fsspec  # type: ignore[import-untyped]

                files, root = fsspec.core.url_to_fs(self.url, skip_instance_cache=True, use_listings_cache=False)
            except ImportError as error:
                scheme = self.url.split(":", 1)[0]
                hint = "Install it: pip install 'musicldm[s3]'" if scheme == "s3" else ""
                raise MissingProgramError(f"For {scheme}:// a package is missing: {_reason(error)}.", hint) from error
            except ValueError as error:
                raise UsageError(f"{self.url} cannot hold a store: {_reason(error)}.") from error
            self._connected = os.getpid(), files, root
        return self._connected[1], self._connected[2]


def _reason(error: Exception) -> str:
    """What an error says, to stand within a sentence."""
    return str(error).strip().rstrip(".") or type(error).__name__


def _runs(spans: Sequence[Span]) -> list[Span]:
    """The same pieces, sorted, and those that follow on one another as one: a request costs more than its bytes."""
    runs: list[Span] = []
    for name, start, stop in sorted(spans):
        if runs and runs[-1][0] == name and runs[-1][2] >= start:
            runs[-1] = name, runs[-1][1], max(stop, runs[-1][2])
        else:
            runs.append((name, start, stop))
    return runs


def storage_at(location: Path | str) -> Storage:
    """The storage that a path or a URL names."""
    text = str(location)
    return ObjectStorage(text) if "://" in text else Folder(Path(location))
