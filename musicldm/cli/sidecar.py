"""How a take was made: a JSON file beside it, and the same in its metadata, from which it can be made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

import musicldm
from musicldm.cli.sample_options import SampleOptions
from musicldm.core.errors import DataError, MismatchError

if TYPE_CHECKING:
    from musicldm.sampling import Pipeline

NOT_RECORDED = {"replay", "output", "count", "take", "format", "device", "as_json", "quiet", "compiled"}
"""Options that do not change what is heard, or are recorded for each take."""
RENAMED = {"init": "vary", "resample": "repaint"}
"""Options of release 0.1 -> their names of today."""


@dataclass(frozen=True)
class Model:
    """Which model made a take."""

    name: str
    hash: str


@dataclass(frozen=True)
class Recipe:
    """Everything that a take is made of, as plain data; its fields are those of the JSON."""

    musicldm: str
    """The version."""
    model: Model
    take: int
    """From 1 on."""
    of: int
    """How many takes there are between two things; 1 otherwise."""
    options: dict[str, Any]
    """Of `SampleOptions`."""
    inputs: dict[str, str]
    """Path -> sha256."""
    trained_on: dict[str, Any]
    """See `Pipeline.provenance`."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Path -> how the sound of an input differs from what became of it; see `sample_input.Change`."""

    @classmethod
    def made_by(cls, pipeline: Pipeline, options: SampleOptions, take: int, of: int, changes: dict[str, Any]) -> Recipe:
        """Of take number `take` of so many."""
        recorded = {each.name: _plain(getattr(options, each.name)) for each in fields(options)}
        return cls(
            musicldm=musicldm.__version__,
            model=Model(pipeline.name, pipeline.hash),
            take=take,
            of=of,
            options={name: value for name, value in sorted(recorded.items()) if name not in NOT_RECORDED},
            inputs={str(path): _sha256(path) for path in options.inputs},
            trained_on=pipeline.provenance(),
            changes=changes,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def typed_options(self, source: Path) -> dict[str, Any]:
        """The recorded options that say anything, as `SampleOptions` has them.

        Args:
            source: where they come from, for sentences.

        Raises:
            DataError: a value of another type.
        """
        hints, typed = get_type_hints(SampleOptions), dict[str, Any]()
        for name, value in self.options.items():
            if name not in hints or value in (None, []):
                continue
            if not _fits(value, hints[name]):
                raise DataError(
                    f"{source} does not say how it was made: its {name} is {value!r}.",
                    "Was it changed? The take itself says the same.",
                )
            typed[name] = _typed(value, hints[name])
        return typed

    def check(self, pipeline: Pipeline, inputs: Collection[Path]) -> None:
        """See that all is there as it was, as far as it is among the `inputs` still.

        Raises:
            MismatchError: another model, or an input that has changed.
        """
        if self.model.hash != pipeline.hash:
            raise MismatchError(
                f"The take was made by another model, {self.model.name!r}.", "Name that one with --model."
            )
        for name, digest in self.inputs.items():
            if Path(name) in inputs and (not Path(name).is_file() or _sha256(Path(name)) != digest):
                raise MismatchError(
                    f"{name} is not there as it was when the take was made.",
                    "Bring it back, or name another file; a path counts from the folder where the take was made.",
                )


def read(path: Path) -> Recipe:
    """The recipe in a JSON file, or in the metadata of an audio file, of this release or an earlier one.

    Raises:
        DataError: there is none.
    """
    from musicldm.media.audio.decode import probe

    hint = "Name the .json beside a take, or the take itself."
    try:
        text = path.read_text(encoding="utf-8") if path.suffix == ".json" else probe(path).comment
        data = upgraded(json.loads(text))
        model, inputs = data["model"], data.get("inputs", {})
        # The file may be anybody's: the types are checked here, so that a wrong one is a sentence and not a traceback.
        kinds = (data["options"], dict), (data["take"], int), (data["of"], int), (model["hash"], str), (inputs, dict)
        if not all(isinstance(value, kind) for value, kind in kinds):
            raise TypeError
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.", hint) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} does not say how it was made.", hint) from error
    return Recipe(
        musicldm=str(data.get("musicldm", "")),
        model=Model(str(model.get("name", "")), model["hash"]),
        take=data["take"],
        of=data["of"],
        options=data["options"],
        inputs=inputs,
        trained_on=data.get("trained_on", {}),
        changes=data.get("changes", {}),
    )


def upgraded(data: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's data of any release as this one writes it: the options of 0.1 get their names of today."""
    options = data["options"]
    return {**data, "options": {RENAMED.get(name, name): value for name, value in options.items()}}


def is_one(path: Path) -> bool:
    """Whether there is a recipe in a file."""
    try:
        read(path)
    except DataError:
        return False
    return True


def _fits(value: Any, kind: Any) -> bool:
    """Whether an option's value as JSON has it is of its type."""
    origin, kinds = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in kinds)
    if origin is Literal:
        return value in kinds
    if origin is list:
        return isinstance(value, list) and all(_fits(each, kinds[0]) for each in value)
    if origin is tuple:
        return isinstance(value, list) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if isinstance(value, bool):  # which is an int, too
        return kind is bool
    if kind is float:
        return isinstance(value, int | float)
    return isinstance(value, str if kind is Path else kind)


def _typed(value: Any, kind: Any) -> Any:
    """A value that fits, as `SampleOptions` has it."""
    origin, kinds = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _typed(value, next(each for each in kinds if _fits(value, each)))
    if origin is tuple:
        return tuple(map(_typed, value, kinds))
    return Path(value) if kind is Path else value


def _plain(value: Any) -> Any:
    """An option's value as JSON has it."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
