"""A store's own copy of the codec that made its latents, so that whoever has the latents can decode them."""

from __future__ import annotations

from musicldm.codecs.base import Codec, codec_of
from musicldm.core import bundle
from musicldm.core.bundle import Bundle
from musicldm.core.errors import MismatchError, UsageError
from musicldm.latents.schema import StoreHeader
from musicldm.latents.snapshot import Snapshot


def header_of(codec: Codec) -> StoreHeader:
    """The header of a store that this codec's latents may stand in.

    Raises:
        UsageError: the codec was never saved, so that nothing tells it from another.
    """
    if not codec.spec.codec_hash:
        raise UsageError("This codec has no hash of its weights.", "Save it in a bundle and load it from there.")
    return StoreHeader(**vars(codec.spec), codec_name=codec.name)


def has_codec(store: Snapshot) -> bool:
    """Whether the store has a copy of its codec."""
    return store.storage.has(f"{store.header.codec_folder}/{bundle.INDEX}")


def read_codec(store: Snapshot) -> Bundle:
    """The bundle with the store's codec, and what is known of its training.

    Raises:
        BundleError: there is none, or a damaged one.
        MismatchError: a copy of another codec.
    """
    with store.storage.reading(store.header.codec_folder) as folder:
        kept = bundle.read(folder)
    if codec_of(kept).spec.codec_hash != store.header.codec_hash:
        what = f"{store.storage}/{store.header.codec_folder} is not the codec that the store was made with."
        raise MismatchError(what, "Copy the store again.")
    return kept


def write_codec(store: Snapshot, codec: Codec) -> None:
    """Put a copy of the codec into the store.

    Raises:
        OutputError: the store cannot be written.
    """
    # `has_codec` looks for the index alone, so it must not be there before the weights are.
    with store.storage.writing(store.header.codec_folder, last=bundle.INDEX) as folder:
        bundle.write(folder, Bundle(codec.name, {"codec": codec.component()}, codec.facts))
