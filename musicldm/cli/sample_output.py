"""Where takes go: their files, in their format, each with its recipe; checked before minutes of sampling."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from musicldm.cli import sidecar
from musicldm.cli.interrupt import UntilStopped
from musicldm.cli.sample_options import SampleOptions
from musicldm.core.errors import UsageError
from musicldm.core.guard import Guard, keep_originals
from musicldm.sampling.tasks import Task

if TYPE_CHECKING:
    from torch import Tensor


class Written(NamedTuple):
    """What came of a take."""

    samples: int
    peak: float
    clipped: bool
    """Beyond full scale, which its format does not hold."""
    stopped: bool
    """By Ctrl-C: what was done till then is there."""


@dataclass(frozen=True)
class Output:
    """Where the takes of a command go, and how."""

    targets: list[Path | None]
    """Of each take; None is stdout."""
    format: str | None
    """None: by the file's name."""
    bit_depth: Literal["16", "24", "float"] | None
    normalize: float | None
    """LUFS; None: as it comes."""
    keeps_input: bool
    """Whether a part of a file is to come out to the last bit."""
    overwrite: bool = False
    """Whether to replace what is no take, too."""

    @classmethod
    def of(cls, options: SampleOptions, task: type[Task], takes: Sequence[int]) -> Output:
        """What the options say, once it is sure that it can be written.

        Raises:
            UsageError, OutputError: it cannot.
        """
        targets = number(options.output or f"out.{options.format or 'wav'}", takes)
        output = cls(targets, options.format, options.bit_depth, options.normalize, task.keeps_input, options.overwrite)
        output._check_options(options)
        output._check_targets(options.inputs)
        return output

    def format_of(self, target: Path | None) -> tuple[str, int | Literal["float"]]:
        """The format and the bit depth of a take.

        Raises:
            UsageError: no such format, or it has no such depth.
        """
        from musicldm.media.audio import files

        format = files.format_of(target, self.format)
        depth: int | Literal["float"] = 16
        if self.bit_depth is not None:
            depth = "float" if self.bit_depth == "float" else int(self.bit_depth)
        elif self.keeps_input and format == "wav":
            depth = "float"
        elif self.keeps_input and format == "flac":
            depth = 24
        files.check_depth(format, depth)
        return format, depth

    def warnings(self) -> list[str]:
        """Where a file is to be kept, and the format does not let it be."""
        if not self.keeps_input:
            return []
        format, depth = self.format_of(self.targets[0])
        if format not in ("wav", "flac"):
            return [f"{format} is lossy: nothing of the file is kept to the last bit. wav and flac keep it."]
        if depth == 16 and self.bit_depth is not None:
            return ["Samples of more than 16 bits are rounded: --bit-depth float keeps them in a wav, 24 in a flac."]
        return []

    def _check_options(self, options: SampleOptions) -> None:
        if options.output == "-" and sys.stdout.isatty():
            raise UsageError("A terminal cannot play a WAV file.", "Pipe it to a program that can: … -o - | aplay.")
        if options.output == "-" and options.as_json:
            raise UsageError("--json and -o - both want stdout.", "Choose one.")
        if options.output == "-" and options.normalize is not None:
            raise UsageError(
                "The loudness of a piece is known only at its end, too late for a stream.",
                "Leave --normalize out, or name a file.",
            )
        if options.normalize is not None and not -70 <= options.normalize <= 0:
            raise UsageError(
                f"{options.normalize:g} LUFS is not a valid loudness: expected -70 to 0.", "For example -16."
            )

    def _check_targets(self, inputs: Sequence[Path]) -> None:
        targets = [target for target in self.targets if target is not None]
        for target in self.targets:
            self.format_of(target)
        keep_originals(targets, inputs)
        self._guard.check(*targets)
        Guard(sidecar.is_one, self.overwrite).check(*map(sidecar.beside, targets))

    @property
    def _guard(self) -> Guard:
        return Guard(sidecar.is_take, self.overwrite)

    def write(
        self,
        target: Path | None,
        pieces: Iterator[Tensor],
        samples: int,
        rate: int,
        channels: int,
        recipe: sidecar.Recipe,
    ) -> Written:
        """A take as it comes to its place; with its end it gets its name, and its recipe goes beside it.

        Args:
            pieces: [C, n], `samples` samples in all.
        """
        from musicldm.media.audio import files
        from musicldm.sampling.postprocess import at_loudness

        format, depth = self.format_of(target)
        comment = json.dumps(recipe.to_dict(), ensure_ascii=False, separators=(",", ":"))
        written, peak = 0, 0.0
        with UntilStopped(pieces) as made:
            sound: Iterator[Tensor] = made
            if self.normalize is not None:
                sound = at_loudness(made, self.normalize, rate, channels)
            begin = next(sound)  # what fails before there is any sound leaves nothing behind
            place = sys.stdout.buffer if target is None else target
            commit = sidecar.committing(self._guard, recipe)
            with files.piecewise(place, rate, channels, samples, format, depth, comment, commit) as append:
                for piece in itertools.chain([begin], sound):
                    append(piece.numpy())
                    written, peak = written + piece.shape[1], max(peak, float(piece.abs().max()))
                    if target is None:
                        sys.stdout.buffer.flush()
        return Written(written, peak, peak > 1 and depth != "float", made.stopped)


def number(output: str, takes: Sequence[int]) -> list[Path | None]:
    """The file of each take, by its number; None is stdout.

    Raises:
        UsageError: several takes for stdout.
    """
    if output == "-":
        if len(takes) > 1:
            raise UsageError(f"{len(takes)} takes cannot go to stdout.", "Name files: -o 'take-{i}.wav'.")
        return [None]
    if len(takes) > 1 and "{i}" not in output:
        path = Path(output)
        output = str(path.with_name(f"{path.stem}-{{i}}{path.suffix}"))
    return [Path(output.replace("{i}", str(take))) for take in takes]
