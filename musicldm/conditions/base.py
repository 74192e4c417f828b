"""What a generator is conditioned on beside the noise level: whose music, where in a track.

Each condition is one file with one `Condition`, and one line in `CONDITIONS`. Any of them can be absent, for one item
or for all: training drops each now and then, so that the network also learns to do without, and guidance has something
to compare with (Ho & Salimans 2022). Absence is handled here, once for all conditions.

Shapes: B batch, E width of an embedding, S length of a sequence, F channels of a per-frame embedding, L latent frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, cast

import torch
from torch import Tensor, nn

from musicldm.core.errors import ConfigError, UsageError
from musicldm.core.registry import Registry

if TYPE_CHECKING:
    from musicldm.latents.dataset import Crops, LatentBatch

CONDITIONS = Registry(
    "condition",
    {
        "artist": "musicldm.conditions.artist:ArtistCondition",
        "position": "musicldm.conditions.position:PositionCondition",
    },
)
USUAL = ("artist", "position")
"""What a model is conditioned on where its configuration does not say."""

Kind = Literal["vector", "sequence", "frames"]


class Source(Protocol):
    """What a condition may ask of the music to train on."""

    @property
    def artists(self) -> Sequence[str]:
        """The names of those by whom there is something to train on, sorted."""


class Track(Protocol):
    """What a condition may ask of a track that was trained on, or held out."""

    @property
    def artist(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def seconds(self) -> float: ...


@dataclass(frozen=True)
class ConditionConfig:
    """What a model is conditioned on."""

    names: tuple[str, ...] = USUAL
    """Names in `CONDITIONS`."""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """A table of its own for each condition that has one, such as the artists' names."""
    dropout: float = 0.1
    """Fraction of the training crops for which a condition is dropped; each is dropped as often."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ConfigError("conditions.dropout must be in [0, 1).")
        for name in (*self.names, *self.settings):
            # Looking for other packages takes time that the usual names need not cost.
            if name not in USUAL and name not in CONDITIONS.names():
                raise ConfigError(f"There is no condition {name!r}.", f"Known: {', '.join(CONDITIONS.names())}.")
        if len(set(self.names)) < len(self.names):
            raise ConfigError("conditions.names names a condition twice.")

    def fitted(self, source: Source) -> ConditionConfig:
        """The same with what the conditions take from the music to train on."""
        settings = {name: _class(name).fitted(self.of(name), source) for name in self.names}
        return replace(self, settings={name: table for name, table in settings.items() if table})

    def of(self, name: str) -> dict[str, Any]:
        """The table of a condition."""
        return self.settings.get(name, {})

    def readers(self) -> dict[str, Callable[[Crops], Tensor]]:
        """For each condition, what gives its values for the crops of a batch; plain functions, which can be pickled."""
        return {name: partial(condition.of_crops, self.of(name)) for name, condition in self.built().items()}

    def built(self) -> dict[str, type[Condition]]:
        """The conditions that a model with this configuration has."""
        classes = {name: _class(name) for name in self.names}
        return {name: condition for name, condition in classes.items() if condition.is_usable(self.of(name))}


def _class(name: str) -> type[Condition]:
    return cast("type[Condition]", CONDITIONS.load(name))


class Condition(nn.Module, ABC):
    """One thing that a generator can be conditioned on. Subclasses are files of their own.

    The null condition and dropout are no concern of theirs; see `ConditionSet`.

    Args:
        settings: this condition's table of the configuration.
        width: E.

    Attributes:
        width: E, or F for a per-frame condition, which may choose it.
        null: the learned embedding of the absent condition, [E]; for a sequence its only element, for frames each of
            them. `ConditionSet` makes it.
    """

    name: ClassVar[str]
    """In `CONDITIONS`."""
    plural: ClassVar[str]
    """For sentences."""
    kind: ClassVar[Kind]
    """What `embed` returns: a vector is added to the embedding of the noise level, a sequence is attended to, frames
    join the latents at the input."""

    null: nn.Parameter

    def __init__(self, settings: Mapping[str, Any], width: int) -> None:
        super().__init__()
        self.width = width

    @classmethod
    def fitted(cls, settings: Mapping[str, Any], source: Source) -> dict[str, Any]:
        """The settings with what is taken from the music to train on."""
        return dict(settings)

    @classmethod
    def is_usable(cls, settings: Mapping[str, Any]) -> bool:
        """Whether there is anything to condition on; otherwise the model is built without this condition."""
        return True

    @classmethod
    @abstractmethod
    def of_crops(cls, settings: Mapping[str, Any], crops: Crops) -> Tensor:
        """Values [B, …] for the crops of a training batch; runs in the processes that read crops."""

    @abstractmethod
    def parse(self, value: Any) -> Tensor:
        """What a person asks for -> the values of one item, [1, …].

        Raises:
            UsageError: it makes no sense.
            NotFoundError: the model does not know it.
        """

    @abstractmethod
    def embed(self, values: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Values [B, …] -> a vector [B, E]; a sequence [B, S, E] with its mask [B, S], true where there is something;
        or frames [B, F, L]. What it gives for an absent item is passed over, as long as it is finite."""

    def present(self, values: Tensor) -> Tensor:
        """For which of the items these values give the condition: bool [B]."""
        return torch.ones(len(values), dtype=torch.bool, device=values.device)

    @property
    def choices(self) -> tuple[str, ...]:
        """The names that `parse` knows; empty where it does not go by names."""
        return ()

    def demos(self, tracks: Sequence[Track], count: int) -> list[str]:
        """Up to `count` values for `parse` that show in a training's demos what was learned of this condition."""
        return []


