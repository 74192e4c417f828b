"""Small latents and small stores. Chunks of 8 frames and shards of 32, so that short tracks cross many borders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from musicldm.codecs.base import LatentSpec
from musicldm.latents.store import LatentStore, StoreHeader, Track

SPEC = LatentSpec(
    medium="audio", channels=3, media_channels=1, rate=100, hop=4, codec="toy codec", codec_hash="5eed" * 16
)
HEADER = StoreHeader(**vars(SPEC), codec_name="toy")
SMALL = {"chunk_frames": 8, "shard_frames": 32}

Pair = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def track(number: int, frames: int, split: str = "train") -> Track:
    """Track `number`, whose last frame is filled up with a sample of silence."""
    return Track(
        samples=frames * HEADER.hop - 1,
        content=f"sound {number}",
        split=split,
        artist="Artist",
        title=f"Title {number}",
        provenance={"source": number},
        folder="f01d",
        source=f"{number}.wav",
    )


def latents(number: int, frames: int) -> Pair:
    """Its mean and log-variance, [frames, D]."""
    random = np.random.default_rng(number)
    shape = (frames, HEADER.channels)
    return random.normal(2, 3, shape).astype(np.float32), random.normal(-2, 1, shape).astype(np.float32)


def pieces(pair: Pair, length: int = 5) -> Iterator[Pair]:
    """The pair cut to pieces of `length` frames."""
    for start in range(0, len(pair[0]), length):
        yield pair[0][start : start + length], pair[1][start : start + length]


def filled(path: Path, *frames: int, split: str = "train", **limits: float) -> LatentStore:
    """A store with tracks 0, 1, … of these lengths, committed and opened again."""
    store = LatentStore.create(path, HEADER)
    with store.writer(**(SMALL | limits)) as writer:
        for number, length in enumerate(frames):
            writer.append(track(number, length, split), pieces(latents(number, length)))
    return LatentStore.open(path)


def check_whole(store: LatentStore) -> list[int]:
    """See that every track reads back as it was appended; the numbers of the tracks."""
    numbers = [entry.provenance["source"] for entry in store.tracks]
    for number, entry in zip(numbers, store.tracks, strict=True):
        for stored, original in zip(store.read(entry), latents(number, entry.frames), strict=True):
            np.testing.assert_array_equal(stored, original.astype(np.float16))
    return numbers
