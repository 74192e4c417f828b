"""What a training is resumed from: files that are whole or absent, and known to be whole before they are trusted.

A checkpoint is torch's zip archive, which keeps a CRC-32 of all that it holds. It is read back before it takes the name
of the last one, and checked again before anything in it is believed; nothing in it is ever run. There are never more
than three: `last`, the one before it, and the best by the held-out loss.
"""

from __future__ import annotations

import math
import os
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from musicldm.core import bundle, durable
from musicldm.core.config import from_dict
from musicldm.core.errors import DataError, MismatchError, OutputError
from musicldm.training.announce import Announce, ignore
from musicldm.training.state import Origin, TrainState

_HINT = "Delete the folder to start anew, or choose another one with -o."
FOLDER = "checkpoints"
FORMAT = 3
EMA = "ema."
"""How the names of the averaged weights begin."""
STATE_2 = {"rate_scale": "lr_factor", "returns": "rollbacks", "returned": "rolled_back_to", "best": "best_loss"}
"""What format 2, of release 0.1, called fields of the state that have another name now."""


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: where they are.
        announce: told when the last one is damaged.
        fit: raises whatever it does where a checkpoint is not of this training; such a one counts as damaged.
    """

    def __init__(
        self, folder: Path, announce: Announce = ignore, fit: Callable[[dict[str, Any]], object] | None = None
    ) -> None:
        self.last = folder / "last.ckpt"
        self.previous = folder / "previous.ckpt"
        self.best = folder / "best.ckpt"
        self.announce = announce
        self._fit = fit
        self._last_is_bad = False
        self._step = -1  # of the last one, once it was read or written

    def exist(self) -> bool:
        """Whether there is anything to resume from."""
        return self.last.exists() or self.previous.exists()

    def read(self, before: bool = False) -> dict[str, Any]:
        """The last one, or the one `before` it where that can be read; the other one in the place of a damaged one.

        Raises:
            DataError: none of them can be read.
        """
        first, second = (self.previous, self.last) if before else (self.last, self.previous)
        try:
            checkpoint = self._read(first)
        except DataError as damage:
            try:
                checkpoint = self._read(second)
            except DataError:
                raise damage from None
            if not before:
                self.announce(f"{damage.message} Continuing from the one before it.")
        self._step = checkpoint["state"]["step"]
        return checkpoint

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            checkpoint = read(path)
            if self._fit is not None:
                self._fit(checkpoint)
        except Exception as error:  # whatever wrong names, types and shapes make of a training
            self._last_is_bad |= path == self.last
            if isinstance(error, DataError) and error.hint == _HINT:  # from `read`
                raise
            message = f"The checkpoint {path} cannot be read: it does not fit this training."
            raise DataError(message, _HINT) from error
        return checkpoint

    def mend(self) -> None:
        """Put the previous one in the place of a last one that is damaged or gone, or the next write would lose it."""
        if self.previous.exists() and (self._last_is_bad or not _is_whole(self.last)):
            _link(self.previous, self.last)
            self._last_is_bad = False

    def write(self, checkpoint: dict[str, Any], best: bool = False) -> None:
        """Make this the last one, and the `best` one too where it is; at any moment there is a whole one.

        What it replaces becomes the previous one, unless it is of the same step.

        Raises:
            OutputError: the folder cannot be written, or does not keep what is written.
        """
        with durable.replacing(self.last) as temporary:
            try:
                torch.save({"format": FORMAT, **checkpoint}, temporary)
            except RuntimeError as error:  # torch's archive writer has no other for a disk that is full
                raise OutputError(
                    f"Cannot write {self.last}: {str(error).splitlines()[0]}.",
                    "Free some space; the run can be resumed.",
                ) from error
            # Flushed first: a disk that refuses a write says so now, and not once the file counts as whole.
            durable.flush(temporary)
            if not _is_whole(temporary):
                raise OutputError(
                    f"The disk that holds {self.last} does not keep what is written to it.", "Use another disk."
                )
            # The best comes first: after a kill the run goes on from before it and finds it again.
            if best:
                _link(temporary, self.best)
            # Saved twice at one step, as by a signal, the last one must not push out the only other one.
            if self.last.exists() and checkpoint["state"]["step"] != self._step:
                _link(self.last, self.previous)
        self._step = checkpoint["state"]["step"]


def read(path: Path) -> dict[str, Any]:
    """A checkpoint with all its tensors on the CPU; every byte is checked first, and nothing is unpickled but data.

    Raises:
        DataError: missing, damaged, or not a checkpoint of this version.
    """
    if not path.is_file():
        raise DataError(f"There is no checkpoint {path}.", _HINT)
    checkpoint: Any = None
    if _is_whole(path):
        with suppress(Exception):  # torch names no error of its own for an archive that is not its own
            # To the CPU: the GPU that it came from may not be there, nor have room for two copies.
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    damage = f"The checkpoint {path} cannot be read: it is damaged."
    if not isinstance(checkpoint, dict):
        raise DataError(damage, _HINT)
    try:
        if checkpoint.get("format") == 2:
            checkpoint = _upgraded(checkpoint)
        if checkpoint.get("format") == FORMAT:
            _check(checkpoint)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise DataError(damage, _HINT) from error
    if checkpoint.get("format") != FORMAT:
        raise DataError(f"The checkpoint {path} was made by another version of musicldm.", _HINT)
    return dict(checkpoint)


def _check(checkpoint: dict[str, Any]) -> None:
    """See that progress and weights are there, and all is of its type.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: it is not.
    """
    # The only number that may be infinite: there is no best one as long as nothing is held out.
    state = dict(checkpoint["state"])
    if not isinstance(best := state.pop("best_loss", math.inf), float) or math.isnan(best):
        raise TypeError("best_loss is not a number")
    from_dict(TrainState, state)
    if checkpoint.get("origin"):
        Origin.from_dict(checkpoint["origin"])
    weights = checkpoint["state_dict"]
    if not all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in weights.items()):
        raise TypeError("weights that are not tensors")


def _upgraded(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of format 2, of release 0.1, in the current format."""
    state = {STATE_2.get(name, name): value for name, value in checkpoint["course"].items()}
    weights = {
        EMA + name.removeprefix("averaged.") if name.startswith("averaged.") else name: tensor
        for name, tensor in checkpoint["state_dict"].items()
    }
    others = {name: value for name, value in checkpoint.items() if name != "course"}
    return others | {"format": FORMAT, "state": state, "state_dict": weights}


