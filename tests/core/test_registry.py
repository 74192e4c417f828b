"""Registries: names are found without an import, and what they stand for is imported when it is loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from musicldm.core.errors import UsageError
from musicldm.core.registry import Registry


@pytest.fixture
def flutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that is not imported yet."""
    (tmp_path / "toy_flutes.py").write_text("FAMILY = object()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toy_flutes", raising=False)
    return "toy_flutes:FAMILY"


def test_nothing_is_imported_before_it_is_loaded(flutes: str) -> None:
    registry = Registry("instrument", {"flute": flutes, "harp": "no.such.module:HARP"})
    assert registry.names() == ["flute", "harp"]
    assert "toy_flutes" not in sys.modules
    family = registry.load("flute")
    assert family is sys.modules["toy_flutes"].FAMILY
    assert registry.load("flute") is family


def test_an_unknown_name_is_a_sentence_with_the_nearest_one() -> None:
    registry = Registry("instrument", {"flute": "toy:FLUTE", "harp": "toy:HARP"})
    with pytest.raises(UsageError) as near:
        registry.load("flutes")
    assert (near.value.message, near.value.hint) == ("There is no instrument 'flutes'.", "Did you mean 'flute'?")
    with pytest.raises(UsageError) as far:
        registry.load("xyz")
    assert far.value.hint == "Known: flute, harp."


def test_another_package_adds_its_own_and_replaces_none_of_ours(
    flutes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "toy_flutes-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-flutes\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        f"[musicldm.instruments]\nflute = {flutes}\nharp = no.such.module:HARP\n[musicldm.others]\ndrum = x:DRUM\n"
    )
    ours = Registry("instrument", {"harp": flutes})
    assert ours.names() == ["harp", "flute"]
    assert ours.load("harp") is ours.load("flute") is sys.modules["toy_flutes"].FAMILY
