"""A codec as sampling uses it: sounds of any length, levels that do not clip, no more at once than the memory holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from musicldm.codecs import windows
from musicldm.codecs.base import Codec
from musicldm.core.errors import DataError
from musicldm.sampling.postprocess import check_finite, cut, limiter, peak_normalize

LOOK_AHEAD = 0.01
"""Seconds over which the gain falls before a peak."""
STREAMED = 512
"""Latent frames of a stream that are decoded at once, at most."""
WHOLE = 1024
"""Latent frames that go through the codec at once, of a sound that is there as a whole."""


class Coder:
    """Raw latents [D, L] <-> media [C, T] on the CPU: audio, whose level is kept within full scale, or rolls.

    Args:
        codec: where it computes is where raw latents are.
        announce: is called once, with a sentence, where the memory does not suffice.

    Raises, whenever it encodes or decodes:
        CapacityError: the memory does not hold even a short window.
    """

    def __init__(self, codec: Codec, announce: Callable[[str], None]) -> None:
        self.codec = codec
        self.spec = codec.spec
        self._announce = announce
        self._limit = WHOLE  # frames that the memory is known to let through at once

    def encode(self, audio: Tensor) -> Tensor:
        """Audio to raw latents on the CPU, by the posterior's mode.

        Raises:
            DataError: it is shorter than a latent frame, has other channels, or is not finite.
        """
        samples = audio.shape[1]
        if samples < self.spec.hop:
            least = self.spec.hop / self.spec.rate
            word = "audio" if self.spec.medium == "audio" else "music"
            raise DataError(
                f"The {word} is shorter than a latent frame.", f"Expected at least {least:.3g} {self.spec.unit}."
            )
        if len(audio) != self.spec.media_channels:
            raise DataError(
                f"The audio has {len(audio)} channels; the model has {self.spec.media_channels}.", "Convert it."
            )
        if not torch.isfinite(audio).all():
            raise DataError("The audio holds samples that are not finite numbers.", "Repair or export it again.")
        pieces = windows.encode_long(self.codec, lambda a, b: audio[:, a:b], samples, self._limit, self._on_halved)
        return torch.cat([mean for mean, _ in pieces], dim=-1)

    def decode(self, raw: Tensor) -> Tensor:
        """A whole, made softer as such where it would clip: [C, L·hop].

        Raises:
            DataError: latents or output are not finite.
        """
        return self.within_scale(torch.cat(list(self.decode_pieces([raw], raw.shape[-1], WHOLE)), dim=-1))

    def within_scale(self, media: Tensor) -> Tensor:
        """A whole [C, T], made softer as such where it would clip; notes cannot."""
        return peak_normalize(media) if self.spec.medium == "audio" else media

    def decode_limited(self, raw: Tensor) -> Tensor:
        """A part of a whole, which peaks must not make softer elsewhere: they are limited, [C, L·hop]."""
        return torch.cat(list(self._limited(self.decode_pieces([raw], raw.shape[-1]))), dim=1)

    def decode_stream(
        self, raw: Iterable[Tensor], first: int, frames: int, skipped: int, samples: int, whole: bool = False
    ) -> Iterator[Tensor]:
        """Raw latents [D, l] as they come to `samples` samples after `skipped` ones, never beyond full scale.

        Args:
            raw: `frames` frames in all.
            first: how many come first: no more is waited for before the first piece of audio.
            whole: in one piece, made softer as a whole rather than limited.
        """
        # A window with its context on both sides then needs what comes first and nothing after it.
        at_once = max(1, min(STREAMED, first - 2 * self.codec.context))
        pieces = cut(self.decode_pieces(raw, frames, at_once), skipped, samples)
        if whole:
            return iter([self.within_scale(torch.cat(list(pieces), dim=1))])
        return self._limited(pieces)

    def decode_pieces(self, raw: Iterable[Tensor], frames: int, at_once: int = STREAMED) -> Iterator[Tensor]:
        """Raw latents [D, l], `frames` in all, to audio [C, n] as it comes out of the codec."""
        at_once = min(at_once, self._limit)
        return check_finite(windows.decode_pieces(self.codec, raw, frames, at_once, self._on_halved))

    def _limited(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        if self.spec.medium == "notes":
            return iter(pieces)
        return limiter(pieces, round(LOOK_AHEAD * self.spec.rate))

    def _on_halved(self, frames: int) -> None:
        if self._limit == WHOLE:  # said once, however often it is halved
            self._announce("Not enough memory: the codec continues with shorter pieces.")
        self._limit = frames
