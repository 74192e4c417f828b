"""Where takes go: their files, in their format, each with its recipe; checked before minutes of sampling."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from musicldm.cli import sidecar
from musicldm.cli.interrupt import UntilStopped
from musicldm.cli.sample_options import SampleOptions
from musicldm.core.errors import OutputError, UsageError
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

    @classmethod
    def of(cls, options: SampleOptions, task: type[Task], takes: Sequence[int]) -> Output:
        """What the options say, once it is sure that it can be written.

        Raises:
            UsageError, OutputError: it cannot.
        """
        targets = number(options.output or f"out.{options.format or 'wav'}", takes)
        output = cls(targets, options.format, options.bit_depth, options.normalize, task.keeps_input)
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
            raise UsageError("How loud a piece is shows only at its end.", "Leave --normalize out, or name a file.")
        if options.normalize is not None and not -70 <= options.normalize <= 0:
            raise UsageError(f"{options.normalize:g} LUFS is no loudness for music.", "Such as -16; between -70 and 0.")

    def _check_targets(self, inputs: Sequence[Path]) -> None:
        sidecars = set[Path]()
        for target in self.targets:
            self.format_of(target)
            if target is None:
                continue
            _check_folder(target.parent)
            if target.is_dir():
                raise OutputError(f"{target} is a folder.", "Name a file in it.")
            if target.exists() and not target.is_file():  # to be replaced, and root may replace a device
                raise OutputError(f"{target} is no file.", "Name one, or - for stdout.")
            # Every take must have one of its own, and a JSON file that is not a recipe is not ours to replace.
            beside = target.with_suffix(".json")
            if beside == target or beside in sidecars:
                what = "a take" if beside == target else "more than one take"
                raise UsageError(
                    f"{beside} would hold how {what} is made, and cannot hold both.", "Such as -o take-{i}.wav."
                )
            sidecars.add(beside)
            if beside.exists() and not sidecar.is_one(beside):
                raise UsageError(f"{beside} is in the way of how {target} is made.", "Give the new one another name.")
            for source in inputs:
                if target.exists() and source.exists() and target.samefile(source):
                    raise UsageError(f"{target} would overwrite the original.", "Give the new one another name.")

    def write(
        self,
        target: Path | None,
        pieces: Iterator[Tensor],
        samples: int,
        rate: int,
        channels: int,
        recipe: sidecar.Recipe,
    ) -> Written:
        """A take as it comes to its place, and its recipe beside it.

        Args:
            pieces: [C, n], `samples` samples in all.
        """
        from musicldm.core.durable import write_json
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
            with files.piecewise(place, rate, channels, samples, format, depth, comment) as append:
                for piece in itertools.chain([begin], sound):
                    append(piece.numpy())
                    written, peak = written + piece.shape[1], max(peak, float(piece.abs().max()))
                    if target is None:
                        sys.stdout.buffer.flush()
        if target is not None:
            write_json(target.with_suffix(".json"), recipe.to_dict())
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


def _check_folder(folder: Path) -> None:
    """See that there is a place for it, and make nothing yet.

    Raises:
        OutputError: there is none.
    """
    # The folder itself is made only when there is something to put into it.
    there = next(each for each in (folder, *folder.parents) if each.exists())
    hint = "Check it, or name another one with -o."
    if not there.is_dir():
        raise OutputError(f"{there} is no folder.", hint)
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"The folder {there} cannot be written.", hint)
