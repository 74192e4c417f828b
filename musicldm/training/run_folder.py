"""The folder of a run: what defines the run, whether what is there is the same run, and what a killed one left."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from musicldm.core import bundle, durable, guard
from musicldm.core.bundle import TrackFacts
from musicldm.core.config import from_dict, to_dict
from musicldm.core.devices import pick_precision
from musicldm.core.errors import ConfigError, DataError, MismatchError
from musicldm.core.reading import read_json
from musicldm.training.checkpoints import FOLDER, Checkpoints
from musicldm.training.config import TrainingConfig

CONFIG = "config.json"
MAY_CHANGE = {f"training.{key}" for key in ("steps", "validate_every", "demo_every", "workers", "patience", "wandb")}
"""A resumed run may train longer or validate more often; anything else would make it another run."""

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
"""A configuration as an earlier release wrote it -> the same as this one writes it."""


def unchanged(before: dict[str, Any]) -> dict[str, Any]:
    """The upgrade of a configuration that was always written as it is now."""
    return before


def defaults_filled(before: dict[str, Any], cls: type[Any]) -> dict[str, Any]:
    """A run's configuration with the defaults of the dataclass `cls` for all that was not yet written then.

    Keys that are not the dataclass's, such as `data` and `init`, stay as they are; so does all of a configuration that
    the dataclass refuses, which is then found to differ.
    """
    own = {field.name for field in fields(cls)}
    try:
        filled = to_dict(from_dict(cls, {key: value for key, value in before.items() if key in own}))
    except ConfigError:
        return before
    plain: dict[str, Any] = json.loads(json.dumps(filled))
    return before | plain


def resolve_precision(plan: TrainingConfig, run: Path, device: torch.device) -> TrainingConfig:
    """The plan with no `auto` left in it: what the run in this folder has, else what the device is good for.

    Raises:
        UsageError: an unknown precision, or one that the device has no use for.
    """
    precision = plan.precision
    if precision == "auto":
        with suppress(OSError, ValueError, KeyError, TypeError):  # a damaged file is reported later
            precision = str(read_json(run / CONFIG)["training"]["precision"])
    return replace(plan, precision=pick_precision(precision, device))


def sweep(run: Path) -> None:
    """Remove what a killed run left unfinished."""
    for folder in (run, run / FOLDER, run / "bundle"):
        for leftover in folder.glob(f"{durable.TEMPORARY}*"):
            if leftover.is_file() and durable.is_unfinished(leftover):
                leftover.unlink(missing_ok=True)


def check(run: Path, overwrite: bool = False) -> None:
    """See that a run can be begun or resumed in a folder without replacing what is not a run's.

    Args:
        overwrite: what is not may be replaced.

    Raises:
        OutputError: it cannot.
    """
    guard.check_folder(run)
    # In this order: another process of this run may just be beginning it, with the configuration first.
    if not overwrite and (foreign := _in_the_way(run)) and not is_run(run):
        raise guard.refusal(foreign, "musicldm did not write it")


def clear(run: Path) -> None:
    """Make way for a new run in a folder that is not a run's: remove the files that it would replace."""
    if not is_run(run):
        for path in _in_the_way(run):
            path.unlink()


def is_run(run: Path) -> bool:
    """Whether a folder is that of a run of ours."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        config = read_json(run / CONFIG)
        # Others have such a file, too, but no hash of the tracks in it.
        if isinstance(config["training"], dict) and re.fullmatch("[0-9a-f]{64}", config["data"]):
            return True
    with suppress(DataError):
        return bundle.is_one(run / "bundle") or bool(Checkpoints(run / FOLDER).read())
    return False


def _in_the_way(run: Path) -> list[Path]:
    """The files in a folder that a run would replace or add to."""
    names = [CONFIG, "metrics.csv", "events.jsonl", "wandb-id", f"bundle/{bundle.INDEX}"]
    checkpoints = Checkpoints(run / FOLDER)
    paths = [*(run / name for name in names), checkpoints.last, checkpoints.previous, checkpoints.best]
    demos = (run / "demos").glob("step-*/*")
    return [path for path in (*paths, *demos) if path.is_symlink() or path.is_file()]


def remember(run: Path, config: dict[str, Any], upgrade: Upgrade = unchanged) -> None:
    """Keep what defines the run as `config.json`; see `reconciled`.

    Raises:
        OutputError: the folder cannot be written.
    """
    durable.write_json(run / CONFIG, reconciled(run, config, upgrade))


def reconciled(run: Path, config: dict[str, Any], upgrade: Upgrade = unchanged) -> dict[str, Any]:
    """What defines the run, if the run that may be in the folder already is the same one; writes nothing.

    Args:
        config: plain data; with `init`, the digest of the first weights, which a resumed run need not be given again.
        upgrade: applied to what is there before it is compared.

    Raises:
        MismatchError: the folder holds another run, or a model without a checkpoint.
        DataError: its configuration is damaged.
    """
    path = run / CONFIG
    config = json.loads(json.dumps(config))  # as it will be read again
    begun = Checkpoints(run / FOLDER).exist()
    if not begun and (run / "bundle" / bundle.INDEX).exists():
        raise MismatchError(
            f"{run} has a trained model, but no checkpoint to resume from.",
            f"Choose another folder with -o; --init-from {run} starts from these weights.",
        )
    # Without a checkpoint nothing has been trained yet: such a configuration may be replaced.
    if path.exists() and begun:
        try:
            before = upgrade(dict(read_json(path)))
            config["init"] = config["init"] or str(before.get("init", ""))
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise DataError(f"{path} is damaged.", "Choose another folder with -o.") from error
        if changed := [key for key in differences(before, config) if key not in MAY_CHANGE]:
            raise MismatchError(
                f"{run} holds a run with another configuration: {', '.join(changed)} differ.",
                "Give the same options and data to resume it, or choose another folder with -o.",
            )
    return config


def digest(tracks: Iterable[TrackFacts]) -> str:
    """Of the music and its split: a run that went on with other data would have seen what it holds out."""
    # Sorted, since the order in which tracks are found means nothing.
    lines = sorted(f"{track.content} {track.split}" for track in tracks)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """The keys, such as training.steps, at which two trees of plain data differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            name
            for key in sorted(a.keys() | b.keys())
            for name in differences(a.get(key), b.get(key), f"{where}.{key}" if where else key)
        ]
    return [] if a == b else [where]
