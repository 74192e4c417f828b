"""Where the output of each source goes: its own name, as far as that differs from all others on any file system."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import PurePosixPath

from musicldm.core import filenames

_LONGEST_NAME = 240  # bytes; file systems take 255


def targets(suffixes: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Source -> the path of its output below the output folder.

    Args:
        suffixes: source -> what the name of its output ends in.
        given: the same of earlier runs: names once given are kept, or a new file could rename the outputs of old ones.
    """
    found = {name: given[name] for name, suffix in suffixes.items() if given.get(name, "").endswith(suffix)}
    places = {name: filenames.portable_path(name) for name in suffixes}
    earlier = [PurePosixPath(path) for path in given.values()]
    # The names of folders, too: beside `a.wav` there may be a folder that is called `a.wav`.
    folders = {folder for path in (*places.values(), *earlier) for folder in path.parents}
    taken = {filenames.key(each) for each in (*earlier, *folders)}
    for name, place in places.items():
        if name not in found:
            names = _names(name, place, suffixes[name])
            found[name] = next(each for each in names if filenames.key(each) not in taken)
            taken.add(filenames.key(found[name]))
    return found


def _names(source: str, place: PurePosixPath, suffix: str) -> Iterator[str]:
    """Names for the output of a source, the best first; the last ones no other source can have."""
    yield _fitting(place.with_suffix(suffix))
    yield _fitting(place.with_name(place.name + suffix))
    whole = hashlib.sha256(source.encode()).hexdigest()
    for digits in count(8):
        yield _fitting(place.with_name(f"{place.stem}~{whole[:digits]}{suffix}"))


def _fitting(path: PurePosixPath) -> str:
    """The path, with its last name shortened where a file system would refuse it."""
    name = path.name.encode()
    if len(name) <= _LONGEST_NAME:
        return str(path)
    # With a hash, or long names with the same beginning would become one.
    short = name[: _LONGEST_NAME - 32].decode(errors="ignore")
    return str(path.with_name(f"{short}~{hashlib.sha256(name).hexdigest()[:8]}{path.suffix}"))
