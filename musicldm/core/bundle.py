"""What we ship and load: a folder with `bundle.json` and one safetensors file for each component.

A model has a `codec`, and a `generator` once one is trained. `bundle.json` says of what kind each is, how it was
configured, the name, size and sha256 of its file, and what is known of its training. A file's name holds a piece of its
hash, so a new version never overwrites the old; the index, written last, is the commit, and what it no longer names is
swept. Nothing in a bundle is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from musicldm.core import durable, guard
from musicldm.core.config import Between, Hash, from_dict
from musicldm.core.errors import BundleError, DataError, MusicLDMError, OutputError
from musicldm.core.reading import inside, read_json, sha256

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = 2
INDEX = "bundle.json"
# The names that `write` gives: other safetensors in the folder are somebody's own, and are not swept.
OUR_FILES = re.compile(r"[a-z]+-[0-9a-f]{8}\.safetensors")
LARGEST_INDEX = 1 << 28
"""Bytes; that of a model that was trained on a million tracks has half of it."""
LONGEST_CROP = 86400.0
"""Seconds; what states a longer one is not to be believed."""
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
    step: Annotated[int, Between(0, math.inf)] = 0
    """Optimizer steps made."""
    tracks: tuple[TrackFacts, ...] = ()
    init: dict[str, str] = field(default_factory=dict)
    """Give and digest of the model whose weights were the first; empty where they were random."""

    @property
    def crop_seconds(self) -> float:
        """Seconds of a training crop; 0 where that is not known."""
        optimisation = self.training.get("training")
        seconds = optimisation.get("seconds") if isinstance(optimisation, dict) else None
        return float(seconds) if isinstance(seconds, int | float) and 0 < seconds <= LONGEST_CROP else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data = {"training": self.training, "step": self.step, "tracks": [asdict(track) for track in self.tracks]}
        return data | ({"init": self.init} if self.init else {})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingFacts:
        """The reverse of `to_dict`; fields that a newer release has added are passed over.

        Raises:
            ConfigError: it is not of that form.
        """
        return from_dict(cls, dict(data), unknown="pass over")


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
        index = read_json(folder / INDEX, LARGEST_INDEX)
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
        raise OutputError(f"{folder} holds files that are not a musicldm bundle.", guard.INSIST)


def write(folder: Path, bundle: Bundle) -> None:
    """Write a bundle; at any moment the folder holds the old one or the new one, whole.

    Raises:
        BundleError: a weight is no finite number.
        OutputError: the folder cannot be written.
    """
    for component in bundle.components.values():
        check_finite(component.tensors)
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
            f"{what} {path}.", "Give a run folder or its bundle/, as left by train-vae or train-diffusion."
        )
    try:
        index = _read_index(folder / INDEX)
        files = {role: inside(folder, listed.file, links=True) for role, listed in index.components.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        # Those are ValueErrors as well: ours, of a newer format, says already what is wrong.
        if isinstance(error, BundleError):
            raise
        reason = f": {error}" if isinstance(error, MusicLDMError) else "."
        raise BundleError(f"{folder / INDEX} is damaged{reason}", REPAIR_HINT) from error
    loaded = {
        role: Component(listed.kind, listed.config, _load(files[role], listed.bytes, listed.sha256))
        for role, listed in index.components.items()
    }
    return Bundle(index.name, loaded, index.facts)


@dataclass(frozen=True)
class _Listed:
    """A component as the index has it."""

    kind: str
    config: dict[str, Any]
    file: Annotated[str, Between(1, 255)]
    bytes: Annotated[int, Between(0, 1 << 50)]
    sha256: Hash


@dataclass(frozen=True)
class _Index:
    """`bundle.json`."""

    format: int
    name: Annotated[str, Between(0, 1000)]
    components: dict[Role, _Listed]
    facts: dict[Role, TrainingFacts]


def _read_index(path: Path) -> _Index:
    """The index of a bundle of any format.

    Raises:
        BundleError: of a newer format.
        OSError, ValueError, KeyError, TypeError, AttributeError: it is not one.
    """
    data = _upgraded(read_json(path, LARGEST_INDEX))
    if int(data["format"]) > FORMAT:
        message = f"The bundle {path.parent} has format {data['format']}; this musicldm knows {FORMAT}."
        raise BundleError(message, "Update musicldm.")
    index = from_dict(_Index, data, unknown="pass over")
    # A bundle may come from a stranger: its index must not lead to files elsewhere on this machine.
    if not all(re.split(r"[\\/]", listed.file) == [listed.file] for listed in index.components.values()):
        raise DataError("a component outside the bundle.")
    return index


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


Model = TypeVar("Model", bound="nn.Module")
T = TypeVar("T")


def configuration(
    cls: type[T], config: Mapping[str, Any], upgraded: Callable[[dict[str, Any]], dict[str, Any]] = dict
) -> T:
    """A component's configuration as the dataclass `cls` has it.

    Args:
        upgraded: a configuration of an earlier release -> the same as this one has it.

    Raises:
        BundleError: it is not one.
    """
    try:
        return from_dict(cls, upgraded(dict(config)))
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        reason = f": {error}" if isinstance(error, MusicLDMError) else "."
        raise BundleError(f"The configuration of a network is damaged{reason}", REPAIR_HINT) from error


def build(make: Callable[[], Model], component: Component) -> Model:
    """The model that `make` builds from a component's configuration, with the component's tensors.

    First without memory: a configuration that does not fit its tensors is found before anything large is built.

    Raises:
        BundleError: nothing can be built from it, or names or shapes differ.
    """
    import torch

    try:
        with torch.device("meta"):
            sketch = make()
    except Exception as error:  # whatever a network makes of impossible sizes
        reason = f": {error}" if isinstance(error, MusicLDMError) else "."
        raise BundleError(f"No {component.kind} can be built from its configuration{reason}", REPAIR_HINT) from error
    _fill(sketch, {name: tensor.to("meta") for name, tensor in component.tensors.items()})
    model = make()
    _fill(model, component.tensors)
    return model


def _fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into a model.

    Raises:
        BundleError: names or shapes differ.
    """
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        # torch gives every mismatch a line of its own; one of them is enough for a sentence.
        reason = str(error).strip().splitlines()[-1].strip()
        raise BundleError(f"The weights do not fit their configuration: {reason}", REPAIR_HINT) from error


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """See that weights are numbers.

    Raises:
        BundleError: one has NaN or infinity in it, or is of a type that no model has.
    """
    import torch

    usual = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for name, tensor in tensors.items():
        if tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype not in usual):
            raise BundleError(f"The weights {name} have the type {tensor.dtype}, which no model has.", REPAIR_HINT)
        # The extremes, which NaN spoils as well: they need no memory as `isfinite` would.
        if tensor.dtype in usual and tensor.numel() and not all(end.isfinite() for end in tensor.aminmax()):
            raise BundleError(f"The weights {name} are not finite numbers.", "Export an earlier checkpoint.")


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
    if sha256(path) != digest:
        raise BundleError(
            f"{path} was changed since it was written.",
            REPAIR_HINT,
        )
    try:
        tensors = load_file(path)  # a memory map: what is read of it is read once, and shared
    except (SafetensorError, KeyError) as error:  # KeyError: a type that this torch does not have
        raise BundleError(
            f"{path} is not a safetensors file.", "Only bundles that musicldm wrote can be read."
        ) from error
    check_finite(tensors)
    return tensors
