"""What a latent store is on disk: its terms, and how its metadata is read and written.

    latents.zarr/
    ├── zarr.json           group; its attributes are the StoreHeader
    ├── codec/              the bundle of the codec that made the latents (`latents.codec`); `vae/` in schema 1
    └── parts/              the segments
        ├── zarr.json       group
        └── <id>/
            ├── zarr.json   group; its attributes hold the track table and the moments. Written last: the commit
            ├── mean/       float16 [frames, D]; zarr.json and one file for each shard: c/0/0, c/1/0, …
            └── logvar/     float16 [frames, D]; likewise

All of it is zarr v3, with codecs of its specification alone. Everything else in the folder is derived, or a lock, and
may be deleted when nobody uses the store: `index` (`latents.table`), `.lock`, `.readers`.

Header, segments and tracks may gain fields without a new schema: a reader passes over those that it does not know. A
new schema is needed where an old field changes its meaning. Schema 1 (release 0.1) knew of one codec only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import google_crc32c

from musicldm.codecs.base import LatentSpec
from musicldm.core.config import Between, Count, Hash, Matching, Positive, Size, from_dict
from musicldm.core.errors import ConfigError, DataError, MismatchError
from musicldm.core.reading import parse_json
from musicldm.latents.statistics import Moments

SCHEMA = 2
FORMAT = "musicldm-latents"
SEGMENT_FORMAT = "musicldm-latents-part"
METADATA = "zarr.json"
SEGMENTS = "parts"
ARRAYS: tuple[Literal["mean"], Literal["logvar"]] = ("mean", "logvar")

SCHEMA_1_NAMES = {
    "rate": "sample_rate",
    "media_channels": "audio_channels",
    "codec_hash": "vae_hash",
    "codec_name": "vae_name",
}
"""Attributes of the header -> what schema 1 called them."""
SCHEMA_1_FIXED = {"medium": "audio", "codec": "vae"}
"""What schema 1 did not have to say."""
SCHEMA_1_KEY = ("rate", "hop", "channels", "media_channels", "codec_hash", "schema")
"""The header's fields on which a key of schema 1 depends."""
CODEC_FOLDERS = {1: "vae", 2: "codec"}
"""Where a store keeps its codec, by schema."""

# ---------------------------------------------------------------------------------------------------------------------
# The terms
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoreHeader(LatentSpec):
    """What all latents of a store have in common: the codec's `LatentSpec`, and how the store keeps them."""

    codec_name: str
    """What a person calls that codec; two codecs may share it."""
    keep_bits: Annotated[int, Between(1, 10)] | None = None
    """Bits of each number's mantissa that were kept, 1 to 10, in a compressed store; None: all, and uncompressed."""
    schema: Annotated[int, Between(1, SCHEMA)] = SCHEMA
    """Of the store; its keys follow this schema's formula for ever."""

    @property
    def spec(self) -> LatentSpec:
        """The codec's part of it."""
        return LatentSpec(**{each.name: getattr(self, each.name) for each in dataclasses.fields(LatentSpec)})

    @property
    def codec_folder(self) -> str:
        """The store's folder with a copy of the codec."""
        return CODEC_FOLDERS[self.schema]

    def key(self, content: str) -> str:
        """The name of a track's latents: it changes with the media and the codec, and with nothing else.

        Args:
            content: the hash of the audio.
        """
        if self.schema == 1:
            # It hashed the whole header, whose names these were then. No key of an old store may change.
            header = {SCHEMA_1_NAMES.get(name, name): getattr(self, name) for name in SCHEMA_1_KEY}
            made_from = {**header, "vae_name": None, "keep_bits": None, "content": content}
            return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
        return hashlib.sha256(canonical_json({"content": content, "codec_hash": self.codec_hash})).hexdigest()


@dataclass(frozen=True)
class Track:
    """What is known of a track before it is encoded."""

    samples: Count
    """Its length at the store's sample rate."""
    content: Hash
    """The hash of its audio."""
    split: Annotated[str, Matching("train|heldout")]
    """`train`, or `heldout` from every training."""
    artist: str
    title: str
    provenance: dict[str, Any]
    """Where it came from and under which licence: plain data, kept as given."""
    folder: str
    """Which data folder it was read from: a hash, since a path would tell of the machine."""
    source: str
    """Its waveform's path below that folder. A later track of the same folder and source takes this one's place."""

    @property
    def name(self) -> str:
        """For sentences."""
        return f"{self.artist} – {self.title}" if self.artist else self.title


