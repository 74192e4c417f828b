"""A small synthesizer: it composes music for the demo, in four styles that sound and look different.

Every song is a progression of chords in some key; a style says which instruments play what over it. An instrument is a
sum of partials under an envelope. One seed, one album.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from musicldm.core.guard import Guard
from musicldm.media.audio import files

RATE = 44100

_COMMENT = "Composed by musicldm."

_PEAK = 10 ** (-1 / 20)  # -1 dBFS
_MAJOR = (0, 2, 4, 5, 7, 9, 11)
_MINOR = (0, 2, 3, 5, 7, 8, 10)

Signal = NDArray[np.float64]


@dataclass
class Song:
    """A score being played: notes are laid on the two channels of `mix`, on a grid of beats."""

    mix: Signal  # [2, T]
    tempo: float  # beats a minute
    tonic: int  # MIDI note number of the key
    scale: tuple[int, ...]
    progression: tuple[int, ...]  # the degree of each bar's chord; 0 is the tonic's
    rng: np.random.Generator

    @property
    def beat(self) -> float:
        """Seconds."""
        return 60 / self.tempo

    def bars(self, beats: int) -> range:
        """As many bars of so many beats as fill the song; the last may be cut short by its end."""
        return range(math.ceil(self.mix.shape[1] / RATE / self.beat / beats))

    def pitch(self, degree: int, octave: int = 0) -> float:
        """Hertz of a degree of the scale, 0 the tonic, 7 an octave above it."""
        turn, step = divmod(degree, 7)
        return float(440 * 2 ** ((self.tonic + self.scale[step] + 12 * (turn + octave) - 69) / 12))

    def chord(self, bar: int) -> tuple[int, int, int]:
        """The degrees of a bar's triad."""
        root = self.progression[bar % len(self.progression)]
        return root, root + 2, root + 4

    def play(self, sound: Signal, beat: float, volume: float, pan: float = 0.0) -> None:
        """Lay a sound [T] down at `beat`; pan from -1, left, to 1, right, at equal power."""
        start = round(beat * self.beat * RATE)
        sound = sound[: max(0, self.mix.shape[1] - start)] * volume
        angle = (pan + 1) * np.pi / 4
        self.mix[0, start : start + len(sound)] += np.cos(angle) * sound
        self.mix[1, start : start + len(sound)] += np.sin(angle) * sound


# ---- Instruments: hertz and seconds to a mono sound ------------------------------------------------------------------


def pad(hertz: float, seconds: float) -> Signal:
    """Soft and slow: three voices a little out of tune with each other, swelling and fading."""
    t = _time(seconds)
    sway = 0.005 * np.sin(2 * np.pi * 4.5 * t) / (2 * np.pi * 4.5)  # in time, whose speed, the pitch, varies by 0.5 %
    voices = [_partials(hertz * detune, t + sway, [1, 0.5, 0.25, 0.12]) for detune in (0.997, 1, 1.003)]
    return sum(voices, np.zeros_like(t)) / 3 * _envelope(t, attack=0.3 * seconds, release=0.35 * seconds)


def lead(hertz: float, seconds: float) -> Signal:
    """Bright, near a square wave, with a quick end."""
    t = _time(seconds)
    return _partials(hertz, t, [1, 0, 0.6, 0, 0.4, 0, 0.3, 0, 0.2]) * _envelope(t, 0.005, 0.05) * np.exp(-2 * t)


def pluck(hertz: float, seconds: float) -> Signal:
    """A plucked string: the higher a partial, the sooner it dies."""
    t = _time(seconds)
    partials = [
        np.sin(2 * np.pi * hertz * n * t) * np.exp(-t * (1.5 + 1.2 * n)) / n
        for n in range(1, 9)
        if hertz * n < RATE / 2
    ]
    return sum(partials, np.zeros_like(t)) * _envelope(t, 0.002, 0.02)


def bass(hertz: float, seconds: float) -> Signal:
    t = _time(seconds)
    return np.tanh(2 * _partials(hertz, t, [1, 0.4, 0.2])) * _envelope(t, 0.008, 0.06)


