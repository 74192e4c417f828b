"""Bundles: whether the weights are whole, the codec gives back what it was given, and the generator was made for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from musicldm.core.errors import MusicLDMError
from musicldm.doctor.findings import Examined, Finding, Verdict
from musicldm.doctor.generators import examine_generator
from musicldm.doctor.stores import LESS_KL

if TYPE_CHECKING:
    from torch import Tensor

    from musicldm.codecs.base import Codec

BLURRED, BROKEN = 0.6, 0.9
"""What a codec leaves of silence's distance to a sound: more is a warning, and wrong. The distance is the L1 distance,
or that of mel magnitudes where the codec makes phases up."""

CHORD = "a chord"
"""What a codec is tried on where no DATA is given."""


def examine_bundle(thing: str, examined: Examined, device: str) -> Iterator[Finding]:
    """All about a bundle: of a codec alone, or with a generator."""
    import torch

    from musicldm import models
    from musicldm.codecs.base import codec_of
    from musicldm.core import bundle

    source = bundle.read(models.find(thing))
    tensors = [tensor for component in source.components.values() for tensor in component.tensors.values()]
    weights = sum(tensor.numel() for tensor in tensors)
    have = " and ".join(source.components)
    text = f"{source.name}: {have}, {weights / 1e6:.1f} M weights, every byte as it was written."
    yield Finding(thing, "ok", text)
    codec = codec_of(source)
    examined.bundles.append((thing, codec, source))
    if codec.spec.medium != "audio":
        yield Finding(thing, "ok", f"Its codec encodes {codec.spec.medium}, which doctor does not test.")
        return
    rate = codec.spec.rate
    sound, what = _sound(examined, rate, codec.spec.media_channels)
    with torch.inference_mode():
        posterior = codec.encode(sound)
        latents, made = posterior.mode(), codec.decode(posterior.mode())[..., : sound.shape[-1]]
        # Drawn, since a generator is trained on draws and not on the mode; always with the same seed, so that findings
        # do not change by themselves.
        drawn = posterior.sample(torch.Generator().manual_seed(0))
    yield _reconstruction(thing, sound, made, codec, what)
    if "generator" in source.components:
        yield from examine_generator(thing, source, codec, drawn, what, device)
    elif float(latents.std()) < 1e-3:
        advice = f"Train the codec {LESS_KL}; a generator can learn nothing from such latents."
        yield Finding(thing, "wrong", "Its latents do not change with the sound.", advice)


def _sound(examined: Examined, rate: int, channels: int) -> tuple[Tensor, str]:
    """Audio to try a model on, [B, C, T], and what it is: held-out music where there is some, else a chord."""
    import numpy as np
    import torch

    from musicldm.media.audio import resampled

    for folder, tracks in examined.data:
        some = [track for track in tracks if track.split == "heldout" and track.seconds >= 2] or tracks
        some = resampled.fit(some[:: max(1, len(some) // 4)][:4], rate, channels)
        length = min(4 * rate, *(track.length for track in some))
        crops = []
        for track in some:
            start = (track.length - length) // 2
            try:
                crops.append(track.read(start, start + length))
            except MusicLDMError:
                continue  # already reported as gone
        if crops and np.abs(crops).max() > 1e-3:
            return torch.from_numpy(np.stack(crops)), f"music of {folder}"
    return _chord(rate).expand(1, channels, -1).clone(), CHORD


def _chord(rate: int) -> Tensor:
    """Three seconds of a C major chord whose notes are struck one by one, [T]: any codec of music should know such."""
    import torch

    time = torch.arange(3 * rate) / rate
    chord = torch.zeros(len(time))
    for struck, hertz in ((0.0, 261.6), (0.7, 329.6), (1.4, 392.0), (2.1, 523.3)):
        since = (time - struck).clamp(min=0)
        for partial in range(1, 7):
            # Clear of the Nyquist frequency, near which resampled music has nothing either.
            if partial * hertz < 0.45 * rate:
                wave = (2 * torch.pi * partial * hertz * since).sin()
                chord += 0.15 / partial**1.5 * wave * (-3 * partial**0.5 * since).exp() * (since > 0)
    return chord


def _reconstruction(thing: str, sound: Tensor, made: Tensor, codec: Codec, what: str) -> Finding:
    """Whether decode(encode(x)) resembles x at all."""
    from musicldm.evaluate.metrics import compare

    advice = "The codec is untrained or the wrong one: whatever is trained on its latents will sound like noise."
    if not bool(made.isfinite().all()):
        text = f"The codec's reconstruction of {what} is not finite."
        return Finding(thing, "wrong", text, f"{advice} Train it longer.")
    figures = compare(sound, made, codec.spec.rate)
    if codec.keeps_phase:
        ratio, distance = figures.l1_to_silence or 0.0, "L1 distance"
        beside = "" if figures.si_sdr is None else f", SI-SDR {figures.si_sdr:.1f} dB"
    else:
        ratio, distance = figures.mel_to_silence or 0.0, "distance in mel magnitudes"
        beside = f", mel distance {figures.mel:.2f}"
    text = f"The codec reconstructs {what} with {ratio:.2f} of silence's {distance}{beside}."
    verdict: Verdict = "wrong" if ratio > BROKEN else "warning" if ratio > BLURRED else "ok"
    if verdict == "ok":
        return Finding(thing, verdict, text)
    more = " Give DATA too, to try it on that music." if verdict == "warning" and what == CHORD else ""
    return Finding(thing, verdict, text, f"{advice} Train it longer.{more}")
