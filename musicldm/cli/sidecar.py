"""How a take was made: a JSON file beside it, and the same in its metadata, from which it can be made again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import musicldm
from musicldm.cli.sample_options import RECORDED, Recorded, SampleOptions
from musicldm.core.config import Between, Hash, from_dict
from musicldm.core.durable import Commit, write_json
from musicldm.core.errors import DataError, MismatchError
from musicldm.core.guard import Guard
from musicldm.core.reading import parse_json, read_file, sha256

if TYPE_CHECKING:
    from musicldm.sampling import Pipeline

DIGEST = "sha256"
"""The key under which the file beside a take has the take's hash."""
PLACES = ("start", "stop")
"""Options that are places in a file."""
LARGEST = 1 << 26
"""Bytes of a recipe; it may name the artists of its model."""
LONGEST_TEXT = 10_000
"""Letters of an option, and items of a list."""
TAKES = 1 << 31
"""The highest number of a take."""
RENAMED = {"init": "vary", "resample": "repaint"}
"""Options of release 0.1 -> their names of today."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which model made a take."""

    name: str = ""
    hash: Hash


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a take is made of, as plain data; its fields are those of the JSON."""

    musicldm: str = ""
    """The version."""
    model: Model
    take: Annotated[int, Between(1, TAKES)]
    """From 1 on."""
    of: Annotated[int, Between(1, TAKES)]
    """How many takes there are between two things; 1 otherwise."""
    options: dict[str, Any]
    """Of `SampleOptions`."""
    inputs: dict[str, Hash] = field(default_factory=dict)
    """Path -> sha256."""
    trained_on: dict[str, Any] = field(default_factory=dict)
    """See `Pipeline.provenance`."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Path -> how the sound of an input differs from what became of it; see `sample_input.Change`."""

    @classmethod
    def made_by(cls, pipeline: Pipeline, options: SampleOptions, take: int, of: int, changes: dict[str, Any]) -> Recipe:
        """Of take number `take` of so many."""
        recorded = {each.name: _plain(getattr(options, each.name)) for each in fields(options)}
        return cls(
            musicldm=musicldm.__version__,
            model=Model(name=pipeline.name, hash=pipeline.hash),
            take=take,
            of=of,
            options={name: value for name, value in sorted(recorded.items()) if name in RECORDED},
            inputs={str(path): sha256(path) for path in options.inputs},
            trained_on=pipeline.provenance(),
            changes=changes,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def typed_options(self, source: Path, given: Collection[str] = ()) -> dict[str, Any]:
        """The recorded options that say anything, as `SampleOptions` has them.

        Args:
            source: where they come from, for sentences.
            given: names of options that the command line says otherwise.

        Raises:
            DataError: a value of another type or out of its range, an option that no recipe has, or an input that
                nothing is known of.
        """
        hints, typed = get_type_hints(SampleOptions), dict[str, Any]()
        hint = "Was it changed? The take itself says the same."
        for name, value in self.options.items():
            if name not in hints or value in (None, []):  # of a later release, or left alone
                continue
            if name not in RECORDED:
                raise DataError(f"{source} sets {name!r}, which no recipe may.", "Use only recipes that you trust.")
            if name in given:  # which counts, whatever was recorded
                continue
            if name in PLACES and isinstance(value, list):
                # Releases before notes had seconds alone, and wrote them as numbers.
                value = [f"{each:.17g}" if isinstance(each, float | int) else each for each in value]
            if not _fits(value, hints[name]) or not _in_range(value, RECORDED[name]):
                raise DataError(f"{source} does not say how it was made: its {name} is {value!r:.200}.", hint)
            typed[name] = _typed(value, hints[name])
        if _is_address(typed.get("model", "")):
            # A recipe may name what is on this machine, where its hash decides. It may not make us fetch anything.
            raise DataError(
                f"{source} was made by a model that would have to be fetched, which no recipe may cause.",
                f"If you trust it, name it yourself: --model {typed['model']}",
            )
        for path in SampleOptions(**typed).inputs:
            if str(path) not in self.inputs or _is_address(str(path)):
                raise DataError(f"{source} does not say how it was made: nothing is known of its {path}.", hint)
        return typed

    def check(self, pipeline: Pipeline, inputs: Collection[Path]) -> None:
        """See that all is there as it was, as far as it is among the `inputs` still.

        Raises:
            MismatchError: another model, or an input that has changed.
        """
        if self.model.hash != pipeline.hash:
            raise MismatchError(
                f"The take was made by another model, {self.model.name!r}.", "Give that one with --model."
            )
        for name, digest in self.inputs.items():
            if Path(name) in inputs and (not Path(name).is_file() or sha256(Path(name)) != digest):
                raise MismatchError(
                    f"{name} is missing, or has changed since the take was made.",
                    "Restore it, or give another file; a relative path starts at the folder where the take was made.",
                )


def read(path: Path) -> Recipe:
    """The recipe in a JSON file, or in the metadata of an audio or MIDI file, of this release or an earlier one.

    Raises:
        DataError: there is none.
    """
    from musicldm.media.comments import comment_of

    hint = "Name the .json beside a take, or the take itself."
    try:
        text = read_file(path, LARGEST) if path.suffix == ".json" else comment_of(path)
        # The file may be anybody's: all of it is checked here, so that what is wrong is a sentence and not a traceback.
        return from_dict(Recipe, upgraded(parse_json(text)), unknown="pass over")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.", hint) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} does not say how it was made.", hint) from error


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


