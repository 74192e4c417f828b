"""One name, however it is typed."""

from __future__ import annotations

import unicodedata

import pytest

from musicldm.core.errors import AmbiguousError
from musicldm.core.names import composed, counted, distinct_names, folded, listed, merged, place_of

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Beyoncé") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("other", [DECOMPOSED, COMPOSED.upper(), DECOMPOSED.upper(), "  Beyoncé "])
def test_spellings_of_one_name(other: str) -> None:
    assert folded(other) == folded(COMPOSED)
    assert distinct_names([other, COMPOSED, "Ann"]) == [composed(other), "Ann"]


def test_other_names_stay_others() -> None:
    assert len({folded(name) for name in ("Beyonce", "Beyoncé", "Beyoncè", "Be Yoncé")}) == 4
    assert folded("Straße") == folded("STRASSE")  # Unicode's caseless match


def test_the_most_frequent_spelling_stands_for_all() -> None:
    assert merged({"ANN": 2, "Ann": 3, "Bob": 1}) == {"ANN": "Ann", "Ann": "Ann", "Bob": "Bob"}
    assert merged({"ANN": 1, "Ann": 1})["Ann"] == "ANN"  # the first in the alphabet, in every run
    counts = counted(["Bob", "", "ann", "Ann", "Ann", "", ""])
    assert list(counts.items()) == [("Ann", 3), ("Bob", 1), ("", 3)]
    assert listed(counts) == "2: Ann (3), Bob (1); without an artist: 3"
    assert listed(counts, most=1) == "2: Ann (3) and 1 more; without an artist: 3"
    assert listed({}) == "0"


def test_of_two_that_fold_alike_the_exact_one_or_none() -> None:
    known = [COMPOSED, "Ann", DECOMPOSED]
    assert (place_of(COMPOSED, known), place_of(DECOMPOSED, known), place_of("ANN", known)) == (0, 2, 1)
    assert place_of("Bob", known) is None
    with pytest.raises(AmbiguousError) as caught:
        place_of(COMPOSED.upper(), known)
    assert "decomposed" in caught.value.hint and COMPOSED in caught.value.hint
