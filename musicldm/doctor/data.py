"""Folders of music: whether they are prepared, whole, and worth training on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from musicldm.core.errors import MusicLDMError
from musicldm.core.names import counted
from musicldm.doctor.findings import Examined, Finding, Verdict
from musicldm.doctor.tracks import examine_lengths, examine_split

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from musicldm.media.manifest import PreparedTrack

MOST_TRACKS = 200
"""Tracks of a folder whose audio is read, at most, evenly chosen, each in `EXCERPTS` places."""
EXCERPTS, EXCERPT_SECONDS = 4, 2.0
FLAT = 1e-4
"""The fraction of samples on flat tops from which a track counts as clipped."""
_AGAIN = "Run preprocess again: it repairs what earlier releases clipped or mixed to silence."
SILENT = 1e-4
"""RMS below which excerpts count as silent."""


def examine_data(thing: str, examined: Examined, device: str) -> Iterator[Finding]:
    """All about a folder of audio, prepared or not."""
    from musicldm.media.manifest import MANIFEST, read_tracks

    folder = Path(thing)
    if not (folder / MANIFEST).is_file():
        yield _unprepared(folder)
        return
    tracks = read_tracks(folder)
    examined.data.append((folder, tracks))
    hours = sum(track.seconds for track in tracks) / 3600
    audio = [track for track in tracks if track.medium == "audio"]
    formats = {(track.rate, track.channels) for track in audio}
    artists = sum(bool(name) for name in counted(track.artist for track in tracks))
    text = f"{len(tracks)} prepared tracks, {hours:.2f} h, by {artists} artists."
    if len(formats) > 1:
        mixed = ", ".join(f"{rate} Hz × {channels}" for rate, channels in sorted(formats))
        yield Finding(thing, "warning", f"{text} They have {len(formats)} formats: {mixed}.", "Train with --resample.")
    else:
        yield Finding(thing, "ok", text)
    if gone := [reason for track in tracks if (reason := _why_gone(track))]:
        text = f"{len(gone)} files are missing or have changed: {gone[0]}"
        yield Finding(thing, "wrong", text, "Run preprocess again.")
    yield examine_split(thing, [(track.content, track.split) for track in tracks])
    if audio:
        yield from examine_lengths(thing, [track.seconds for track in audio], ("codec", "generator"), "audio")
        yield from _audio(thing, audio)
    if notes := [track for track in tracks if track.medium == "notes"]:
        yield from examine_lengths(
            thing, [track.length / track.rate for track in notes], ("codec", "generator"), "notes"
        )


def _unprepared(folder: Path) -> Finding:
    from musicldm.media.audio.decode import probe

    files = sorted(path for path in (folder.rglob("*") if folder.is_dir() else [folder]) if path.is_file())
    step = max(1, len(files) // MOST_TRACKS)
    refused: dict[Path, str] = {}
    tried = files[::step]
    for path in tried:
        try:
            probe(path)
        except MusicLDMError as error:
            refused[path] = error.message
    usable = len(tried) - len(refused)
    text = f"{usable} of {len(tried)} files that were tried hold audio; they are not prepared yet."
    advice = f"Prepare them first: musicldm preprocess {folder} OUT"
    if not usable:
        return Finding(str(folder), "wrong", "There is no audio in it.", "Give a folder with audio files.")
    if refused:
        path, reason = next(iter(refused.items()))
        text += f" {path.name}: {reason}"
    return Finding(str(folder), "warning", text, advice)


def _why_gone(track: PreparedTrack) -> str:
    try:
        track.check()
    except MusicLDMError as error:
        return error.message
    return ""


def _audio(thing: str, tracks: Sequence[PreparedTrack]) -> Iterator[Finding]:
    """Silence, clipping and values that are not finite, in excerpts of some tracks."""
    import numpy as np

    some = tracks[:: max(1, -(-len(tracks) // MOST_TRACKS))]
    silent, clipped, broken, readable = [], [], [], 0
    for track in some:
        try:
            audio = np.concatenate(list(_excerpts(track)), axis=1)
        except MusicLDMError:
            continue  # already reported as gone
        readable += 1
        if not np.isfinite(audio).all():
            broken.append(track)
        elif float(np.sqrt(np.mean(np.square(audio)))) < SILENT:
            silent.append(track)
        elif flat_tops(audio) > FLAT:
            clipped.append(track)
    where = f"of {len(some)} tracks, examined in {EXCERPTS} places each,"
    if_silent: Verdict = "wrong" if len(silent) == len(some) else "warning"
    faults: list[tuple[list[PreparedTrack], Verdict, str, str]] = [
        (broken, "wrong", "hold values that are not finite", "Run preprocess again."),
        (
            silent,
            if_silent,
            "are silent",
            f"{_AGAIN} If they stay that way, remove them: a model learns silence from them.",
        ),
        (clipped, "warning", "are clipped", f"{_AGAIN} If they stay that way, look for better copies."),
    ]
    for found, verdict, what, advice in faults:
        if found:
            names = ", ".join(track.path.name for track in found[:3]) + (", …" if len(found) > 3 else "")
            yield Finding(thing, verdict, f"{len(found)} {where} {what}: {names}.", advice)
    if readable and not (broken or silent or clipped):
        yield Finding(thing, "ok", f"None {where} is silent or clipped.")


def _excerpts(track: PreparedTrack) -> Iterator[NDArray[np.float32]]:
    length = min(track.length, round(EXCERPT_SECONDS * track.rate))
    for number in range(EXCERPTS):
        # Away from both ends, where silence is no fault.
        start = (track.length - length) * (2 * number + 1) // (2 * EXCERPTS)
        yield track.read(start, start + length)


def flat_tops(audio: NDArray[np.float32]) -> float:
    """The fraction of the samples of audio [C, T] that stay, four or more in a row, at one of the two extremes.

    A fixed level would miss what was clipped and then turned down; a quiet channel's extremes do not count.
    """
    import numpy as np

    flat = 0
    for channel in audio:
        for extreme in (channel.max(), channel.min()):
            at = (channel == extreme).astype(np.int8)
            runs = np.flatnonzero(np.diff(at, prepend=0, append=0)).reshape(-1, 2)
            lengths = runs[:, 1] - runs[:, 0]
            # Two or three equal samples occur at the crest of any low tone.
            flat += int(lengths[lengths >= 4].sum()) if abs(extreme) > 0.1 else 0
    return flat / audio.size
