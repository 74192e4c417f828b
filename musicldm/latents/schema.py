"""What a latent store is on disk: the words in it, and how its metadata is read and written.

    latents.zarr/
    ├── zarr.json           group; its attributes are the StoreHeader
    ├── vae/                the bundle of the VAE that made the latents; put there by `latents.encode`
    └── parts/
        ├── zarr.json       group
        └── <id>/
            ├── zarr.json   group; its attributes hold the track table and the moments. Written last: the commit
            ├── mean/       float16 [frames, D]; zarr.json and one file for each shard: c/0/0, c/1/0, …
            └── logvar/     float16 [frames, D]; likewise

All of it is zarr v3, with codecs of its specification alone. Everything else in the folder is derived, or a lock, and
may be deleted when nobody uses the store: `index` (`latents.table`), `.lock`, `.readers`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c

from musicldm.core.errors import DataError, MismatchError
from musicldm.latents.statistics import Moments

SCHEMA = 1
FORMAT = "musicldm-latents"
PART_FORMAT = "musicldm-latents-part"
METADATA = "zarr.json"
PARTS = "parts"
ARRAYS = ("mean", "logvar")

# ---------------------------------------------------------------------------------------------------------------------
# The words
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoreHeader:
    """What all latents of a store have in common."""

    sample_rate: int
    """Samples a second of the audio that was encoded."""
    hop: int
    """Samples in one latent frame."""
    channels: int
    """D, the numbers in one latent frame."""
    audio_channels: int
    """1 mono, 2 stereo."""
    vae_hash: str
    """The hash of the VAE's weights and configuration."""
    vae_name: str
    """What a person calls that VAE; two VAEs may share it."""
    keep_bits: int | None = None
    """Bits of each number's mantissa that were kept, 1 to 10, in a compressed store; None: all, and uncompressed."""
    schema: int = SCHEMA

    def key(self, content: str) -> str:
        """The name of a track's latents: it changes with the sound, the VAE, and nothing else.

        Args:
            content: the hash of the audio.
        """
        made_from = {**dataclasses.asdict(self), "vae_name": None, "keep_bits": None, "content": content}
        return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()

    def frames(self, samples: int) -> int:
        """Latent frames of a track: the last one may be filled up with silence."""
        return -(-samples // self.hop)

    @property
    def frame_rate(self) -> float:
        """Latent frames a second."""
        return self.sample_rate / self.hop


@dataclass(frozen=True)
class Track:
    """What is known of a track before it is encoded."""

    samples: int
    """Its length at the store's sample rate."""
    content: str
    """The hash of its audio."""
    split: str
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
        return f"{self.artist} – {self.title}"


@dataclass(frozen=True)
class TrackEntry(Track):
    """A track in a store: frames `offset` to `offset + frames` of the part `part`."""

    part: str
    offset: int
    frames: int
    seconds: float
    key: str
    """See `StoreHeader.key`."""
    checksum: str
    """crc32c over the track's frames as stored, the mean of each followed by its log-variance."""
    loss: float
    """The sum of squared differences between the means that were given and those that are kept."""

    def to_dict(self) -> dict[str, Any]:
        """As it stands in its part's table, which knows its own name."""
        row = dataclasses.asdict(self)
        del row["part"]
        return row


@dataclass(frozen=True)
class PartTable:
    """A part's metadata, its tracks aside."""

    id: str
    """Its folder's name: the time of the commit, and a random piece."""
    frames: int
    chunk_frames: int
    """Frames under one checksum."""
    shard_frames: int
    """Frames in one file."""
    sizes: dict[str, list[int]]
    """`mean` and `logvar` -> the bytes of each of their files, shard by shard."""
    moments: Moments
    """Of its training tracks."""
    replaces: tuple[str, ...]
    """Parts that this one stands for: they are no longer in the store, and may be deleted."""

    def to_attributes(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The attributes of the part's zarr group; the rows are its tracks as `TrackEntry.to_dict` has them."""
        attributes = {"format": PART_FORMAT, **self.to_dict(), "tracks": list(rows)}
        del attributes["id"]
        return {**attributes, "crc32c": crc_of_json(attributes)}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "moments": self.moments.to_dict(), "replaces": list(self.replaces)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PartTable:
        """The reverse of `to_dict`; it passes over what it does not know."""
        fields = {field.name: data[field.name] for field in dataclasses.fields(cls)}
        moments, replaces = Moments.from_dict(data["moments"]), tuple(data["replaces"])
        return cls(**{**fields, "moments": moments, "replaces": replaces})


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
        return dict(json.loads(data)["attributes"])
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
        raise DataError(f"{store} is a zarr, but no latent store.", NAME_A_STORE)
    if isinstance(schema := attributes.get("schema"), int) and schema > SCHEMA:
        raise MismatchError(f"The store {store} has schema {schema}; this musicldm knows {SCHEMA}.", "Update musicldm.")
    if attributes.pop("crc32c", None) not in (None, crc_of_json(attributes)):
        raise damaged(store, METADATA, "its checksum does not fit")
    try:
        return StoreHeader(**{field.name: attributes[field.name] for field in dataclasses.fields(StoreHeader)})
    except KeyError as error:
        raise damaged(store, METADATA, f"{error} is missing") from error


def read_part(part: str, data: bytes, store: str) -> tuple[PartTable, list[dict[str, Any]]]:
    """A part's table and its tracks as `TrackEntry.to_dict` has them, from its metadata.

    Raises:
        DataError: it is no part's table, or its checksum does not fit.
    """
    name = f"{PARTS}/{part}/{METADATA}"
    attributes = attributes_of(data, store, name)
    if attributes.pop("crc32c", None) != crc_of_json(attributes):
        raise damaged(store, name, "its checksum does not fit")
    try:
        return PartTable.from_dict({"id": part, **attributes}), list(attributes["tracks"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(store, name, "it is no part's table") from error


NAME_A_STORE = "Name a store that `musicldm encode` made."


def crc_of_json(data: Any) -> str:
    """JSON carries no checksum of its own."""
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
    return f"{google_crc32c.value(canonical):08x}"


def damaged(store: str, name: str, reason: str) -> DataError:
    """The sentence for a file of a store that cannot be used; `name` is its path in the store."""
    hint = "Restore it from a copy, or make the store anew."
    if name.startswith(f"{PARTS}/"):
        part = "/".join([store, *name.split("/")[:2]])
        hint = f"Restore it from a copy, or delete {part} and encode again: only the tracks in there are redone."
    return DataError(f"{store}/{name} is damaged: {reason}.", hint)
