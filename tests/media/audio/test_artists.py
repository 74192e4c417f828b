"""Whose music a file is."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from musicldm.core.errors import UsageError
from musicldm.media.artists import ArtistRule


@pytest.mark.parametrize(
    ("place", "tagged", "crawled", "expected"),
    [
        ("Ann/song.mp3", "", "", ("Ann", "folder")),
        ("Ann/song.mp3", "Bob", "", ("Bob", "tag")),
        ("Ann/song.mp3", "Bob", "Eve", ("Eve", "catalog")),
        ("song.mp3", "", "", ("", "nobody")),  # the input folder's own name is none
        ("Ann/CD1/song.mp3", "", "", ("Ann", "folder")),
        ("Ann/Album/CD1/song.mp3", "", "", ("Ann", "folder")),
        ("Ann/2004 - Album/song.mp3", "", "", ("Ann", "folder")),
        ("Ann/2004 - Album/Disc 2/song.mp3", "", "", ("Ann", "folder")),
        ("Ann/Album (2004)/disk_1 - Bonus/song.mp3", "", "", ("Ann", "folder")),
        ("Ann/[1999] Album/Side A/song.mp3", "", "", ("Ann", "folder")),
        ("Ann/1999/song.mp3", "", "", ("Ann", "folder")),
        ("2004 - Album/song.mp3", "", "", ("", "nobody")),
        ("CD 1/song.mp3", "", "", ("", "nobody")),
        ("000/000123.mp3", "", "", ("", "nobody")),
        ("Various Artists/song.mp3", "", "", ("", "nobody")),
        ("Ann/song.mp3", "Unknown Artist", "", ("Ann", "folder")),
        ("Ann/song.mp3", "<unknown>", "", ("Ann", "folder")),
        ("The 1975/song.mp3", "", "", ("The 1975", "folder")),
        ("Disclosure/song.mp3", "", "", ("Disclosure", "folder")),
        ("Partisans/song.mp3", "", "", ("Partisans", "folder")),
        ("CD9000/song.mp3", "", "", ("CD9000", "folder")),
        ("Zoe\u0308/song.mp3", "", "", ("Zoë", "folder")),
    ],
)
def test_catalog_then_tags_then_folders(place: str, tagged: str, crawled: str, expected: tuple[str, str]) -> None:
    assert ArtistRule.parse("").whose(PurePosixPath(place), tagged, crawled) == expected


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("tag", ("Bob", "tag")),
        ("folder:1", ("Pop", "folder")),
        ("folder:2", ("Ann", "folder")),
        ("folder:3", ("CD1", "folder")),
        ("folder:-1", ("CD1", "folder")),
        ("folder:4", ("", "nobody")),
        ("folder:-4", ("", "nobody")),
        (" Joe  Doe ", ("Joe Doe", "option")),
    ],
)
def test_what_a_person_says_goes_before_all_else(option: str, expected: tuple[str, str]) -> None:
    assert ArtistRule.parse(option).whose(PurePosixPath("Pop/Ann/CD1/song.mp3"), "Bob", "Eve") == expected


@pytest.mark.parametrize("option", ["folder", "folder:", "folder:0", "folder:x", "folder:1.5"])
def test_no_such_folder(option: str) -> None:
    with pytest.raises(UsageError, match="expected folder:N"):
        ArtistRule.parse(option)
