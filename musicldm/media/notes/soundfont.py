"""Scores -> sound by a soundfont, through the system's fluidsynth program."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from musicldm.core.errors import DataError, MissingProgramError, UsageError
from musicldm.core.reading import head
from musicldm.media.notes.midi import write_midi
from musicldm.media.notes.score import Ints, Score, Track, separate

Floats = NDArray[np.float32]

VARIABLE = "SOUNDFONT"
"""Of the environment: the path of the soundfont to use."""

_PLACES = (
    "~/.local/share/soundfonts",
    "~/.local/share/sounds/sf2",
    "/usr/local/share/soundfonts",
    "/usr/share/soundfonts",
    "/usr/share/sounds/sf2",
    "/usr/share/sounds/sf3",
    "/opt/homebrew/share/soundfonts",
)
# What a system calls its default comes first, then the well-known, then whatever there is.
_NAMES = ("default", "MuseScore_General", "FluidR3_GM", "GeneralUser", "")

_PEAK = 10 ** (-1 / 20)  # -1 dBFS
_MILLISECONDS = 504  # the resolution at which a tick is one, if a quarter is 504 of them
_TAIL = 2.0  # seconds after the score's end


def find_soundfont() -> Path | None:
    """The soundfont that $SOUNDFONT names, else one in the usual places of the system, else None.

    Raises:
        DataError: $SOUNDFONT names none.
    """
    if named := os.environ.get(VARIABLE):
        return _checked(Path(named).expanduser())
    found = [
        file for place in _PLACES for file in sorted(Path(place).expanduser().glob("*.sf[23]")) if is_soundfont(file)
    ]
    for name in _NAMES:
        for file in found:
            if file.name.startswith(name):
                return file
    return None


def is_soundfont(path: Path) -> bool:
    """Whether a file begins as soundfonts do."""
    begin = head(path, 12)
    return begin[:4] == b"RIFF" and begin[8:] == b"sfbk"


def render_soundfont(
    score: Score, soundfont: Path, sample_rate: int = 44100, channels: int = 2, timeout: float | None = None
) -> Floats:
    """Play a score with a soundfont: float32 [C, T], its loudest sample at -1 dBFS; two seconds longer than the score.

    Args:
        channels: 1 or 2.
        timeout: seconds after which it is given up; by default a minute, and as long again as the score lasts.

    Raises:
        DataError: `soundfont` is none, or the program failed or took too long.
        MissingProgramError: there is no fluidsynth.
        UsageError: no such number of channels, or a rate that fluidsynth has not.
    """
    if channels not in (1, 2):
        raise UsageError(f"{channels} is not a valid number of channels: expected 1 or 2.")
    if not 8000 <= sample_rate <= 96000:
        raise UsageError(f"{sample_rate} is not a valid sample rate: expected 8,000 to 96,000 Hz.")
    _checked(soundfont)
    program = shutil.which("fluidsynth")
    if program is None:
        raise MissingProgramError(
            "Playing with a soundfont needs the fluidsynth program, which was not found.",
            "Install fluidsynth with the system's package manager, or render without a soundfont.",
        )
    limit = 60 + score.duration if timeout is None else timeout
    with tempfile.TemporaryDirectory() as folder:
        midi, raw = Path(folder, "score.mid"), Path(folder, "sound.raw")
        midi.write_bytes(write_midi(in_milliseconds(score)))
        # Of numbers without a header, so that nothing else has to be read. As float: 16 bits would clip first.
        form = ["-T", "raw", "-O", "float", "-E", "little", "-r", str(sample_rate), "-g", "0.5"]
        # "./", or a path that begins with a dash would be an option.
        command = [program, "-n", "-i", "-q", *form, "-F", str(raw), os.path.abspath(soundfont), str(midi)]
        _run(command, limit)
        if not raw.is_file():
            raise DataError(f"fluidsynth made no sound with {soundfont}.", "Try another soundfont.")
        sound = np.fromfile(raw, "<f4").reshape(-1, 2).T
    return _finished(sound, round((score.duration + _TAIL) * sample_rate), channels)


def in_milliseconds(score: Score) -> Score:
    """The same sound at one tempo, with a tick of a millisecond.

    fluidsynth counts whole ticks anew at each tempo event, so that an expressive tempo map runs ahead of itself: by
    59 ms in the median of 285 pieces, and by 0.86 s at most. Where there is one tempo, and a tick is its own unit, it
    cannot.
    """

    def moved(ticks: Ints) -> Ints:
        return np.rint(1000 * score.seconds(ticks)).astype(np.int64)

    tracks = []
    for track in score.tracks:
        start = moved(track.start)
        notes = separate(start, np.maximum(moved(track.end), start + 1), track.pitch, track.velocity)
        pedals = moved(track.pedals)
        pedals = pedals[pedals[:, 0] < pedals[:, 1]]
        tracks.append(Track(*notes.columns, track.program, track.is_drum, track.name, pedals))
    # A millisecond more: the shortest note of all may have been lengthened.
    length = int(moved(np.array(score.length))) + 1
    tempo = np.array([[0, 1000 * _MILLISECONDS]])
    return replace(
        score, resolution=_MILLISECONDS, length=length, tracks=tuple(tracks), tempos=tempo, metres=score.metres[:1]
    )


def _checked(soundfont: Path) -> Path:
    if not is_soundfont(soundfont):
        raise DataError(f"{soundfont} is not a valid soundfont: expected an SF2 or SF3 file.", "Choose another one.")
    return soundfont


def _run(command: list[str], seconds: float) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=seconds
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"fluidsynth had not finished after {seconds:.0f} seconds.", "Use a smaller soundfont, or none."
        ) from error
    except OSError as error:
        raise MissingProgramError(f"fluidsynth cannot be started: {error.strerror}.", "Install it again.") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise DataError(f"fluidsynth failed: {reason}", "Try another soundfont, or none.")


def _finished(sound: Floats, samples: int, channels: int) -> Floats:
    """So many samples of [2, T], in so many channels, at their level."""
    sound = sound[:, :samples].astype(np.float32)
    sound = np.pad(sound, ((0, 0), (0, samples - sound.shape[1])))
    if channels == 1:
        sound = sound.mean(axis=0, keepdims=True)
    loudest = float(np.abs(sound).max(initial=0))
    return sound * np.float32(_PEAK / loudest if loudest > 0 else 1)