@dataclass(frozen=True)
class Conditioning:
    """The conditions of B items: a value where there is one. What is not named is absent for all items."""

    batch: int
    """B."""
    values: Mapping[str, Tensor] = field(default_factory=dict)
    """By the condition's name, [B, …]."""
    present: Mapping[str, Tensor] = field(default_factory=dict)
    """Which items have it, bool [B]; of the same names."""

    @property
    def is_null(self) -> bool:
        """Whether no item has any condition."""
        return not any(bool(present.any()) for present in self.present.values())

    def expanded(self, batch: int) -> Conditioning:
        """That of one item for so many."""

        def expand(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.expand(batch, *tensor.shape[1:]) for name, tensor in tensors.items()}

        return Conditioning(batch, expand(self.values), expand(self.present))

    def to(self, device: torch.device | str) -> Conditioning:
        """The same on a device."""

        def move(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device) for name, tensor in tensors.items()}

        return Conditioning(self.batch, move(self.values), move(self.present))

    def without(self, dropped: Mapping[str, Tensor]) -> Conditioning:
        """Without the named conditions for the items where these, bool [B], are true."""
        present = {name: there & ~dropped[name] if name in dropped else there for name, there in self.present.items()}
        return replace(self, present=present)

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """One batch of several."""
        values, present = {}, {}
        for name in {name: None for part in parts for name in part.values}:  # in their order, each once
            like = next(part.values[name] for part in parts if name in part.values)
            # Any finite value does: `present` says that it is not used.
            blank = [like.new_zeros(part.batch, *like.shape[1:]) for part in parts]
            values[name] = torch.cat([part.values.get(name, zeros) for part, zeros in zip(parts, blank, strict=True)])
            nowhere = [torch.zeros(part.batch, dtype=torch.bool, device=like.device) for part in parts]
            present[name] = torch.cat([part.present.get(name, no) for part, no in zip(parts, nowhere, strict=True)])
        return Conditioning(sum(part.batch for part in parts), values, present)


@dataclass(frozen=True)
class Embedding:
    """All conditions of B items as a network takes them; None where the model has no condition of that kind."""

    vector: Tensor | None = None
    """[B, E], the sum of all."""
    sequence: Tensor | None = None
    """[B, S, E], one after another."""
    mask: Tensor | None = None
    """[B, S], true where the sequence has an element; every item has at least one."""
    frames: Tensor | None = None
    """[B, F, L], the channels of all."""


