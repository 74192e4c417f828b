"""Reports: figures, players with their spectrograms, and curves, all in one HTML file.

A page requests nothing from elsewhere, so it works from the file system and can be sent to somebody; a content security
policy in it makes the browser enforce that. All text is escaped, since file names may come from strangers.

Shapes: C channels, T samples; audio is float32 [C, T] in [-1, 1].
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from musicldm.core import durable
from musicldm.core.errors import MissingProgramError, OutputError
from musicldm.core.guard import Guard
from musicldm.media.audio import files, spectrogram

Floats = files.Floats
Series = Mapping[str, Sequence[tuple[float, float]]]
"""Name -> its points (x, y), in order."""

LARGE = 1 << 18
"""Bytes of a WAV beyond which a sound is embedded as mp3, which every browser plays."""

# What every page begins with, and what comes before its hash at the end.
_BEGIN = '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy"'
_SEAL = "<!-- musicldm "

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 320, 64, 16, 12, 44  # of a curve and around it
_COLOURS = 6  # that the style knows


@dataclass(frozen=True)
class Sound:
    """Something to listen to."""

    name: str
    audio: Floats
    """[C, T]"""
    sample_rate: int
    note: str = ""
    """A line below its name."""


def check_target(path: Path, overwrite: bool = False) -> None:
    """Check that a page can be written there, before minutes of work.

    Args:
        overwrite: a file there that is not a page of ours may be replaced.

    Raises:
        OutputError: there is no such folder, it cannot be written, the path is a folder, or a file that is not a page
            of ours, or was changed since.
    """
    hint = "Make it, or name another one with --html."
    if not path.parent.is_dir():
        raise OutputError(f"There is no folder {path.parent} for the page.", hint)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"The folder {path.parent} cannot be written.", hint)
    if path.is_dir():
        raise OutputError(f"{path} is a folder.", "Give a file in it, such as report.html.")
    Guard(is_page, overwrite).check(path)


def is_page(path: Path) -> bool:
    """Whether a file is a page as `Page` wrote it, of this release or of 0.1, which did not seal its pages."""
    text = path.read_bytes().decode("utf-8", "replace")
    page, sealed, _ = text.rpartition(_SEAL)
    return text == _sealed(page) if sealed else text.startswith(_BEGIN)


class Page:
    """A page that grows from top to bottom.

    Args:
        title: its heading, and the browser's.
        text: a sentence or two below it.
    """

    def __init__(self, title: str, text: str = "") -> None:
        self.title = title
        self._body = [f"<header><h1>{escape(title)}</h1>{_paragraph(text)}</header>"]

    # ---- Contents --------------------------------------------------------------------------------------------------

    def section(self, title: str, text: str = "") -> None:
        """A heading, and a sentence below it."""
        self._body.append(f"<h2>{escape(title)}</h2>{_paragraph(text)}")

    def text(self, text: str) -> None:
        """A paragraph."""
        self._body.append(_paragraph(text))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> None:
        """Rows of cells, each as its text; floats with four digits."""
        head = "".join(f"<th>{escape(each)}</th>" for each in columns)
        body = "".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in rows)
        title = f"<caption>{escape(caption)}</caption>" if caption else ""
        head = f"<thead><tr>{head}</tr></thead>" if columns else ""
        self._body.append(f'<div class="wide"><table>{title}{head}<tbody>{body}</tbody></table></div>')

    def facts(self, facts: Mapping[str, object], caption: str = "") -> None:
        """Names and values, one pair a line."""
        self.table((), facts.items(), caption)

    def picture(self, png: bytes, caption: str) -> None:
        """A PNG."""
        self._body.append(
            f'<figure><img src="{_data(png, "image/png")}" alt="{escape(caption)}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )

    def players(self, sounds: Iterable[Sound]) -> None:
        """Sounds, each with its mel spectrogram; a click in it plays from there."""
        self._body.append(f'<div class="grid">{"".join(map(_player, sounds))}</div>')

    def pair(self, title: str, sounds: Sequence[Sound], text: str = "") -> None:
        """Sounds side by side under one title: a sample and its nearest passage of the training music."""
        players = "".join(map(_player, sounds))
        self._body.append(
            f'<section class="pair"><h3>{escape(title)}</h3>{_paragraph(text)}'
            f'<div class="grid">{players}</div></section>'
        )

    def curve(self, caption: str, series: Series, across: str, up: str) -> None:
        """Lines over a common axis, which is logarithmic where it spans more than a decade, such as steps do.

        Points that are not finite are left out.
        """
        self._body.append(
            f"<figure>{_svg(series, across, up, caption)}{_legend(series)}"
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )

    # ---- Output -----------------------------------------------------------------------------------------------------

    def html(self) -> str:
        """The whole document."""
        # Names on the page come from files of any origin. Should one get past `escape`, the browser still runs no
        # script but ours, which it knows by its hash, and fetches nothing.
        policy = "; ".join(
            (
                "default-src 'none'",
                "img-src data:",
                "media-src data:",
                f"style-src 'sha256-{_digest(_STYLE)}'",
                f"script-src 'sha256-{_digest(_SCRIPT)}'",
            )
        )
        page = (
            f'{_BEGIN} content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>{escape(self.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
            + "\n".join(self._body)
            + f"\n</main>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
        )
        return _sealed(page.encode("utf-8", "replace").decode())  # file names may not be valid Unicode

    def write(self, path: Path, overwrite: bool = False) -> None:
        """Write it, whole or not at all.

        Raises:
            OutputError: `path` cannot be written; see `check_target`.
        """
        check_target(path, overwrite)
        durable.write_bytes(path, self.html().encode(), Guard(is_page, overwrite).commit)


def _sealed(page: str) -> str:
    """A page with the hash of itself at its end, by which it is known as unchanged."""
    return f"{page}{_SEAL}{_digest(page)} -->\n"


# ---- Pieces --------------------------------------------------------------------------------------------------------


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>" if text else ""


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return escape(str(value))


def _player(sound: Sound) -> str:
    audio = np.nan_to_num(np.atleast_2d(sound.audio)).astype(np.float32)
    seconds = audio.shape[1] / sound.sample_rate
    note = f"<small>{escape(sound.note)}</small>" if sound.note else ""
    picture = _data(spectrogram.thumbnail(audio, sound.sample_rate), "image/png") if audio.size else ""
    shown = f'<div class="seen"><img src="{picture}" alt="Mel spectrogram"><i></i></div>' if picture else ""
    return (
        f'<figure class="player"><figcaption>{escape(sound.name)} <span>{seconds:.1f} s</span>{note}</figcaption>'
        f'{shown}<audio controls preload="metadata" src="{_embedded(audio, sound.sample_rate)}"></audio></figure>'
    )


def _embedded(audio: Floats, sample_rate: int) -> str:
    format, buffer = "mp3" if audio.size * 2 > LARGE else "wav", io.BytesIO()
    try:
        files.write(buffer, audio, sample_rate, format)
    except MissingProgramError:  # then it is large
        format = "wav"
        files.write(buffer, audio, sample_rate, format)
    return _data(buffer.getvalue(), {"mp3": "audio/mpeg", "wav": "audio/wav"}[format])


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# ---- Curves --------------------------------------------------------------------------------------------------------


def _svg(series: Series, across: str, up: str, caption: str) -> str:
    finite = {
        name: [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        for name, points in series.items()
    }
    xs = sorted({x for points in finite.values() for x, _ in points})
    ys = [y for points in finite.values() for _, y in points]
    if not xs:
        return _paragraph("There is nothing to draw.")
    logarithmic = xs[0] > 0 and xs[-1] / xs[0] > 10
    marks = _marks(min(0.0, *ys), max(ys))

    def place(value: float, low: float, high: float, start: float, stop: float) -> float:
        return start + (stop - start) * ((value - low) / (high - low) if high > low else 0.5)

    def right(x: float) -> float:
        x, low, high = (math.log(each) if logarithmic else each for each in (x, xs[0], xs[-1]))
        return place(x, low, high, _LEFT + 12, _WIDTH - _RIGHT - 12)

    def down(y: float) -> float:
        return place(y, marks[0], marks[-1], _HEIGHT - _BOTTOM, _TOP)

    drawn = []
    for mark in marks:
        drawn.append(
            f'<line class="rule" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{down(mark):.1f}" y2="{down(mark):.1f}"/>'
        )
        drawn.append(f'<text x="{_LEFT - 8}" y="{down(mark) + 4:.1f}" text-anchor="end">{mark:.4g}</text>')
    taken = -math.inf
    for x in xs:
        if right(x) - taken >= 48:  # room for its number
            taken = right(x)
            drawn.append(f'<text x="{taken:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{x:.4g}</text>')
    drawn.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(across)}</text>'
    )
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    drawn.append(f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{escape(up)}</text>')
    for number, (name, points) in enumerate(finite.items()):
        places = [(f"{right(x):.1f}", f"{down(y):.1f}", f"{name}: {x:.4g}, {y:.4g}") for x, y in points]
        line = " ".join(f"{x},{y}" for x, y, _ in places)
        dots = "".join(
            f'<circle cx="{x}" cy="{y}" r="3.5"><title>{escape(label)}</title></circle>' for x, y, label in places
        )
        drawn.append(f'<g class="line c{number % _COLOURS}"><polyline points="{line}"/>{dots}</g>')
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(caption)}">{"".join(drawn)}</svg>'


def _legend(series: Series) -> str:
    entries = (f'<li class="c{number % _COLOURS}">{escape(name)}</li>' for number, name in enumerate(series))
    return f'<ul class="legend">{"".join(entries)}</ul>'


def _marks(low: float, high: float) -> list[float]:
    """About five round numbers around a range."""
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / 4))
    step = power * min((1, 2, 5, 10), key=lambda each: abs(each * power - span / 4))
    first, last = math.floor(low / step), math.ceil(high / step)
    return [each * step for each in range(first, last + 1)]


# ---- Style ---------------------------------------------------------------------------------------------------------

_STYLE = """
:root { --back: #fbfaf8; --card: #fff; --ink: #1d1b20; --soft: #6b6672; --rule: #e2dfe6; --accent: #7b3fa0;
  --c0: #7b3fa0; --c1: #c8461e; --c2: #1f7a8c; --c3: #b08800; --c4: #3c7d3f; --c5: #b0306a; }
@media (prefers-color-scheme: dark) { :root { --back: #141217; --card: #1e1b23; --ink: #ece8f0; --soft: #a39cad;
  --rule: #37323f; --accent: #c99be6; --c0: #c99be6; --c1: #ff8e64; --c2: #6fc7d8; --c3: #e6c14f; --c4: #88cc8b;
  --c5: #f286b5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
main { max-width: 1080px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 0 0 .25rem; }
p { margin: .25rem 0 .75rem; max-width: 46rem; }
.wide { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .25rem; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule);
  overflow-wrap: normal; }
th { color: var(--soft); font-weight: 600; }
thead + tbody td:first-child { position: sticky; left: 0; min-width: 7.5rem; max-width: 40vw;
  overflow-wrap: anywhere; background: var(--back); }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); }
