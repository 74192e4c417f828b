"""How a piece of music is divided into the windows that are made at once: a plan of frames, which computes nothing.

    piece      |------------------------------------|
    window 0   |============|
    window 1             |..==========|                 .. is the end of the window before, which this one keeps
    window 2                       |..==========|
    window 3                                 |..====....|  and what lies beyond the piece is cut off

All integers are latent frames, but for `Span`s of samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

OVERLAP = 0.25
"""Of a window: what the next one keeps of it."""
STRETCH = 1.15
"""How much longer than usual a window may be where fewer are needed for it, if nobody has named its length."""

Span = tuple[int, int]
"""From the first to beyond the last."""


@dataclass(frozen=True)
class WindowSize:
    """How long windows may be."""

    usual: int
    """What is made at once of a piece that takes several."""
    longest: int
    """What a piece may have that is made in one, and a window that saves another."""
    multiple: int = 1
    """Windows are a whole number of times so many frames."""

    @classmethod
    def of(cls, usual: int, longest: int, multiple: int, limit: int | None = None) -> WindowSize:
        """Sizes rounded down to the multiple, and cut to `limit`, what the memory is known to hold."""

        def fitting(frames: int) -> int:
            frames = frames if limit is None else min(frames, limit)
            return max(2, multiple, frames // multiple * multiple)

        return cls(fitting(usual), fitting(longest), multiple)

    def at_once(self, frames: int) -> int:
        """How many of so many frames are to be made at once: all, where they are not too many."""
        return self.longest if frames <= self.longest else self.usual


@dataclass(frozen=True)
class Window:
    """One window of a piece."""

    number: int
    """From 0 on."""
    count: int
    """How many windows the piece takes in all, as far as is known by now."""
    kept: int
    """The frames at its beginning that are the end of what comes before it."""
    length: int
    """Its frames, with those that it keeps and those that may be cut off."""
    used: int
    """The frames after those it keeps that become part of the piece."""
    tail: int
    """The frames at its end that the next window keeps, at most."""


def next_window(done: int, frames: int, tail: int, number: int, size: WindowSize, joint: bool = False) -> Window:
    """The window that goes on after `done` of `frames` new frames.

    The rest is divided evenly, so that the windows are alike and the last one makes little in vain.

    Args:
        tail: how many frames there are before it that it can go on from.
        number: its own.
        joint: all that is left is one window, however long.
    """
    # At most half of a window, so that the other half is new.
    kept = min(tail, size.usual // 2)
    rest = kept + frames - done
    count, length = (1, rest + -rest % size.multiple) if joint else divide(rest, size)
    return Window(
        number=number,
        count=number + count,
        kept=kept,
        length=length,
        used=min(length - kept, frames - done),
        tail=max(1, int(OVERLAP * length)),
    )


def plan(frames: int, size: WindowSize, known: int = 0, joint: bool = False) -> Iterator[Window]:
    """The windows of `frames` new frames, one after another, where `known` frames come before them."""
    done, number, tail = 0, 0, known
    while done < frames:
        window = next_window(done, frames, tail, number, size, joint)
        yield window
        done, number, tail = done + window.length - window.kept, number + 1, window.tail


def divide(frames: int, size: WindowSize) -> tuple[int, int]:
    """In how many windows to make so many frames, and the frames of each: all alike, and each overlaps the next."""
    longest = size.longest
    count = 1 + max(0, -(-(frames - longest) // (longest - int(OVERLAP * longest))))
    # `count` windows with an overlap between each two cover length · (count − (count − 1) · OVERLAP) frames.
    length = math.ceil(frames / (count - (count - 1) * OVERLAP))
    return count, min(longest, length + -length % size.multiple)


# ---- Infilling -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gap:
    """A part of a piece that is made at once, with what lies around it."""

    spans: tuple[Span, ...]
    """In samples: what is to be replaced."""
    begin: int
    end: int
    """In frames: what is looked at."""


def frames_of(span: Span, hop: int) -> Span:
    """The latent frames that a span of samples touches."""
    return span[0] // hop, -(-span[1] // hop)


def gaps(spans: Sequence[Span], hop: int, frames: int, context: int) -> list[Gap]:
    """Spans of samples, in order, with `context` frames around them; those that are near each other are one gap.

    Far from the spans there is nothing to do.
    """
    groups: list[list[Span]] = []
    for span in spans:
        if groups and span[0] - groups[-1][-1][1] < 2 * context * hop:
            groups[-1].append(span)
        else:
            groups.append([span])
    return [
        Gap(
            tuple(group),
            max(0, frames_of(group[0], hop)[0] - context),
            min(frames, frames_of(group[-1], hop)[1] + context),
        )
        for group in groups
    ]