def beside(take: Path) -> Path:
    """Where a take's recipe stands. The whole name is in it: `take.wav` and `take.flac` have one each."""
    return take.with_name(f"{take.name}.json")


def is_take(path: Path) -> bool:
    """Whether a file is a take that nobody has changed since, as far as its recipe tells.

    One without a recipe beside it, or with one of release 0.1, which had no hash of the take, is known by its metadata.
    """
    with suppress(OSError, ValueError, AttributeError):
        digest = parse_json(read_file(beside(path), LARGEST)).get(DIGEST)
        if isinstance(digest, str):
            return digest == sha256(path)
    return is_one(path)


def committing(guard: Guard, recipe: Recipe) -> Commit:
    """A take's `durable.Commit`: the file gets its name, and the recipe goes beside it with the file's hash."""

    def commit(temporary: Path, take: Path) -> None:
        data = recipe.to_dict() | {DIGEST: sha256(temporary)}
        guard.check(take)
        # The former recipes first: a kill must not leave one beside the wrong take.
        for former in _former(take):
            former.unlink(missing_ok=True)
        guard.commit(temporary, take)
        write_json(beside(take), data, Guard(is_one, guard.overwrite).commit)

    return commit


def _former(take: Path) -> Iterator[Path]:
    """The recipes of the take that is about to be replaced."""
    if beside(take).is_file() and is_one(beside(take)):
        yield beside(take)
    older = take.with_suffix(".json")  # of release 0.1, in which other takes could share it
    if older != take and older.is_file() and is_one(older) and is_one(take) and read(older) == read(take):
        yield older


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


def _in_range(value: Any, limits: Recorded) -> bool:
    """Whether a value, and each item of a list, is as large and as long as a recipe may have it."""
    if isinstance(value, list):
        return len(value) <= LONGEST_TEXT and all(_in_range(each, limits) for each in value)
    if isinstance(value, str):
        return len(value) <= LONGEST_TEXT and "\0" not in value
    return bool(limits.low <= value <= limits.high)  # NaN is in no range


def _is_address(model: str) -> bool:
    """Whether a model lies elsewhere: on the Hub, behind a URL, or on another machine that Windows would log in to."""
    return model.startswith(("hf:", "\\\\", "//")) or "://" in model


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
