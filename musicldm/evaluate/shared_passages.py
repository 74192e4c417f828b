"""Is it a copy, as notes? The longest passage that a score shares with any of a training set, in whatever key.

A passage is a run of notes of the whole texture in the order of their onsets, then pitches. Two are the same when each
note comes as many steps and semitones after the one before as in the other: transposed copies are found, and those with
other velocities, durations, pedal, tempo or bar lines, all of which a model blurs first. (Sets of keys down would
not: a note held a step longer makes another set.) One note more, fewer or elsewhere ends a passage.

Music repeats itself: a tremolo of a hundred notes is in everything. So a passage is as long as it has notes that do not
end a figure of four notes which it has had already. Repeating a note, a broken chord or a bar makes it no longer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from musicldm.core.errors import UsageError
from musicldm.evaluate.score_windows import melodic
from musicldm.media.notes.score import Ints, Score, Track

FIGURE = 4
"""Notes of a figure."""

_PITCHES = 256  # more than there are intervals, so that a wait and an interval make one number


@dataclass(frozen=True)
class SharedPassage:
    """The longest passage that a score shares with a training score."""

    length: int
    """Its notes, without those that only repeat a figure."""
    notes: int
    """All of them. 0 where nothing is shared: then no other field means anything."""
    start: int
    """The step of the score at which its first note starts …"""
    end: int
    """… and its last."""
    piece: int
    """The training score's index."""
    piece_start: int
    """The step of the training score at which the same passage starts; if there are several, of one of them."""
    transposition: int
    """Semitones by which it is higher in the score than in the training score."""


NOTHING = SharedPassage(0, 0, 0, 0, -1, 0, 0)


def shared_passages(scores: Sequence[Score], training: Sequence[Score]) -> list[SharedPassage]:
    """The longest passage of each score that is in any training score too; of equal ones the first.

    The search is exact: a suffix array of all notes (Manber & Myers 1993), n log² n in time and n log n in memory.

    Raises:
        UsageError: there is no training score, or one is not on the grid.
    """
    if not training:
        raise UsageError("There is nothing to search: expected one training score or more.")
    tracks = [melodic(score) for score in (*training, *scores)]
    ends = np.cumsum([len(track) for track in tracks])
    tokens = _tokens(tracks)
    split = int(ends[len(training) - 1])
    ranks = _ranks(tokens)
    matched, where = _longest_matches(ranks, split)
    figures = _figures(tokens)
    found = []
    for number in range(len(training), len(tracks)):
        first, last = int(ends[number - 1]), int(ends[number])
        # A token leads from one note to the next, and the first of a score leads nowhere.
        begin, length, notes = _most_figures(figures[first:last], matched[first - split + 1 : last - split])
        if not notes:
            found.append(NOTHING)
            continue
        # As positions in all tracks: the notes before the first token that matched.
        here, there = first + begin, int(where[first - split + 1 + begin]) - 1
        piece = int(np.searchsorted(ends, there, side="right"))
        mine, theirs = tracks[number], tracks[piece]
        there -= int(ends[piece]) - len(theirs)
        found.append(
            SharedPassage(
                length=length,
                notes=notes,
                start=int(mine.start[here - first]),
                end=int(mine.start[here - first + notes - 1]),
                piece=piece,
                piece_start=int(theirs.start[there]),
                transposition=int(mine.pitch[here - first] - theirs.pitch[there]),
            )
        )
    return found


def _tokens(tracks: Sequence[Track]) -> Ints:
    """A number for each note, [N]: how it follows the note before. The first of each track has one of its own."""
    tokens = []
    for number, track in enumerate(tracks):
        steps = np.diff(track.start) * _PITCHES + np.diff(track.pitch) + _PITCHES // 2
        tokens.append(np.concatenate([[-1 - number], steps]) if len(track) else steps)
    return np.concatenate(tokens).astype(np.int64)


