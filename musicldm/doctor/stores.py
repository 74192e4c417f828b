"""Latent stores: are they whole, is their codec in them, are all channels in use, can a generator learn them?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from musicldm.core.errors import MismatchError
from musicldm.doctor.findings import Examined, Finding, Verdict
from musicldm.doctor.tracks import examine_lengths, examine_split

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from musicldm.latents.predictability import StorePredictability
    from musicldm.latents.store import LatentStore

LESS_KL = "with a smaller kl under [loss] in a file for --config"


def examine_store(thing: str, examined: Examined, device: str) -> Iterator[Finding]:
    """All about a latent store."""
    import numpy as np

    from musicldm.latents.examine import channel_warnings
    from musicldm.latents.predictability import predictability
    from musicldm.latents.store import LatentStore
    from musicldm.media.medium import hours_and_beats, in_words

    store = LatentStore.open(thing, skip_broken=True)
    examined.stores.append((thing, store))
    header, tracks = store.header, list(store.tracks)
    for reason in store.broken.values():
        yield Finding(thing, "wrong", reason, "Restore it from a copy, or delete the segment and encode again.")
    if not tracks:
        yield Finding(thing, "wrong", "There are no tracks in it.", f"Encode some: musicldm encode DATA {thing}.")
        return
    amount = in_words(*hours_and_beats(header.medium, sum(track.seconds for track in tracks)))
    about = f"{len(tracks)} tracks, {amount}, {header.channels} channels, codec {header.codec_name}."
    yield Finding(thing, "ok", about)
    yield examine_split(thing, [(track.content, track.split) for track in tracks])
    yield from examine_lengths(thing, [track.seconds for track in tracks], ["generator"], header.medium)
    yield _codec_copy(thing, store)
    moments = store.moments()
    if not moments.count:
        return
    variance = np.stack([moments.squares, moments.variances]) / moments.count
    if not np.isfinite(variance).all() or not np.isfinite(moments.mean).all():
        yield Finding(thing, "wrong", "Some latents are not finite.", "Encode again with --precision 32.")
        return
    yield _channels(thing, [channel_warnings(std, used) for std, used in _std_and_used(variance)])
    if found := predictability(store):
        yield _in_time(thing, found)


def _std_and_used(variance: NDArray[np.float64]) -> Iterator[tuple[float, float]]:
    """Each channel's standard deviation, and the fraction of its variance that is in use.

    Args:
        variance: [2, D]: the variance of the posterior's mean, and the posterior's mean variance.
    """
    for of_mean, of_posterior in variance.T:
        whole = float(of_mean + of_posterior)
        yield whole**0.5, float(of_mean) / max(whole, 1e-30)


def _channels(thing: str, warnings: Sequence[tuple[str, ...]]) -> Finding:
    bad = {number: each for number, each in enumerate(warnings) if each}
    if not bad:
        text = f"All {len(warnings)} latent channels are in use, with a reasonable standard deviation."
        return Finding(thing, "ok", text)
    first = ", ".join(f"channel {number}: {'; '.join(each)}" for number, each in list(bad.items())[:3])
    verdict: Verdict = "wrong" if len(bad) == len(warnings) else "warning"
    advice = f"Train the codec longer, or {LESS_KL}; musicldm latents stats shows all channels."
    return Finding(thing, verdict, f"{len(bad)} of {len(warnings)} channels look wrong ({first}).", advice)


def _in_time(thing: str, found: StorePredictability) -> Finding:
    from musicldm.latents.predictability import SMOOTHER

    if found.warning:
        return Finding(thing, "warning", found.warning, SMOOTHER)
    return Finding(thing, "ok", f"The latents are predictable in time: {found.mean}.")


def _codec_copy(thing: str, store: LatentStore) -> Finding:
    """Whether the store holds the codec that made it, without which nobody could decode it elsewhere."""
    from musicldm.latents.codec import has_codec, read_codec

    advice = "Copy the store again, or encode again: latents decoded by another codec are noise."
    if not has_codec(store):
        return Finding(thing, "warning", "It lacks the codec that it was made with.", advice)
    try:
        read_codec(store)
    except MismatchError:
        return Finding(thing, "wrong", "The codec in it is not the one that it was made with.", advice)
    return Finding(thing, "ok", f"It holds the codec that it was made with ({store.header.codec_hash[:8]}).")
