"""Examine the machine and what is about to be used, before hours of work: each finding says what to do.

What users of such programs meet most often is a loss that falls and an output that stays noise. Every cause of that is
visible beforehand: an untrained codec or the wrong one, latents that are not scaled, dead channels, clips shorter than
the crops. Here they are looked for, in under a minute.

Each part of the package is imported where it is examined, because one that cannot be imported is a finding, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from musicldm.core.errors import MusicLDMError, UsageError
from musicldm.core.progress import Progress, silent
from musicldm.doctor.bundles import examine_bundle
from musicldm.doctor.data import examine_data
from musicldm.doctor.findings import Examined, Finding
from musicldm.doctor.machine import examine_machine, why_torch_is_broken
from musicldm.doctor.pairs import examine_pairs
from musicldm.doctor.stores import examine_store

Kind = Literal["data", "store", "bundle"]

EXAMINERS: dict[Kind, Callable[[str, Examined, str], Iterator[Finding]]] = {
    "data": examine_data,
    "store": examine_store,
    "bundle": examine_bundle,
}
"""In this order, since a bundle is tried on the music that was found before it."""


def examine(things: Sequence[str] = (), device: str = "auto", progress: Progress = silent) -> Iterator[Finding]:
    """Examine the machine, then each thing, then how they fit together; findings are yielded as they are made.

    Args:
        things: folders of audio (prepared or not), latent stores, bundles or names of models, in any order.
        device: where to compute.

    Raises:
        UsageError: a thing that does not exist, or a device that does not.
    """
    kinds = [(thing, kind_of(thing)) for thing in things]
    total = 1 + len(kinds)
    progress(0, total, "the machine")
    yield from examine_machine(device)
    # All that follows needs torch, and would only report the same fault again.
    if why_torch_is_broken():
        return
    examined, order = Examined(), list(EXAMINERS)
    for number, (thing, kind) in enumerate(sorted(kinds, key=lambda each: order.index(each[1]))):
        progress(1 + number, total, thing)
        try:
            yield from EXAMINERS[kind](thing, examined, device)
        except MusicLDMError as error:
            yield Finding(thing, "wrong", error.message, error.hint)
    try:
        yield from examine_pairs(examined)
    except MusicLDMError as error:
        yield Finding("together", "wrong", error.message, error.hint)
    progress(total, total, "done")


def kind_of(thing: str) -> Kind:
    """What a name on the command line stands for.

    Raises:
        UsageError: nothing.
    """
    from musicldm import models
    from musicldm.core.bundle import INDEX

    path = Path(thing)
    if thing.startswith("s3://") or (path / "zarr.json").is_file():
        return "store"
    if any((folder / INDEX).is_file() for folder in (path, path / "bundle")):
        return "bundle"
    if thing.startswith("hf:") or thing in {model.name for model in models.models()}:
        return "bundle"
    if path.exists():
        return "data"
    raise UsageError(f"There is nothing at {thing}.", "Give a folder of audio, a latent store, a bundle or a model.")