.pair { margin: 1rem 0 2rem; }
.pair .grid { grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); }
figure { margin: .75rem 0; min-width: 0; }
.grid figure { margin: 0; }
.player { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: .75rem;
  display: flex; flex-direction: column; }
.player figcaption { font-weight: 600; margin-bottom: .5rem; color: var(--ink); }
.player figcaption span, small { color: var(--soft); font-weight: 400; font-size: .85rem; }
small { display: block; }
figcaption { color: var(--soft); font-size: .9rem; }
img, svg, audio { display: block; max-width: 100%; }
svg { width: 100%; height: auto; max-width: 720px; }
audio { width: 100%; height: 40px; }
.seen { position: relative; cursor: pointer; border-radius: 6px; overflow: hidden; margin: auto 0 .5rem; }
.seen img { width: 100%; height: 120px; }
.seen i { position: absolute; top: 0; bottom: 0; left: 0; width: 2px; background: #fff; opacity: 0; }
svg text { fill: var(--soft); font-size: 13px; }
@media (max-width: 520px) { svg text { font-size: 20px; } }
.rule { stroke: var(--rule); }
.line polyline { fill: none; stroke: currentColor; stroke-width: 2; }
.line circle { fill: currentColor; }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); }
.c3 { color: var(--c3); } .c4 { color: var(--c4); } .c5 { color: var(--c5); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: .25rem 0; padding: 0;
  font-size: .9rem; }
.legend li::before { content: ""; display: inline-block; width: 1em; height: 3px; margin-right: .5em;
  vertical-align: middle; background: currentColor; }
"""

# Plays one sound at a time; a line in the spectrogram shows its position, and a click there changes it.
_SCRIPT = """
for (const player of document.querySelectorAll('.player')) {
  const sound = player.querySelector('audio'), seen = player.querySelector('.seen');
  sound.addEventListener('play', () => {
    for (const other of document.querySelectorAll('audio')) if (other !== sound) other.pause();
  });
  if (!seen) continue;
  const line = seen.querySelector('i');
  sound.addEventListener('timeupdate', () => {
    line.style.opacity = 1;
    line.style.left = `${100 * sound.currentTime / sound.duration}%`;
  });
  seen.addEventListener('click', (click) => {
    const box = seen.getBoundingClientRect();
    if (sound.duration) sound.currentTime = sound.duration * (click.clientX - box.left) / box.width;
    sound.play();
  });
}
"""