@dataclass(frozen=True)
class TrackEntry(Track):
    """A track in a store: frames `offset` to `offset + frames` of the segment `segment`."""

    segment: str
    offset: Count
    frames: Count
    seconds: Positive
    key: Annotated[str, Matching("[0-9a-f]{16,128}")]
    """See `StoreHeader.key`."""
    checksum: Hash
    """crc32c over the track's frames as stored, the mean of each followed by its log-variance."""
    loss: float
    """The sum of squared differences between the means that were given and those that are kept."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What a later release knows of the track; kept when its segment is rewritten."""

    def to_dict(self) -> dict[str, Any]:
        """Its row in its segment's table, which knows the segment's name itself."""
        row = dataclasses.asdict(self)
        del row["segment"]
        return {**row.pop("extra"), **row}

    @classmethod
    def from_dict(cls, segment: str, row: dict[str, Any]) -> TrackEntry:
        """The reverse of `to_dict`.

        Raises:
            ConfigError: it is not.
        """
        known = {name: value for name, value in row.items() if name in _ROW}
        extra = {name: value for name, value in row.items() if name not in _ROW}
        return from_dict(cls, {**known, "segment": segment, "extra": extra})


_ROW = frozenset(each.name for each in dataclasses.fields(TrackEntry)) - {"segment", "extra"}