def kick() -> Signal:
    t = _time(0.3)
    cycles = 50 * t + 6 * (1 - np.exp(-25 * t))  # falls from 200 Hz to 50
    thump: Signal = np.sin(2 * np.pi * cycles) * np.exp(-12 * t)
    return thump


def snare(rng: np.random.Generator) -> Signal:
    t = _time(0.22)
    return (0.7 * rng.standard_normal(len(t)) + np.sin(2 * np.pi * 185 * t)) * np.exp(-20 * t)


def hat(rng: np.random.Generator) -> Signal:
    t = _time(0.07)
    noise: Signal = np.diff(rng.standard_normal(len(t) + 2), n=2)  # twice differenced: the treble alone remains
    return noise * np.exp(-60 * t) / 2


def _time(seconds: float) -> Signal:
    return np.arange(round(seconds * RATE)) / RATE


def _partials(hertz: float, t: Signal, volumes: list[float]) -> Signal:
    # Partials above the Nyquist frequency would come back as others, out of tune.
    sounding = [(n, volume) for n, volume in enumerate(volumes, start=1) if volume and hertz * n < RATE / 2]
    return sum((volume * np.sin(2 * np.pi * hertz * n * t) for n, volume in sounding), np.zeros_like(t))


def _envelope(t: Signal, attack: float, release: float) -> Signal:
    return np.clip(np.minimum(t / attack, (len(t) / RATE - t) / release), 0, 1)


# ---- Styles: each plays a whole song ---------------------------------------------------------------------------------


def drift(song: Song) -> None:
    """Slow pads: one chord for four beats, a bell-like tone above now and then."""
    for bar in song.bars(4):
        for voice, degree in enumerate(song.chord(bar)):
            song.play(pad(song.pitch(degree), 5 * song.beat), 4 * bar, 0.3, pan=0.6 * (voice - 1))
        song.play(pad(song.pitch(song.chord(bar)[0], -1), 5 * song.beat), 4 * bar, 0.35)
        if song.rng.random() < 0.6:
            degree = song.rng.choice(song.chord(bar))
            song.play(pluck(song.pitch(degree, 2), 2.5), 4 * bar + int(song.rng.integers(1, 4)), 0.15, pan=0.3)


def sparkle(song: Song) -> None:
    """Bright arpeggios in sixteenths over two octaves, and a bass note to each bar."""
    shape = song.rng.permutation(8)
    for bar in song.bars(4):
        ladder = [degree + 7 * octave for octave in (0, 1) for degree in (*song.chord(bar), song.chord(bar)[0] + 7)]
        for step in range(16):
            degree = ladder[shape[step % 8]]
            accent = 0.32 if step % 4 == 0 else 0.22
            song.play(lead(song.pitch(degree, 1), 0.3 * song.beat), 4 * bar + step / 4, accent, pan=math.sin(step) / 2)
        song.play(bass(song.pitch(song.chord(bar)[0], -1), 3.5 * song.beat), 4 * bar, 0.15)


def groove(song: Song) -> None:
    """Bass and drums: four to the floor, a syncopated bass, short chords off the beat."""
    pattern = song.rng.choice([0.0, 0.0, 0.0, 7.0, 4.0], size=8).astype(int)  # root, octave or fifth
    for bar in song.bars(4):
        root = song.chord(bar)[0]
        for half in range(8):
            if half % 4 != 1:
                song.play(bass(song.pitch(root + pattern[half], -1), 0.4 * song.beat), 4 * bar + half / 2, 0.45)
            song.play(hat(song.rng), 4 * bar + half / 2, 0.16 if half % 2 else 0.1, pan=0.4)
        for beat in range(4):
            song.play(kick(), 4 * bar + beat, 0.9)
            if beat % 2:
                song.play(snare(song.rng), 4 * bar + beat, 0.3, pan=-0.1)
            for voice, degree in enumerate(song.chord(bar)):
                song.play(lead(song.pitch(degree), 0.15), 4 * bar + beat + 0.5, 0.08, pan=0.5 * (voice - 1))


