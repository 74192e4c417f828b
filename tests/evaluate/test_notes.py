"""The F1 of note onsets against mir_eval."""

from __future__ import annotations

import mir_eval
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicldm.evaluate.notes import Note, onset_score

# A grid of 10 ms, so that many onsets lie exactly at the tolerance, and so few pitches that many notes compete for one.
notes = st.lists(
    st.builds(
        lambda onset, pitch: Note(onset / 100, pitch, onset / 100 + 0.3, 64), st.integers(0, 60), st.integers(60, 62)
    ),
    min_size=1,
    max_size=25,
)


def plain(some: list[Note]) -> tuple[np.ndarray, np.ndarray]:
    """As mir_eval takes them: intervals, and pitches in Hz."""
    return np.array([[note.onset, note.offset] for note in some]), np.array([440 * 2 ** (n.pitch / 12) for n in some])


@given(notes, notes)
def test_it_is_that_of_mir_eval(reference: list[Note], found: list[Note]) -> None:
    precision, recall, f1, _ = mir_eval.transcription.precision_recall_f1_overlap(
        *plain(reference), *plain(found), offset_ratio=None
    )
    score = onset_score(reference, found)
    assert (score.precision, score.recall) == pytest.approx((precision, recall)) and score.f1 == pytest.approx(f1)
    assert (score.reference, score.found) == (len(reference), len(found))


def test_where_there_are_no_notes() -> None:
    note = Note(1.0, 60, 2.0, 64)
    assert onset_score([], []).f1 is None
    assert onset_score([note], []).f1 == onset_score([], [note]).f1 == 0
    assert (onset_score([note], []).recall, onset_score([], [note]).precision) == (0, 0)
