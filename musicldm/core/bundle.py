"""What we ship and load: a folder with `bundle.json` and one safetensors file for each part.

`bundle.json` says what the parts are, how they were configured, the name, size and sha256 of their files, and where the
model comes from. A file's name holds a piece of its hash, so a new version never overwrites the old; the index, written
last, is the commit, and what it no longer names is swept. Nothing in a bundle is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musicldm.core import durable
from musicldm.core.errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = 1
INDEX = "bundle.json"
OUR_FILES = re.compile(r"[a-z]+-[0-9a-f]{8}\.safetensors")
MEND = "Copy the bundle again, or repeat the training command, which writes it anew."


@dataclass(frozen=True)
class Part:
    """One network: the configuration to build it and its tensors."""

    config: dict[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def digest(self) -> str:
        """sha256 over configuration and weights: two parts with the same digest compute the same.

        Weights count as what they are when they are loaded, numbers of 32 bits, however they are kept.
        """
        import torch

        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True, separators=(",", ":")).encode())
        for name, kept in sorted(self.tensors.items()):
            tensor = kept.float() if kept.is_floating_point() else kept
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def serialised(self) -> bytes:
        """The tensors as the bytes of a safetensors file."""
        from safetensors.torch import save

        return save({name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()})


@dataclass(frozen=True)
class Bundle:
    """The parts of a model and what is known about it."""

    name: str
    parts: dict[str, Part]
    facts: dict[str, Any] = field(default_factory=dict)
    """Statistics, training settings, provenance: plain data."""

    def part(self, name: str) -> Part:
        """One part.

        Raises:
            BundleError: the bundle has no such part.
        """
        if name not in self.parts:
            made_by = {"vae": "musicldm train-vae", "denoiser": "musicldm train-diffusion"}.get(name, "musicldm")
            have = ", ".join(self.parts) or "nothing"
            raise BundleError(f"The bundle {self.name} has no {name}, only {have}.", f"Name one that {made_by} made.")
        return self.parts[name]


def halved(bundle: Bundle) -> Bundle:
    """The same model with its weights in half precision, for half the space.

    A denoiser knows its VAE by the digest, so it is told the new one. Who wants latents in a store to stay a bundle's
    own rounds the VAE before encoding: what is rounded already does not change.

    Raises:
        BundleError: a weight is too large for it.
    """
    parts = {name: Part(part.config, _halves(part)) for name, part in bundle.parts.items()}
    if {"vae", "denoiser"} <= parts.keys():
        told = {**parts["denoiser"].config, "vae": parts["vae"].digest}
        parts["denoiser"] = Part(told, parts["denoiser"].tensors)
    return Bundle(bundle.name, parts, bundle.facts)


def _halves(part: Part) -> dict[str, Tensor]:
    """A part's tensors, rounded."""
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in part.tensors.items()}
    for name, tensor in halves.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise BundleError(f"{name} is too large for half precision.", "Leave out --half.")
    return halves


def write(folder: Path, bundle: Bundle) -> None:
    """Write a bundle; at any moment the folder holds the old one or the new one, whole.

    Raises:
        OutputError: the folder cannot be written.
    """
    durable.make_folder(folder)
    index: dict[str, Any] = {"format": FORMAT, "name": bundle.name, "parts": {}, "facts": bundle.facts}
    for name, part in bundle.parts.items():
        data = part.serialised()
        digest = hashlib.sha256(data).hexdigest()
        file = f"{name}-{digest[:8]}.safetensors"
        durable.write_bytes(folder / file, data)
        index["parts"][name] = {"config": part.config, "file": file, "bytes": len(data), "sha256": digest}
    durable.write_json(folder / INDEX, index)
    named = {about["file"] for about in index["parts"].values()}
    for path in folder.glob("*.safetensors"):
        if path.name not in named and OUR_FILES.fullmatch(path.name):  # of the bundle that was here before
            path.unlink(missing_ok=True)


def read(path: Path) -> Bundle:
    """Read a bundle, or the bundle of a run folder, and check every byte of it.

    Raises:
        BundleError: missing, of a newer format, cut short or changed.
    """
    folder = path if (path / INDEX).is_file() else path / "bundle"
    if not (folder / INDEX).is_file():
        what = "There is nothing at" if not path.exists() else "There is no bundle in"
        raise BundleError(
            f"{what} {path}.", "Name a run folder or its bundle/, as left by train-vae or train-diffusion."
        )
    try:
        index = json.loads((folder / INDEX).read_bytes())
        parts = {
            name: (about["config"], about["file"], about["bytes"], about["sha256"])
            for name, about in index["parts"].items()
        }
        if not all(Path(file).name == file for _, file, _, _ in parts.values()):
            raise ValueError("a part outside of the bundle")
        if not all(isinstance(config, dict) for config, _, _, _ in parts.values()):
            raise ValueError("a configuration that is none")
        title, facts, version = str(index["name"]), dict(index["facts"]), int(index["format"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{folder / INDEX} is damaged.", MEND) from error
    if version > FORMAT:
        raise BundleError(f"The bundle {path} has format {version}; this musicldm knows {FORMAT}.", "Update musicldm.")
    loaded = {
        name: Part(config, _load(folder / file, size, digest)) for name, (config, file, size, digest) in parts.items()
    }
    return Bundle(title, loaded, facts)


def fill(model: nn.Module, part: Part) -> None:
    """Copy a part's tensors into the model built from its configuration.

    Raises:
        BundleError: names or shapes differ.
    """
    try:
        model.load_state_dict(dict(part.tensors))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise BundleError(
            f"The weights do not fit their configuration: {reason}",
            MEND,
        ) from error


def _load(path: Path, size: int, digest: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise BundleError(f"The bundle lacks {path.name}.", "Copy the whole bundle folder again.")
    if path.stat().st_size != size:
        raise BundleError(
            f"{path} is cut short: {path.stat().st_size:,} bytes of {size:,}.",
            MEND,
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        raise BundleError(
            f"{path} was changed since it was written.",
            MEND,
        )
    try:
        return load_file(path)  # a memory map: what is read of it is read once, and shared
    except SafetensorError as error:
        raise BundleError(
            f"{path} does not hold safetensors.", "Only bundles that musicldm wrote can be read."
        ) from error
