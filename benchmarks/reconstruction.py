"""What does a codec leave of music, and how fast is it? `python benchmarks/reconstruction.py CODEC DATA [MIDI_FOLDER]`

Of an excerpt of each held-out track: mel and STFT distance as `musicldm evaluate vae` has them and, where MIDI_FOLDER
is given, the F1 of note onsets (50 ms; all notes of all excerpts together) that the transcriber transkun hears, against
the MIDI file of which fluidsynth made the recording, and beside it what is heard in the recording itself. *Speed*:
seconds of music that a second of the clock decodes, a minute of latents at once, the median of five.

A codec of spectra is shown with each way to its phases: one pass of integration, iterations of Griffin and Lim's
algorithm, and the network of one pass if it has one.

Tracks belong to MIDI files by the name in brackets, and --trimmed means what it does in `predictability.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from midi import PITCHES, files_in, name_of, notes_of
from rich.console import Console
from rich.table import Table
from torch import Tensor

from musicldm.codecs.base import Codec, load_codec
from musicldm.codecs.spectrum.model import SpectrumCodec
from musicldm.evaluate.metrics import Comparison
from musicldm.evaluate.notes import Note, onset_score
from musicldm.evaluate.transcription import Transcriber, load_transcriber, transcribe_audio
from musicldm.media.dataset import open_splits

EDGE = 0.5  # seconds at both ends of an excerpt whose notes are not counted: they may sound there in part only
TIMED_SECONDS, ROUNDS = 60.0, 5


@dataclass(frozen=True)
class Excerpt:
    audio: Tensor
    """[C, T]"""
    notes: list[Note]
    """Of the MIDI file; in the excerpt's time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codec")
    parser.add_argument("data", type=Path, help="what preprocess made")
    parser.add_argument("midis", type=Path, nargs="?")
    parser.add_argument("--trimmed", action="store_true", help="the silence before the first note was taken off")
    parser.add_argument("--seconds", type=float, default=20, help="of each held-out track, from its first third on")
    parser.add_argument("--iterations", type=int, nargs="*", default=[8, 16], help="of Griffin and Lim's algorithm")
    parser.add_argument("--only", nargs="+", help="of the ways to the phases, by their names in the table")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    codec = load_codec(options.codec)
    excerpts = list(excerpts_of(codec, options))
    transcriber = load_transcriber("transkun") if options.midis else None
    rows = {"the recording": {"onset_f1": heard([each.audio for each in excerpts], excerpts, transcriber, codec)}}
    for name, variant in variants(codec, options.iterations):
        if options.only and name not in options.only:
            continue
        rows[name] = judged(variant, excerpts, transcriber)
    if options.json:
        print(json.dumps({"excerpts": len(excerpts), "rows": rows}))
    else:
        show(rows)


def excerpts_of(codec: Codec, options: argparse.Namespace) -> Iterator[Excerpt]:
    """One of each held-out track, as far as there is a MIDI file of it if those are asked for."""
    spec = codec.spec
    files = files_in(options.midis) if options.midis else {}
    for track in open_splits(options.data, spec.rate, spec.media_channels)["heldout"]:
        start = track.length // 3
        audio = torch.from_numpy(track.read(start, min(track.length, start + int(options.seconds * spec.rate))))
        name = name_of(track.path)
        if options.midis and name not in files:
            continue
        notes: list[Note] = []
        if options.midis:
            found = notes_of(files[name], trimmed=options.trimmed)
            columns = zip(found.onset, found.end, found.key, found.velocity, strict=True)
            began = start / spec.rate
            notes = [
                Note(on - began, int(key) + PITCHES[0], off - began, round(127 * loud))
                for on, off, key, loud in columns
            ]
        yield Excerpt(audio, notes)


def variants(codec: Codec, iterations: list[int]) -> Iterator[tuple[str, Codec]]:
    """The codec, with each way to its phases that it has."""
    if not isinstance(codec, SpectrumCodec):
        yield "as it is", codec
        return
    for count in (0, *iterations):
        variant = SpectrumCodec(replace(codec.config, decoder="griffinlim", iterations=count)).eval()
        for part in ("encoder", "decoder"):
            variant.get_submodule(part).load_state_dict(codec.get_submodule(part).state_dict())
        yield f"{count} iterations" if count else "one pass", variant
    if codec.head is not None:
        yield "adversarial", codec


@torch.inference_mode()
def judged(codec: Codec, excerpts: list[Excerpt], transcriber: Transcriber | None) -> dict[str, float | None]:
    spec = codec.spec
    comparison, made = Comparison(spec.rate, keeps_phase=codec.keeps_phase), []
    for excerpt in excerpts:
        z = codec.encode(excerpt.audio[None]).mode()
        made.append(codec.decode(z)[0, :, : excerpt.audio.shape[-1]])
        comparison.add(excerpt.audio, made[-1])
    figures = comparison.result()
    z = codec.encode(excerpts[0].audio[None]).mode()
    z = z.repeat(1, 1, 1 + int(TIMED_SECONDS * spec.frame_rate / z.shape[-1]))[
        ..., : int(TIMED_SECONDS * spec.frame_rate)
    ]
    spent = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        codec.decode(z)
        spent.append(time.perf_counter() - began)
    return {
        "mel": figures.mel,
        "stft": figures.stft,
        "onset_f1": heard(made, excerpts, transcriber, codec),
        "speed": TIMED_SECONDS / statistics.median(spent),
    }


def heard(sounds: list[Tensor], excerpts: list[Excerpt], transcriber: Transcriber | None, codec: Codec) -> float | None:
    """The F1 of all onsets that are heard, against the MIDI files'."""
    if transcriber is None:
        return None
    matched = found = wanted = 0
    for sound, excerpt in zip(sounds, excerpts, strict=True):
        last = excerpt.audio.shape[-1] / codec.spec.rate - EDGE
        notes = transcribe_audio(transcriber, sound, codec.spec.rate)
        score = onset_score(*([note for note in each if EDGE <= note.onset < last] for each in (excerpt.notes, notes)))
        matched, found, wanted = matched + score.matched, found + score.found, wanted + score.reference
    return 2 * matched / (found + wanted)


def show(rows: dict[str, dict[str, float | None]]) -> None:
    table = Table("", "mel", "STFT", "onset F1", "x real time")
    for name, row in rows.items():
        cells = (
            (row.get(column), digits) for column, digits in (("mel", 3), ("stft", 3), ("onset_f1", 3), ("speed", 0))
        )
        table.add_row(name, *("" if cell is None else f"{cell:.{digits}f}" for cell, digits in cells))
    Console().print(table)


if __name__ == "__main__":
    main()