def waltz(song: Song) -> None:
    """A plucked waltz: bass, chord, chord, and a melody that walks by steps and comes home to the chord."""
    degree = 7
    for bar in song.bars(3):
        chord = song.chord(bar)
        song.play(pluck(song.pitch(chord[0], -1), 2 * song.beat), 3 * bar, 0.5, pan=-0.3)
        for beat in (1, 2):
            for tone in chord:
                song.play(pluck(song.pitch(tone), song.beat), 3 * bar + beat, 0.14, pan=-0.2)
        degree = min((tone + 7 * octave for tone in chord for octave in (0, 1, 2)), key=lambda near: abs(near - degree))
        for at, length in ((0, 1.5), (1.5, 0.5), (2, 1)) if song.rng.random() < 0.5 else ((0, 2), (2, 1)):
            song.play(pluck(song.pitch(degree, 1), 2 * length * song.beat), 3 * bar + at, 0.4, pan=0.25)
            degree = int(np.clip(degree + song.rng.choice([-2, -1, 1, 2]), 3, 13))


@dataclass(frozen=True)
class Artist:
    name: str
    style: Callable[[Song], None]
    tempi: tuple[int, int]
    scale: tuple[int, ...]
    progressions: tuple[tuple[int, ...], ...]
    titles: tuple[str, ...]


ARTISTS = (
    Artist(
        "Slow Harbour", drift, (56, 66), _MINOR, ((0, 5, 2, 6), (0, 3, 5, 4)), ("Low Tide", "Fog Signal", "Mooring")
    ),
    Artist("Glass Arcade", sparkle, (112, 126), _MAJOR, ((0, 4, 5, 3), (3, 4, 0, 5)), ("Token", "High Score", "Neon")),
    Artist("Night Freight", groove, (104, 118), _MINOR, ((0, 0, 3, 4), (0, 5, 6, 0)), ("Axle", "Sidings", "Diesel")),
    Artist(
        "The Copper Fair", waltz, (132, 150), _MAJOR, ((0, 3, 4, 0), (0, 5, 3, 4)), ("Carousel", "Ribbon", "Lanterns")
    ),
)


def compose(
    out: Path, seed: int = 0, songs_each: int = 3, seconds_each: float = 20, overwrite: bool = False
) -> list[Path]:
    """Write `songs_each` songs by every one of ARTISTS to <out>/<Artist>/<Title>.wav, 44.1 kHz, stereo, 16 bit.

    A song that was composed before is left alone.

    Args:
        overwrite: replace files that this has not written.

    Raises:
        OutputError: `out` cannot be written, or a file that was not composed here has a song's name.
    """
    guard = Guard(is_composed, overwrite)
    paths = {
        out / artist.name / f"{_title(artist, index)}.wav": (number, index)
        for number, artist in enumerate(ARTISTS)
        for index in range(songs_each)
    }
    guard.check(*paths)
    for path, (number, index) in paths.items():
        if not (path.exists() and is_composed(path)):
            # A stream of numbers for each song: which others are there already does not matter.
            song = perform(ARTISTS[number], np.random.default_rng([seed, number, index]), seconds_each)
            with files.piecewise(path, RATE, 2, song.shape[1], comment=_COMMENT, commit=guard.commit) as append:
                append(song)
    return list(paths)


def is_composed(path: Path) -> bool:
    """Whether `compose` wrote a file."""
    # The comment stands in the header, before the samples.
    with path.open("rb") as file:
        return _COMMENT.encode() in file.read(256)


def _title(artist: Artist, index: int) -> str:
    title = artist.titles[index % len(artist.titles)]
    return title if index < len(artist.titles) else f"{title} {index // len(artist.titles) + 1}"


def perform(artist: Artist, rng: np.random.Generator, seconds: float) -> files.Floats:
    """One song of `artist` as float32 [2, T], its peak at -1 dBFS."""
    song = Song(
        mix=np.zeros((2, round(seconds * RATE))),
        tempo=int(rng.integers(*artist.tempi)),
        tonic=int(rng.integers(53, 63)),
        scale=artist.scale,
        progression=artist.progressions[int(rng.integers(len(artist.progressions)))],
        rng=rng,
    )
    artist.style(song)
    fade: Signal = np.clip((seconds - np.arange(song.mix.shape[1]) / RATE) / min(1.5, seconds / 4), 0, 1)
    mix = song.mix * fade
    mix *= _PEAK / np.abs(mix).max()
    return mix.astype(np.float32)
