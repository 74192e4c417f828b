"""The files that `musicldm sample` is given: as the model hears them, as they are, and how these differ."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from musicldm.core.errors import DataError
from musicldm.sampling.tasks import Form, Original

if TYPE_CHECKING:
    from torch import Tensor

    from musicldm.media.audio.decode import AudioInfo

_ROUNDED = ("pcm_s32", "pcm_u32", "pcm_s64", "pcm_f64")
"""Codecs whose samples have more bits than a float32."""


@dataclass(frozen=True)
class Change:
    """How the sound of a file differs from what became of it."""

    sample_rate: int
    channels: int
    """These two of the file."""
    kept: bool
    """Whether it keeps them, and is kept to the last bit outside of what is made."""
    cancelled: bool
    """Whether its channels cancel each other, so that the model is given the loudest one."""
    beyond_header: float
    """Seconds of its sound that its header does not know of; they are there."""
    rounded: bool
    """Whether its samples have more bits than are kept."""


@dataclass(frozen=True)
class Input:
    """A file that a take is made of."""

    path: Path
    audio: Tensor
    """At the model's rate, with its channels: [C, T]."""
    original: Original | None
    """The file as it is, where a part of it is kept and the model's form is another."""
    change: Change
    model: Form

    @property
    def changes(self) -> dict[str, object] | None:
        """For the recipe; None where nothing is changed."""
        form = Form(self.change.sample_rate, self.change.channels)
        odd = self.change.cancelled or self.change.beyond_header or self.change.rounded
        return asdict(self.change) if form != self.model or odd else None

    def warnings(self) -> list[str]:
        """What a person should know before they hear it."""
        change, said = self.change, list[str]()
        theirs, ours = _words(Form(change.sample_rate, change.channels)), _words(self.model)
        if self.original:
            said.append(f"{self.path} keeps its {theirs}. What is made has {ours}: it is converted and cross-faded in.")
        elif (change.sample_rate, change.channels) != self.model:
            said.append(f"{self.path} has {theirs}; all of the take has the model's {ours}.")
        if change.cancelled:
            said.append(f"The channels of {self.path} cancel each other: the model is given the loudest one.")
        if change.beyond_header:
            said.append(
                f"{self.path} holds {change.beyond_header:.1f} s more than its header states; they are used, too."
            )
        if change.rounded:
            said.append(f"{self.path} has samples of more than 24 bits: they are rounded to those of a float.")
        if self.audio.shape[1] and not self.audio.any():
            said.append(f"{self.path} is silent.")
        return said


def read(path: Path, model: Form, keep: bool) -> Input:
    """A file of any kind.

    Args:
        keep: whether a part of it is to come out as it is.

    Raises:
        DataError: there is no usable audio in it.
    """
    import torch

    from musicldm.media.audio.decode import decode_whole, probe

    try:
        info = probe(path)
        audio, cancelled = decode_whole(path, *model)
        original = _original(path, info) if keep and (info.sample_rate, info.channels) != model else None
    except DataError as error:
        reason = error.message[0].lower() + error.message[1:]
        raise DataError(f"{path} cannot be used: {reason}", "Give a complete file with audio in it.") from error
    same = (info.sample_rate, info.channels) == model
    change = Change(
        sample_rate=info.sample_rate,
        channels=info.channels,
        kept=keep and (same or original is not None),
        cancelled=cancelled,
        beyond_header=round(info.beyond_header, 3),
        rounded=keep and info.codec.startswith(_ROUNDED),
    )
    return Input(path, torch.from_numpy(audio), original, change, model)


def _original(path: Path, info: AudioInfo) -> Original | None:
    """The file as it is; None where it has more than two channels, for which nothing can be made."""
    import torch

    from musicldm.media.audio.decode import decode_whole

    if info.channels > 2:
        return None
    audio, _ = decode_whole(path, info.sample_rate, info.channels)
    return Original(torch.from_numpy(audio), info.sample_rate) if audio.shape[1] else None


def _words(form: Form) -> str:
    return f"{form.rate} Hz and {form.channels} channel{'s' * (form.channels != 1)}"
