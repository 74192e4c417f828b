"""What we ship and load: a folder with `bundle.json` and one safetensors file for each component.

A model has a `codec`, and a `generator` once one is trained. `bundle.json` says of what kind each is, how it was
configured, the name, size and sha256 of its file, and what is known of its training. A file's name holds a piece of its
hash, so a new version never overwrites the old; the index, written last, is the commit, and what it no longer names is
swept. Nothing in a bundle is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from musicldm.core import durable, guard
from musicldm.core.errors import BundleError, OutputError

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = 2
INDEX = "bundle.json"
# The names that `write` gives: other safetensors in the folder are somebody's own, and are not swept.
OUR_FILES = re.compile(r"[a-z]+-[0-9a-f]{8}\.safetensors")
REPAIR_HINT = "Copy the bundle again, or repeat the training command, which writes it anew."

Role = Literal["codec", "generator"]
MADE_BY: dict[Role, str] = {"codec": "musicldm train-vae", "generator": "musicldm train-diffusion"}
FORMAT_1: dict[str, tuple[Role, str]] = {"vae": ("codec", "vae"), "denoiser": ("generator", "diffusion")}
"""What format 1 called its two components -> role and kind."""


@dataclass(frozen=True)
class Component:
    """One network: the configuration to build it and its tensors."""

    kind: str
    """Its name among the codecs or the generators."""
    config: dict[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def digest(self) -> str:
        """sha256 over configuration and weights: two components with the same digest compute the same.

        Weights count as what they are when they are loaded, numbers of 32 bits, however they are kept.
        """
        # So late, because commands that touch no weights import this module too, and torch takes seconds to load.
        import torch

        # Keys sorted and no white space: a configuration has one spelling, in whatever order it was put together.
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True, separators=(",", ":")).encode())
        for name, kept in sorted(self.tensors.items()):
            tensor = kept.float() if kept.is_floating_point() else kept
            # Without dtype and shape, [2, 3] and [3, 2] of the same bytes would count as the same tensor.
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            # Flattened, since a tensor of no dimension cannot be viewed as bytes.
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def serialised(self) -> bytes:
        """The tensors as the bytes of a safetensors file."""
        from safetensors.torch import save

        # safetensors refuses tensors that are strided views of others.
        return save({name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()})


@dataclass(frozen=True)
class TrackFacts:
    """What a bundle records of a track that was trained on, or held out."""

    artist: str = ""
    title: str = ""
    content: str = ""
    """The hash of its sound."""
    split: Literal["train", "heldout"] = "train"
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where it came from and under which licence."""
    seconds: float = 0.0


@dataclass(frozen=True)
class TrainingFacts:
    """What a bundle records of a component's training."""

    training: dict[str, Any] = field(default_factory=dict)
    """The whole configuration of the run."""
    step: int = 0
    """Optimizer steps made."""
    tracks: tuple[TrackFacts, ...] = ()
    init: dict[str, str] = field(default_factory=dict)
    """Name and digest of the model whose weights were the first; empty where they were random."""

    @property
    def crop_seconds(self) -> float:
        """Seconds of a training crop; 0 where that is not known."""
        optimisation = self.training.get("training")
        seconds = optimisation.get("seconds") if isinstance(optimisation, dict) else None
        return float(seconds) if isinstance(seconds, int | float) else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data = {"training": self.training, "step": self.step, "tracks": [asdict(track) for track in self.tracks]}
        return data | ({"init": self.init} if self.init else {})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingFacts:
        """The reverse of `to_dict`; fields that a newer release has added are passed over.

        Raises:
            TypeError, ValueError, AttributeError: it is not of that form.
        """
        known = TrackFacts.__dataclass_fields__
        tracks = [{key: value for key, value in dict(each).items() if key in known} for each in data.get("tracks", [])]
        return cls(
            training=dict(data.get("training", {})),
            step=int(data.get("step", 0)),
            tracks=tuple(TrackFacts(**each) for each in tracks),
            init=dict(data.get("init", {})),
        )


@dataclass(frozen=True)
class Bundle:
    """The components of a model and what is known about it."""

    name: str
    components: dict[Role, Component]
    facts: dict[Role, TrainingFacts] = field(default_factory=dict)

    def component(self, role: Role) -> Component:
        """One component.

        Raises:
            BundleError: the bundle has no such component.
        """
        if role not in self.components:
            have = ", ".join(self.components) or "nothing"
            hint = f"Name one that {MADE_BY[role]} made."
            raise BundleError(f"The bundle {self.name} has no {role}, only {have}.", hint)
        return self.components[role]

    def training(self, role: Role) -> TrainingFacts:
        """What is known of a component's training, which may be nothing."""
        return self.facts.get(role, TrainingFacts())


def codec_key(config: Mapping[str, Any]) -> str:
    """Under which key a generator's configuration has the digest of its codec: format 1 called it "vae"."""
    return "vae" if "vae" in config else "codec"


def halved(bundle: Bundle, codec_hash: Callable[[Bundle], str] = lambda half: half.component("codec").digest) -> Bundle:
    """The same model with its weights in half precision, for half the space.

    A generator refers to its codec by the codec's hash, so that is updated. Latents of the unrounded codec no
    longer match it: to keep a store usable, round the codec before encoding; rounding again changes nothing.

    Args:
        codec_hash: of a bundle's codec, as its `LatentSpec` has it.

    Raises:
        BundleError: a weight is too large for it.
    """
    components = {
        role: Component(component.kind, component.config, _halves(component))
        for role, component in bundle.components.items()
    }
    if {"codec", "generator"} <= components.keys():
        generator = components["generator"]
        theirs = codec_hash(Bundle(bundle.name, components, bundle.facts))
        config = {**generator.config, codec_key(generator.config): theirs}
        components["generator"] = Component(generator.kind, config, generator.tensors)
    return Bundle(bundle.name, components, bundle.facts)