def _ranks(tokens: Ints) -> list[Ints]:
    """By k, the rank of the 2^k tokens from each on among all such, [N]; the last, of the suffixes, which all differ.

    What lies beyond the end is smaller than any token.
    """
    size = 1
    ranks = [np.unique(tokens, return_inverse=True)[1].astype(np.int64) + 1]
    while ranks[-1].max(initial=0) < len(tokens):
        rank = ranks[-1]
        next_rank = np.zeros_like(rank)
        next_rank[:-size] = rank[size:]
        pairs = rank * (len(tokens) + 1) + next_rank
        ranks.append(np.unique(pairs, return_inverse=True)[1].astype(np.int64) + 1)
        size *= 2
    return ranks


def _longest_matches(ranks: list[Ints], split: int) -> tuple[Ints, Ints]:
    """For each token from `split` on, the most tokens from there that are found before it too, and where: both [n]."""
    order = np.argsort(ranks[-1])
    count = len(order)
    trained = order < split
    place = np.arange(count)
    before = np.maximum.accumulate(np.where(trained, place, -1))
    after = np.minimum.accumulate(np.where(trained, place, count)[::-1])[::-1]
    position = np.empty(count, np.int64)
    position[order] = place
    queries = np.arange(split, count)
    # The longest common prefix is with a neighbour in the order of all suffixes.
    best, where = np.zeros(len(queries), np.int64), np.zeros(len(queries), np.int64)
    for neighbours in (before, after):
        neighbour = neighbours[position[split:]]
        exists = (neighbour >= 0) & (neighbour < count)
        candidate = order[np.where(exists, neighbour, 0)]
        length = np.where(exists, _common(ranks, queries, candidate), 0)
        where = np.where(length > best, candidate, where)
        best = np.maximum(best, length)
    return best, where


def _common(ranks: list[Ints], one: Ints, other: Ints) -> Ints:
    """How many tokens from each of these pairs of positions on are equal, [n]."""
    count = len(ranks[0])
    length = np.zeros(len(one), np.int64)
    for level in range(len(ranks) - 1, -1, -1):
        x, y = one + length, other + length
        inside = (x < count) & (y < count)
        same = inside & (ranks[level][np.where(inside, x, 0)] == ranks[level][np.where(inside, y, 0)])
        length += same << level
    return length


def _figures(tokens: Ints) -> Ints:
    """A number for each figure, [N]: that of the one whose last note is this one."""
    figure = np.unique(tokens, return_inverse=True)[1].astype(np.int64)
    number = figure
    for back in range(1, FIGURE - 1):
        earlier = np.full_like(figure, -1)
        earlier[back:] = figure[:-back]
        number = np.unique(number * (len(tokens) + 1) + earlier + 1, return_inverse=True)[1].astype(np.int64)
    return number


def _most_figures(figures: Ints, matched: Ints) -> tuple[int, int, int]:
    """Of the matches of one score, that with the most different figures.

    Args:
        figures: of each note, [n].
        matched: tokens from each note but the first on that are found elsewhere, [n - 1].

    Returns:
        The first note, the length as `SharedPassage` has it, and all its notes.
    """
    best = (0, 0, 0)
    inside: Counter[int] = Counter()
    numbers = figures.tolist()
    first = last = FIGURE - 1  # the figures that are counted end at these notes
    for begin, tokens in enumerate(matched.tolist()):
        # The notes are begin … begin + tokens, the figures within end FIGURE - 1 later. Neither end ever goes back.
        for note in range(last, begin + tokens + 1):
            inside[numbers[note]] += 1
        last = max(last, begin + tokens + 1)
        while first < begin + FIGURE - 1 and first < last:
            inside[numbers[first]] -= 1
            if not inside[numbers[first]]:
                del inside[numbers[first]]
            first += 1
        length = min(tokens + 1, FIGURE - 1) + len(inside) if tokens else 0
        if length > best[1]:
            best = (begin, length, tokens + 1)
    return best
