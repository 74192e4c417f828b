"""How what was examined fits together: data, stores and models that were made for one another, or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from musicldm.doctor.findings import Examined, Finding

if TYPE_CHECKING:
    from musicldm.codecs.base import Codec, LatentSpec
    from musicldm.core.bundle import Bundle
    from musicldm.latents.store import LatentStore
    from musicldm.media.manifest import PreparedTrack

OTHER_SCALE = 1.2
"""By how many times a generator's scale of a channel may differ from the store's."""


def examine_pairs(examined: Examined) -> Iterator[Finding]:
    """Every folder, store and bundle beside every other.

    Raises:
        BundleError: a generator does not state the scale of its latents.
    """
    for name, codec, source in examined.bundles:
        for folder, tracks in examined.data:
            yield from _same_format(folder, tracks, name, codec.spec)
        for place, store in examined.stores:
            yield from _made_by(f"{place} and {name}", store, codec, source)
    for place, store in examined.stores:
        for folder, tracks in examined.data:
            yield from _encoded(f"{folder} and {place}", store, tracks)


def _same_format(folder: Path, tracks: Sequence[PreparedTrack], name: str, spec: LatentSpec) -> Iterator[Finding]:
    if spec.medium != "audio":
        return
    form = spec.rate, spec.media_channels
    tracks = [track for track in tracks if track.medium == spec.medium]
    other = sum((track.rate, track.channels) != form for track in tracks)
    if other:
        text = f"{other} of {len(tracks)} tracks do not have the codec's {form[0]} Hz and {form[1]} channel(s)."
        advice = f"Add --resample, or preprocess with --sample-rate {form[0]} --channels {form[1]}."
        yield Finding(f"{folder} and {name}", "warning", text, advice)


def _made_by(about: str, store: LatentStore, codec: Codec, source: Bundle) -> Iterator[Finding]:
    import numpy as np

    from musicldm.latents.statistics import GeneratorLatents

    theirs, ours = store.header.codec_hash, codec.spec.codec_hash
    if theirs != ours:
        text = f"The store was made with another codec: {theirs[:8]}, not {ours[:8]}."
        yield Finding(about, "wrong", text, "Encode again with this codec: another one's latents decode to noise.")
        return
    yield Finding(about, "ok", "The store's latents are this codec's.")
    if "generator" not in source.components or not store.moments().count:
        return
    trained, stored = GeneratorLatents.of(source.component("generator")).statistics.std, store.statistics().std
    ratio = np.array(trained) / np.array(stored) if len(trained) == len(stored) else np.ones(1)
    # The logarithm, by which half as much differs as much as twice as much.
    if (np.abs(np.log(ratio)) > np.log(OTHER_SCALE)).any():
        most = float(np.exp(np.abs(np.log(ratio)).max()))
        text = f"The generator's scale of the latents differs from this store's by a factor of up to {most:.1f}."
        yield Finding(about, "warning", text, "The store has changed since: train the generator again.")


def _encoded(about: str, store: LatentStore, tracks: Sequence[PreparedTrack]) -> Iterator[Finding]:
    stored = {entry.content: entry.split for entry in store.tracks}
    missing = sum(track.content not in stored for track in tracks)
    leaked = sum(track.split == "heldout" and stored.get(track.content) == "train" for track in tracks)
    if leaked:
        text = f"{leaked} of {len(tracks)} tracks are held out in the folder and trained on in the store."
        yield Finding(about, "wrong", text, "Encode into a new store: all stages must use the same split.")
    if missing:
        text = f"{missing} of {len(tracks)} tracks are not in the store."
        yield Finding(about, "warning", text, "Run musicldm encode again.")
    elif not leaked:
        yield Finding(about, "ok", "All tracks are in the store, in the same split.")
