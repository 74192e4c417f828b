"""A latent store and the codec that made it: the copy that it keeps, or one that is named in its place."""

from __future__ import annotations

import torch

from musicldm.codecs.base import Codec, codec_of
from musicldm.evaluate.sounds import require_audio
from musicldm.latents.codec import header_of, read_codec
from musicldm.latents.store import LatentStore


def codec_for(store: LatentStore, codec: Codec | None = None, device: torch.device | str = "cpu") -> Codec:
    """The codec of a store's latents, on a device.

    Args:
        codec: one that should be it; None: the copy that the store keeps.

    Raises:
        BundleError: the store has no copy, or a damaged one.
        MismatchError: the store was made with another codec.
        UsageError: it is not of audio.
    """
    if codec is None:
        codec = codec_of(read_codec(store))
    require_codec(store, codec)
    require_audio(codec)
    return codec.to(device)


def require_codec(store: LatentStore, codec: Codec) -> None:
    """See that a store's latents are a codec's.

    Raises:
        MismatchError: the store was made with another codec.
        UsageError: the codec was never saved, so that nothing tells it from another.
    """
    store.require(header_of(codec))
