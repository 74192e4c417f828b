"""What release 0.1 called otherwise: configurations and tensors of its bundles, runs and TOML files.

This is the one place that knows the old names. An upgrade of what is up to date already changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from musicldm.core.bundle import Component

OLD_CONDITIONS = {"by_artist": "artist", "by_position": "position"}
"""0.1's switches, both on by default -> the names of the conditions."""
OLD_TENSORS = {
    "conditions.artists": "conditions.each.artist.table",
    "conditions.no_artist": "conditions.each.artist.null",
    "conditions.no_position": "conditions.each.position.null",
    "conditions.position.": "conditions.each.position.mlp.",
}
"""Of the network, old -> new; a name that ends in a dot stands for all that begin with it."""


def run_config(data: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration (preset, TOML file, `config.json`) as `DiffusionRunConfig` has it.

    Also what `config.json` adds: 0.1 called the digest of the codec `vae`.
    """
    upgraded = {("codec" if key == "vae" else key): value for key, value in data.items()}
    if isinstance(upgraded.get("model"), Mapping):
        upgraded["model"] = model_config(upgraded["model"])
    return upgraded


def model_config(data: Mapping[str, Any]) -> dict[str, Any]:
    """A model's configuration as `DiffusionConfig` has it; other keys stay as they are."""
    upgraded = {("network" if key == "denoiser" else key): value for key, value in data.items()}
    if isinstance(upgraded.get("conditions"), Mapping):
        upgraded["conditions"] = _conditions(upgraded["conditions"])
    return upgraded


def component(given: Component) -> Component:
    """A bundle's generator with the names of today."""
    renamed = dict(given.tensors)
    tensors(renamed)
    return Component(given.kind, component_config(given.config), renamed)


def component_config(data: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a bundle's generator: the model's, with `statistics` and the digest of its `codec`."""
    return model_config({("codec" if key == "vae" else key): value for key, value in data.items()})


def _conditions(data: Mapping[str, Any]) -> dict[str, Any]:
    upgraded = {key: value for key, value in data.items() if key not in ("artists", *OLD_CONDITIONS)}
    if OLD_CONDITIONS.keys() & data.keys():
        upgraded["names"] = [name for switch, name in OLD_CONDITIONS.items() if data.get(switch, True)]
    if data.get("artists"):
        upgraded["settings"] = {**upgraded.get("settings", {}), "artist": {"names": list(data["artists"])}}
    elif "artists" in data:
        upgraded.setdefault("settings", {})
    return upgraded


def tensors(state: dict[str, Any]) -> None:
    """Give the tensors of a `state_dict` their names of today, in place.

    An optimizer's state goes by the order of the parameters, which is today what it was.
    """
    for name in list(state):
        for old, new in OLD_TENSORS.items():
            # In a checkpoint, the network's names stand behind those of the modules around it.
            prefix, found, rest = name.partition(f"network.{old}")
            if found and (old.endswith(".") or not rest):
                state[f"{prefix}network.{new}{rest}"] = state.pop(name)
                break