def _halves(component: Component) -> dict[str, Tensor]:
    """A component's tensors, rounded."""
    halves = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in component.tensors.items()
    }
    for name, tensor in halves.items():
        # Half precision ends at 65504: what lies beyond has become infinite.
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise BundleError(f"{name} is too large for half precision.", "Leave out --half.")
    return halves


def is_one(folder: Path) -> bool:
    """Whether a folder's index is that of a bundle, as far as one sees without reading the weights."""
    try:
        index = json.loads((folder / INDEX).read_bytes())
        return isinstance(index["format"], int) and isinstance(index.get("components", index.get("parts")), dict)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def check_folder(folder: Path, overwrite: bool = False) -> None:
    """See that a bundle can be written to a folder: one that is empty, not there yet, or that of a bundle.

    Args:
        overwrite: it may hold other files.

    Raises:
        OutputError: it cannot.
    """
    guard.check_folder(folder)
    if not overwrite and folder.is_dir() and any(folder.iterdir()) and not is_one(folder):
        raise OutputError(f"{folder} holds files that are no bundle of musicldm.", guard.INSIST)


def write(folder: Path, bundle: Bundle) -> None:
    """Write a bundle; at any moment the folder holds the old one or the new one, whole.

    Raises:
        OutputError: the folder cannot be written.
    """
    durable.make_folder(folder)
    index: dict[str, Any] = {"format": FORMAT, "name": bundle.name, "components": {}}
    for role, component in bundle.components.items():
        data = component.serialised()
        digest = hashlib.sha256(data).hexdigest()
        # A piece of the hash is enough to tell an old version from a new one; the index keeps all of it for checking.
        file = f"{role}-{digest[:8]}.safetensors"
        durable.write_bytes(folder / file, data)
        about = {"config": component.config, "file": file, "bytes": len(data), "sha256": digest}
        index["components"][role] = {"kind": component.kind, **about}
    index["facts"] = {role: facts.to_dict() for role, facts in bundle.facts.items()}
    # From this rename on, the folder is the new bundle. Nothing of the old one may be removed before it.
    durable.write_json(folder / INDEX, index)
    named = {about["file"] for about in index["components"].values()}
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
        index = _upgraded(json.loads((folder / INDEX).read_bytes()))
        if int(index["format"]) > FORMAT:
            message = f"The bundle {path} has format {index['format']}; this musicldm knows {FORMAT}."
            raise BundleError(message, "Update musicldm.")
        components: dict[Role, dict[str, Any]] = dict(index["components"])
        # A bundle may come from a stranger: its index must not lead to files elsewhere on this machine.
        if not all(Path(about["file"]).name == about["file"] for about in components.values()):
            raise ValueError("a component outside of the bundle")
        if not all(isinstance(about["config"], dict) for about in components.values()):
            raise ValueError("a configuration that is none")
        files = {role: (folder / about["file"], about["bytes"], about["sha256"]) for role, about in components.items()}
        kinds = {role: str(about["kind"]) for role, about in components.items()}
        title = str(index["name"])
        facts = {role: TrainingFacts.from_dict(each) for role, each in index["facts"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        # BundleError is a ValueError as well: ours, of a newer format, says already what is wrong.
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{folder / INDEX} is damaged.", REPAIR_HINT) from error
    loaded = {role: Component(kinds[role], components[role]["config"], _load(*files[role])) for role in components}
    return Bundle(title, loaded, facts)


def _upgraded(index: dict[str, Any]) -> dict[str, Any]:
    """An index of any format as FORMAT has it. Configurations stay as they were written: digests go by them."""
    if int(index["format"]) != 1:
        return index
    roles = {old: FORMAT_1[old] for old in index["parts"]}
    return {
        "format": FORMAT,
        "name": index["name"],
        "components": {role: {"kind": kind, **index["parts"][old]} for old, (role, kind) in roles.items()},
        "facts": {role: index["facts"][old] for old, (role, _) in FORMAT_1.items() if old in index["facts"]},
    }


def fill(model: nn.Module, component: Component) -> None:
    """Copy a component's tensors into the model built from its configuration.

    Raises:
        BundleError: names or shapes differ.
    """
    try:
        model.load_state_dict(dict(component.tensors))
    except RuntimeError as error:
        # torch gives every mismatch a line of its own; one of them is enough for a sentence.
        reason = str(error).strip().splitlines()[-1].strip()
        raise BundleError(
            f"The weights do not fit their configuration: {reason}",
            REPAIR_HINT,
        ) from error


def _load(path: Path, size: int, digest: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise BundleError(f"The bundle lacks {path.name}.", "Copy the whole bundle folder again.")
    # The size comes first: it costs nothing, and tells a copy cut short from a file that was changed.
    if path.stat().st_size != size:
        raise BundleError(
            f"{path} is cut short: {path.stat().st_size:,} bytes of {size:,}.",
            REPAIR_HINT,
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        raise BundleError(
            f"{path} was changed since it was written.",
            REPAIR_HINT,
        )
    try:
        return load_file(path)  # a memory map: what is read of it is read once, and shared
    except SafetensorError as error:
        raise BundleError(
            f"{path} does not hold safetensors.", "Only bundles that musicldm wrote can be read."
        ) from error