class ConditionSet(nn.Module):
    """All conditions of a model. Dropout and the null condition are handled here.

    Args:
        config: which conditions, with their settings.
        width: E.
    """

    def __init__(self, config: ConditionConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.width = width
        self.each = nn.ModuleDict()
        for name, condition in config.built().items():
            built = condition(config.of(name), width)
            # Here and not in each condition, so that none can forget it.
            built.null = nn.Parameter(torch.zeros(built.width))
            self.each[name] = built

    @property
    def names(self) -> list[str]:
        """Of the conditions that this model has."""
        return list(self.each)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Condition:
        """One condition.

        Raises:
            UsageError: this model does not have it, or nobody knows it.
        """
        if name not in self:
            plural = _class(name).plural
            have = f"it was trained with {', '.join(self[each].plural for each in self.names)}" if self.names else ""
            raise UsageError(
                f"This model was trained without {plural}.",
                f"Leave the {name} out, or choose another model{f'; {have}' if have else ''}.",
            )
        return cast("Condition", self.each[name])

    def __iter__(self) -> Iterator[Condition]:
        return (self[name] for name in self.names)

    @property
    def has_sequence(self) -> bool:
        """Whether any condition is a sequence: the network then needs cross-attention."""
        return any(condition.kind == "sequence" for condition in self)

    @property
    def frame_channels(self) -> int:
        """F of all per-frame conditions together; 0 without any."""
        return sum(condition.width for condition in self if condition.kind == "frames")

    def parse(self, wanted: Mapping[str, object]) -> Conditioning:
        """What a person asks for, by the conditions' names -> the conditioning of one item, on the CPU.

        None and "" stand for an absent condition.

        Raises:
            UsageError, NotFoundError: the model does not have the condition, or the condition refuses the value.
        """
        values = {name: self[name].parse(value) for name, value in wanted.items() if value is not None and value != ""}
        return self._conditioning(1, values)

    def of_batch(self, batch: LatentBatch) -> Conditioning:
        """The conditioning of a training batch; what its dataset does not deliver is absent."""
        values = {name: batch.conditions[name] for name in self.names if name in batch.conditions}
        return self._conditioning(len(batch.latents), values)

    def null(self, batch: int) -> Conditioning:
        """B items without any condition."""
        return Conditioning(batch)

    def dropped(self, conditioning: Conditioning, chance: Tensor, fraction: float) -> Conditioning:
        """Each condition dropped for a `fraction` of the items; most often several go together.

        Half of the items that lose the first condition lose the second, half of these the third, and so on: a network
        must see often enough what guidance compares with, an item without any condition.

        Args:
            chance: a uniform number in [0, 1) for each item, [B].
            fraction: of the items.
        """
        # The usual ones keep their place where a model has not all of them.
        order = [*USUAL, *(name for name in self.names if name not in USUAL)]

        def shift(name: str) -> float:
            return fraction * (1 - 0.5 ** order.index(name))

        # One number for each item, as a place on a circle: each condition is dropped on an arc of that length, and the
        # arcs are shifted against each other so that they overlap.
        return conditioning.without({name: (chance + shift(name)) % 1 < fraction for name in conditioning.present})

    def at_frames(self, conditioning: Conditioning, places: Tensor) -> Conditioning:
        """The conditioning of some latent frames of all, as for a window: per-frame values end in an axis L.

        Args:
            places: the numbers of the frames, [l].
        """
        framewise = {condition.name for condition in self if condition.kind == "frames"}
        values = {
            name: value[..., places.to(value.device)] if name in framewise else value
            for name, value in conditioning.values.items()
        }
        return replace(conditioning, values=values)

    def forward(self, conditioning: Conditioning, frames: int) -> Embedding:
        """Embed the conditioning of B items.

        Args:
            frames: L.

        Raises:
            UsageError: a per-frame condition with another number of frames.
        """
        vector: Tensor | None = None
        sequences: list[tuple[Tensor, Tensor]] = []
        framewise: list[Tensor] = []
        for condition in self:
            if condition.kind == "vector":
                embedded = _vector(condition, conditioning)
                vector = embedded if vector is None else vector + embedded
            elif condition.kind == "sequence":
                sequences.append(_sequence(condition, conditioning))
            else:
                framewise.append(_frames(condition, conditioning, frames))
        return Embedding(
            vector,
            torch.cat([sequence for sequence, _ in sequences], dim=1) if sequences else None,
            torch.cat([mask for _, mask in sequences], dim=1) if sequences else None,
            torch.cat(framewise, dim=1) if framewise else None,
        )

    def _conditioning(self, batch: int, values: dict[str, Tensor]) -> Conditioning:
        return Conditioning(batch, values, {name: self[name].present(value) for name, value in values.items()})


def _vector(condition: Condition, conditioning: Conditioning) -> Tensor:
    """[B, E]."""
    if condition.name not in conditioning.values:
        return condition.null.expand(conditioning.batch, -1)
    embedded = cast("Tensor", condition.embed(conditioning.values[condition.name]))
    # `where` and no indexing by the mask, whose number of items the GPU would have to report first. Its gradient is why
    # embeddings must be finite even for absent items: 0 times infinity is no number.
    return torch.where(conditioning.present[condition.name][:, None], embedded, condition.null)


def _sequence(condition: Condition, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
    """[B, S, E] and its mask [B, S]. An absent condition has one element, so that attention has something to sum."""
    batch = conditioning.batch
    if condition.name not in conditioning.values:
        mask = torch.ones(batch, 1, dtype=torch.bool, device=condition.null.device)
        return condition.null.expand(batch, 1, -1), mask
    sequence, mask = condition.embed(conditioning.values[condition.name])
    present = conditioning.present[condition.name] & mask.any(dim=1)
    # Where the condition is absent, the sequence is nothing but null embeddings, and the first of them counts.
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    sequence = torch.where(present[:, None, None], sequence, condition.null)
    return sequence, torch.where(present[:, None], mask, first)


def _frames(condition: Condition, conditioning: Conditioning, frames: int) -> Tensor:
    """[B, F, L]."""
    null = condition.null[:, None]
    if condition.name not in conditioning.values:
        return null.expand(conditioning.batch, -1, frames)
    embedded = cast("Tensor", condition.embed(conditioning.values[condition.name]))
    if embedded.shape[-1] != frames:
        raise UsageError(
            f"The {condition.name} has {embedded.shape[-1]} frames, the latents have {frames}.",
            "Give one value for each latent frame.",
        )
    return torch.where(conditioning.present[condition.name][:, None, None], embedded, null)