def as_bundle(path: Path) -> bundle.Bundle:
    """The averaged weights of a checkpoint as a bundle; what else a bundle has comes from the one in the run's folder.

    Raises:
        DataError: the checkpoint cannot be read.
        BundleError: the run has no bundle, or a damaged one.
        MismatchError: the checkpoint is not of this run.
    """
    checkpoint = read(path)
    shipped = bundle.read(path.absolute().parent.parent)
    role: bundle.Role = "generator" if "generator" in shipped.components else "codec"
    component = shipped.component(role)
    weights = {key.removeprefix(EMA): tensor for key, tensor in checkpoint["state_dict"].items() if key.startswith(EMA)}
    if {key: tensor.shape for key, tensor in weights.items()} != {key: t.shape for key, t in component.tensors.items()}:
        raise MismatchError(f"{path} does not belong to {shipped.name}.", "Give a checkpoint in the folder of its run.")
    facts = replace(shipped.training(role), step=int(checkpoint["state"]["step"]))
    components = {**shipped.components, role: replace(component, tensors=weights)}
    return bundle.Bundle(shipped.name, components, {**shipped.facts, role: facts})


def _is_whole(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # whatever a few wrong bytes make of an archive's directory
        return False


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, in place of what had it; a copy where the file system has no links."""
    temporary = durable.unfinished(target)
    try:
        try:
            # A link takes no room, and is safe since no checkpoint is ever changed in place. It cannot replace a name
            # that exists: that takes a temporary one and a rename.
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        durable.move(temporary, target)
    except OSError as error:
        raise durable.cannot_write(target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
