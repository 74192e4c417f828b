"""What the two training commands share: their configuration, and how the result is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from musicldm.cli import memory_plan as memory
from musicldm.cli.console import Console
from musicldm.core import config
from musicldm.core.errors import TrainingError, UsageError
from musicldm.core.progress import Progress
from musicldm.core.reading import read_json

if TYPE_CHECKING:
    import torch

    from musicldm.training.config import TrainingConfig
    from musicldm.training.loop import TrainingResult
    from musicldm.training.memory_plan import Plan
    from musicldm.training.rehearsal import Rehearsal

CODEC = "codec"
"""The key by which a configuration file, and a run, name their kind of codec."""
DEFAULT_CODEC = "spectrum"

T = TypeVar("T")
Run = TypeVar("Run", bound=memory.RunConfig)


def load_config(
    cls: type[T],
    owner: str,
    preset: str,
    file: Path | None,
    options: dict[str, Any],
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> T:
    """The preset, under the user's file, under the options that were given.

    Args:
        upgrade: a file that was written for an earlier release -> the same for this one.
    """
    data = config.preset(owner, preset)
    if file:
        own = config.read_toml(file)
        own.pop(CODEC, None)  # which `chosen_codec` has read
        data = config.merge(data, upgrade(own))
    return config.from_dict(cls, config.merge(data, given(options)))


def chosen_codec(option: str | None, file: Path | None, run: Path, init_from: Path | None) -> str:
    """The codec that an option or the user's file names; else that of the run, or the first weights; else the default.

    Raises:
        UsageError: option and file differ.
        BundleError: there are no such first weights.
    """
    from musicldm import models
    from musicldm.core import bundle
    from musicldm.training.run_folder import is_run

    named = config.read_toml(file).get(CODEC) if file else None
    if named and option and named != option:
        raise UsageError(f"{file} is for the codec {named!r}, and not for {option!r}.", "Leave out --codec.")
    if named or option:
        return str(named or option)
    if is_run(run):
        with suppress(OSError, ValueError, AttributeError):  # a damaged one, which is reported later
            # Release 0.1 knew one codec, and did not name it.
            return str(read_json(run / "config.json").get(CODEC, "vae"))
    return bundle.read(models.find(init_from)).component("codec").kind if init_from else DEFAULT_CODEC


def given(tree: dict[str, Any]) -> dict[str, Any]:
    """Of a tree of options those that were given, and no table without any."""
    kept = {key: given(value) if isinstance(value, dict) else value for key, value in tree.items()}
    return {key: value for key, value in kept.items() if value is not None and value != {}}


def carry_out(
    console: Console,
    what: str,
    plan: Run,
    rehearsal: Rehearsal,
    about: list[tuple[str, str]],
    output: Path,
    device: torch.device,
    vram: float | None,
    dry_run: bool,
    overwrite: bool,
    train: Callable[[Run, Progress], TrainingResult],
    figure: str = "loss",
) -> None:
    """Plan the memory, say what is going to be trained, train it, and say how it ended; or say what would be done.

    Args:
        what: is trained, such as "codec vae".
        about: facts about it.
        overwrite: what is no run's in `output` gives way.
        train: trains by a configuration that fits into the memory there is, or in a dry run raises what that would.
        figure: the one of the held-out figures that is reported in the end.
    """
    from musicldm.training.processes import rank_of
    from musicldm.training.run_folder import clear

    if overwrite and not dry_run and rank_of(plan.training) == 0:
        clear(output)
    plan, fit = memory.fitted(plan, rehearsal, output, device, vram)
    if dry_run:
        with console.progress("Checking") as progress:
            train(plan, progress)
        show(console, plan, fit or memory.foreseen(plan, rehearsal, device), about)
        return
    console.note(f"{what[0].upper()}{what[1:]}. " + "; ".join(f"{name}: {fact}" for name, fact in about) + ".")
    if fit:
        console.note(memory.sentence(fit))
    with console.progress(f"Training the {what.split()[0]}") as progress, _speaking_once(plan.training):
        result = train(plan, progress)
    render(console, result, plan.training.steps, figure)


def show(console: Console, plan: Any, fit: Plan, about: list[tuple[str, str]]) -> None:
    """What --dry-run shows: the whole configuration on stdout; facts about the model and its memory on stderr."""
    from rich.table import Table

    table = Table(show_header=False)
    for row in (*about, *memory.rows(fit)):
        table.add_row(*row)
    console.show(table)
    data = config.to_dict(plan)
    lines = list(_lines({name: table for name, table in data.items() if table}))
    console.result({**data, "about": dict(about), "memory": memory.data(fit)}, lines)


def _lines(data: dict[str, Any], where: str = "") -> Iterator[str]:
    """A tree of tables as lines such as `model.unet.blocks = 1`."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _lines(value, f"{where}{key}.")
        else:
            yield f"{where}{key} = {value}"


@contextmanager
def _speaking_once(plan: TrainingConfig) -> Iterator[None]:
    """Where several processes train together and all go wrong alike, leave the sentence to the main one."""
    from musicldm.training.processes import rank_of

    try:
        yield
    except TrainingError as error:
        if rank_of(plan):
            raise typer.Exit(error.exit_code) from error
        raise


def render(console: Console, result: TrainingResult, steps: int, figure: str) -> None:
    """Say how a training ended; an interrupted one exits with 130. One of several processes speaks for all."""
    if not result.main:
        return
    if result.first and result.last:
        silence = f" (silence: {result.last['silence']:.4f})" if "silence" in result.last else ""
        console.note(
            f"Held-out {figure}: {result.first[figure]:.4f} at the start, {result.last[figure]:.4f} at the "
            f"end{silence}."
        )
    elif result.first:
        console.note(f"{result.steps} steps are done already; --steps trains longer.")
    else:
        console.warn("There is no held-out track, so nothing shows when to stop: add more music.")
    if result.interrupted:
        console.warn(f"Stopped and saved at step {result.steps} of {steps}. The same command resumes it.")
        raise typer.Exit(130)
    data = {"bundle": str(result.bundle), "steps": result.steps, "first": result.first, "last": result.last}
    console.result(data, [str(result.bundle)])
