"""Changes to scores that a person asks for: another tempo or metre, a part put in the place of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from musicldm.core.errors import UsageError
from musicldm.media.notes.score import DENOMINATORS, Ints, Score, joined


def mean_tempo(score: Score) -> float:
    """Quarters a minute, over all of a score."""
    return 60 * score.length / score.resolution / score.duration


def at_tempo(score: Score, quarters_a_minute: float) -> Score:
    """The same at another mean tempo: faster or slower throughout, so that what slows down still does.

    Raises:
        UsageError: a tempo that MIDI cannot say.
    """
    if not score.length:
        return score
    factor = mean_tempo(score) / quarters_a_minute
    tempos = score.tempos.copy()
    tempos[:, 1] = np.rint(tempos[:, 1] * factor)
    if (tempos[:, 1] < 1).any() or (tempos[:, 1] > 0xFFFFFF).any():
        raise UsageError(f"{quarters_a_minute:g} quarters a minute is not a valid tempo here: expected some 10 to 600.")
    return replace(score, tempos=tempos)


def in_metre(score: Score, numerator: int, denominator: int) -> Score:
    """The same notes in bars of one metre from the beginning on."""
    return replace(score, metres=np.array([[0, numerator, denominator]]))


def metre_of(text: str) -> tuple[int, int]:
    """A metre as it is typed: `3/4`.

    Raises:
        UsageError: it is none.
    """
    above, _, below = text.partition("/")
    if above.isdecimal() and below.isdecimal() and 1 <= int(above) <= 255 and int(below) in DENOMINATORS:
        return int(above), int(below)
    raise UsageError(f"{text!r} is not a valid metre: expected 3/4 or 12/8, for example.")


def tick_of_bar(score: Score, bar: float) -> int:
    """The tick at which a bar begins, counted from 1; 2.5 is the middle of bar 2, and one past the last is the end.

    Raises:
        UsageError: the score has no such bar.
    """
    starts = np.append(score.bars(), score.length)
    if not 1 <= bar <= len(starts):
        raise UsageError(f"There is no bar {bar:g}.", f"It has {len(starts) - 1} bars, counted from 1.")
    return round(float(np.interp(bar - 1, np.arange(len(starts)), starts)))


def spliced(original: Score, made: Score, spans: Sequence[tuple[int, int]]) -> Score:
    """The original, with what was made in the place of spans of ticks.

    What is made joins the original's first track that has no drums. A note that begins before a span ends with its
    beginning, at the latest.

    Args:
        made: as long as the original at least, in its resolution.
        spans: in order, disjoint.
    """
    first = next((track for track in original.tracks if not track.is_drum), None)
    if first is not None:
        tracks = (replace(track, program=first.program, name=first.name) for track in made.tracks)
        made = replace(made, tracks=tuple(tracks))
    parts, done = list[Score](), 0
    for begin, end in spans:
        parts += [original.cut(done, begin)] if begin > done else []
        parts.append(made.cut(begin, end))
        done = end
    if done < original.length:
        parts.append(original.cut(done, original.length))
    whole = joined(parts)
    return replace(whole, title=original.title, artist=original.artist)


def ticks_of(score: Score, seconds: float) -> int:
    """The nearest tick that sounds after so many seconds, within the score."""
    tick: Ints = np.rint(score.ticks(seconds)).astype(np.int64)
    return min(max(int(tick), 0), score.length)
