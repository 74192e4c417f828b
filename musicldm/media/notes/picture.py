"""Pictures of scores: piano rolls."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from musicldm.core import durable
from musicldm.media.notes.score import Score

_MOST_LINES = 200  # of bars; more would be a grey wall


def picture(path: Path, score: Score, title: str = "") -> None:
    """Write a PNG of a score's notes over the seconds, coloured by velocity, with its bars and pedal.

    Args:
        path: of the PNG, which is written whole or not at all.
        title: by default the score's own.

    Raises:
        OutputError: `path` cannot be written.
    """
    # Figure itself, not pyplot, which keeps figures alive and looks for a screen.
    figure = Figure(figsize=(10, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    played = [track for track in score.tracks if len(track)]
    pitch = np.concatenate([track.pitch for track in played]) if played else np.array([60])
    low, high = int(pitch.min()) - 2, int(pitch.max()) + 3

    notes = PolyCollection([], cmap="viridis", norm=Normalize(0, 127), linewidths=0)
    if played:
        start, end = (
            score.seconds(np.concatenate([getattr(each, key) for each in played])) for key in ("start", "end")
        )
        # A hair less than the whole length, so that a key that is struck again shows as two notes.
        end = start + 0.96 * (end - start)
        corners = [(start, pitch), (start, pitch + 0.9), (end, pitch + 0.9), (end, pitch)]
        notes.set_verts(list(np.stack([np.stack(corner, axis=1) for corner in corners], axis=1)))
        notes.set_array(np.concatenate([track.velocity for track in played]))
    axis.add_collection(notes, autolim=False)
    for track in score.tracks:
        spans = score.seconds(track.pedals)
        axis.broken_barh([(down, up - down) for down, up in spans.tolist()], (low - 1.2, 0.8), color="tab:orange")
    bars = score.seconds(score.bars())
    every = -(-len(bars) // _MOST_LINES) or 1
    axis.vlines(bars[::every], low, high, color="0.8", linewidth=0.5, zorder=0)

    axis.set_xlim(0, max(score.duration, 0.1))
    axis.set_ylim(low - 1.5, high)
    octaves = [c for c in range(0, 128, 12) if low <= c < high]
    axis.set_yticks(octaves, [f"C{c // 12 - 1}" for c in octaves])
    axis.set_xlabel("seconds")
    # In a song's title a dollar sign is no formula.
    axis.set_title(title or score.title, loc="left", fontsize="medium", parse_math=False)
    figure.colorbar(notes, ax=axis, label="velocity")
    durable.make_folder(path.parent)
    with durable.replacing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a title in a script that the font lacks
        figure.savefig(temporary, format="png")
