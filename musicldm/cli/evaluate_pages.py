"""The results of `musicldm evaluate` as HTML pages with audio."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from musicldm.cli.evaluate_tables import (
    clock,
    codec_sentence,
    latent_rows,
    level_sentence,
    levels_sentence,
    match_rows,
    overall_rows,
    rates_sentence,
    remarks,
    samples_rows,
    track_rows,
)
from musicldm.codecs.base import Codec
from musicldm.codecs.windows import reconstruct
from musicldm.core.errors import DataError
from musicldm.core.reading import parse_json, read_file
from musicldm.evaluate.codec import CodecResult
from musicldm.evaluate.memorization import MemorizationResult, training_passage
from musicldm.evaluate.report import Page, Series, Sound, check_target
from musicldm.evaluate.samples import SamplesResult
from musicldm.evaluate.sounds import Sound as Source
from musicldm.evaluate.sounds import Splits, files_in, music_in
from musicldm.evaluate.stores import codec_for
from musicldm.latents.store import LatentStore

SAMPLES, TRACKS, MATCHES = 20, 6, 20
"""On a page, at most."""

_WHOLE = 60.0  # seconds of a sample
_EXCERPT = 10.0  # of a track
_MEASURES = {"latent": "latents", "mel": "waveforms (log-mel)"}  # in what benchmarks/quality.py leaves
_MUSIC = "held-out music"


def check_page(html: Path | None, overwrite: bool) -> None:
    """See that a page can be written, before anything else is done.

    Raises:
        OutputError: it cannot.
    """
    if html is not None:
        check_target(html, overwrite)


def samples_page(result: SamplesResult, out: Sequence[Path], curves: dict[str, Series]) -> Page:
    """Figures, the embeddings behind them, and players of the first samples.

    Args:
        out: the files and folders that were measured.
        curves: of `steps_curves`.
    """
    page = Page("Samples", f"Compared with {result.reference}." if result.reference else "")
    for note in result.notes:
        page.text(note)
    if rows := samples_rows(result):
        page.section("Figures", "± are 95 % confidence intervals over samples.")
        page.table(rows[0], ([row[0], *_unbroken(row[1:])] for row in rows[1:]))
        page.text(" ".join(remarks(result)))
        if result.embeddings:
            page.facts(result.embeddings, "Embeddings")
    _left_out(page, result.left_out)
    if curves:
        page.section("Steps against quality")
    for name, series in curves.items():
        page.curve(
            f"Fréchet distance of {name} to the training music, relative to that of decoded noise",
            series,
            "steps",
            "ratio",
        )
    sentences = " ".join([levels_sentence(result), *rates_sentence(result)])
    page.section("Samples", sentences + _first(SAMPLES, len(result.samples)))
    # The rate and the channels do not matter: `at_own_rate` replaces them below.
    sources = {source.name: source for source in files_in(out, 1, 1)}
    page.players(
        _cut(sources[each.name].at_own_rate(), 0, _WHOLE, level_sentence(each.level))
        for each in result.samples[:SAMPLES]
    )
    return page


def codec_page(result: CodecResult, codec: Codec, data: Path, split: Splits) -> Page:
    """Figures, and some tracks beside their reconstructions."""
    page = Page(
        f"Codec {result.codec}", f"{codec_sentence(result)}. In brackets: 95 % confidence intervals over tracks."
    )
    page.table((), overall_rows(result))
    page.section("Latents")
    page.table((), latent_rows(result))
    tracks = track_rows(result)
    page.section("Tracks")
    page.table(tracks[0], tracks[1:])
    _left_out(page, result.left_out)
    page.section("Excerpts", f"{_EXCERPT:g} s from the middle of up to {TRACKS} tracks, by the posterior's mode.")
    used = {track.name for track in result.tracks}
    sources = [
        source for source in music_in(data, codec.spec.rate, codec.spec.media_channels, split) if source.name in used
    ]
    for number in np.unique(np.linspace(0, len(sources) - 1, TRACKS).round().astype(int)):
        original = _cut(sources[number], (sources[number].seconds - _EXCERPT) / 2, _EXCERPT)
        made = reconstruct(codec, torch.from_numpy(original.audio)).numpy()
        page.pair(
            sources[number].name,
            [replace(original, name="Original"), replace(original, name="Reconstruction", audio=made)],
        )
    return page


def memorization_page(
    result: MemorizationResult, out: Sequence[Path], codec: Codec | None, device: torch.device | str
) -> Page:
    """Verdicts, and the passages of the most similar samples beside those of the training music.

    Args:
        out: the files and folders that were judged.
        codec: the store's; None: the copy that it keeps.
        device: where latents are decoded.
    """
    counts = ", ".join(f"{count} {verdict}" for verdict, count in result.counts.items())
    page = Page("Is it a copy?", f"{counts}; the nearest first.")
    page.facts(
        {
            "searched": f"{result.passages} passages of {result.hours:.2f} h of training music, {result.store}",
            "calibrated by": f"{result.heldout_tracks} held-out tracks, {result.heldout_hours:.2f} h",
            "similarity of their passages": f"median {result.heldout_median:.2f}, at most {result.heldout_highest:.2f}",
        }
    )
    page.section("Verdicts", "As close: how many held-out stretches of the sample's length come as close as it does.")
    rows = match_rows(result.matches)
    page.table(rows[0], ([*row[:-1], *_unbroken(row[-1:])] for row in rows[1:]))
    _left_out(page, result.left_out)
    page.section("Side by side", "The passages that are most alike." + _first(MATCHES, len(result.matches)))
    store = LatentStore.open(result.store)
    codec = codec_for(store, codec, device)
    rate = codec.spec.rate
    sources = {source.name: source for source in files_in(out, rate, codec.spec.media_channels)}
    for match in result.matches[:MATCHES]:
        ours = _cut(sources[match.sound], match.start, match.seconds)
        audio = training_passage(store, codec, match).numpy()
        theirs = Sound(match.track, audio, rate, f"from {clock(match.at)}; {match.source}")
        page.pair(
            f"{match.verdict}, similarity {match.similarity:.2f}",
            [ours, theirs],
            f"Copied would be above {match.copied_above:.2f}, close above {match.close_above:.2f}.",
        )
    return page


def steps_curves(path: Path) -> dict[str, Series]:
    """The curves of a quality.json that benchmarks/quality.py left: by measure, a line for each sampler.

    Raises:
        DataError: it holds none.
    """
    hint = "Name the quality.json that benchmarks/quality.py left."
    try:
        cells = parse_json(read_file(path), nan=True)["cells"]
        found: dict[str, Series] = {}
        for measure, words in _MEASURES.items():
            over = {name: cell[measure][0] / cells["noise"][measure][0] for name, cell in cells.items()}
            lines: dict[str, list[tuple[float, float]]] = {}
            for name, value in over.items():
                if which := re.fullmatch(r"(\S+) (\d+)", name):  # sampler and steps
                    lines.setdefault(which[1], []).append((float(which[2]), value))
            steps = [x for line in lines.values() for x, _ in line]
            ends = min(steps), max(steps)
            if (music := over.get(f"{_MUSIC} through the VAE")) is not None:
                lines[_MUSIC] = [(end, music) for end in ends]
            found[words] = {name: sorted(line) for name, line in lines.items()}
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", hint) from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise DataError(f"{path} holds no curves.", hint) from error
    return found


# ---- Pieces --------------------------------------------------------------------------------------------------------


def _first(most: int, count: int) -> str:
    return f" Here are the first {most} of {count}." if count > most else ""


def _unbroken(cells: list[str]) -> list[str]:
    """Cells that do not break into lines; the table goes on to the right instead."""
    return [cell.replace(" ", "\N{NO-BREAK SPACE}") for cell in cells]


def _left_out(page: Page, left_out: dict[str, str]) -> None:
    if left_out:
        page.section("Left out")
        page.facts(left_out)


def _cut(source: Source, start: float, seconds: float, note: str = "") -> Sound:
    """A part of a sound, as far as there is one; its note says which."""
    with source.opened() as (samples, read):
        first = max(0, round(start * source.sample_rate))
        last = min(samples, first + round(seconds * source.sample_rate))
        audio = read(first, last).numpy()
    part = f"the first {seconds:.3g} of {samples / source.sample_rate:.3g} s" if last < samples else ""
    place = f"from {clock(first / source.sample_rate)}" if first else part
    return Sound(source.name, audio, source.sample_rate, "; ".join(filter(None, [note, place])))