@dataclass(frozen=True)
class SegmentTable:
    """A segment's metadata, its tracks aside."""

    id: str
    """Its folder's name: the time of the commit, and a random piece."""
    frames: Count
    chunk_frames: Size
    """Frames under one checksum."""
    shard_frames: Size
    """Frames in one file."""
    sizes: dict[str, list[int]]
    """`mean` and `logvar` -> the bytes of each of their files, shard by shard."""
    moments: Moments
    """Of its training tracks."""
    replaces: tuple[Annotated[str, Matching(r"[^/\\\0]+")], ...]
    """Segments that this one stands for: they are no longer in the store, and may be deleted."""

    def to_attributes(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The attributes of the segment's zarr group; the rows are its tracks as `TrackEntry.to_dict` has them."""
        attributes = {"format": SEGMENT_FORMAT, **self.to_dict(), "tracks": list(rows)}
        del attributes["id"]
        return {**attributes, "crc32c": crc_of_json(attributes)}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        fields = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {**fields, "moments": self.moments.to_dict(), "replaces": list(self.replaces)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SegmentTable:
        """The reverse of `to_dict`; it passes over what it does not know.

        Raises:
            ConfigError: it is not, or its numbers do not fit each other.
        """
        # The moments are arrays, which nothing but their class can read.
        read = from_dict(_Table, {**data, "moments": data.get("moments")}, unknown="pass over")
        fields = {each.name: getattr(read, each.name) for each in dataclasses.fields(cls)}
        return cls(**{**fields, "moments": Moments.from_dict(read.moments)})

    def check_tracks(self, rows: Sequence[dict[str, Any]], channels: int) -> None:
        """See that the tracks can be in this segment, and the segment in a store of so many channels.

        Raises:
            ConfigError: they cannot.
        """
        if self.moments.mean.shape != (channels,):
            raise ConfigError(f"its moments have {len(self.moments.mean)} channels, and the store has {channels}.")
        for row in rows:
            entry = TrackEntry.from_dict(self.id, row)
            if entry.offset + entry.frames > self.frames:
                raise ConfigError(f"a track ends at frame {entry.offset + entry.frames}, and there are {self.frames}.")


@dataclass(frozen=True)
class _Table:
    """A segment's metadata as JSON has it."""

    id: str
    frames: Count
    chunk_frames: Size
    shard_frames: Size
    sizes: dict[Literal["mean", "logvar"], list[Count]]
    moments: dict[str, Any]
    replaces: tuple[Annotated[str, Matching(r"[^/\\\0]+")], ...]

    def __post_init__(self) -> None:
        if self.shard_frames % self.chunk_frames:
            raise ConfigError("its shards are not whole chunks.")
        # Each shard ends with an index of its chunks.
        least = 16 * (self.shard_frames // self.chunk_frames) + 4
        for name in ARRAYS:
            sizes = self.sizes.get(name, [])
            if len(sizes) != -(-self.frames // self.shard_frames) or any(size < least for size in sizes):
                raise ConfigError(f"the shards of {name} cannot hold {self.frames} frames.")


# ---------------------------------------------------------------------------------------------------------------------
# Reading and writing metadata
# ---------------------------------------------------------------------------------------------------------------------


def header_json(header: StoreHeader) -> bytes:
    """The metadata of a store's root."""
    attributes = {"format": FORMAT, **dataclasses.asdict(header)}
    return group_json({**attributes, "crc32c": crc_of_json(attributes)})


def group_json(attributes: dict[str, Any]) -> bytes:
    """The metadata of a zarr v3 group."""
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}, ensure_ascii=False).encode()


def attributes_of(data: bytes, store: str, name: str) -> dict[str, Any]:
    """The attributes in a zarr group's metadata.

    Raises:
        DataError: it is none.
    """
    try:
        return dict(parse_json(data)["attributes"])
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(store, name, "it is not the metadata of a zarr group") from error


def read_header(data: bytes, store: str) -> StoreHeader:
    """The header in the root's metadata of a store.

    Raises:
        DataError: it is no latent store's.
        MismatchError: a store of a newer schema.
    """
    attributes = attributes_of(data, store, METADATA)
    if attributes.get("format") != FORMAT:
        raise DataError(f"{store} is a zarr group, but not a latent store.", NAME_A_STORE)
    # Before the checksum, since nobody knows what a newer schema takes it over.
    if isinstance(schema := attributes.get("schema"), int) and schema > SCHEMA:
        raise MismatchError(f"The store {store} has schema {schema}; this musicldm knows {SCHEMA}.", "Update musicldm.")
    if attributes.pop("crc32c", None) not in (None, crc_of_json(attributes)):
        raise damaged(store, METADATA, "its checksum does not match")
    if schema == 1:
        names = {old: new for new, old in SCHEMA_1_NAMES.items()}
        attributes = {**SCHEMA_1_FIXED, **{names.get(name, name): value for name, value in attributes.items()}}
    try:
        return from_dict(StoreHeader, attributes, unknown="pass over")
    except ConfigError as error:
        raise damaged(store, METADATA, error.message.rstrip(".")) from error


def read_segment(segment: str, data: bytes, store: str, channels: int) -> tuple[SegmentTable, list[dict[str, Any]]]:
    """A segment's table and its tracks as `TrackEntry.to_dict` has them, from its metadata.

    Args:
        channels: of the store.

    Raises:
        DataError: it is no segment's table, or its checksum does not match.
    """
    name = f"{SEGMENTS}/{segment}/{METADATA}"
    attributes = attributes_of(data, store, name)
    if attributes.pop("crc32c", None) != crc_of_json(attributes):
        raise damaged(store, name, "its checksum does not match")
    try:
        table, rows = SegmentTable.from_dict({**attributes, "id": segment}), [dict(row) for row in attributes["tracks"]]
        table.check_tracks(rows, channels)
        return table, rows
    except ConfigError as error:
        raise damaged(store, name, error.message.rstrip(".")) from error
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(store, name, "it is not the table of a segment") from error


NAME_A_STORE = "Give a store that `musicldm encode` made."


def canonical_json(data: Any) -> bytes:
    """The one form of some JSON that is hashed."""
    # The keys and checksums of all stores depend on each byte of this form: it can never change.
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


def crc_of_json(data: Any) -> str:
    """JSON carries no checksum of its own."""
    return f"{google_crc32c.value(canonical_json(data)):08x}"


def damaged(store: str, name: str, reason: str) -> DataError:
    """The sentence for a file of a store that cannot be used; `name` is its path in the store."""
    hint = "Restore it from a copy, or make the store again."
    if name.startswith(f"{SEGMENTS}/"):
        segment = "/".join([store, *name.split("/")[:2]])
        hint = f"Restore it from a copy, or delete {segment} and encode again: only the tracks in there are redone."
    return DataError(f"{store}/{name} is damaged: {reason}.", hint)
