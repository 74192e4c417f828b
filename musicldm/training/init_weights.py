"""Training that begins with the weights of a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from musicldm import models
from musicldm.core import bundle
from musicldm.core.bundle import Bundle, Component, Role
from musicldm.core.errors import BundleError, MismatchError
from musicldm.training.announce import Announce
from musicldm.training.run_folder import differences
from musicldm.training.state import Origin
from musicldm.training.trainable import Trainable


def init_weights(
    module: Trainable[Any],
    source: Path | None,
    role: Role,
    config: dict[str, Any],
    announce: Announce,
    upgrade: Callable[[Component], Component] = lambda component: component,
) -> None:
    """Give the module the weights of the bundle at `source`, where there is one.

    Args:
        source: whatever `models.find` takes.
        role: which component it is.
        config: what this model is built by.
        announce: told of held-out tracks that the bundle was trained on.
        upgrade: a component of an earlier release -> the same as this one has it.

    Raises:
        BundleError: there is none, or it has no such component.
        MismatchError: it is another network, or for other data, though its weights may have the same shapes.
    """
    if not source:
        return
    parent = bundle.read(models.find(source))
    try:
        given = upgrade(parent.component(role))
    except (TypeError, AttributeError) as error:  # of what a stranger's bundle may have in place of a table
        raise BundleError(f"The configuration of {parent.name} is damaged.", bundle.REPAIR_HINT) from error
    _load(module, parent, given, config)
    origin = Origin(parent.name, parent.component(role).digest, parent.training(role).tracks)
    module.origin = origin
    known = {track.content for track in origin.tracks if track.split == "train"}
    seen = sum(track.split == "heldout" and track.content in known for track in module.tracks)
    if seen:
        announce(f"{source} was trained on {seen} of the tracks held out here, so the held-out figures will flatter.")


def _load(module: Trainable[Any], source: Bundle, given: Component, config: dict[str, Any]) -> None:
    """Give the module the weights of a component of a bundle; see `init_weights`."""
    wanted = json.loads(json.dumps(config))  # as a bundle has it
    # Of a key that an earlier release did not write nothing is known: there the shapes decide.
    changed = differences({key: given.config.get(key, value) for key, value in wanted.items()}, wanted)
    shapes = {name: tensor.shape for name, tensor in module.model.state_dict().items()}
    if changed or shapes != {name: tensor.shape for name, tensor in given.tensors.items()}:
        raise MismatchError(
            f"The {given.kind} of {source.name} is another network: {', '.join(changed) or 'architecture'} differ.",
            "Choose the preset or --config that it was trained with, or leave out --init-from.",
        )
    module.model.load_state_dict(dict(given.tensors))
    # The average as well, or the first validation would be of random weights.
    module.ema.load_state_dict(dict(given.tensors))
