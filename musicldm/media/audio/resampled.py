"""Prepared tracks at a model's rate and channels, converted as they are read: `train-vae --resample`."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

import numpy as np

from musicldm.media.audio import files
from musicldm.media.audio.decode import resample
from musicldm.media.audio.forms import form
from musicldm.media.manifest import PreparedTrack

_MARGIN = 256  # samples at the lower rate that are read beyond both ends; the filter's response spans 128


@dataclass(frozen=True)
class ResampledTrack(PreparedTrack):
    """A prepared track at another rate, with other channels; its `content` is another one, too.

    What it reads is the same span of the whole resampled track, within -100 dB, at the cost of that span.
    """

    original: PreparedTrack = field(kw_only=True)

    @classmethod
    def of(cls, original: PreparedTrack, sample_rate: int, channels: int) -> ResampledTrack:
        """`original` at `sample_rate` with one or two channels: stereo is mono twice, and mono the mean of both
        channels, or the louder one where they cancel each other."""
        facts = {each.name: getattr(original, each.name) for each in fields(PreparedTrack)}
        changed = f"{original.content} at {sample_rate} Hz with {channels} channels"
        if original.mono_from is not None and channels == 1:
            changed += f", by channel {original.mono_from}"
        facts |= {
            "rate": sample_rate,
            "channels": channels,
            "length": original.length * sample_rate // original.rate,
            "content": hashlib.sha256(changed.encode()).hexdigest(),
        }
        return cls(**facts, original=original)

    def read(self, start: int, stop: int) -> files.Floats:
        """Samples `start` to `stop`, float32 [C, stop - start].

        Raises:
            DataError: the file is gone, or is not the one that was prepared.
        """
        rate, source = self.rate, self.original.rate
        if rate == source:
            return self._mixed(start, stop)
        # Sample k·ours of this track falls on sample k·theirs of the original: a span of the original that begins on
        # such a sample is resampled as it is within the whole.
        ours, theirs = rate // math.gcd(rate, source), source // math.gcd(rate, source)
        margin = math.ceil(_MARGIN * max(1, rate / source))
        k = max(0, start - margin) // ours
        end = min(self.original.length, -(-(stop + margin) * theirs // ours))
        audio = resample(self._mixed(k * theirs, end), source, rate)
        return audio[:, start - k * ours : stop - k * ours]

    def _mixed(self, start: int, stop: int) -> files.Floats:
        """A span of the original with this track's channels."""
        audio = self.original.read(start, stop)
        if len(audio) == self.channels:
            return audio
        if self.channels == 1 and self.original.mono_from is not None:
            only: files.Floats = audio[self.original.mono_from][None]
            return only
        mean: files.Floats = audio.mean(axis=0, keepdims=True, dtype=np.float32)
        return np.repeat(mean, self.channels, axis=0)


def fit(tracks: Iterable[PreparedTrack], sample_rate: int, channels: int) -> list[PreparedTrack]:
    """The tracks at a model's rate and channels; those that have them already are left as they are."""
    return [
        track
        if (track.rate, track.channels) == (sample_rate, channels)
        else ResampledTrack.of(track, sample_rate, channels)
        for track in tracks
    ]


def converted(tracks: Iterable[PreparedTrack]) -> dict[str, int]:
    """The forms of the originals of those that are converted, and how many have each; see `forms.converted`."""
    originals = [track.original for track in tracks if isinstance(track, ResampledTrack)]
    return dict(Counter(form(each.rate, each.channels) for each in originals).most_common())
